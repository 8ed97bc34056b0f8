# SPDX-License-Identifier: Apache-2.0
"""Remove the shared memory of killed processes.

Fast DDS creates a segment in /dev/shm for each process: 128 MiB with our profile. A killed process
leaves its segment behind. The owner of a segment holds an exclusive `flock` on `<segment>_el` while
it lives (RobustExclusiveLock.hpp in Fast DDS). The kernel releases the lock when the owner dies,
even if the owner ran in another container.
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
"""Segments younger than this stay: Fast DDS creates the lock file a moment before it locks it."""


def remove_dead_segments(folder: Path = FOLDER) -> tuple[int, int]:
    """Remove the segments of this user whose owner is dead, with their lock files.

    Returns the number of removed segments and their size in bytes. A segment stays if it belongs to
    another user, is younger than LEAST_AGE_S, is a symbolic link or has no lock file.
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
    """Return the size of the removed segment, or 0 if it stays.

    Raises OSError if a file is missing or the lock is held.
    """
    lock = segment.with_name(f"{segment.name}_el")
    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not (_is_old_and_ours(os.fstat(descriptor)) and _is_old_and_ours(segment.lstat())):
            return 0
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = segment.lstat().st_blocks * 512
        segment.unlink()
        lock.unlink()  # still locked, so that Fast DDS notices and creates another
        return max(size, 1)
    finally:
        os.close(descriptor)


def _is_old_and_ours(status: os.stat_result) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and time.time() - status.st_mtime > LEAST_AGE_S
    )
