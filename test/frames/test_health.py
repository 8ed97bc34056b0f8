# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from sfseg_ros.frames.health import Level, StreamState, Thresholds, findings, judge, rates
from sfseg_ros.frames.mailbox import FrameCounts

SECOND_NS = 1_000_000_000
GOOD = StreamState(
    "active",
    FrameCounts(received=100, segmented=100),
    cameras=1,
    age_ms=40.0,
    processing_ms=20.0,
    time_ns=50 * SECOND_NS,
)


def later(**changes):
    counts = FrameCounts(received=110, segmented=changes.pop("segmented", 110))
    counts = replace(counts, **changes.pop("counts", {}))
    return replace(GOOD, counts=counts, **{"time_ns": 52 * SECOND_NS, **changes})


def test_a_healthy_stream_is_ok_and_reports_its_rates():
    assert judge(later(), GOOD) == (Level.OK, "10 frames in, 10 out")


@pytest.mark.parametrize(
    ("state", "level", "words"),
    [
        (
            later(counts={"rejected": 1}, frame_error="odd"),
            Level.WARN,
            "1 frames rejected, last: odd",
        ),
        (
            later(counts={"rejected": 2}, frame_error="no GPU", broken=True),
            Level.ERROR,
            "2 frames failed, last: no GPU",
        ),
        (later(lost=3), Level.WARN, "3 frames lost by the middleware"),
        (later(silent_s=6.0), Level.WARN, "no frame for 6 s although a camera publishes"),
        (later(silent_s=6.0, cameras=0), Level.WARN, "no publisher on the input topic"),
        (later(age_ms=1e9), Level.WARN, "set use_sim_time"),
        (later(age_ms=-1e9), Level.WARN, "synchronise the clocks"),
        (later(too_old=4), Level.WARN, "4 frames older than max_age_ms left out; set use_sim_time"),
        (
            later(model_error="no such folder"),
            Level.WARN,
            "new model refused, the old model stays: no such folder",
        ),
        (later(segmented=100, counts={"unwatched": 10}), Level.OK, "no subscriber"),
        (later(lifecycle="inactive"), Level.OK, "inactive"),
        (
            later(lifecycle="configuring", loading="loading tiny, 3 s"),
            Level.OK,
            "configuring; loading tiny, 3 s",
        ),
        (later(loading="loading tiny, 3 s"), Level.OK, "10 frames in, 10 out; loading tiny, 3 s"),
        (later(enabled=False, segmented=100), Level.OK, "disabled, 10 frames in"),
        (
            later(lifecycle="unconfigured", load_error="no such folder"),
            Level.ERROR,
            "unconfigured: no such folder",
        ),
    ],
)
def test_each_problem_is_reported_with_its_level(state, level, words):
    judged, message = judge(state, GOOD)
    assert judged == level
    assert words in message


def test_a_past_error_clears_when_frames_flow_again():
    state = later(frame_error="odd", broken=True)
    assert judge(state, replace(state, counts=GOOD.counts))[0] == Level.OK


STRICT = Thresholds(
    warn_silence_s=2.0,
    error_silence_s=20.0,
    warn_age_ms=100.0,
    error_age_ms=300.0,
    warn_processing_ms=50.0,
    error_processing_ms=80.0,
    warn_output_rate=4.0,
    error_output_rate=1.0,
)


