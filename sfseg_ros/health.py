# SPDX-License-Identifier: Apache-2.0
"""How the stream of a camera is doing, judged once a second from its counters; no ROS in here."""

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
class Thresholds:
    """Beyond which a stream is not in order; 0 turns a limit off.

    silence_s: seconds without a frame. warn_age_ms, error_age_ms: age of the results.
    processing_budget_ms: work on a frame, for 95 of 100 frames. min_output_rate: results per second
    while somebody listens.
    """

    silence_s: float = SILENCE_S
    warn_age_ms: float = 0.0
    error_age_ms: float = 0.0
    processing_budget_ms: float = 0.0
    min_output_rate: float = 0.0


DEFAULT_THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class StreamState:
    """What is known of one camera's stream at one moment.

    lost: frames that the middleware says it lost. too_old: those of `counts.skipped` that were
    older than max_age_ms. cameras: publishers on the input topic. silent_s: seconds since the last
    frame, or since activation. age_ms: median age of a result; processing_ms: p95 of the work on a
    frame; both None before the first one. time_ns: monotonic, of this state.
    load_error, frame_error: text of the last exception, empty where there was none. broken: that of
    the frame was not the frame's own fault. model_error: why a new model was refused while the old
    one goes on. loading: what is being loaded and how far it is, empty where nothing is.
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
    time_ns: int = 0
    enabled: bool = True
    too_old: int = 0
    processing_ms: float | None = None
    model_error: str = ""
    loading: str = ""


def rates(state: StreamState, before: StreamState) -> tuple[float, float]:
    """(frames in, results out) in Hz between two states; 0 where no time passed."""
    passed_s = (state.time_ns - before.time_ns) / 1e9
    if passed_s <= 0:
        return 0.0, 0.0
    more = _more(state.counts, before.counts)
    return more.received / passed_s, more.segmented / passed_s


def judge(
    state: StreamState, before: StreamState, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> tuple[Level, str]:
    """Level and one line for /diagnostics from two states about a second apart: the gravest of the
    `findings`, or what flows where there are none."""
    if found := findings(state, before, thresholds):
        return max(found, key=lambda finding: finding[0])  # the first of the gravest
    more = _more(state.counts, before.counts)
    if state.lifecycle != "active":
        text = state.lifecycle
    elif not state.enabled:
        text = f"disabled, {more.received} frames in"
    elif more.unwatched:
        text = f"{more.received} frames in, none segmented because nobody listens"
    else:
        text = f"{more.received} frames in, {more.segmented} out"
    return Level.OK, f"{text}; {state.loading}" if state.loading else text


def findings(
    state: StreamState, before: StreamState, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> list[tuple[Level, str]]:
    """All that is not in order between two states about a second apart, causes before effects."""
    if state.lifecycle != "active":
        failed = [(Level.ERROR, f"{state.lifecycle}: {state.load_error}")]
        return failed if state.load_error else []
    found = []
    if state.model_error:
        found.append((Level.WARN, f"new model refused, the old one goes on: {state.model_error}"))
    if not state.enabled:
        return found
    more = _more(state.counts, before.counts)
    if more.rejected and state.broken:
        found.append((Level.ERROR, f"{more.rejected} frames failed, last: {state.frame_error}"))
    elif more.rejected:
        found.append((Level.WARN, f"{more.rejected} frames rejected, last: {state.frame_error}"))
    if state.lost > before.lost:
        lost = state.lost - before.lost
        found.append((Level.WARN, f"{lost} frames lost by the middleware"))
    if state.too_old > before.too_old:
        late = state.too_old - before.too_old
        found.append((Level.WARN, f"{late} frames older than max_age_ms left out; {_CLOCKS}"))
    silent = 0 < thresholds.silence_s <= state.silent_s
    if silent and state.cameras:
        text = f"no frame for {state.silent_s:.0f} s although a camera publishes"
        found.append((Level.WARN, text))
    elif silent:
        found.append((Level.WARN, "nobody publishes the input topic"))
    # What was measured on the last results says nothing while there are to be none.
    if not silent and (more.segmented or not more.unwatched):
        found += _slowness(state, before, thresholds)
    return found


_CLOCKS = "set use_sim_time for recorded data, or synchronise the clocks"


def _slowness(
    state: StreamState, before: StreamState, thresholds: Thresholds
) -> list[tuple[Level, str]]:
    """Results that come too late, cost too much or are too few."""
    found = []
    if state.age_ms is not None and (level := _level_of_age(state.age_ms, thresholds)):
        if abs(state.age_ms) > OLD_FRAME_MS:
            text = f"images are {state.age_ms / 1000:.0f} s old by this clock: {_CLOCKS}"
        else:
            limit_ms = thresholds.error_age_ms if level is Level.ERROR else thresholds.warn_age_ms
            text = f"results are {state.age_ms:.0f} ms old, limit {limit_ms:.0f}"
        found.append((level, text))
    budget_ms = thresholds.processing_budget_ms
    if state.processing_ms is not None and 0 < budget_ms < state.processing_ms:
        text = f"work on a frame takes {state.processing_ms:.0f} ms (p95), budget {budget_ms:.0f}"
        found.append((Level.WARN, text))
    in_hz, out_hz = rates(state, before)
    whole_interval = before.lifecycle == "active" and before.enabled
    if whole_interval and out_hz < thresholds.min_output_rate and state.time_ns > before.time_ns:
        text = f"{out_hz:.1f} Hz out, expected {thresholds.min_output_rate:g}; {in_hz:.1f} Hz in"
        found.append((Level.WARN, text))
    return found


def _level_of_age(age_ms: float, thresholds: Thresholds) -> Level:
    if 0 < thresholds.error_age_ms < age_ms:
        return Level.ERROR
    too_old = 0 < thresholds.warn_age_ms < age_ms or abs(age_ms) > OLD_FRAME_MS
    return Level.WARN if too_old else Level.OK


def _more(counts: FrameCounts, before: FrameCounts) -> FrameCounts:
    """What was added since `before`; all of it where the counting began anew in between."""
    if counts.received < before.received:
        return counts
    return FrameCounts(
        **{name: getattr(counts, name) - getattr(before, name) for name in vars(counts)}
    )
