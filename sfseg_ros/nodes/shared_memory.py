# SPDX-License-Identifier: Apache-2.0
"""Shared memory that killed processes left behind.

Fast DDS gives each process a segment in /dev/shm, of 128 MiB with our profile, and nothing removes
the segment of a process that was killed. Its owner holds an exclusive `flock` on `<segment>_el` for
as long as it lives (RobustExclusiveLock.hpp of Fast DDS), and the kernel frees that lock when the
owner dies, also if the owner ran in another container.
"""

import contextlib
import fcntl
import os
import re
import stat
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
SEGMENT = re.compile(r"fast(rtps|dds)_[0-9a-f]{16}")
LEAST_AGE_S = 60.0
"""Fast DDS opens the lock file some microseconds before it locks it."""


def remove_dead_segments(folder: Path = FOLDER) -> tuple[int, int]:
    """Remove the segments of this user whose owner has died, and their lock files.

    Returns the number of segments and their bytes. Leaves a segment alone if anything about it is
    unusual: another user's, younger than LEAST_AGE_S, a link, or without a lock file.
    """
    number = size = 0
    with contextlib.suppress(OSError):
        for segment in sorted(folder.iterdir()):
            if SEGMENT.fullmatch(segment.name):
                with contextlib.suppress(OSError):
                    removed = _remove_if_dead(segment)
                    number, size = number + (removed > 0), size + removed
    return number, size


def _remove_if_dead(segment: Path) -> int:
    """Bytes that the removed segment had; 0 if it stays. Raises OSError, also for a held lock."""
    lock = segment.with_name(f"{segment.name}_el")
    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not (_is_old_and_ours(os.fstat(descriptor)) and _is_old_and_ours(segment.lstat())):
            return 0
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = segment.lstat().st_blocks * 512
        segment.unlink()
        lock.unlink()  # while it is locked, so that Fast DDS notices and makes a new one
        return max(size, 1)
    finally:
        os.close(descriptor)


def _is_old_and_ours(status: os.stat_result) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and time.time() - status.st_mtime > LEAST_AGE_S
    )
