# SPDX-License-Identifier: Apache-2.0
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros.frames.pacing import Pacing, too_old

SECOND_NS = 1_000_000_000
EPOCH_NS = 1_790_000_000 * SECOND_NS


def admitted(pacing, times_ns):
    return [pacing.admits(now_ns, now_ns) for now_ns in times_ns]


def camera(rate, seconds, jitter=0.0):
    """Arrival times of a camera; each is off by up to `jitter` of the period."""
    chance = random.Random(0)
    period_ns = SECOND_NS / rate
    return [
        EPOCH_NS + round((frame + chance.uniform(-jitter, jitter)) * period_ns)
        for frame in range(round(rate * seconds))
    ]


def test_every_frame_is_taken_without_limits():
    assert all(admitted(Pacing(), [EPOCH_NS] * 100))


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize(
    ("rate", "max_rate", "result"), [(30, 20, 20), (30, 15, 15), (30, 29, 29), (60, 7, 7)]
)
def test_the_rate_reaches_its_limit(rate, max_rate, result, jitter):
    taken = sum(admitted(Pacing(max_rate), camera(rate, 20, jitter)))
    assert taken / 20 == pytest.approx(result, rel=0.02)


@pytest.mark.parametrize("rate", [5, 20, 30])
def test_a_camera_within_the_limit_loses_nothing_to_jitter(rate):
    assert all(admitted(Pacing(max_rate=30), camera(rate, 20, jitter=0.2)))


def test_taken_frames_are_evenly_spaced():
    times_ns = camera(30, 10)
    taken = [t for t, yes in zip(times_ns, admitted(Pacing(10), times_ns), strict=True) if yes]
    gaps = {round((b - a) / (SECOND_NS / 30)) for a, b in itertools.pairwise(taken[2:])}
    assert gaps == {3}


@given(
    times_ms=st.lists(st.integers(0, 10_000), min_size=1, max_size=200).map(sorted),
    max_rate=st.floats(0.1, 100),
)
def test_any_arrival_times_stay_within_the_limit_plus_the_burst(times_ms, max_rate):
    taken = sum(admitted(Pacing(max_rate), [EPOCH_NS + ms * 1_000_000 for ms in times_ms]))
    assert taken <= (times_ms[-1] - times_ms[0]) / 1e3 * max_rate + 2 + 1e-6


def test_every_nth_takes_the_first_frame_and_every_nth_after_it():
    taken = admitted(Pacing(every_nth=3), range(7))
    assert taken == [True, False, False, True, False, False, True]


def test_max_rate_applies_to_the_frames_that_every_nth_takes():
    taken = admitted(Pacing(max_rate=10, every_nth=2), camera(30, 20))
    assert sum(taken) / 20 == pytest.approx(10, rel=0.02)
    assert not any(taken[1::2])


def test_settings_change_at_once():
    pacing = Pacing(max_rate=0.1)
    assert sum(admitted(pacing, camera(30, 5))) == 2
    pacing.max_rate = 0
    assert all(pacing.admits(EPOCH_NS + 5 * SECOND_NS, 0) for _ in range(10))
    pacing.every_nth = 5
    assert sum(admitted(pacing, range(10))) == 2


def test_frames_are_taken_at_once_after_the_clock_was_set_back():
    pacing = Pacing(max_rate=10)
    admitted(pacing, camera(30, 5))
    hour_ns = 3600 * SECOND_NS
    taken = sum(admitted(pacing, [t - hour_ns for t in camera(30, 5)]))
    assert taken == pytest.approx(50, abs=2)


def test_real_time_is_used_until_the_simulated_clock_starts():
    pacing = Pacing(max_rate=10)
    taken = sum(pacing.admits(0, received_ns) for received_ns in camera(30, 5))
    assert taken == pytest.approx(50, abs=2)


def test_a_slow_replay_is_paced_like_the_camera():
    pacing = Pacing(max_rate=10)
    taken = [pacing.admits(t, EPOCH_NS + 5 * (t - EPOCH_NS)) for t in camera(30, 5)]
    assert taken == admitted(Pacing(max_rate=10), camera(30, 5))


@pytest.mark.parametrize(
    ("stamp_s", "now_s", "jumped"),
    [
        (100.03, 200.03, False),
        (100.0, 200.0, False),
        (99.5, 200.03, False),  # frames out of order
        (10.0, 200.03, True),  # a restarted bag
        (0.0, 0.5, True),  # a reset simulation
        (100.03, 190.0, True),  # the clock was set back
        (5000.0, 6000.0, False),
    ],
)
def test_a_stamp_or_clock_that_goes_back_by_more_than_a_second_is_reported_once(
    stamp_s, now_s, jumped
):
    pacing = Pacing()
    stamp_ns, now_ns = int(stamp_s * 1e9), int(now_s * 1e9)
    assert not pacing.jumped_back(100 * SECOND_NS, 200 * SECOND_NS)
    assert pacing.jumped_back(stamp_ns, now_ns) == jumped
    assert not pacing.jumped_back(stamp_ns, now_ns)


@pytest.mark.parametrize(
    ("age_ms", "max_age_ms", "old"),
    [(99.0, 100.0, False), (101.0, 100.0, True), (-50.0, 100.0, False), (1e9, 0.0, False)],
)
def test_a_frame_is_too_old_beyond_the_limit(age_ms, max_age_ms, old):
    assert too_old(EPOCH_NS, EPOCH_NS + int(age_ms * 1e6), max_age_ms) == old
