# SPDX-License-Identifier: Apache-2.0
"""Road, markings, kerbs, pavements, side streets and lawns, bent along the street."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np

from training.rendered_town.geometry import Color, Geometry, Model, Part
from training.rendered_town.labels import Label
from training.rendered_town.street import CORNER, KERB, Crossing, Side, Street, Town

MARKING: Color = (0.62, 0.62, 0.6)
YELLOW: Color = (0.55, 0.36, 0.03)
Edge = Callable[[float], float]


def _strip(
    g: Geometry,
    street: Street,
    stations: list[float],
    low: Edge,
    high: Edge,
    z: tuple[float, float],
    material: str,
    color: Color = (1, 1, 1),
) -> None:
    """A ribbon between two lateral edges d = low(s) and d = high(s), at heights z."""
    points = []
    for s in stations:
        for edge, height in ((low, z[0]), (high, z[1])):
            x, y, _ = street.locate(s, edge(s))
            points.append((x, y, height))
    k = np.arange(len(stations) - 1) * 2
    g.add(np.array(points), np.stack([k, k + 2, k + 3, k + 1], 1), material, color)


def _const(value: float) -> Edge:
    return lambda s: value


def _stations(s0: float, s1: float, step: float = 1.5) -> list[float]:
    return list(np.linspace(s0, s1, max(2, math.ceil((s1 - s0) / step) + 1)))


def _kerb_edge(town: Town, side: Side) -> Edge:
    """|d| of the kerb, which turns away with radius CORNER where a side street comes in."""
    mouths = [c for c in town.crossings if side in c.sides]

    def edge(s: float) -> float:
        for c in mouths:
            into = CORNER - (abs(s - c.s) - c.width / 2)
            if 0 < into <= CORNER:
                return town.half_road + CORNER - math.sqrt(max(0.0, CORNER**2 - into**2))
        return town.half_road

    return edge


def _pavements(pavement: Geometry, grass: Geometry, town: Town, side: Side) -> None:
    street, edge = town.street, _kerb_edge(town, side)
    verge = 1.1 if town.style["verge"][side] and town.pavement[side] > 2.6 else 0.0
    paving = {"slabs": "slabs", "asphalt": "tarmac", "bricks": "pavers"}[town.style["paving"]]
    tone = town.style["slab"]
    color = {
        "slabs": (tone, tone * 0.97, tone * 0.92),
        "asphalt": (tone * 0.4,) * 3,
        "bricks": (0.3, 0.2, 0.16),
    }[town.style["paving"]]
    mouths = [c for c in town.crossings if side in c.sides]
    bounds = [town.street.start]
    for c in mouths:
        bounds += [c.s - c.width / 2, c.s + c.width / 2]
    bounds.append(town.street.end)
    back = town.half_road + town.pavement[side]
    for k in range(0, len(bounds), 2):
        s0, s1 = bounds[k], bounds[k + 1]
        a = s0 + CORNER if k else s0
        b = s1 - CORNER if k + 2 < len(bounds) else s1
        run = _stations(a, b)
        if k:
            run = _stations(s0 + 1e-3, a, 0.25)[:-1] + run
        if k + 2 < len(bounds):
            run = run + _stations(b, s1 - 1e-3, 0.25)[1:]
        inner: Edge = lambda s: side * (edge(s) + 0.14)  # noqa: E731
        outer: Edge = lambda s: side * max(edge(s) + 0.14, back)  # noqa: E731
        low: Edge = inner if side > 0 else outer
        high: Edge = outer if side > 0 else inner
        _strip(pavement, street, run, low, high, (KERB, KERB), paving, color)
        face: Edge = lambda s: side * edge(s)  # noqa: E731
        low, high = (face, inner) if side > 0 else (inner, face)
        _strip(pavement, street, run, low, high, (KERB, KERB), "kerb", (0.42, 0.41, 0.39))
        _strip(
            pavement,
            street,
            run,
            face,
            face,
            (0.0, KERB) if side > 0 else (KERB, 0.0),
            "kerb",
            (0.36, 0.35, 0.33),
        )
        if verge:
            va, vb = (town.half_road + 0.15, town.half_road + verge)
            lanes = (side * va, side * vb) if side > 0 else (side * vb, side * va)
            if b - a > 3:
                _strip(
                    grass,
                    street,
                    _stations(a, b),
                    _const(lanes[0]),
                    _const(lanes[1]),
                    (KERB + 0.01, KERB + 0.01),
                    "grass",
                )


def _side_street(
    road: Geometry, pavement: Geometry, marks: Geometry, town: Town, c: Crossing, side: Side
) -> None:
    """The side street's surface, its kerbs and pavements, and the give-way line."""
    street, far = town.street, town.half_road + 64.0
    near = town.half_road - 0.02
    across = _stations(c.s - c.width / 2 - CORNER, c.s + c.width / 2 + CORNER, 1.0)
    lanes = (near, near + CORNER + 0.2)
    a, b = lanes if side > 0 else (-lanes[1], -lanes[0])
    _strip(road, street, across, _const(a), _const(b), (0.0, 0.0), "asphalt")
    mouth = _stations(c.s - c.width / 2, c.s + c.width / 2, 1.0)
    a, b = (near + CORNER, far) if side > 0 else (-far, -near - CORNER)
    _strip(road, street, mouth, _const(a), _const(b), (0.0, 0.0), "asphalt")
    width = town.pavement[side]
    start = town.half_road + CORNER
    for end in (-1, 1):
        s0 = c.s + end * c.width / 2
        s1 = s0 + end * width
        run = _stations(min(s0, s1), max(s0, s1), 1.0)
        a, b = (start, far) if side > 0 else (-far, -start)
        tone = town.style["slab"]
        _strip(
            pavement,
            street,
            run,
            _const(a),
            _const(b),
            (KERB, KERB),
            "slabs",
            (tone, tone * 0.97, tone * 0.92),
        )
        for d in np.arange(start, far - 2.0, 2.0):  # the kerb's face
            x0, y0, _ = street.locate(s0, side * d)
            x1, y1, _ = street.locate(s0, side * (d + 2.0))
            pavement.face(
                [(x0, y0, 0), (x1, y1, 0), (x1, y1, KERB), (x0, y0, KERB)],
                "kerb",
                (0.36, 0.35, 0.33),
            )
    for row in (0.25, 0.6):  # two broken lines: give way
        s = c.s - c.width / 2 + 0.3
        while s < c.s + c.width / 2 - 0.6:
            d = side * (town.half_road + row)
            _bar(marks, street, s, s + 0.55, d, 0.12)
            s += 0.9


