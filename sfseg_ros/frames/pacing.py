# SPDX-License-Identifier: Apache-2.0
"""Which frames of a camera are taken: rate limit, every n-th, age; and clocks that jump back."""

JUMP_BACK_NS = 1_000_000_000
"""A stamp or clock that jumps back by more than this means a restarted bag or simulation. Smaller
steps come from reordered frames or an adjusted clock."""

_BURST = 2.0
"""Largest saved allowance, in frames. With 1, the fraction left over by a frame would be lost, and
a camera at 1.5 times the limit would be cut to half of its own rate."""


class Pacing:
    """Limits the frames of one camera. Not thread-safe: only the subscription's callback uses it.

    `every_nth` selects every n-th frame (1: all); `max_rate` in Hz then limits their rate (0: no
    limit). The limit holds on average and by the node's clock, so it does not depend on the speed
    of a replay. Both may be set at any time. Neither uses stamps, which a camera may leave zero.
    """

    def __init__(self, max_rate: float = 0.0, every_nth: int = 1) -> None:
        self.max_rate = max_rate
        self.every_nth = every_nth
        self._frames = 0
        self._allowance = _BURST
        self._clock_ns: int | None = None
        self._last_ns: tuple[int, int] | None = None

    def admits(self, now_ns: int, received_ns: int) -> bool:
        """Return whether to take a frame; call it once per frame.

        `now_ns` and `received_ns` are the node's clock and the monotonic clock at its arrival.
        """
        frame, self._frames = self._frames, self._frames + 1
        # With use_sim_time the node's clock is 0 until the first message on /clock.
        return frame % self.every_nth == 0 and self._within_rate(now_ns or received_ns)

    def jumped_back(self, stamp_ns: int, now_ns: int) -> bool:
        """Return whether stamps or clock went back by more than JUMP_BACK_NS since the last call.

        The caller then discards earlier measurements and buffers.
        """
        last_ns, self._last_ns = self._last_ns, (stamp_ns, now_ns)
        return last_ns is not None and (
            stamp_ns < last_ns[0] - JUMP_BACK_NS or now_ns < last_ns[1] - JUMP_BACK_NS
        )

    def _within_rate(self, clock_ns: int) -> bool:
        """A token bucket: a frame takes one token; `max_rate` tokens arrive per second."""
        last_ns, self._clock_ns = self._clock_ns, clock_ns
        if self.max_rate <= 0:
            return True
        # A clock that was set back adds no tokens once and continues from there.
        passed_s = 0.0 if last_ns is None else max(0, clock_ns - last_ns) / 1e9
        self._allowance = min(_BURST, self._allowance + passed_s * self.max_rate)
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True


def too_old(stamp_ns: int, now_ns: int, max_age_ms: float) -> bool:
    """Return whether an image with this stamp is older than `max_age_ms` at `now_ns` (0: no limit).

    A stamp in the future is not too old, because the clocks of camera and robot differ slightly.
    """
    return max_age_ms > 0 and now_ns - stamp_ns > max_age_ms * 1e6
