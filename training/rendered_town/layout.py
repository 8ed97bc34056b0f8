# SPDX-License-Identifier: Apache-2.0
"""Plans what stands where in a town, from a seed alone (no Blender, no global random state)."""

from __future__ import annotations

import math
import random

from training.rendered_town.lots import DISTRICTS, building_options, plan_lots, tree_item
from training.rendered_town.street import (
    CORNER,
    KERB,
    Crossing,
    Item,
    Side,
    Street,
    Town,
    facing_road,
    in_crossing,
)
from training.rendered_town.weather import plan_light


def _plan_crossings(rng: random.Random, length: float) -> tuple[Crossing, ...]:
    crossings, s = [], rng.uniform(35, 80)
    while s < length - 30:
        sides: tuple[Side, ...] = rng.choice([(1,), (-1,), (1, -1)])
        crossings.append(Crossing(s, rng.uniform(6.0, 8.5), sides))
        s += rng.uniform(55, 110)
    return tuple(crossings)


def plan_town(seed: int, length: float = 260.0) -> Town:
    """Plans the whole town; the same seed always gives the same town."""
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
            "district": {side: rng.choice(list(DISTRICTS)) for side in (1, -1)},
            "season": rng.choice(["summer", "summer", "autumn", "winter", "winter"]),
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
        items += plan_lots(rng, town, side, length)
        items += _plan_furniture(rng, town, side, length)
        items += _plan_background(rng, town, side, length)
    items += _plan_corners(rng, town)
    items += _plan_ends(rng, town, length)
    return Town(**{**town.__dict__, "items": tuple(items)})


def _plan_furniture(rng: random.Random, town: Town, side: Side, length: float) -> list[Item]:
    """Lamps, signs, trees, bollards, bins and parked cars along one kerb."""
    items: list[Item] = []
    kerb = town.half_road
    lamps = rng.choice([side, -side, side])
    if lamps == side:
        s = rng.uniform(-30, -10)
        while s < length + 60:
            if in_crossing(town, side, s, CORNER + 1) is None:
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
        if in_crossing(town, side, s, CORNER + 0.5) is None:
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
                items.append(tree_item(rng, s, side * (kerb + 0.8), (0.5, 0.85)))
            elif kind == "bollards":
                items += [
                    Item("bollard", s + 1.6 * i, at, 0.0, KERB, {"style": 0})
                    for i in range(rng.randint(2, 6))
                    if in_crossing(town, side, s + 1.6 * i, CORNER) is None
                ]
            elif kind == "guard_rail":
                start, width = (s, 8.0) if side > 0 else (s + 8.0, 8.0)
                if in_crossing(town, side, s + 4, CORNER + 5) is None:
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
        for side in crossing.sides:  # closes the view into the side street
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
                    tree_item(
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
        d = side * (town.half_road + town.pavement[side] + rng.uniform(26, 58))
        if in_crossing(town, side, s, 16) is None:
            if rng.random() < 0.45:
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
                items.append(tree_item(rng, s, d, (0.9, 1.6)))
        s += rng.uniform(4, 10)
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
                tree_item(
                    rng,
                    end - sign * rng.uniform(6, 20),
                    k * 13.0 + rng.choice([-1, 1]) * rng.uniform(8, 12),
                )
            )
    return items
