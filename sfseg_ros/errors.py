# SPDX-License-Identifier: Apache-2.0
"""One exception type per role.

Messages are one line: what was wrong, what was expected, what to do.
"""

import reprlib
import sys
from collections.abc import Iterable
from types import TracebackType


class SfsegError(Exception):
    """Base of all errors of this package; entry points print its message without a traceback."""


class ManifestError(SfsegError):
    """A model directory is incomplete, damaged or contradicts itself."""


class ImageError(SfsegError):
    """One frame cannot be converted to RGB; later frames may be fine."""


class BackendError(SfsegError):
    """An inference library is missing, refuses the model or refuses its input.

    `lost`: the device failed, and this backend cannot recover; open a new one.
    """

    lost = False


class BackendUnavailableError(BackendError):
    """This machine lacks hardware or a library of the backend; "auto" tries the next one."""


class BagError(SfsegError):
    """A recording, video or image folder cannot be read or written."""


def no_traceback_of_ctrl_c(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Hide the traceback of Ctrl+C during slow imports; assign this to sys.excepthook."""
    # A C++ library raises ImportError if its import was interrupted.
    if not isinstance(error.__cause__ or error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)


LONGEST_FOREIGN = 500
"""Most characters kept from another library's message; OpenVINO's fill pages."""


def one_line(error: BaseException) -> str:
    """Return the message in one line; errors of other libraries are prefixed with their type."""
    if isinstance(error, SfsegError):
        return " ".join(str(error).split())
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_FOREIGN]


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def shortened(value: object) -> str:
    """repr of a value from outside, at most a few hundred characters and one line."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "a very long number"


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names with commas between them, and how many more there are than `most`."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
