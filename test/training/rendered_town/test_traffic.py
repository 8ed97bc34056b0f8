# SPDX-License-Identifier: Apache-2.0
"""Traffic: the camera's car hits no one, and people stay on pavements and crossings."""

import math
import random

import pytest

from training.rendered_town.layout import plan_town
from training.rendered_town.traffic import (
    Camera,
    Mover,
    drive_camera,
    plan_drive,
    plan_still,
    still_camera,
)

DEMO_SEED = 64


def test_the_same_random_state_gives_the_same_drive() -> None:
    town = plan_town(DEMO_SEED)

    assert plan_drive(town, random.Random(1), 5.0, 12.0) == plan_drive(
        town, random.Random(1), 5.0, 12.0
    )


@pytest.mark.parametrize("seed", [DEMO_SEED, 3, 11])
def test_no_actor_collides_with_the_camera_car(seed: int) -> None:
    town = plan_town(seed)
    movers = plan_drive(town, random.Random(seed), 5.0, 12.0)

    for step in range(120):
        camera = drive_camera(town, 5.0, step / 10)
        for actor in (m.at(step / 10, town) for m in movers):
            beside, along = abs(actor.d - camera.d), abs(actor.s - camera.s)
            # Cars pass beside the camera; actors in its own lane keep a distance.
            assert beside > 0.9 or along > 3.0, (step, actor)


def test_a_walker_goes_through_all_poses_and_a_standing_person_keeps_one() -> None:
    town = plan_town(3)
    walker = Mover("pedestrian", 1, 20.0, 6.0, speed=1.4)
    waiting = Mover("pedestrian", 1, 20.0, 6.0, speed=0.0)

    assert {walker.at(t / 10, town).phase for t in range(20)} == set(range(8))
    assert {waiting.at(t / 10, town).phase for t in range(20)} == {-1}


def test_a_crossing_pedestrian_steps_down_from_the_kerb() -> None:
    town = plan_town(3)
    crosser = Mover("pedestrian", 1, 20.0, -(town.half_road + 1), 0.0, across=1.3)

    assert crosser.at(0.0, town).z > 0
    assert crosser.at(3.0, town).z == 0


def test_stills_differ_in_place_and_look() -> None:
    town = plan_town(3)
    cameras = {still_camera(town, random.Random(k), 10.0) for k in range(8)}
    crowds = {repr(plan_still(town, random.Random(k), 10.0)) for k in range(8)}

    assert len(cameras) == len(crowds) == 8


def test_the_focal_length_follows_the_pinhole_model() -> None:
    camera = Camera(0, 0, 1.4, 0, 0, 0, horizontal_fov=math.radians(90))

    assert camera.intrinsics(360, 640) == pytest.approx((320, 320, 320, 180))
