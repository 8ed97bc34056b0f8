# SPDX-License-Identifier: Apache-2.0
"""Run work that may never end, such as inference or a read from a dead network drive.

Python cannot stop a thread. `within` runs the work in a daemon thread and abandons the thread at
the deadline. `exit_process` then ends the process without waiting for abandoned threads.
"""

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from sfseg_ros.errors import SfsegError

T = TypeVar("T")

POLL_S = 0.05
HURRY_S = 10.0
"""Time that work still has after `hurry` first returned True."""


class DeadlineError(SfsegError):
    """Work was abandoned, at its deadline or because the node ends."""


def _never() -> bool:
    return False


class _Work(Generic[T]):
    """One call in a daemon thread."""

    def __init__(self, call: Callable[[], T], discard: Callable[[T], object]) -> None:
        self._call, self._discard = call, discard
        self._lock = threading.Lock()
        self._abandoned = False
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="sfseg_work", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            result = self._call()
        except BaseException as error:
            self._error = error
        else:
            with self._lock:
                late = self._abandoned
                if not late:
                    self._result.append(result)
            if late:
                self._discard(result)
        self.ended.set()

    def abandon(self) -> bool:
        """Abandon the thread; return False if the work has just ended and has a result."""
        with self._lock:
            self._abandoned = not (self._result or self._error)
            return self._abandoned

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]


_abandoned: list[threading.Thread] = []


def within(
    timeout_s: float,
    call: Callable[[], T],
    what: str,
    *,
    discard: Callable[[T], object] = lambda result: None,
    paused: Callable[[], bool] = _never,
    hurry: Callable[[], bool] = _never,
) -> T:
    """Return `call()`, or raise its exception.

    Raises DeadlineError, whose message begins with `what`, after `timeout_s`; time does not count
    while `paused()` returns True. Also raises it HURRY_S after `hurry()` first returned True. The
    daemon thread passes a late result to `discard`.
    """
    work = _Work(call, discard)
    left_s, hurry_from_s = timeout_s, math.inf
    while not work.ended.wait(min(POLL_S, max(left_s, 0.0))):
        now_s = time.monotonic()
        left_s -= 0.0 if paused() else POLL_S
        if hurry():
            hurry_from_s = min(hurry_from_s, now_s)
        over = left_s <= 0 or now_s - hurry_from_s >= HURRY_S
        if over and work.abandon():
            _abandoned.append(work.thread)
            reason = f"within {timeout_s:g} s" if left_s <= 0 else "before the end"
            raise DeadlineError(
                f"{what} did not end {reason}; its thread runs until the process ends"
            )
    return work.result()


def exit_process(status: int = 0) -> None:
    """End the process at once if an abandoned thread still runs; otherwise return.

    A normal exit would unload libraries while that thread uses them, and crash.
    """
    if any(thread.is_alive() for thread in _abandoned):
        _exit_now(status)


def exit_after(timeout_s: float, message: str) -> threading.Timer:
    """Print `message` and end the process with status 1 after `timeout_s`.

    The returned timer can be cancelled.
    """

    def give_up() -> None:
        print(message, file=sys.stderr)
        _exit_now(1)

    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    timer.start()
    return timer


def _exit_now(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
