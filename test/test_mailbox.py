# SPDX-License-Identifier: Apache-2.0
import threading

import pytest

from sfseg_ros.mailbox import FrameCounts, FrameWorker

WAIT_S = 20


class Gate:
    """A `process` that begins each frame, then waits to be let through."""

    def __init__(self):
        self.frames = []
        self.begun = threading.Semaphore(0)
        self.let_through = threading.Semaphore(0)

    def __call__(self, frame):
        self.frames.append(frame)
        self.begun.release()
        assert self.let_through.acquire(timeout=WAIT_S)
        return True


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def worker(gate):
    worker = FrameWorker(gate, pytest.fail)
    worker.start()
    yield worker
    gate.let_through.release(1000)
    worker.stop()


def test_while_the_worker_is_busy_the_newest_frame_replaces_the_one_that_waits(gate, worker):
    worker.offer("first")
    assert gate.begun.acquire(timeout=WAIT_S)
    for frame in ("second", "third", "newest"):
        worker.offer(frame)
    assert worker.counts == FrameCounts(received=4, replaced=2)
    assert worker.counts.pending == 2
    gate.let_through.release(2)
    assert gate.begun.acquire(timeout=WAIT_S)
    worker.stop()
    assert gate.frames == ["first", "newest"]
    assert worker.counts == FrameCounts(received=4, replaced=2, segmented=2)


def test_stop_finishes_the_frame_in_hand_and_counts_the_waiting_one_as_replaced(gate, worker):
    worker.offer("in hand")
    assert gate.begun.acquire(timeout=WAIT_S)
    worker.offer("waiting")
    gate.let_through.release()
    worker.stop()
    assert gate.frames[0] == "in hand"
    assert worker.counts.pending == 0
    assert worker.counts.segmented + worker.counts.replaced == 2


def test_a_stopped_worker_counts_what_it_is_offered_as_replaced(gate, worker):
    worker.stop()
    worker.offer("too late")
    assert worker.counts == FrameCounts(received=1, replaced=1)
    assert gate.frames == []


def test_it_can_be_started_again_and_goes_on_counting(gate, worker):
    gate.let_through.release(2)
    worker.offer(1)
    assert gate.begun.acquire(timeout=WAIT_S)
    worker.stop()
    worker.start()
    worker.offer(2)
    assert gate.begun.acquire(timeout=WAIT_S)
    worker.stop()
    assert worker.counts == FrameCounts(received=2, segmented=2)


def test_an_exception_costs_one_frame_and_not_the_thread():
    errors = []
    seen = threading.Event()

    def process(frame):
        if frame == "good":
            seen.set()
            return False
        raise ValueError(frame)

    def report(error):
        errors.append(str(error))
        reported.release()

    reported = threading.Semaphore(0)
    worker = FrameWorker(process, report)
    worker.start()
    for frame in ("bad", "worse"):
        worker.offer(frame)
        assert reported.acquire(timeout=WAIT_S)
    worker.offer("good")
    assert seen.wait(WAIT_S)
    worker.stop()
    assert errors == ["bad", "worse"]
    assert worker.counts == FrameCounts(received=3, rejected=2, unwatched=1)


def test_counts_add_up_at_every_moment_under_load():
    worker = FrameWorker(lambda frame: frame % 3 != 0, pytest.fail)
    worker.start()
    for frame in range(3000):
        worker.offer(frame)
        assert 0 <= worker.counts.pending <= 2
    worker.stop()
    counts = worker.counts
    assert counts.pending == 0
    assert counts.received == 3000


def test_no_thread_outlives_stop(worker):
    worker.stop()
    worker.stop()
    assert not [t for t in threading.enumerate() if t.name == "sfseg_frames"]
