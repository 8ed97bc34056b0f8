# SPDX-License-Identifier: Apache-2.0
"""What the commands print on stderr: progress and errors, one line each.

Results go to stdout. A broken stderr never stops a command.
"""

import os
import sys
from pathlib import Path

from sfseg_ros.errors import SfsegError


class OutputError(SfsegError):
    """A result cannot have this path."""


def check_output(path: Path) -> None:
    """Raise OutputError if `path`, printed as the last line of stdout, would be several lines."""
    if len(str(path).splitlines()) != 1:
        raise OutputError(f"{str(path)!r}: an output path may not have a line break")


def one_line_name(path: Path) -> str:
    """The name of a file for people: one line of UTF-8, other bytes escaped."""
    name = path.name.encode(errors="backslashreplace").decode()
    return " ".join(name.splitlines())


def say(text: str) -> None:
    """Print a line of progress; an empty text, the end of a progress report, prints nothing."""
    if text:
        complain(f"--- {text}")


def complain(text: str) -> None:
    """Print a text on stderr as one line; if stderr is closed or full, later ones go nowhere."""
    try:
        print(*text.splitlines(), file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
