# SPDX-License-Identifier: Apache-2.0
"""What stands where in a town, decided from a seed alone (no Blender, no global random state).

Everything along the road is placed in street coordinates: `s` metres along the centre line,
`d` metres to the left of it. `Street.locate` turns them into world metres.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

Side = int  # +1: left of the centre line, -1: right


class Street:
    """A centre line of slowly changing curvature, from `start` to `end` metres."""

    def __init__(self, bends: list[tuple[float, float, float]], start: float, end: float) -> None:
        """`bends` are (from s, to s, curvature in 1/m); elsewhere the street is straight."""
        self.start, self.end, self._bends = start, end, bends
        self._points = [(0.0, 0.0, 0.0)]  # x, y, heading at start, start + 1, ...
        x = y = heading = 0.0
        for step in range(int(end - start) + 1):
            heading += self._curvature(start + step)
            x, y = x + math.cos(heading), y + math.sin(heading)
            self._points.append((x, y, heading))

    def _curvature(self, s: float) -> float:
        for low, high, curvature in self._bends:
            if low <= s < high:  # eased in and out, so that the heading has no kink
                return curvature * math.sin(math.pi * (s - low) / (high - low))
        return 0.0

    def locate(self, s: float, d: float) -> tuple[float, float, float]:
        """World x, y (m) and the street's heading (rad) at street coordinates; clamped in s."""
        at = min(max(s - self.start, 0.0), self.end - self.start)
        i = min(int(at), len(self._points) - 2)
        f = at - i
        a, b = self._points[i], self._points[i + 1]
        heading = a[2] + f * (b[2] - a[2])
        x, y = a[0] + f * (b[0] - a[0]), a[1] + f * (b[1] - a[1])
        over = s - self.start - at
        x, y = x + over * math.cos(heading), y + over * math.sin(heading)
        return x - d * math.sin(heading), y + d * math.cos(heading), heading


@dataclass(frozen=True)
class Item:
    """One thing to build: `kind` names the builder, `options` are its keyword arguments."""

    kind: str
    s: float
    d: float
    turn: float = 0.0  # rad, added to the street's heading
    z: float = 0.0
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Crossing:
    """A side street of `width` metres around `s`, on the given sides."""

    s: float
    width: float
    sides: tuple[Side, ...]


@dataclass(frozen=True)
class Light:
    """Sun, sky and what the air and the camera make of them."""

    sun_elevation: float  # rad
    sun_azimuth: float  # rad, world
    sun_strength: float  # W/m2; 0 under an overcast sky
    overcast: float  # 0 clear .. 1 closed
    clouds: float  # share of a clear sky that clouds cover
    haze: float  # extinction per metre
    exposure: float  # stops
    view: str  # Blender's view transform
    warmth: float  # -1 blue .. 1 yellow white balance


@dataclass(frozen=True)
class Town:
    """A street with all that does not move."""

    seed: int
    street: Street
    half_road: float  # m from the centre line to the kerb
    parking: dict[Side, float]  # m of parking strip inside half_road, per side
    pavement: dict[Side, float]  # m of pavement width, per side
    crossings: tuple[Crossing, ...]
    lane_side: Side  # +1: traffic keeps left
    items: tuple[Item, ...]
    light: Light
    style: dict

    def lane(self, direction: int) -> float:
        """`d` of the lane's middle for traffic along (+1) or against (-1) the street."""
        kerbside = self.lane_side * direction
        free = self.half_road - self.parking[1 if kerbside > 0 else -1]
        return kerbside * free / 2


KERB = 0.12  # m, height of the pavement over the road
CORNER = 3.5  # m, radius of the kerb at a crossing