def _bar(
    g: Geometry,
    street: Street,
    s0: float,
    s1: float,
    d: float,
    width: float,
    color: Color = MARKING,
    z: float = 0.006,
) -> None:
    _strip(
        g,
        street,
        _stations(s0, s1),
        _const(d - width / 2),
        _const(d + width / 2),
        (z, z),
        "marking",
        color,
    )


def _markings(g: Geometry, town: Town, rng: random.Random) -> None:
    street, style = town.street, town.style["marking"]
    middle = (town.lane(1) + town.lane(-1)) / 2
    s, end = street.start, street.end
    while s < end - 6:
        if any(abs(s + 1.5 - c.s) < c.width / 2 + 4 for c in town.crossings):
            s += 3
            continue
        if style == "solid":
            for offset in (-0.1, 0.1):
                _bar(g, street, s, s + 6.0, middle + offset, 0.1)
            s += 6.0
        elif style == "zigzag":
            _bar(g, street, s, s + 4.0, middle, 0.1)
            s += 6.0
        else:
            _bar(g, street, s, s + 2.0, middle, 0.1)
            s += 6.0
    for side in (1, -1):
        edge = town.half_road - 0.3
        mouths = [c for c in town.crossings if side in c.sides]
        s = street.start
        while s < end - 6:
            clear = not any(abs(s + 3 - c.s) < c.width / 2 + CORNER + 3 for c in mouths)
            if clear and town.parking[side]:
                d = side * (town.half_road - town.parking[side])
                _bar(g, street, s, s + 3.0, d, 0.09)
            elif clear and town.style["yellow_lines"]:
                for offset in (0.0, 0.2):
                    _bar(g, street, s, s + 6.0, side * (edge - offset), 0.07, YELLOW)
            s += 6.0
    for c in town.crossings:
        for direction in (1, -1):
            at = c.s - direction * (c.width / 2 + CORNER + 0.8)
            lane = town.lane(direction)
            half = town.half_road / 2 - 0.4
            _strip(
                g,
                street,
                [at - 0.15, at + 0.15],
                _const(lane - half),
                _const(lane + half),
                (0.006, 0.006),
                "marking",
                MARKING,
            )
            _arrow(g, street, at - direction * rng.uniform(6, 12), lane, direction)
    for s in town.style["zebras"]:
        d = -town.half_road + 0.35
        while d < town.half_road - 0.5:
            _bar(g, street, s - 1.4, s + 1.4, d + 0.25, 0.5, (0.6, 0.6, 0.58), 0.007)
            d += 1.0


