# SPDX-License-Identifier: Apache-2.0
"""Traffic on the street over time: vehicles, pedestrians, cyclists, and the camera."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from training.rendered_town.geometry import Color
from training.rendered_town.objects.person import PHASES
from training.rendered_town.street import KERB, Town

CAR_COLORS: tuple[Color, ...] = (
    (0.55, 0.56, 0.57),
    (0.30, 0.31, 0.33),
    (0.02, 0.02, 0.022),
    (0.75, 0.75, 0.74),
    (0.03, 0.06, 0.18),
    (0.30, 0.015, 0.02),
    (0.05, 0.11, 0.08),
    (0.12, 0.13, 0.15),
    (0.40, 0.38, 0.32),
    (0.06, 0.16, 0.33),
    (0.20, 0.02, 0.03),
    (0.5, 0.28, 0.03),
    (0.7, 0.7, 0.68),
    (0.08, 0.08, 0.09),
)
_TRAFFIC = {
    "hatchback": 6,
    "saloon": 4,
    "estate": 3,
    "suv": 3,
    "mpv": 2,
    "van": 2.5,
    "lorry": 0.8,
    "bus": 0.8,
}
_PARKED = {"hatchback": 6, "saloon": 4, "estate": 3, "suv": 3, "mpv": 2, "van": 2}
STRIDE = {"pedestrian": 1.45, "cyclist": 4.6}  # m per cycle of PHASES poses


@dataclass(frozen=True)
class Actor:
    """One model at one moment, in street coordinates."""

    kind: str  # "vehicle", "pedestrian" or "cyclist"
    model: str | int  # a shape's name, or the seed of a person's look
    s: float
    d: float
    turn: float
    z: float
    phase: int  # 0 .. PHASES - 1; -1 stands still
    color: Color


@dataclass(frozen=True)
class Mover:
    """An object that moves at constant speed along the street, or across it when it crosses."""

    kind: str
    model: str | int
    s: float
    d: float
    speed: float  # m/s along +s
    z: float = 0.0
    across: float = 0.0  # m/s along +d
    turn: float = 0.0  # used while it stands
    color: Color = (1.0, 1.0, 1.0)
    offset: float = 0.0  # of its step, in cycles

    def at(self, t: float, town: Town) -> Actor:
        """Returns the actor after t seconds."""
        s, d = self.s + self.speed * t, self.d + self.across * t
        moving = self.speed or self.across
        turn = math.atan2(self.across, self.speed) if moving else self.turn
        z = self.z
        if self.across:  # on the road while crossing, on the pavement before and after
            z = KERB if abs(d) > town.half_road else 0.0
        phase = -1
        if moving and self.kind in STRIDE:
            cycles = math.hypot(self.speed, self.across) * t / STRIDE[self.kind] + self.offset
            phase = int(cycles * PHASES) % PHASES
        return Actor(self.kind, self.model, s, d, turn, z, phase, self.color)


def _choose(rng: random.Random, weights: Mapping[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _mouth(town: Town, s: float, side: int, margin: float) -> bool:
    return any(side in c.sides and abs(s - c.s) < c.width / 2 + margin for c in town.crossings)


def plan_parked(town: Town, rng: random.Random, low: float, high: float) -> list[Mover]:
    """Cars in the parking strips between two stations."""
    movers = []
    for side in (1, -1):
        room = town.parking[side]
        density = rng.uniform(0.15, 0.85)
        s = low
        while s < high:
            kind = _choose(rng, _PARKED)
            length = 5.6 if kind == "van" else 4.9
            if room and rng.random() < density and not _mouth(town, s + length / 2, side, 6.5):
                along = 0.0 if side * town.lane_side > 0 else math.pi
                movers.append(
                    Mover(
                        "vehicle",
                        kind,
                        s + length / 2,
                        side * (town.half_road - room / 2 + rng.uniform(-0.1, 0.2)),
                        0.0,
                        turn=along + (math.pi if rng.random() < 0.2 else 0) + rng.gauss(0, 0.015),
                        color=rng.choice(CAR_COLORS),
                    )
                )
            s += length + rng.uniform(0.3, 1.6)
    return movers


def plan_walkers(
    town: Town, rng: random.Random, low: float, high: float, per_100_m: float
) -> list[Mover]:
    """People on both pavements, some in pairs, some standing."""
    movers = []
    for _ in range(round((high - low) / 100 * per_100_m)):
        side, s = rng.choice([1, -1]), rng.uniform(low, high)
        if _mouth(town, s, side, 4):
            continue
        d = town.half_road + rng.uniform(0.75, max(0.9, town.pavement[side] - 0.4))
        speed = rng.choice([1, -1]) * rng.uniform(1.0, 1.7)
        for k in range(rng.choice([1, 1, 1, 2])):
            standing = rng.random() < 0.18
            movers.append(
                Mover(
                    "pedestrian",
                    rng.randrange(24),
                    s + rng.uniform(-0.2, 0.2) + 0.1 * k,
                    side * (d + 0.6 * k),
                    0.0 if standing else speed,
                    KERB,
                    turn=rng.uniform(0, 6.3),
                    offset=rng.random(),
                )
            )
    return movers


def plan_crossers(town: Town, rng: random.Random, s: float) -> list[Mover]:
    """People who are halfway across the road near s at time 0."""
    direction = rng.choice([1, -1])
    return [
        Mover(
            "pedestrian",
            rng.randrange(24),
            s + rng.uniform(-1, 1),
            rng.uniform(-town.half_road, town.half_road),
            0.0,
            across=direction * rng.uniform(1.1, 1.6),
            offset=rng.random(),
        )
    ]


def plan_still(town: Town, rng: random.Random, s: float) -> list[Mover]:
    """Traffic for one picture at s, denser near the camera, where it shows most."""
    movers = plan_parked(town, rng, s - 12, s + 95)
    movers += plan_walkers(town, rng, s + 3, s + 75, rng.choice([8, 18, 30]))
    lane, against = town.lane(1), town.lane(-1)
    ahead = s + rng.uniform(8, 22)
    if rng.random() < 0.6:
        while ahead < s + 80:
            kind = _choose(rng, _TRAFFIC)
            movers.append(
                Mover(
                    "vehicle",
                    kind,
                    ahead,
                    lane + rng.uniform(-0.2, 0.2),
                    8.0,
                    color=rng.choice(CAR_COLORS),
                )
            )
            ahead += rng.uniform(9, 40) + (6 if kind == "bus" else 0)
    oncoming = s + rng.uniform(3, 25)
    while oncoming < s + 90 and rng.random() < 0.85:
        kind = _choose(rng, _TRAFFIC)
        movers.append(
            Mover(
                "vehicle",
                kind,
                oncoming,
                against + rng.uniform(-0.2, 0.2),
                -8.0,
                color=rng.choice(CAR_COLORS),
            )
        )
        oncoming += rng.uniform(10, 45) + (6 if kind == "bus" else 0)
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        direction = rng.choice([1, -1])
        kerbside = 1 if town.lane_side * direction > 0 else -1
        d = kerbside * (town.half_road - town.parking[kerbside] - rng.uniform(0.5, 1.1))
        at = s + rng.uniform(5, 28)
        if all(m.kind != "vehicle" or abs(m.s - at) > 4.2 or abs(m.d - d) > 1.4 for m in movers):
            movers.append(
                Mover("cyclist", rng.randrange(10), at, d, 5.0 * direction, offset=rng.random())
            )
    if rng.random() < 0.35:
        at = s + rng.uniform(7, 25)
        if all(m.kind != "vehicle" or abs(m.s - at) > 4 for m in movers):
            movers += plan_crossers(town, rng, at)
    for c in town.crossings:  # a car that waits in the side street
        if rng.random() < 0.5:
            side = rng.choice(c.sides)
            movers.append(
                Mover(
                    "vehicle",
                    _choose(rng, _PARKED),
                    c.s + c.width / 4 * town.lane_side * side,
                    side * (town.half_road + rng.uniform(3.5, 14)),
                    0.0,
                    turn=-side * math.pi / 2,
                    color=rng.choice(CAR_COLORS),
                )
            )
    return movers


EGO_SPEED = 5.8  # m/s: a town drive


def plan_drive(town: Town, rng: random.Random, s: float, seconds: float) -> list[Mover]:
    """Traffic for a drive that starts at s: a car and a cyclist ahead, others coming."""
    end = s + EGO_SPEED * seconds + 90
    movers = plan_parked(town, rng, s - 12, end)
    movers += plan_walkers(town, rng, s + 6, end - 20, 28)
    lane, against = town.lane(1), town.lane(-1)
    movers.append(Mover("vehicle", "hatchback", s + 30, lane, EGO_SPEED + 0.3, color=CAR_COLORS[5]))
    movers.append(Mover("vehicle", "van", s + 46, lane, EGO_SPEED + 0.5, color=CAR_COLORS[3]))
    kerbside = 1 if town.lane_side > 0 else -1
    edge = town.half_road - town.parking[kerbside]
    movers.append(Mover("cyclist", 1, s + 16, kerbside * (edge - 0.6), EGO_SPEED - 0.8))
    other = -kerbside
    movers.append(
        Mover(
            "cyclist",
            4,
            s + 38,
            other * (town.half_road - town.parking[other] - 0.6),
            -2.5,
            offset=0.3,
        )
    )
    # A pedestrian crosses in the first seconds, on the zebra crossing if one is in view.
    crossing = next((z for z in town.style["zebras"] if s + 40 < z < s + 75), s + 50)
    movers.append(
        Mover("pedestrian", 3, crossing, other * (town.half_road + 1.0), 0.0, across=-other * 1.35)
    )
    at = s + 24.0
    for kind, color in (
        ("saloon", 0),
        ("suv", 2),
        ("bus", 5),
        ("hatchback", 9),
        ("estate", 4),
        ("van", 3),
        ("mpv", 8),
        ("saloon", 10),
    ):
        if crossing - 3 < at < crossing + 46:  # the cars that would meet the walker keep away
            at = crossing + 46
        movers.append(Mover("vehicle", kind, at, against, -8.0, color=CAR_COLORS[color]))
        at += rng.uniform(17, 27)
    return movers


@dataclass(frozen=True)
class Camera:
    """Position and direction of the camera, a pinhole of `width` x `height` pixels."""

    s: float
    d: float
    height: float  # m over the road
    yaw: float  # rad against the street's heading, left positive
    pitch: float  # rad, up positive
    roll: float
    horizontal_fov: float  # rad

    def intrinsics(self, height: int, width: int) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy in pixels; square pixels, the axis through the middle of the picture."""
        focal = width / 2 / math.tan(self.horizontal_fov / 2)
        return focal, focal, width / 2, height / 2


