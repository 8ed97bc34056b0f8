# SPDX-License-Identifier: Apache-2.0
"""Newest frame wins (docs/adr/0004): a one-slot mailbox per camera and one thread for all of them.

There is no queue and so no stale frame: a frame that arrives while the worker is busy replaces the
waiting frame of the same camera. Every frame is counted once, and the counts of a camera add up:
received = segmented + replaced + rejected + unwatched + skipped + pending.
"""

import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class FrameCounts:
    """Outcomes of a camera's frames since its mailbox was made.

    received: all frames. segmented, unwatched (no subscriber), rejected (an exception): outcomes
    that the worker's `process` returned. skipped: left out on purpose, because of a limit on rate
    or age or because the camera is disabled. replaced: superseded by a newer frame, or dropped
    because the worker stopped.
    """

    received: int = 0
    segmented: int = 0
    replaced: int = 0
    rejected: int = 0
    unwatched: int = 0
    skipped: int = 0

    @property
    def pending(self) -> int:
        """Frames now in the mailbox or in `process`: 0, 1 or 2."""
        done = self.segmented + self.replaced + self.rejected + self.unwatched + self.skipped
        return self.received - done


class Mailbox(Generic[Frame]):
    """The slot of one camera; `BatchWorker.mailbox` makes it. Any thread may call it."""

    def __init__(self, worker: "BatchWorker[Frame]") -> None:
        self._worker = worker
        self._slot: Frame | None = None
        self._counts = FrameCounts()

    @property
    def counts(self) -> FrameCounts:
        with self._worker._changed:
            return self._counts

    def offer(self, frame: Frame) -> None:
        """Put the frame into the slot without waiting for `process`.

        If the worker is stopped, the frame counts as replaced immediately.
        """
        with self._worker._changed:
            if self._worker._thread is None:
                self._count(received=1, replaced=1)
                return
            self._count(received=1, replaced=0 if self._slot is None else 1)
            self._slot = frame
            self._worker._changed.notify_all()

    def skip(self) -> None:
        """Count a received frame that is left out on purpose."""
        with self._worker._changed:
            self._count(received=1, skipped=1)

    def _take(self) -> Frame:
        assert self._slot is not None
        frame, self._slot = self._slot, None
        return frame

    def _count(self, **more: int) -> None:
        """Add to the counts; the caller holds the lock, so that readers see consistent sums."""
        self._counts = replace(
            self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()}
        )


class BatchWorker(Generic[Frame]):
    """A thread that calls `process` with the waiting frames, at most one per mailbox.

    `process(frames)` returns one outcome per frame, in order: True segmented, False unwatched, None
    skipped, or the exception that rejects the frame. An exception that it raises rejects the whole
    batch. `report(frame, error)` is called for each rejected frame after it was counted.

    If more than `max_batch` cameras wait (0: no limit; may be set at any time), those served
    longest ago go first, so a fast camera cannot starve a slow one. All methods may be called from
    any thread except the worker's own.
    """

    def __init__(
        self,
        process: Callable[[list[Frame]], Sequence[bool | Exception | None]],
        report: Callable[[Frame, Exception], None],
    ) -> None:
        self.max_batch = 0
        self._process = process
        self._report = report
        self._changed = threading.Condition()
        self._mailboxes: list[Mailbox[Frame]] = []  # served longest ago first
        self._thread: threading.Thread | None = None
        self._processing = False
        self._tasks = 0

    def mailbox(self) -> Mailbox[Frame]:
        """Add a camera, even while the thread runs, and return its mailbox."""
        mailbox = Mailbox(self)
        with self._changed:
            self._mailboxes = [*self._mailboxes, mailbox]
        return mailbox

    def start(self) -> None:
        """Start the thread, unless it is already running."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sfseg_frames", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Finish the current batch, drop waiting frames as replaced, and end the thread."""
        with self._changed:
            thread, self._thread = self._thread, None
            for mailbox in self._waiting():
                mailbox._take()
                mailbox._count(replaced=1)
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def between(self, task: Callable[[], None]) -> None:
        """Run `task` between two batches, or now if no batch is running; return when it is done.

        All cameras wait for it, so it must be short, such as exchanging a model.
        """
        with self._changed:
            self._tasks += 1  # makes the next batch wait; a steady stream would starve the task
            try:
                while self._processing:
                    self._changed.wait()
                task()
            finally:
                self._tasks -= 1
                self._changed.notify_all()

    def _run(self) -> None:
        while self._run_batch():
            pass

    def _run_batch(self) -> bool:
        """Wait for frames and process them; return False if this thread must end.

        This is a separate method because the local variables of a loop would keep the last images
        in memory while no camera sends.
        """
        batch = self._next_batch()
        if not batch:
            return False
        frames = [frame for _, frame in batch]
        outcomes: Sequence[bool | Exception | None]
        try:
            outcomes = self._process(frames)
            if len(outcomes) != len(frames):
                raise RuntimeError(f"{len(outcomes)} outcomes for {len(frames)} frames")
        except Exception as error:  # one batch must not end the stream
            outcomes = [error] * len(frames)
        with self._changed:
            for (mailbox, _), outcome in zip(batch, outcomes, strict=True):
                mailbox._count(**{_count_name(outcome): 1})
            self._processing = False
            self._changed.notify_all()
        for frame, outcome in zip(frames, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._report_safely(frame, outcome)
        return True

    def _next_batch(self) -> list[tuple[Mailbox[Frame], Frame]]:
        """Wait for frames and return them; return no frames if this thread must end."""
        with self._changed:
            while self._thread is threading.current_thread():
                served = self._waiting()[: self.max_batch or None]
                if served and not self._tasks:
                    self._processing = True
                    others = [mailbox for mailbox in self._mailboxes if mailbox not in served]
                    self._mailboxes = others + served
                    return [(mailbox, mailbox._take()) for mailbox in served]
                self._changed.wait()
            return []

    def _waiting(self) -> list[Mailbox[Frame]]:
        return [mailbox for mailbox in self._mailboxes if mailbox._slot is not None]

    def _report_safely(self, frame: Frame, error: Exception) -> None:
        try:
            self._report(frame, error)
        except Exception:  # the report itself failed; later frames must still be processed
            traceback.print_exc()


def _count_name(outcome: bool | Exception | None) -> str:
    """The field of FrameCounts for what `process` said of a frame."""
    if outcome is None:
        return "skipped"
    if isinstance(outcome, Exception):
        return "rejected"
    return "segmented" if outcome else "unwatched"
