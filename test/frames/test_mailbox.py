# SPDX-License-Identifier: Apache-2.0
import threading
import time
import weakref

import pytest

from sfseg_ros.frames.mailbox import BatchWorker, FrameCounts

WAIT_S = 20


class Gate:
    """A `process` that records each batch, then waits until the test lets it through."""

    def __init__(self):
        self.batches = []
        self.begun = threading.Semaphore(0)
        self.let_through = threading.Semaphore(0)

    def __call__(self, frames):
        self.batches.append(frames)
        self.begun.release()
        assert self.let_through.acquire(timeout=WAIT_S)
        return [True] * len(frames)

    def wait_for_batch(self):
        assert self.begun.acquire(timeout=WAIT_S)


def until(condition):
    """Wait for work that the worker's thread does after its last call into the test."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0)


def unexpected(frame, error):
    raise AssertionError(f"{frame}: {error}")


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def worker(gate):
    worker = BatchWorker(gate, unexpected)
    worker.start()
    yield worker
    gate.let_through.release(1000)
    worker.stop()


@pytest.fixture
def camera(worker):
    return worker.mailbox()


@pytest.fixture
def busy(gate, worker):
    """The worker processes a frame of another camera, so that offered frames wait."""
    worker.mailbox().offer("in hand")
    gate.wait_for_batch()


def next_batch(gate):
    gate.let_through.release()
    gate.wait_for_batch()
    return gate.batches[-1]


def test_the_newest_frame_replaces_the_waiting_one_while_the_worker_is_busy(gate, worker, camera):
    camera.offer("first")
    gate.wait_for_batch()
    for frame in ("second", "third", "newest"):
        camera.offer(frame)
    assert camera.counts == FrameCounts(received=4, replaced=2)
    assert camera.counts.pending == 2
    assert next_batch(gate) == ["newest"]
    gate.let_through.release()
    worker.stop()
    assert gate.batches == [["first"], ["newest"]]
    assert camera.counts == FrameCounts(received=4, replaced=2, segmented=2)


@pytest.mark.usefixtures("busy")
def test_the_waiting_frames_of_all_cameras_form_the_next_batch(gate, worker):
    front, rear, side = worker.mailbox(), worker.mailbox(), worker.mailbox()
    rear.offer("old rear")
    rear.offer("rear")
    front.offer("front")
    assert next_batch(gate) == ["front", "rear"]
    assert rear.counts == FrameCounts(received=2, replaced=1)
    assert side.counts == FrameCounts()


@pytest.mark.usefixtures("busy")
def test_each_camera_has_its_own_counts(gate, worker):
    front, rear = worker.mailbox(), worker.mailbox()
    front.offer(1)
    front.offer(2)
    rear.offer(3)
    gate.let_through.release(2)
    gate.wait_for_batch()
    worker.stop()
    assert front.counts == FrameCounts(received=2, replaced=1, segmented=1)
    assert rear.counts == FrameCounts(received=1, segmented=1)


@pytest.mark.usefixtures("busy")
def test_a_camera_can_be_added_while_the_worker_runs(gate, worker):
    late = worker.mailbox()
    late.offer("late")
    assert next_batch(gate) == ["late"]


@pytest.mark.usefixtures("busy")
def test_more_cameras_than_a_batch_holds_get_equal_numbers_of_turns(gate, worker):
    worker.max_batch = 2
    names = ("front", "rear", "left")
    cameras = {name: worker.mailbox() for name in names}
    served = []
    for _ in range(6):
        for name, camera in cameras.items():
            camera.offer(name)
        batch = next_batch(gate)
        assert len(batch) == 2
        served += batch
    assert [served.count(name) for name in names] == [4, 4, 4]


@pytest.mark.usefixtures("busy")
def test_a_fast_camera_does_not_starve_a_slow_one(gate, worker):
    worker.max_batch = 1
    fast, slow = worker.mailbox(), worker.mailbox()
    for _ in range(3):
        slow.offer("slow")
        batches = []
        for _ in range(2):
            fast.offer("fast")
            batches.append(next_batch(gate))
        assert sorted(batches) == [["fast"], ["slow"]]
    assert slow.counts.replaced == 0


@pytest.mark.usefixtures("busy")
def test_the_batch_limit_can_change_while_frames_flow(gate, worker):
    cameras = [worker.mailbox() for _ in range(3)]
    for limit, expected in ((1, 1), (2, 2), (0, 3)):
        worker.max_batch = limit
        for camera in cameras:
            camera.offer("frame")
        assert len(next_batch(gate)) == expected


def test_stop_finishes_the_current_batch_and_counts_waiting_frames_as_replaced(gate, worker):
    cameras = [worker.mailbox(), worker.mailbox()]
    cameras[0].offer("in hand")
    gate.wait_for_batch()
    for camera in cameras:
        camera.offer("waiting")
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    until(lambda: cameras[1].counts.replaced == 1)  # while the gate still holds the current batch
    gate.let_through.release()
    stopper.join(WAIT_S)
    assert gate.batches == [["in hand"]]
    assert cameras[0].counts == FrameCounts(received=2, segmented=1, replaced=1)
    assert cameras[1].counts == FrameCounts(received=1, replaced=1)


def test_a_stopped_worker_counts_offered_frames_as_replaced(gate, worker, camera):
    worker.stop()
    camera.offer("too late")
    assert camera.counts == FrameCounts(received=1, replaced=1)
    assert gate.batches == []


def test_a_restarted_worker_keeps_its_counts(gate, worker, camera):
    gate.let_through.release(2)
    camera.offer(1)
    gate.wait_for_batch()
    worker.stop()
    worker.start()
    camera.offer(2)
    gate.wait_for_batch()
    worker.stop()
    assert camera.counts == FrameCounts(received=2, segmented=2)


def test_an_intentionally_omitted_frame_is_counted_as_skipped(worker, camera):
    camera.skip()
    assert camera.counts == FrameCounts(received=1, skipped=1)
    worker.stop()
    camera.skip()
    assert camera.counts == FrameCounts(received=2, skipped=2)


class Outcomes:
    """A worker whose frames are their own outcomes; each call of `of` is one batch."""

    def __init__(self, process):
        self.errors = []
        self._process = process
        self._done = threading.Semaphore(0)
        self._go = threading.Event()
        self.worker = BatchWorker(self._run, self._report)

    def of(self, *frames):
        """Process one batch of `frames`, one per camera, and return the counts."""
        blocker = self.worker.mailbox()
        cameras = [self.worker.mailbox() for _ in frames]
        self.worker.start()
        blocker.offer(self._go)
        assert self._done.acquire(timeout=WAIT_S)
        for camera, frame in zip(cameras, frames, strict=True):
            camera.offer(frame)
        self._go.set()
        assert self._done.acquire(timeout=WAIT_S)
        self.worker.stop()
        return [camera.counts for camera in cameras]

    def _run(self, frames):
        self._done.release()
        if frames == [self._go]:
            assert self._go.wait(WAIT_S)
            return [True]
        return self._process(frames)

    def _report(self, frame, error):
        self.errors.append((frame, str(error)))


def test_each_frame_of_a_batch_has_its_own_outcome():
    refused = ValueError("not an image")
    outcomes = Outcomes(lambda frames: [frame[1] for frame in frames])
    counts = outcomes.of(("good", True), ("bad", refused), ("unseen", False), ("old", None))
    assert counts == [
        FrameCounts(received=1, segmented=1),
        FrameCounts(received=1, rejected=1),
        FrameCounts(received=1, unwatched=1),
        FrameCounts(received=1, skipped=1),
    ]
    assert outcomes.errors == [(("bad", refused), "not an image")]


def test_an_exception_fails_its_batch_but_not_the_thread():
    def process(frames):
        if "worse" in frames:
            raise ValueError("no GPU")
        return [False] * len(frames)

    outcomes = Outcomes(process)
    assert outcomes.of("worse", "good") == [FrameCounts(received=1, rejected=1)] * 2
    assert outcomes.errors == [("worse", "no GPU"), ("good", "no GPU")]
    assert outcomes.of("good") == [FrameCounts(received=1, unwatched=1)]


def test_a_wrong_number_of_outcomes_rejects_the_batch():
    outcomes = Outcomes(lambda frames: [True])
    assert outcomes.of("one", "two") == [FrameCounts(received=1, rejected=1)] * 2
    assert outcomes.errors[0] == ("one", "1 outcomes for 2 frames")


def test_a_frame_is_counted_before_it_is_reported():
    counted = []
    reported = threading.Event()

    def report(frame, error):
        counted.append(camera.counts)
        reported.set()

    worker = BatchWorker(lambda frames: [ValueError("odd")], report)
    camera = worker.mailbox()
    worker.start()
    camera.offer("frame")
    assert reported.wait(WAIT_S)
    worker.stop()
    assert counted == [FrameCounts(received=1, rejected=1)]


def test_a_failing_report_stops_neither_the_thread_nor_the_counts(capfd):
    reported = threading.Semaphore(0)

    def report(frame, error):
        reported.release()
        raise RuntimeError("the log is gone")

    worker = BatchWorker(lambda frames: [ValueError("odd")], report)
    camera = worker.mailbox()
    worker.start()
    for _ in range(2):
        camera.offer("frame")
        assert reported.acquire(timeout=WAIT_S)
    worker.stop()
    assert camera.counts == FrameCounts(received=2, rejected=2)
    assert "the log is gone" in capfd.readouterr().err


def test_counts_add_up_at_every_moment_under_load():
    worker = BatchWorker(lambda frames: [frame % 3 != 0 for frame in frames], unexpected)
    cameras = [worker.mailbox() for _ in range(3)]
    worker.start()

    def send(camera):
        for frame in range(1000):
            camera.offer(frame)
            assert 0 <= camera.counts.pending <= 2

    senders = [threading.Thread(target=send, args=[camera]) for camera in cameras]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(WAIT_S)
    worker.stop()
    for camera in cameras:
        assert camera.counts.received == 1000
        assert camera.counts.pending == 0


def test_counts_add_up_through_many_starts_and_stops():
    worker = BatchWorker(lambda frames: [True] * len(frames), unexpected)
    cameras = [worker.mailbox() for _ in range(2)]
    storm_is_over = threading.Event()

    def send(camera):
        while not storm_is_over.is_set():
            camera.offer("frame")

    senders = [threading.Thread(target=send, args=[camera]) for camera in cameras]
    for sender in senders:
        sender.start()
    for _ in range(100):
        worker.start()
        worker.stop()
    storm_is_over.set()
    for sender in senders:
        sender.join(WAIT_S)
    assert [camera.counts.pending for camera in cameras] == [0, 0]
    assert not [t for t in threading.enumerate() if t.name == "sfseg_frames"]


def test_no_frame_is_kept_in_memory_after_its_batch():
    class Picture:
        pass

    done = threading.Semaphore(0)

    def process(frames):
        done.release()
        return [True]

    worker = BatchWorker(process, unexpected)
    camera = worker.mailbox()
    worker.start()
    picture = Picture()
    last = weakref.ref(picture)
    camera.offer(picture)
    del picture
    assert done.acquire(timeout=WAIT_S)
    until(lambda: last() is None)
    worker.stop()


def test_no_thread_outlives_stop(worker):
    worker.stop()
    worker.stop()
    assert not [t for t in threading.enumerate() if t.name == "sfseg_frames"]


def test_a_task_runs_after_the_current_batch_and_before_the_next():
    begun, go_on, order = threading.Event(), threading.Event(), []

    def process(frames):
        begun.set()
        assert go_on.wait(20)
        order.append(frames[0])
        return [True] * len(frames)

    worker = BatchWorker(process, lambda frame, error: None)
    mailbox = worker.mailbox()
    worker.start()
    mailbox.offer("first")
    assert begun.wait(20)
    mailbox.offer("second")
    task = threading.Thread(target=worker.between, args=(lambda: order.append("task"),))
    task.start()
    while not worker._tasks:
        time.sleep(0.001)
    go_on.set()
    task.join(20)
    worker.stop()
    assert order[:2] == ["first", "task"]
    assert mailbox.counts.pending == 0


def test_a_task_of_a_stopped_worker_runs_at_once_and_raises_in_the_caller():
    worker = BatchWorker(lambda frames: [], lambda frame, error: None)
    done = []
    worker.between(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(ZeroDivisionError):
        worker.between(lambda: 1 / 0)
    worker.between(lambda: done.append(2))
    assert done == [1, 2]
