# SPDX-License-Identifier: Apache-2.0
"""The health of a camera's stream, judged once per second from its counters, without ROS."""

import enum
from dataclasses import dataclass, field
from typing import Any

from sfseg_ros.frames.mailbox import FrameCounts

OLD_FRAME_MS = 60_000.0
"""No processing takes a minute, so a larger age means that two clocks differ."""


class Level(enum.IntEnum):
    """As in diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


def _limit(default: float, largest: float, description: str) -> Any:
    """A field with the text and the range of the node's parameter of this name."""
    return field(default=default, metadata={"description": description, "span": (0.0, largest)})


@dataclass(frozen=True)
class Thresholds:
    """When a stream deserves a warning or an error; each is a parameter of the node.

    Warning and error are judged independently, because parameters are set one by one: moving a pair
    must not be refused halfway.
    """

    warn_silence_s: float = _limit(
        5.0, 1e6, "Seconds without a frame after which /diagnostics warns; 0: never."
    )
    error_silence_s: float = _limit(
        0.0, 1e6, "Seconds without a frame after which /diagnostics reports an error; 0: never."
    )
    warn_age_ms: float = _limit(
        0.0, 1e7, "Median age of the masks above which /diagnostics warns; 0: never."
    )
    error_age_ms: float = _limit(
        0.0, 1e7, "Median age of the masks above which /diagnostics reports an error; 0: never."
    )
    warn_processing_ms: float = _limit(
        0.0,
        1e7,
        "/diagnostics warns if more than 5 % of the frames take longer than this to process; 0: "
        "never.",
    )
    error_processing_ms: float = _limit(
        0.0,
        1e7,
        "/diagnostics reports an error if more than 5 % of the frames take longer than this to "
        "process; 0: never.",
    )
    warn_output_rate: float = _limit(
        0.0, 1000.0, "Masks per second below which /diagnostics warns; 0: never."
    )
    error_output_rate: float = _limit(
        0.0, 1000.0, "Masks per second below which /diagnostics reports an error; 0: never."
    )


DEFAULT_THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class StreamState:
    """The state of one camera's stream at one moment.

    lost: frames that the middleware reported as lost. too_old: frames of `counts.skipped` that were
    older than max_age_ms. cameras: publishers on the input topic. silent_s: seconds since the last
    frame, or since activation. age_ms: median age of a result. processing_ms: p95 of the processing
    of a frame. Both are None before the first frame. time_ns: monotonic time of this state.
    load_error, frame_error: text of the last exception, or "". broken: the frame did not cause its
    error. model_error: why a new model was refused while the old one continues. loading: what is
    being loaded and its progress, or "".
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
    """Return (frames in, results out) in Hz between two states; 0 if no time passed."""
    passed_s = (state.time_ns - before.time_ns) / 1e9
    if passed_s <= 0:
        return 0.0, 0.0
    more = _more(state.counts, before.counts)
    return more.received / passed_s, more.segmented / passed_s


def judge(
    state: StreamState, before: StreamState, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> tuple[Level, str]:
    """Return level and one line for /diagnostics from two states about a second apart.

    The line is the most severe of the `findings`, or the numbers of frames if there are none.
    """
    if found := findings(state, before, thresholds):
        return max(found, key=lambda finding: finding[0])  # the first of the most severe
    more = _more(state.counts, before.counts)
    if state.lifecycle != "active":
        text = state.lifecycle
    elif not state.enabled:
        text = f"disabled, {more.received} frames in"
    elif more.unwatched:
        text = f"{more.received} frames in, none segmented: no subscriber"
    else:
        text = f"{more.received} frames in, {more.segmented} out"
    return Level.OK, f"{text}; {state.loading}" if state.loading else text


def findings(
    state: StreamState, before: StreamState, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> list[tuple[Level, str]]:
    """Return all problems between two states about a second apart, causes before effects."""
    if state.lifecycle != "active":
        failed = [(Level.ERROR, f"{state.lifecycle}: {state.load_error}")]
        return failed if state.load_error else []
    found = []
    if state.model_error:
        found.append((Level.WARN, f"new model refused, the old model stays: {state.model_error}"))
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
    silent, _ = silence(state, thresholds)
    if silent and state.cameras:
        text = f"no frame for {state.silent_s:.0f} s although a camera publishes"
        found.append((silent, text))
    elif silent:
        found.append((silent, "no publisher on the input topic"))
    if more.segmented or not more.unwatched:
        # Without new results the measured times are stale; the rate is not.
        if not silent:
            found += _slowness(state, thresholds)
        found += _scarcity(state, before, thresholds)
    return found


def silence(state: StreamState, thresholds: Thresholds) -> tuple[Level, float]:
    """Return the level of the current silence and the limit in seconds that it exceeds."""
    return _beyond(state.silent_s, thresholds.warn_silence_s, thresholds.error_silence_s)


_CLOCKS = "set use_sim_time for recorded data, or synchronise the clocks"


def _slowness(state: StreamState, thresholds: Thresholds) -> list[tuple[Level, str]]:
    """Return findings about results that are too old or too expensive."""
    found = []
    if state.age_ms is not None:
        level, limit = _beyond(state.age_ms, thresholds.warn_age_ms, thresholds.error_age_ms)
        if abs(state.age_ms) > OLD_FRAME_MS:
            text = f"images are {state.age_ms / 1000:.0f} s old by this clock: {_CLOCKS}"
            found.append((max(level, Level.WARN), text))
        elif level:
            found.append((level, f"results are {state.age_ms:.0f} ms old, limit {limit:.0f}"))
    if (work_ms := state.processing_ms) is not None:
        limits = thresholds.warn_processing_ms, thresholds.error_processing_ms
        level, limit = _beyond(work_ms, *limits)
        if level:
            text = f"work on a frame takes {work_ms:.0f} ms (p95), limit {limit:.0f}"
            found.append((level, text))
    return found


def _scarcity(
    state: StreamState, before: StreamState, thresholds: Thresholds
) -> list[tuple[Level, str]]:
    """Return a finding if there are too few results."""
    whole_interval = before.lifecycle == "active" and before.enabled
    if not whole_interval or state.time_ns <= before.time_ns:
        return []
    in_hz, out_hz = rates(state, before)
    for level, limit in (
        (Level.ERROR, thresholds.error_output_rate),
        (Level.WARN, thresholds.warn_output_rate),
    ):
        if out_hz < limit:
            return [(level, f"{out_hz:.1f} Hz out, limit {limit:g}; {in_hz:.1f} Hz in")]
    return []


def _beyond(value: float, warn: float, error: float) -> tuple[Level, float]:
    """Return the level of the highest limit that `value` exceeds, and that limit; 0 is no limit."""
    if 0 < error < value:
        return Level.ERROR, error
    if 0 < warn < value:
        return Level.WARN, warn
    return Level.OK, 0.0


def _more(counts: FrameCounts, before: FrameCounts) -> FrameCounts:
    """Return the difference to `before`, or all counts if the counters were reset in between."""
    if counts.received < before.received:
        return counts
    return FrameCounts(
        **{name: getattr(counts, name) - getattr(before, name) for name in vars(counts)}
    )