_DISTRICTS: dict[str, dict[str, float]] = {
    "terraces": {"terrace": 7, "shop": 1, "house": 1, "garden_gap": 0.7, "wall_gap": 0.5},
    "high_street": {"shop": 6, "terrace": 2, "office": 2, "garden_gap": 0.3, "wall_gap": 0.2},
    "suburb": {"house": 6, "terrace": 1.5, "garden_gap": 2.5, "wall_gap": 0.7},
    "modern": {"office": 4, "flats": 4, "shop": 1, "garden_gap": 1.5, "fence_gap": 1},
    "park_side": {"house": 2, "flats": 2, "terrace": 2, "park": 4, "garden_gap": 2},
}


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
        exposure=rng.uniform(-0.35, 0.45),
        view=rng.choice(["Standard", "Filmic", "AgX"]),
        warmth=rng.uniform(-0.6, 0.8),
    )


def _plan_crossings(rng: random.Random, length: float) -> tuple[Crossing, ...]:
    crossings, s = [], rng.uniform(35, 80)
    while s < length - 30:
        sides: tuple[Side, ...] = rng.choice([(1,), (-1,), (1, -1)])
        crossings.append(Crossing(s, rng.uniform(6.0, 8.5), sides))
        s += rng.uniform(55, 110)
    return tuple(crossings)


def plan_town(seed: int, length: float = 260.0) -> Town:
    """The whole town for a seed; the same seed always gives the same town."""
    rng = random.Random(seed)
    bends: list[tuple[float, float, float]] = []
    s = rng.uniform(-10, 50)
    while s < length and rng.random() < 0.8:
        span = rng.uniform(40, 110)
        bends.append((s, s + span, rng.uniform(-0.011, 0.011)))
        s += span + rng.uniform(10, 60)
    street = Street(bends, -60.0, length + 120.0)
    parking = {side: rng.choice([0.0, 2.1, 2.1]) for side in (1, -1)}
    town = Town(
        seed=seed,
        street=street,
        half_road=rng.uniform(3.1, 3.9) + max(parking.values()) * rng.uniform(0.6, 1.0),
        parking=parking,
        pavement={side: rng.uniform(1.8, 4.2) for side in (1, -1)},
        crossings=_plan_crossings(rng, length),
        lane_side=rng.choice([1, 1, 1, -1]),
        items=(),
        light=plan_light(rng),
        style={
            "district": {side: rng.choice(list(_DISTRICTS)) for side in (1, -1)},
            "season": rng.choice(["summer", "summer", "autumn", "winter"]),
            "lamp": rng.randrange(3),
            "marking": rng.choice(["dashed", "dashed", "zigzag", "solid"]),
            "yellow_lines": rng.random() < 0.5,
            "asphalt": rng.uniform(0.05, 0.19),
            "asphalt_warmth": rng.uniform(-0.03, 0.06),
            "zebras": [rng.uniform(20, length)] if rng.random() < 0.6 else [],
            "slab": rng.uniform(0.2, 0.42),
            "paving": rng.choice(["slabs", "asphalt", "bricks"]),
            "verge": {side: rng.random() < 0.25 for side in (1, -1)},
        },
    )
    items: list[Item] = []
    for side in (1, -1):
        items += _plan_lots(rng, town, side, length)
        items += _plan_furniture(rng, town, side, length)
        items += _plan_background(rng, town, side, length)
    items += _plan_corners(rng, town)
    items += _plan_ends(rng, town, length)
    return Town(**{**town.__dict__, "items": tuple(items)})


def _in_crossing(town: Town, side: Side, s: float, margin: float) -> Crossing | None:
    for crossing in town.crossings:
        if side in crossing.sides and abs(s - crossing.s) < crossing.width / 2 + margin:
            return crossing
    return None


def facing_road(side: Side) -> float:
    """Turn of a thing whose own -y side looks at the road."""
    return 0.0 if side > 0 else math.pi


def _brick(rng: random.Random) -> tuple[float, float, float]:
    return rng.choice(
        [
            (0.30, 0.10, 0.06),
            (0.36, 0.16, 0.10),
            (0.42, 0.30, 0.17),
            (0.48, 0.38, 0.24),
            (0.24, 0.10, 0.08),
            (0.40, 0.22, 0.14),
            (0.33, 0.26, 0.20),
        ]
    )


