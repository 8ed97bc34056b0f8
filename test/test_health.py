# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from sfseg_ros.health import Level, StreamState, judge
from sfseg_ros.mailbox import FrameCounts

GOOD = StreamState("active", FrameCounts(received=100, segmented=100), cameras=1, age_ms=40.0)


def later(**changes):
    counts = FrameCounts(received=110, segmented=changes.pop("segmented", 110))
    counts = replace(counts, **changes.pop("counts", {}))
    return replace(GOOD, counts=counts, **changes)


def test_a_stream_that_flows_is_ok_and_says_its_rates():
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
        (later(silent_s=6.0, cameras=0), Level.WARN, "nobody publishes the input topic"),
        (later(age_ms=1e9), Level.WARN, "set use_sim_time"),
        (later(age_ms=-1e9), Level.WARN, "synchronise the clocks"),
        (later(segmented=100, counts={"unwatched": 10}), Level.OK, "nobody listens"),
        (later(lifecycle="inactive"), Level.OK, "inactive"),
        (
            later(lifecycle="unconfigured", load_error="no such folder"),
            Level.ERROR,
            "unconfigured: no such folder",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_level(state, level, words):
    judged, message = judge(state, GOOD)
    assert judged == level
    assert words in message


def test_an_error_of_the_past_is_forgotten_when_frames_flow_again():
    state = later(frame_error="odd", broken=True)
    assert judge(state, replace(state, counts=GOOD.counts))[0] == Level.OK
