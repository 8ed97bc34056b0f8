# SPDX-License-Identifier: Apache-2.0
"""Plans buildings, gardens and gaps along one side of the street, and their boundaries."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from training.rendered_town.street import KERB, Item, Side, Town, facing_road

DISTRICTS: dict[str, dict[str, float]] = {
    "terraces": {"terrace": 7, "shop": 1, "house": 1, "garden_gap": 0.7, "wall_gap": 0.5},
    "high_street": {"shop": 6, "terrace": 2, "office": 2, "garden_gap": 0.3, "wall_gap": 0.2},
    "suburb": {"house": 6, "terrace": 1.5, "garden_gap": 2.5, "wall_gap": 0.7},
    "modern": {"office": 4, "flats": 4, "shop": 1, "garden_gap": 1.5, "fence_gap": 1},
    "park_side": {"house": 2, "flats": 2, "terrace": 2, "park": 4, "garden_gap": 2},
}


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
    """Returns a building's style: keyword arguments of `objects.building.building`."""
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


def plan_lots(rng: random.Random, town: Town, side: Side, length: float) -> list[Item]:
    """Plans buildings, gardens and gaps along one side, each with its boundary to the pavement."""
    weights = dict(DISTRICTS[town.style["district"][side]])
    row = town.half_road + town.pavement[side]
    items: list[Item] = []
    s, previous = -45.0, ""
    repeat: dict[str, Any] = {}
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
    rng: random.Random, side: Side, s: float, width: float, d: float, kinds: Mapping[str, float]
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
            tree_item(rng, s + rng.uniform(0.5, width - 0.5), side * (row + rng.uniform(2.5, 14)))
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


def tree_item(
    rng: random.Random, s: float, d: float, scale: tuple[float, float] = (0.7, 1.25)
) -> Item:
    return Item(
        "tree",
        s,
        d,
        rng.uniform(0, 2 * math.pi),
        KERB,
        {"variant": rng.randrange(5), "scale": rng.uniform(*scale)},
    )