def _plaster(rng: random.Random) -> tuple[float, float, float]:
    return rng.choice(
        [
            (0.72, 0.70, 0.64),
            (0.62, 0.56, 0.44),
            (0.74, 0.66, 0.50),
            (0.55, 0.56, 0.55),
            (0.66, 0.50, 0.42),
            (0.45, 0.52, 0.58),
            (0.70, 0.62, 0.58),
            (0.52, 0.55, 0.44),
            (0.78, 0.77, 0.75),
            (0.64, 0.42, 0.26),
        ]
    )


def building_options(rng: random.Random, kind: str, width: float) -> dict:
    """A building's style: what `objects.building.building` takes as keyword arguments."""
    wall = rng.choices(["brick", "plaster", "stone"], [6, 4, 1.5])[0]
    if kind in ("office", "flats"):
        wall = rng.choice(["brick", "concrete", "plaster", "concrete"])
    color = {"brick": _brick, "plaster": _plaster}.get(
        wall, lambda r: r.choice([(0.5, 0.46, 0.38), (0.42, 0.41, 0.39), (0.56, 0.52, 0.45)])
    )(rng)
    floors = {
        "terrace": (2, 3),
        "shop": (2, 4),
        "house": (1, 2),
        "office": (3, 6),
        "flats": (3, 6),
    }[kind]
    return {
        "width": width,
        "depth": rng.uniform(8, 12),
        "floors": rng.randint(*floors),
        "wall": wall,
        "wall_color": color,
        "trim_color": rng.choice(
            [(0.78, 0.78, 0.76), (0.7, 0.66, 0.58), (0.1, 0.1, 0.11), (0.5, 0.46, 0.38)]
        ),
        "frame_color": rng.choice(
            [
                (0.8, 0.8, 0.8),
                (0.8, 0.8, 0.8),
                (0.12, 0.12, 0.13),
                (0.25, 0.13, 0.07),
                (0.1, 0.2, 0.14),
            ]
        ),
        "accent_color": rng.choice(
            [
                (0.05, 0.12, 0.3),
                (0.35, 0.03, 0.04),
                (0.03, 0.16, 0.09),
                (0.02, 0.02, 0.025),
                (0.55, 0.35, 0.05),
                (0.6, 0.6, 0.6),
                (0.3, 0.05, 0.2),
                (0.05, 0.3, 0.35),
            ]
        ),
        "roof": (
            rng.choice(["flat", "flat", "parapet"])
            if kind in ("office", "flats")
            else rng.choices(["gable", "gable_front", "hip", "parapet"], [6, 2, 2, 1.5])[0]
        ),
        "roof_color": rng.choice(
            [
                (0.30, 0.13, 0.08),
                (0.13, 0.12, 0.13),
                (0.20, 0.10, 0.07),
                (0.17, 0.16, 0.16),
                (0.24, 0.17, 0.12),
            ]
        ),
        "ground": {"shop": "shop", "office": "lobby", "flats": "lobby"}.get(kind, "door"),
        "bay": kind in ("terrace", "house") and rng.random() < 0.45,
        "balconies": kind == "flats" and rng.random() < 0.6,
        "seed": rng.randrange(1 << 30),
    }


def _lot_width(rng: random.Random, kind: str) -> float:
    low, high = {
        "terrace": (4.8, 7.0),
        "shop": (5.5, 11),
        "house": (8, 12),
        "office": (12, 24),
        "flats": (12, 20),
        "park": (14, 34),
        "garden_gap": (5, 12),
        "wall_gap": (4, 9),
        "fence_gap": (8, 18),
    }[kind]
    return rng.uniform(low, high)


