# SPDX-License-Identifier: Apache-2.0
"""Limits how often the log repeats a message about the same problem."""

import math
import time
from collections.abc import Callable

TROUBLE_PERIOD_S = 5.0
"""Shortest time between two log lines about the same problem of one camera."""


class LogThrottle:
    """Lets each kind of trouble through at most once in `period_s`. One per camera: rclpy's own
    throttle goes by the line of code, so that one camera would silence the others.

    Different threads may ask, each for kinds of its own. `clock` is monotonic, in seconds.
    """

    def __init__(
        self, period_s: float = TROUBLE_PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._period_s = period_s
        self._clock = clock
        self._last_s: dict[str, float] = {}

    def admits(self, kind: str) -> bool:
        """Whether to say it now; what is not said is forgotten."""
        now_s = self._clock()
        if now_s - self._last_s.get(kind, -math.inf) < self._period_s:
            return False
        self._last_s[kind] = now_s
        return True

    def clear(self) -> None:
        """Let every kind through again at once."""
        self._last_s.clear()
