# SPDX-License-Identifier: Apache-2.0
"""Which frames of a camera are taken: rate limit, every n-th, age; and clocks that jump back."""

JUMP_BACK_NS = 1_000_000_000
"""A stamp or clock that goes back by more than this is a bag that began anew or a simulation that
was reset. Less is a frame that was overtaken by the next, or a clock that was set right."""

_BURST = 2.0
"""Frames' worth of allowance that can be saved up. With 1, what is left over from a frame would be
lost, and a camera at 1.5 times the limit would be cut to half its own rate."""


class Pacing:
    """Thins out the frames of one camera. Not thread-safe: the subscription's callback asks it.

    `every_nth` (1: all) counts frames; `max_rate` in Hz (0: all) limits what that leaves. The limit
    holds on average and by the node's clock, so a recording that is played slowly is thinned out as
    the camera was. Both may be set at any time. Neither depends on stamps, which a camera may leave
    at zero.
    """

    def __init__(self, max_rate: float = 0.0, every_nth: int = 1) -> None:
        self.max_rate = max_rate
        self.every_nth = every_nth
        self._frames = 0
        self._allowance = _BURST
        self._clock_ns: int | None = None
        self._last_ns: tuple[int, int] | None = None

    def admits(self, now_ns: int, received_ns: int) -> bool:
        """Whether to take the frame that arrived when the node's clock said `now_ns` and the
        monotonic clock `received_ns`. To be asked once per frame."""
        frame, self._frames = self._frames, self._frames + 1
        # With use_sim_time the node's clock is 0 until somebody publishes /clock.
        return frame % self.every_nth == 0 and self._within_rate(now_ns or received_ns)

    def jumped_back(self, stamp_ns: int, now_ns: int) -> bool:
        """Whether the camera's stamps or the node's clock went back by more than JUMP_BACK_NS since
        the last call. What was measured or buffered before is then to be forgotten."""
        last_ns, self._last_ns = self._last_ns, (stamp_ns, now_ns)
        return last_ns is not None and (
            stamp_ns < last_ns[0] - JUMP_BACK_NS or now_ns < last_ns[1] - JUMP_BACK_NS
        )

    def _within_rate(self, clock_ns: int) -> bool:
        """A token bucket: each frame costs one, time brings `max_rate` a second."""
        last_ns, self._clock_ns = self._clock_ns, clock_ns
        if self.max_rate <= 0:
            return True
        # A clock that was set back brings nothing for once, and goes on from there.
        passed_s = 0.0 if last_ns is None else max(0, clock_ns - last_ns) / 1e9
        self._allowance = min(_BURST, self._allowance + passed_s * self.max_rate)
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True


def too_old(stamp_ns: int, now_ns: int, max_age_ms: float) -> bool:
    """Whether an image with this stamp is older than `max_age_ms` (0: no limit) by the clock that
    says `now_ns`. One from the future is not: the clocks of camera and robot are a little apart."""
    return max_age_ms > 0 and now_ns - stamp_ns > max_age_ms * 1e6
