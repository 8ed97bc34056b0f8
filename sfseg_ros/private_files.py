# SPDX-License-Identifier: Apache-2.0
"""Cached files that this program executes: TensorRT engines and compiled kernels.

Such a file can run any code. It is therefore used only if this user or root owns it and every
folder from the cache folder down to it, if no other user can write any of them, and if none of them
is a symbolic link. Files written here are writable only by their owner, regardless of the umask.
"""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from sfseg_ros.errors import BackendError

FOLDER_MODE, FILE_MODE = 0o755, 0o644


def read_private(path: Path, cache: Path) -> bytes:
    """Return the content of a file below the folder `cache`.

    Raises BackendError if another user could have written the file. Raises OSError if the file
    cannot be read.
    """
    check_folders(path.parent, cache)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if path.is_symlink():
            raise _refusal(path, "is a symbolic link") from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(path, "is not a regular file")
        _check_owner(path, status)
        return file.read()


def check_folders(folder: Path, cache: Path) -> None:
    """Raise BackendError if another user could change `cache` or a folder between it and `folder`.
    Raises OSError if one cannot be examined."""
    for path in reversed([folder, *folder.parents]):
        if path == cache or cache in path.parents:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                raise _refusal(path, "is a symbolic link")
            _check_owner(path, status)


def make_folders(folder: Path, cache: Path) -> None:
    """Make `folder`, which lies below `cache`, and what is missing above it.

    Raises BackendError if another user could change them. Raises OSError if they cannot be made.
    """
    cache.parent.mkdir(parents=True, exist_ok=True)
    for path in reversed([folder, *folder.parents]):
        if path == cache or cache in path.parents:
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                path.chmod(FOLDER_MODE)
    check_folders(folder, cache)


def write_private(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, even if the power fails: write beside it, then rename.

    Its folder must exist. Raises OSError.
    """
    descriptor, name = tempfile.mkstemp(path.suffix, f".{path.stem}.", path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()  # a full disk must not stay full of it
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise _refusal(path, f"belongs to user {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _refusal(path, "can be written by other users")


def _refusal(path: Path, what: str) -> BackendError:
    return BackendError(
        f"{path}: {what}, so that its code is not trusted; expected a file or folder of your own "
        "that no other user can write: delete it, or run chmod go-w on it"
    )
