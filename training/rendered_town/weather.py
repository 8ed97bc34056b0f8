# SPDX-License-Identifier: Apache-2.0
"""Time of day and weather."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Light:
    """Sun and sky, and the effects of air and camera on them."""

    sun_elevation: float  # rad
    sun_azimuth: float  # rad, world
    sun_strength: float  # W/m2; 0 under an overcast sky
    overcast: float  # 0 clear .. 1 closed
    clouds: float  # share of a clear sky that clouds cover
    haze: float  # extinction per metre
    exposure: float  # stops
    view: str  # Blender's view transform
    warmth: float  # -1 blue .. 1 yellow white balance


def plan_light(rng: random.Random) -> Light:
    """A time of day and a weather, from bright sun to a white overcast sky."""
    weather = rng.choices(["sun", "broken", "overcast"], [4, 4, 4])[0]
    overcast = {"sun": 0.0, "broken": rng.uniform(0.25, 0.6), "overcast": rng.uniform(0.9, 1.0)}
    return Light(
        sun_elevation=math.radians(rng.uniform(14, 58)),
        sun_azimuth=rng.uniform(0, 2 * math.pi),
        sun_strength={
            "sun": rng.uniform(3.2, 4.6),
            "broken": rng.uniform(1.2, 3.0),
            "overcast": 0.0,
        }[weather],
        overcast=overcast[weather],
        clouds=rng.uniform(0.15, 0.8),
        haze=rng.choice([0.0008, 0.0015, 0.003, 0.005]),
        exposure=rng.uniform(-0.3, 0.8),
        view=rng.choice(["Standard", "Filmic", "AgX"]),
        warmth=rng.uniform(-0.6, 0.8),
    )