def _plan_lots(rng: random.Random, town: Town, side: Side, length: float) -> list[Item]:
    """Buildings, gardens and gaps along one side, each with what bounds it to the pavement."""
    weights = dict(_DISTRICTS[town.style["district"][side]])
    row = town.half_road + town.pavement[side]
    items: list[Item] = []
    s, previous, repeat = -45.0, "", {}
    while s < length + 70:
        kind = rng.choices(list(weights), list(weights.values()))[0]
        if kind.endswith("gap") and previous.endswith("gap"):
            continue
        width = _lot_width(rng, kind)
        crossing = next(
            (
                c
                for c in town.crossings
                if side in c.sides
                and s < c.s + c.width / 2 + town.pavement[side]
                and s + width > c.s - c.width / 2 - town.pavement[side]
            ),
            None,
        )
        if crossing is not None:
            before = crossing.s - crossing.width / 2 - town.pavement[side] - s
            if before < 4.5:
                s = crossing.s + crossing.width / 2 + town.pavement[side]
                previous = ""
                continue
            width = before
        if kind in ("terrace", "shop", "office", "flats", "house"):
            setback = {
                "house": rng.uniform(3, 6),
                "flats": rng.choice([0, 3.0, 5.0]),
                "terrace": town.style.setdefault(
                    f"terrace_setback{side}", rng.choice([0.0, 0.0, 1.6, 2.6])
                ),
            }.get(kind, 0.0)
            options = building_options(
                rng, kind, width - (rng.uniform(1.5, 3) if kind == "house" else 0.0)
            )
            if kind == "terrace" and previous == "terrace" and rng.random() < 0.7:
                # A terrace repeats itself: the same house again, another front door.
                options = {
                    **repeat,
                    "width": options["width"],
                    "accent_color": options["accent_color"],
                    "seed": options["seed"],
                }
            repeat = options if kind == "terrace" else {}
            start = s if side > 0 else s + width
            items.append(
                Item("building", start, side * (row + setback), facing_road(side), KERB, options)
            )
            if setback > 1.2:
                items += _front_garden(rng, side, s, width, row, setback)
        else:
            items += _gap(rng, side, kind, s, width, row)
        s += width
        previous = kind
    return items


def _boundary(
    rng: random.Random, side: Side, s: float, width: float, d: float, kinds: dict[str, float]
) -> Item:
    """A fence, hedge or wall along the back of the pavement, `width` metres from `s`."""
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    start = s if side > 0 else s + width
    return Item(
        "boundary",
        start,
        side * d,
        facing_road(side),
        KERB,
        {"kind": kind, "width": width, "seed": rng.randrange(1 << 30)},
    )


def _front_garden(
    rng: random.Random, side: Side, s: float, width: float, row: float, setback: float
) -> list[Item]:
    items = [
        Item(
            "lawn",
            s,
            side * row,
            options={"width": width, "depth": setback, "side": side, "paved": rng.random() < 0.35},
        )
    ]
    gate = rng.uniform(0.3, 0.7) * width
    kinds = {"railing": 3, "hedge": 3, "low_wall": 3, "picket": 2, "panel": 0.5}
    state = rng.getstate()
    items.append(_boundary(rng, side, s, gate - 0.6, row + 0.15, kinds))
    rng.setstate(state)  # the same boundary on both sides of the gate
    items.append(_boundary(rng, side, s + gate + 0.6, width - gate - 0.6, row + 0.15, kinds))
    if setback > 2.5 and rng.random() < 0.7:
        items.append(
            Item(
                "bush",
                s + rng.uniform(0.8, width - 0.8),
                side * (row + 1.1),
                rng.uniform(0, 6),
                KERB,
                {"variant": rng.randrange(3), "scale": rng.uniform(0.6, 1.3)},
            )
        )
    return items