@pytest.mark.parametrize(
    ("state", "level", "words"),
    [
        (later(), Level.OK, "10 frames in, 10 out"),
        (later(silent_s=2.5), Level.WARN, "no frame for 2 s although a camera publishes"),
        (later(silent_s=25.0), Level.ERROR, "no frame for 25 s although a camera publishes"),
        (later(silent_s=25.0, cameras=0), Level.ERROR, "no publisher on the input topic"),
        (later(age_ms=150.0), Level.WARN, "results are 150 ms old, limit 100"),
        (later(age_ms=350.0), Level.ERROR, "results are 350 ms old, limit 300"),
        (later(age_ms=1e9), Level.ERROR, "set use_sim_time"),
        (later(processing_ms=60.0), Level.WARN, "work on a frame takes 60 ms (p95), limit 50"),
        (later(processing_ms=90.0), Level.ERROR, "work on a frame takes 90 ms (p95), limit 80"),
        (later(segmented=106), Level.WARN, "3.0 Hz out, limit 4; 5.0 Hz in"),
        (later(segmented=101), Level.ERROR, "0.5 Hz out, limit 1; 5.0 Hz in"),
        (later(segmented=106, processing_ms=60.0, age_ms=350.0), Level.ERROR, "350 ms old"),
    ],
)
def test_an_exceeded_threshold_is_reported_with_measurement_and_limit(state, level, words):
    judged, message = judge(state, GOOD, STRICT)
    assert judged == level
    assert words in message


@pytest.mark.parametrize(
    "state",
    [
        later(silent_s=1e6, cameras=0),
        later(age_ms=5000.0, processing_ms=5000.0, segmented=100),
    ],
)
def test_a_threshold_of_zero_disables_the_check(state):
    assert judge(state, GOOD, Thresholds(warn_silence_s=0.0))[0] == Level.OK


@pytest.mark.parametrize(
    ("state", "threshold"),
    [
        (later(silent_s=25.0), {"error_silence_s": 20.0, "warn_silence_s": 0.0}),
        (later(age_ms=350.0), {"error_age_ms": 300.0}),
        (later(processing_ms=90.0), {"error_processing_ms": 80.0}),
        (later(segmented=101), {"error_output_rate": 1.0}),
    ],
)
def test_an_error_threshold_works_without_a_warning_threshold(state, threshold):
    assert judge(state, GOOD, Thresholds(**threshold))[0] == Level.ERROR


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": {"unwatched": 10}},
        {"counts": {"skipped": 10}, "enabled": False},
    ],
)
def test_old_measurements_are_ignored_while_no_results_are_wanted(changes):
    state = later(segmented=100, age_ms=5000.0, processing_ms=5000.0, **changes)
    assert findings(state, GOOD, STRICT) == []


def test_a_stream_that_stops_keeps_its_output_rate_error():
    state = later(segmented=100, counts={"received": 100}, age_ms=5000.0, silent_s=2.5)
    assert findings(state, GOOD, STRICT) == [
        (Level.WARN, "no frame for 2 s although a camera publishes"),
        (Level.ERROR, "0.0 Hz out, limit 1; 0.0 Hz in"),
    ]


def test_the_output_rate_is_not_judged_right_after_activation():
    state = later(segmented=101)
    assert findings(state, GOOD, STRICT)
    assert findings(state, replace(GOOD, lifecycle="inactive"), STRICT) == []
    assert findings(state, replace(GOOD, enabled=False), STRICT) == []


def test_all_findings_are_listed_and_the_most_severe_is_the_judgement():
    state = later(lost=3, segmented=104, counts={"rejected": 2}, frame_error="odd", age_ms=400.0)
    found = findings(state, GOOD, STRICT)
    assert [level for level, _ in found] == [Level.WARN, Level.WARN, Level.ERROR, Level.WARN]
    assert judge(state, GOOD, STRICT) == found[2]


def test_the_cause_is_reported_before_an_effect_of_the_same_level():
    state = later(lost=3, segmented=104)
    assert judge(state, GOOD, STRICT) == (Level.WARN, "3 frames lost by the middleware")


def test_rates_are_computed_between_two_states():
    assert rates(later(segmented=106), GOOD) == (5.0, 3.0)
    assert rates(GOOD, GOOD) == (0.0, 0.0)


def test_rates_are_not_negative_after_a_reset_of_the_counters():
    reset = later(counts={"received": 4, "segmented": 2, "rejected": 0})
    assert rates(reset, GOOD) == (2.0, 1.0)
    assert judge(reset, replace(GOOD, lost=5)) == (Level.OK, "4 frames in, 2 out")
