# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
import threading
import time

import pytest

from sfseg_ros import deadline
from sfseg_ros.deadline import DeadlineError, within


@pytest.fixture
def blocked():
    """Work that returns "late" when `go_on` is set, or at the end of the test."""

    class Blocked:
        def __init__(self):
            self.go_on = threading.Event()

        def __call__(self):
            self.go_on.wait(60)
            return "late"

    work = Blocked()
    yield work
    work.go_on.set()
    for thread in deadline._abandoned:
        thread.join(10)
    deadline._abandoned.clear()


def test_within_returns_the_result_or_raises_the_error():
    assert within(5, lambda: 7, "counting") == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0, "dividing")


def test_work_that_does_not_end_is_abandoned(blocked):
    begin = time.monotonic()
    with pytest.raises(DeadlineError, match="waiting did not end within 0.2 s"):
        within(0.2, blocked, "waiting")
    assert time.monotonic() - begin < 5


def test_a_late_result_is_discarded(blocked):
    discarded = []
    with pytest.raises(DeadlineError):
        within(0.1, blocked, "waiting", discard=discarded.append)
    blocked.go_on.set()
    deadline._abandoned[0].join(10)
    assert discarded == ["late"]


def test_paused_time_does_not_count(blocked):
    begin = time.monotonic()
    threading.Timer(0.6, blocked.go_on.set).start()
    paused = lambda: time.monotonic() - begin < 0.6  # noqa: E731
    assert within(0.3, blocked, "waiting", paused=paused) == "late"


def test_hurry_shortens_the_deadline(blocked, monkeypatch):
    monkeypatch.setattr(deadline, "HURRY_S", 0.2)
    with pytest.raises(DeadlineError, match="waiting did not end before the end"):
        within(60, blocked, "waiting", paused=lambda: True, hurry=lambda: True)
    monkeypatch.setattr(deadline, "HURRY_S", 20)
    threading.Timer(0.2, blocked.go_on.set).start()
    assert within(60, blocked, "waiting", hurry=lambda: True) == "late"


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        ("deadline.exit_process(3)", 3, ""),
        ("deadline.exit_after(0.1, 'given up'); time.sleep(60)", 1, "given up\n"),
        ("deadline.exit_after(0.2, 'given up').cancel(); time.sleep(0.4)", 0, ""),
    ],
)
def test_the_process_ends_while_an_abandoned_thread_runs(ending, status, said):
    code = f"""
import time
from sfseg_ros import deadline
try:
    deadline.within(0.1, lambda: time.sleep(60), "sleeping")
except deadline.DeadlineError:
    pass
{ending}
"""
    begin = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (status, said)
    assert time.monotonic() - begin < 30


def test_exit_process_returns_if_no_thread_was_abandoned():
    assert within(5, lambda: 7, "counting") == 7
    deadline.exit_process(3)
