# SPDX-License-Identifier: Apache-2.0
"""The image of the sky: bright, finite, blue overhead if clear and grey if overcast."""

import dataclasses
import math
import random

import numpy as np

from training.rendered_town.daylight import HEIGHT, WIDTH, panorama
from training.rendered_town.weather import plan_light

LIGHT = dataclasses.replace(
    plan_light(random.Random(1)),
    sun_elevation=math.radians(35),
    sun_azimuth=0.0,
    overcast=0.0,
    clouds=0.15,
)


def test_a_clear_sky_is_blue_overhead_and_brightest_towards_the_sun() -> None:
    sky = panorama(LIGHT)

    assert sky.shape == (HEIGHT, WIDTH, 3)
    assert np.isfinite(sky).all()
    red, _, blue = np.median(sky[int(HEIGHT * 0.9) :], axis=(0, 1))
    assert blue > 1.3 * red
    row = sky[int(HEIGHT * (0.5 + 35 / 180))].mean(-1)
    assert abs(int(row.argmax()) - WIDTH // 2) < WIDTH // 16


def test_an_overcast_sky_is_grey() -> None:
    sky = panorama(dataclasses.replace(LIGHT, overcast=1.0))

    red, _, blue = np.median(sky[int(HEIGHT * 0.6) :], axis=(0, 1))
    assert 0.8 < red / blue < 1.25