def still_camera(town: Town, rng: random.Random, s: float) -> Camera:
    """A camera somewhere on the road, looking roughly along it."""
    wide = rng.random() < 0.2
    return Camera(
        s=s,
        d=town.lane(1) + rng.gauss(0, 0.4),
        height=rng.uniform(1.15, 1.9),
        yaw=rng.gauss(0, 0.3 if wide else 0.09),
        pitch=rng.gauss(-0.02, 0.03),
        roll=rng.gauss(0, 0.008),
        horizontal_fov=math.radians(rng.uniform(48, 74)),
    )


def drive_camera(town: Town, s: float, t: float) -> Camera:
    """A camera behind the windscreen of a car that rolls along its lane."""
    sway = 0.05 * math.sin(0.9 * t) + 0.02 * math.sin(2.3 * t + 1)
    return Camera(
        s=s + EGO_SPEED * t,
        d=town.lane(1) - town.lane_side * 0.25 + sway,
        height=1.42 + 0.008 * math.sin(7.1 * t),
        yaw=0.012 * math.sin(0.6 * t),
        pitch=-0.018 + 0.0035 * math.sin(8.3 * t) + 0.002 * math.sin(3.1 * t),
        roll=0.004 * math.sin(1.7 * t),
        horizontal_fov=math.radians(62),
    )
