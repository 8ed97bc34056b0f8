# SPDX-License-Identifier: Apache-2.0
"""How the stream is doing, judged once a second from its counters; no ROS in here."""

import enum
from dataclasses import dataclass

from sfseg_ros.mailbox import FrameCounts

SILENCE_S = 5.0
"""A camera that is there but sends nothing for this long is worth a warning."""
OLD_FRAME_MS = 60_000.0
"""Nothing in this package takes a minute: such an age means two clocks, not a slow node."""


class Level(enum.IntEnum):
    """As in diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class StreamState:
    """What is known of one camera's stream at one moment.

    lost: frames that the middleware says it lost. cameras: publishers on the input topic.
    silent_s: seconds since the last frame, or since activation. age_ms: median age of a result.
    load_error, frame_error: text of the last exception, empty where there was none.
    broken: that of the frame was not the frame's own fault.
    """

    lifecycle: str
    counts: FrameCounts
    lost: int = 0
    cameras: int = 0
    silent_s: float = 0.0
    age_ms: float | None = None
    load_error: str = ""
    frame_error: str = ""
    broken: bool = False


def judge(state: StreamState, before: StreamState) -> tuple[Level, str]:
    """Level and one line for /diagnostics from two states about a second apart."""
    if state.lifecycle != "active":
        if state.load_error:
            return Level.ERROR, f"{state.lifecycle}: {state.load_error}"
        return Level.OK, state.lifecycle
    rejected = state.counts.rejected - before.counts.rejected
    if rejected and state.broken:
        return Level.ERROR, f"{rejected} frames failed, last: {state.frame_error}"
    if rejected:
        return Level.WARN, f"{rejected} frames rejected, last: {state.frame_error}"
    if lost := state.lost - before.lost:
        return Level.WARN, f"{lost} frames lost by the middleware"
    if state.silent_s >= SILENCE_S:
        if state.cameras:
            return Level.WARN, f"no frame for {state.silent_s:.0f} s although a camera publishes"
        return Level.WARN, "nobody publishes the input topic"
    if state.age_ms is not None and abs(state.age_ms) > OLD_FRAME_MS:
        return Level.WARN, (
            f"images are {state.age_ms / 1000:.0f} s old by this clock: set use_sim_time for "
            "recorded data, or synchronise the clocks"
        )
    received = state.counts.received - before.counts.received
    segmented = state.counts.segmented - before.counts.segmented
    if state.counts.unwatched > before.counts.unwatched:
        return Level.OK, f"{received} frames in, none segmented because nobody listens"
    return Level.OK, f"{received} frames in, {segmented} out"