def _gap(
    rng: random.Random, side: Side, kind: str, s: float, width: float, row: float
) -> list[Item]:
    items = [
        Item(
            "lawn",
            s,
            side * row,
            options={"width": width, "depth": 26.0, "side": side, "paved": kind == "wall_gap"},
        )
    ]
    kinds = {
        "park": {"railing": 4, "hedge": 2, "none": 1, "low_wall": 1},
        "garden_gap": {"panel": 3, "hedge": 4, "railing": 2, "picket": 2},
        "wall_gap": {"high_wall": 4, "panel": 2, "barrier": 2},
        "fence_gap": {"mesh": 4, "panel": 2, "railing": 2, "barrier": 1},
    }[kind]
    boundary = _boundary(rng, side, s, width, row + 0.15, kinds)
    if boundary.options["kind"] != "none":
        items.append(boundary)
    trees = {"park": width / 6, "garden_gap": width / 5, "wall_gap": 0.8, "fence_gap": 1}[kind]
    for _ in range(round(trees * rng.uniform(0.7, 1.6))):
        items.append(
            _tree(rng, s + rng.uniform(0.5, width - 0.5), side * (row + rng.uniform(2.5, 14)))
        )
    for _ in range(round(width / 6)):
        items.append(
            Item(
                "bush",
                s + rng.uniform(0.5, width - 0.5),
                side * (row + rng.uniform(1.2, 6)),
                rng.uniform(0, 6),
                KERB,
                {"variant": rng.randrange(3), "scale": rng.uniform(0.7, 2.0)},
            )
        )
    return items


def _tree(rng: random.Random, s: float, d: float, scale: tuple[float, float] = (0.7, 1.25)) -> Item:
    return Item(
        "tree",
        s,
        d,
        rng.uniform(0, 2 * math.pi),
        KERB,
        {"variant": rng.randrange(5), "scale": rng.uniform(*scale)},
    )


def _plan_furniture(rng: random.Random, town: Town, side: Side, length: float) -> list[Item]:
    """Lamps, signs, trees, bollards, bins and parked cars along one kerb."""
    items: list[Item] = []
    kerb = town.half_road
    lamps = rng.choice([side, -side, side])
    if lamps == side:
        s = rng.uniform(-30, -10)
        while s < length + 60:
            if _in_crossing(town, side, s, CORNER + 1) is None:
                items.append(
                    Item(
                        "lamp",
                        s,
                        side * (kerb + 0.5),
                        facing_road(side),
                        KERB,
                        {"style": town.style["lamp"]},
                    )
                )
            s += rng.uniform(20, 30)
    s = rng.uniform(0, 10)
    while s < length:
        if _in_crossing(town, side, s, CORNER + 0.5) is None:
            kind = rng.choices(
                ["sign", "tree", "bollards", "bin", "cabinet", "guard_rail", "post"],
                [5, 3 if town.pavement[side] > 2.6 else 0, 2, 1, 0.7, 1.3, 2],
            )[0]
            at = side * (kerb + rng.uniform(0.4, 0.6))
            if kind == "sign":
                # A sign looks at the traffic that passes on its side of the road.
                along = side * town.lane_side
                items.append(
                    Item(
                        "sign",
                        s,
                        at,
                        0.0 if along > 0 else math.pi,
                        KERB,
                        {
                            "style": rng.choice(
                                [
                                    "round_red",
                                    "round_blue",
                                    "triangle",
                                    "stop",
                                    "plate",
                                    "direction",
                                    "no_entry",
                                    "yield",
                                    "square_p",
                                    "two",
                                ]
                            ),
                            "height": rng.uniform(2.1, 2.7),
                            "seed": rng.randrange(1 << 30),
                        },
                    )
                )
            elif kind == "tree":
                items.append(_tree(rng, s, side * (kerb + 0.8), (0.5, 0.85)))
            elif kind == "bollards":
                items += [
                    Item("bollard", s + 1.6 * i, at, 0.0, KERB, {"style": 0})
                    for i in range(rng.randint(2, 6))
                    if _in_crossing(town, side, s + 1.6 * i, CORNER) is None
                ]
            elif kind == "guard_rail":
                start, width = (s, 8.0) if side > 0 else (s + 8.0, 8.0)
                if _in_crossing(town, side, s + 4, CORNER + 5) is None:
                    items.append(
                        Item(
                            "boundary",
                            start,
                            side * (kerb + 0.3),
                            facing_road(side),
                            KERB,
                            {
                                "kind": "pedestrian_rail",
                                "width": width,
                                "seed": rng.randrange(1 << 30),
                            },
                        )
                    )
            else:
                items.append(Item(kind, s, at, facing_road(side), KERB, {}))
        s += rng.uniform(5, 16)
    return items


