# SPDX-License-Identifier: Apache-2.0
"""The plan of a town: the seed determines it, and no object blocks the traffic."""

import itertools
import math

import pytest

from training.rendered_town.layout import plan_town
from training.rendered_town.street import Street, in_crossing

SEEDS = (1, 2, 3, 64)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_plans_the_same_town(seed: int) -> None:
    first, second = plan_town(seed), plan_town(seed)

    assert (first.items, first.light, first.style) == (second.items, second.light, second.style)


def test_other_seeds_plan_other_towns() -> None:
    assert len({repr(plan_town(seed).items) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_roadside_objects_stand_off_the_road(seed: int) -> None:
    town = plan_town(seed)

    along = [i for i in town.items if -20 < i.s < 280]
    assert len(along) > 100
    assert min(abs(i.d) for i in along) > town.half_road


@pytest.mark.parametrize("seed", SEEDS)
def test_lamps_trees_and_bollards_leave_the_side_streets_open(seed: int) -> None:
    town = plan_town(seed)

    kerbside = [
        i
        for i in town.items
        if i.kind in ("lamp", "bollard", "sign") and abs(i.d) < town.half_road + 1
    ]
    assert kerbside
    assert not [i for i in kerbside if in_crossing(town, 1 if i.d > 0 else -1, i.s, 0.0)]


def test_a_straight_street_follows_its_coordinates() -> None:
    street = Street([], start=-10.0, end=50.0)

    x0, y0, heading = street.locate(0.0, 0.0)
    x1, y1, _ = street.locate(30.0, 2.0)

    assert heading == 0.0
    assert (x1 - x0, y1 - y0) == pytest.approx((30.0, 2.0))


def test_a_bend_turns_left_for_positive_curvature_and_has_no_kink() -> None:
    street = Street([(0.0, 50.0, 0.01)], start=0.0, end=60.0)

    headings = [street.locate(s, 0.0)[2] for s in range(60)]

    assert headings[-1] == pytest.approx(0.01 * 50 * 2 / math.pi, abs=0.01)
    assert max(abs(b - a) for a, b in itertools.pairwise(headings)) < 0.011
