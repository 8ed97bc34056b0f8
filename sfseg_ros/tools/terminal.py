# SPDX-License-Identifier: Apache-2.0
"""What the commands print on stderr: progress and errors, one line each.

Results go to stdout. A broken stderr never stops a command.
"""

import os
import sys


def say(text: str) -> None:
    """Print a line of progress; an empty text, the end of a progress report, prints nothing."""
    if text:
        complain(f"--- {text}")


def complain(text: str) -> None:
    """Print a line on stderr; if stderr is closed or full, later lines go to /dev/null."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
