# SPDX-License-Identifier: Apache-2.0
"""Write files and folders whole or not at all, so that a full disk leaves no half of them."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it; its folder is made if it does not exist.

    Raises OSError and leaves `path` as it was if not every byte can be written.
    """
    temporary = _temporary_beside(path)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make a new folder: yields a temporary one beside it, which gets the name `path` at the end.

    If the block raises, the temporary folder is deleted. Raises OSError, also if `path` exists and
    is not empty.
    """
    temporary = _temporary_beside(path)
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary_beside(path: Path) -> Path:
    """A new short name in the folder of `path`, which is made if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{secrets.token_hex(8)}.part"