def _arrow(g: Geometry, street: Street, s: float, d: float, direction: int) -> None:
    _bar(g, street, min(s, s + direction * 2.2), max(s, s + direction * 2.2), d, 0.15)
    tip, base = s + direction * 3.6, s + direction * 2.2
    points = [
        (*street.locate(base, d - 0.4)[:2], 0.006),
        (*street.locate(base, d + 0.4)[:2], 0.006),
        (*street.locate(tip, d)[:2], 0.006),
    ]
    g.face(points if direction < 0 else points[::-1], "marking", MARKING)


def _patches(g: Geometry, town: Town, rng: random.Random) -> None:
    """Repairs, manholes and gullies, which make a road look real."""
    street, s = town.street, town.street.start
    while s < town.street.end - 12:
        d = rng.uniform(-town.half_road + 0.8, town.half_road - 0.8)
        if rng.random() < 0.45:
            long, wide = rng.uniform(1.5, 9), rng.uniform(0.5, 1.6)
            tone = rng.choice([0.5, 0.65, 1.35])
            _strip(
                g,
                street,
                _stations(s, s + long),
                _const(d - wide / 2),
                _const(d + wide / 2),
                (0.003, 0.003),
                "asphalt",
                (tone, tone, tone),
            )
        else:
            x, y, heading = street.locate(s, d)
            angle = np.linspace(0, 2 * math.pi, 14, endpoint=False)
            g.face(
                [(x + 0.33 * math.cos(a), y + 0.33 * math.sin(a), 0.005) for a in angle],
                "metal",
                (0.10, 0.095, 0.09),
            )
            x, y, _ = street.locate(s + 4, rng.choice([-1, 1]) * (town.half_road - 0.25))
            c, n = math.cos(heading), math.sin(heading)
            g.face(
                [
                    (x + u * c - v * n, y + u * n + v * c, 0.004)
                    for u, v in ((-0.2, -0.2), (0.2, -0.2), (0.2, 0.2), (-0.2, 0.2))
                ],
                "metal",
                (0.06, 0.06, 0.06),
            )
        s += rng.uniform(3, 12)


def ground(town: Town) -> Model:
    """Everything on the ground along the street, in world coordinates."""
    rng = random.Random(town.seed * 31 + 5)
    road, pavement, grass = Geometry(), Geometry(), Geometry()
    whole = _stations(town.street.start, town.street.end)
    _strip(
        road,
        town.street,
        whole,
        _const(-town.half_road),
        _const(town.half_road),
        (0.0, 0.0),
        "asphalt",
    )
    for side in (1, -1):
        _pavements(pavement, grass, town, side)
        for c in town.crossings:
            if side in c.sides:
                _side_street(road, pavement, road, town, c, side)
    _markings(road, town, rng)
    _patches(road, town, rng)
    far = 400.0
    grass.face(
        [(-far, -far, -0.03), (far, -far, -0.03), (far, far, -0.03), (-far, far, -0.03)], "grass"
    )
    return [Part(Label.ROAD, road), Part(Label.PAVEMENT, pavement), Part(Label.TREE, grass)]


def lawn(
    town: Town, s: float, d: float, width: float, depth: float, side: Side, paved: bool
) -> Model:
    """The ground of a lot behind the pavement, in world coordinates."""
    g = Geometry()
    low, high = (d, d + depth) if side > 0 else (d - depth, d)
    _strip(
        g,
        town.street,
        _stations(s, s + width),
        _const(low),
        _const(high),
        (KERB - 0.01, KERB - 0.01),
        "slabs" if paved else "grass",
        (0.28, 0.27, 0.25) if paved else (1, 1, 1),
    )
    return [Part(Label.PAVEMENT if paved else Label.TREE, g)]
