# SPDX-License-Identifier: Apache-2.0
import sys
from types import TracebackType


def _no_traceback_of_ctrl_c(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    # A library written in C++ says ImportError where its import was interrupted.
    if not isinstance(error.__cause__ or error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)


# `main` handles Ctrl-C, but the imports come before it, and take a second on a slow machine.
sys.excepthook = _no_traceback_of_ctrl_c
