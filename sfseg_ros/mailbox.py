# SPDX-License-Identifier: Apache-2.0
"""Newest frame wins (design.md, D4): a one-slot mailbox and the one thread that empties it.

Nothing queues, so nothing gets stale: a frame that arrives while the worker is busy replaces the
one that waits. Every frame is counted once, and the counts add up:
received = segmented + replaced + rejected + unwatched + pending.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class FrameCounts:
    """What became of the frames since the worker was made.

    received: offered to the mailbox. segmented: `process` returned True. unwatched: it returned
    False, nobody wanted a result. rejected: it raised. replaced: a newer frame came, or the worker
    was stopped, before this one's turn.
    """

    received: int = 0
    segmented: int = 0
    replaced: int = 0
    rejected: int = 0
    unwatched: int = 0

    @property
    def pending(self) -> int:
        """Frames in the mailbox or in `process` at this moment: 0, 1 or 2."""
        done = self.segmented + self.replaced + self.rejected + self.unwatched
        return self.received - done


class FrameWorker(Generic[Frame]):
    """A thread that calls `process` with the newest frame offered, one at a time.

    `process(frame)` returns whether it made a result. What it raises costs that frame only: the
    frame counts as rejected, the exception goes to `report`, and the thread goes on.
    `offer` never blocks on `process`; all methods may be called from any thread.
    """

    def __init__(
        self, process: Callable[[Frame], bool], report: Callable[[Exception], None]
    ) -> None:
        self._process = process
        self._report = report
        self._changed = threading.Condition()
        self._slot: Frame | None = None
        self._counts = FrameCounts()
        self._thread: threading.Thread | None = None

    @property
    def counts(self) -> FrameCounts:
        with self._changed:
            return self._counts

    def start(self) -> None:
        """Begin to take frames; does nothing where the thread runs already."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sfseg_frames", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Let the frame in hand finish, drop the waiting one as replaced, end the thread."""
        with self._changed:
            thread, self._thread = self._thread, None
            if self._slot is not None:
                self._slot = None
                self._count(replaced=1)
            self._changed.notify()
        if thread is not None:
            thread.join()

    def offer(self, frame: Frame) -> None:
        """Put the frame in the slot. On a stopped worker it counts as replaced at once."""
        with self._changed:
            if self._thread is None:
                self._count(received=1, replaced=1)
                return
            self._count(received=1, replaced=0 if self._slot is None else 1)
            self._slot = frame
            self._changed.notify()

    def _run(self) -> None:
        while (frame := self._take()) is not None:
            try:
                outcome = "segmented" if self._process(frame) else "unwatched"
            except Exception as error:  # one frame must not end the stream
                outcome = "rejected"
                self._report(error)
            with self._changed:
                self._count(**{outcome: 1})

    def _take(self) -> Frame | None:
        """The newest frame as soon as there is one, None when this thread is to end."""
        with self._changed:
            while self._slot is None and self._thread is threading.current_thread():
                self._changed.wait()
            frame, self._slot = self._slot, None
            return frame

    def _count(self, **more: int) -> None:
        """Add to the counts; the caller holds the lock, so that a reader sees them add up."""
        self._counts = replace(
            self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()}
        )
