# SPDX-License-Identifier: Apache-2.0
import pytest

from sfseg_ros.frames.latency import FrameTimes, RollingPercentiles

SECOND_NS = 1_000_000_000


def test_percentiles_cover_the_window():
    percentiles = RollingPercentiles(window=100)
    assert percentiles.percentiles() is None
    for value in [1e6] * 50 + list(range(101)):
        percentiles.add(value)
    assert percentiles.percentiles() == pytest.approx((50.5, 95.05, 99.01))


def test_each_step_has_its_own_percentiles():
    times = FrameTimes()
    times.add(SECOND_NS, latency=10.0, inference=4.0)
    times.add(2 * SECOND_NS, latency=30.0, inference=8.0)
    assert times.percentiles("latency")[0] == 20.0
    assert times.percentiles("inference")[0] == 6.0
    assert times.percentiles("wait") is None


def test_a_restarted_bag_clears_the_statistics():
    times = FrameTimes()
    times.add(100 * SECOND_NS, latency=500.0)
    times.add(5 * SECOND_NS, latency=10.0)
    assert times.percentiles("latency") == (10.0, 10.0, 10.0)


def test_frames_slightly_out_of_order_do_not_clear_the_statistics():
    times = FrameTimes()
    times.add(100 * SECOND_NS, latency=20.0)
    times.add(100 * SECOND_NS - 50_000_000, latency=10.0)
    assert times.percentiles("latency")[0] == 15.0


def test_processing_time_excludes_the_wait():
    times = FrameTimes()
    times.add(
        SECOND_NS,
        latency=100.0,
        wait=50.0,
        convert=1.0,
        preprocess=2.0,
        inference=30.0,
        postprocess=4.0,
        publish=5.0,
    )
    assert times.percentiles("processing") == pytest.approx((42.0, 42.0, 42.0))


def test_clear_forgets_every_step():
    times = FrameTimes()
    times.add(SECOND_NS, latency=100.0, inference=30.0)
    times.clear()
    assert [times.percentiles(step) for step in FrameTimes.STEPS] == [None] * len(FrameTimes.STEPS)
