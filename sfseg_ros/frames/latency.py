# SPDX-License-Identifier: Apache-2.0
"""Rolling percentiles of the durations of the last frames."""

import threading
from collections import deque

import numpy as np

from sfseg_ros.frames.pacing import JUMP_BACK_NS


class RollingPercentiles:
    """p50, p95 and p99 of the last `window` values, in the unit of the values.

    At 30 frames per second the default window spans 17 seconds. The worker thread writes and the
    diagnostics timer reads, hence the lock.
    """

    def __init__(self, window: int = 512) -> None:
        self._values: deque[float] = deque(maxlen=window)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        with self._lock:
            self._values.append(value)

    def clear(self) -> None:
        with self._lock:
            self._values.clear()

    def percentiles(self) -> tuple[float, float, float] | None:
        """Return (p50, p95, p99), or None without values."""
        with self._lock:
            values = list(self._values)
        if not values:
            return None
        p50, p95, p99 = np.percentile(values, (50, 95, 99))
        return float(p50), float(p95), float(p99)


class FrameTimes:
    """Rolling percentiles per step of a frame, all in milliseconds.

    `latency` is the age of the image (clock minus stamp) when the middleware got its first output;
    the other steps are durations on a monotonic clock. `processing` is the sum of WORK, the steps
    between the worker taking the frame and the middleware getting the output.
    """

    WORK = ("convert", "preprocess", "inference", "postprocess", "publish")
    STEPS = ("latency", "wait", *WORK, "processing")

    def __init__(self) -> None:
        self._steps = {step: RollingPercentiles() for step in self.STEPS}
        self._last_stamp_ns = 0

    def add(self, stamp_ns: int, **steps_ms: float) -> None:
        """Add the milliseconds of each of STEPS except `processing` for one frame.

        A stamp that jumps back by more than JUMP_BACK_NS (a restarted bag or simulation) clears
        earlier measurements.
        """
        if stamp_ns < self._last_stamp_ns - JUMP_BACK_NS:
            self.clear()
        self._last_stamp_ns = stamp_ns
        processing_ms = sum(steps_ms.get(step, 0.0) for step in self.WORK)
        for step, value_ms in {**steps_ms, "processing": processing_ms}.items():
            self._steps[step].add(value_ms)

    def clear(self) -> None:
        """Discard all measurements, for example after a clock jumped back."""
        for percentiles in self._steps.values():
            percentiles.clear()

    def percentiles(self, step: str) -> tuple[float, float, float] | None:
        """Return (p50, p95, p99) in ms of one of STEPS, or None before the first frame."""
        return self._steps[step].percentiles()
