# SPDX-License-Identifier: Apache-2.0
"""Limits how often the log repeats a message about the same problem."""

import math
import time
from collections.abc import Callable

TROUBLE_PERIOD_S = 5.0
"""Shortest time between two log lines about the same problem of one camera."""


class LogThrottle:
    """Admits each kind of message at most once per `period_s`; each camera has its own throttle.

    rclpy's throttle distinguishes lines of code only, so one camera would silence the others.
    Several threads may call it, each for its own kinds. `clock` is monotonic, in seconds.
    """

    def __init__(
        self, period_s: float = TROUBLE_PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._period_s = period_s
        self._clock = clock
        self._last_s: dict[str, float] = {}

    def admits(self, kind: str) -> bool:
        """Return whether to log a message of this kind now; a refused message is dropped."""
        now_s = self._clock()
        if now_s - self._last_s.get(kind, -math.inf) < self._period_s:
            return False
        self._last_s[kind] = now_s
        return True

    def clear(self) -> None:
        """Admit every kind again immediately."""
        self._last_s.clear()
