# SPDX-License-Identifier: Apache-2.0
"""Open a file that may be anything: a FIFO, a device, a directory."""

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO | None:
    """Open a file for reading, or return None if it is not a regular file.

    Does not wait for a FIFO's writer. Raises OSError if the file cannot be opened.
    """
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 (the caller closes it)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