def _plan_corners(rng: random.Random, town: Town) -> list[Item]:
    """Traffic lights or give-way signs where a side street comes in."""
    items: list[Item] = []
    for crossing in town.crossings:
        lights = rng.random() < 0.65
        for side in crossing.sides:
            for end in (-1, 1):
                s = crossing.s + end * (crossing.width / 2 + CORNER + 0.3)
                d = side * (town.half_road + 0.45)
                if lights:
                    towards = math.pi if end > 0 else 0.0
                    items.append(
                        Item(
                            "traffic_light",
                            s,
                            d,
                            0.0 if end < 0 else towards,
                            KERB,
                            {"state": rng.randrange(3)},
                        )
                    )
                elif rng.random() < 0.6:
                    items.append(
                        Item(
                            "sign",
                            s,
                            d,
                            rng.choice([0.0, math.pi]),
                            KERB,
                            {
                                "style": rng.choice(
                                    ["direction", "plate", "no_entry", "round_blue"]
                                ),
                                "height": 2.3,
                                "seed": rng.randrange(1 << 30),
                            },
                        )
                    )
        if lights and len(crossing.sides) == 1:
            s = crossing.s + crossing.width / 2 + 2
            items.append(
                Item(
                    "traffic_light",
                    s,
                    -crossing.sides[0] * (town.half_road + 0.45),
                    0.0,
                    KERB,
                    {"state": rng.randrange(3)},
                )
            )
        for side in crossing.sides:  # what closes the view into the side street
            far = town.half_road + rng.uniform(42, 60)
            start = crossing.s - 11 if side > 0 else crossing.s + 11
            items.append(
                Item(
                    "building",
                    start,
                    side * far,
                    facing_road(side),
                    KERB,
                    building_options(rng, rng.choice(["terrace", "flats"]), 22.0),
                )
            )
            for _ in range(3):
                items.append(
                    _tree(
                        rng,
                        crossing.s + rng.choice([-1, 1]) * (crossing.width / 2 + rng.uniform(3, 7)),
                        side * (far - rng.uniform(3, 22)),
                    )
                )
    return items


def _plan_background(rng: random.Random, town: Town, side: Side, length: float) -> list[Item]:
    """A second row of roofs and crowns, so that gaps do not show the edge of the world."""
    items: list[Item] = []
    s = -40.0
    while s < length + 70:
        d = side * (town.half_road + town.pavement[side] + rng.uniform(26, 40))
        if _in_crossing(town, side, s, 16) is None:
            if rng.random() < 0.4:
                width = rng.uniform(9, 16)
                start = s if side > 0 else s + width
                items.append(
                    Item(
                        "building",
                        start,
                        d,
                        facing_road(side),
                        0.0,
                        building_options(rng, rng.choice(["house", "flats", "terrace"]), width),
                    )
                )
            else:
                items.append(_tree(rng, s, d, (0.9, 1.6)))
        s += rng.uniform(7, 18)
    return items


def _plan_ends(rng: random.Random, town: Town, length: float) -> list[Item]:
    """The street ends in a row of houses and trees, far away."""
    items: list[Item] = []
    for end, turn in ((length + 100, -math.pi / 2), (-58, math.pi / 2)):
        for k in range(-3, 4):
            options = building_options(rng, rng.choice(["terrace", "office", "flats"]), 13.0)
            sign = 1 if turn < 0 else -1
            items.append(Item("building", end, sign * (k * 13.0 + 6.5), turn, 0.0, options))
            items.append(
                _tree(
                    rng,
                    end - sign * rng.uniform(6, 20),
                    k * 13.0 + rng.choice([-1, 1]) * rng.uniform(8, 12),
                )
            )
    return items
