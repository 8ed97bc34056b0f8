# SPDX-License-Identifier: Apache-2.0
"""Houses: facades with recessed windows, doors and shop fronts under several kinds of roof.

Local frame: x along the street front, the front is the plane y = 0 seen from -y, z up.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np

from training.rendered_town.geometry import Color, Geometry, Model, Part, rotation, shaded
from training.rendered_town.labels import Label

FLOOR = 2.9  # m
RECESS = 0.14  # m, glass behind the wall's face
GLASS: Color = (1.0, 1.0, 1.0)


class _Wall:
    """A wall in the plane y = 0 from x = 0 to `width`, with openings cut into horizontal bands."""

    def __init__(self, geometry: Geometry, width: float, material: str, color: Color) -> None:
        self.geometry, self.width, self.material, self.color = geometry, width, material, color

    def band(self, z0: float, z1: float, openings: list[tuple[float, float, float, float]]) -> None:
        """Fill z0..z1 except the openings (x0, x1, bottom, top), which get their reveals."""
        g, x = self.geometry, 0.0
        for x0, x1, low, high in sorted(openings):
            self._quad(x, x0, z0, z1)
            self._quad(x0, x1, z0, low)
            self._quad(x0, x1, high, z1)
            for a, b in (
                ((x0, low), (x0, high)),
                ((x0, high), (x1, high)),
                ((x1, high), (x1, low)),
                ((x1, low), (x0, low)),
            ):
                g.face(
                    [(a[0], 0, a[1]), (b[0], 0, b[1]), (b[0], RECESS, b[1]), (a[0], RECESS, a[1])],
                    self.material,
                    self.color,
                )
            x = x1
        self._quad(x, self.width, z0, z1)

    def _quad(self, x0: float, x1: float, z0: float, z1: float) -> None:
        if x1 - x0 > 1e-3 and z1 - z0 > 1e-3:
            self.geometry.face(
                [(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], self.material, self.color
            )


def _window(
    g: Geometry, x0: float, x1: float, z0: float, z1: float, frame: Color, trim: Color, style: int
) -> None:
    """Glass, frame, glazing bars, sill and lintel in an opening."""
    g.face([(x0, RECESS, z0), (x1, RECESS, z0), (x1, RECESS, z1), (x0, RECESS, z1)], "window")
    w, y0, y1 = 0.06, RECESS - 0.05, RECESS
    g.box((x0, y0, z0), (x0 + w, y1, z1), "paint", frame)
    g.box((x1 - w, y0, z0), (x1, y1, z1), "paint", frame)
    g.box((x0, y0, z0), (x1, y1, z0 + w), "paint", frame)
    g.box((x0, y0, z1 - w), (x1, y1, z1), "paint", frame)
    middle = (x0 + x1) / 2
    if style in (0, 2):
        height = z0 + (z1 - z0) * (0.5 if style == 0 else 0.7)
        g.box((x0, y0, height - 0.03), (x1, y1, height + 0.03), "paint", frame)
    if style in (1, 2):
        g.box((middle - 0.03, y0, z0), (middle + 0.03, y1, z1), "paint", frame)
    g.box((x0 - 0.08, -0.08, z0 - 0.09), (x1 + 0.08, RECESS, z0), "stone", trim)
    if style != 3:
        g.box((x0 - 0.1, -0.025, z1), (x1 + 0.1, 0.0, z1 + 0.2), "stone", trim)


def _door(g: Geometry, x0: float, x1: float, z1: float, frame: Color, color: Color) -> None:
    g.box((x0, RECESS - 0.04, 0), (x1, RECESS, z1), "paint", frame)
    g.box((x0 + 0.08, RECESS - 0.06, 0.02), (x1 - 0.08, RECESS - 0.03, z1 - 0.45), "paint", color)
    g.face(
        [
            (x0 + 0.08, RECESS - 0.045, z1 - 0.38),
            (x1 - 0.08, RECESS - 0.045, z1 - 0.38),
            (x1 - 0.08, RECESS - 0.045, z1 - 0.08),
            (x0 + 0.08, RECESS - 0.045, z1 - 0.08),
        ],
        "window",
    )
    dark = shaded(color, 0.6)
    for k in (0, 1):
        low = 0.2 + k * 0.85
        g.box((x0 + 0.2, RECESS - 0.07, low), (x1 - 0.2, RECESS - 0.05, low + 0.65), "paint", dark)
    g.box((x0 - 0.2, -0.35, -0.1), (x1 + 0.2, RECESS, 0.05), "stone", (0.4, 0.39, 0.37))


def _shop_front(
    g: Geometry, wall: _Wall, rng: random.Random, height: float, frame: Color, accent: Color
) -> None:
    """Large panes over a stall riser, a recessed glass door, a painted fascia with lettering."""
    width, top = wall.width, height - 0.75
    stall, margin = 0.55, 0.35
    wall.band(0, top, [(margin, width - margin, 0.02, top - 0.05)])
    panes = max(2, round((width - 2 * margin) / 1.7))
    edges = np.linspace(margin, width - margin, panes + 1)
    door = rng.randrange(panes)
    for k, (x0, x1) in enumerate(itertools.pairwise(edges)):
        low = 0.05 if k == door else stall
        g.face(
            [(x0, RECESS, low), (x1, RECESS, low), (x1, RECESS, top), (x0, RECESS, top)],
            "shop_window",
        )
        if k != door:
            g.box((x0, 0.02, 0), (x1, RECESS + 0.02, stall), "paint", accent)
        g.box((x0 - 0.04, 0.04, 0), (x0 + 0.04, RECESS, top), "paint", accent)
    g.box((0, -0.16, top), (width, 0.05, height - 0.1), "paint", accent)
    light = shaded((1.0, 1.0, 1.0), 0.75 if sum(accent) < 1.2 else 0.04)
    x, end = width * rng.uniform(0.1, 0.3), width * rng.uniform(0.6, 0.9)
    while x < end:  # strokes that read as lettering from the road
        step = rng.uniform(0.16, 0.34)
        z0, z1 = top + 0.17, height - 0.27
        kind = rng.randrange(4)
        g.box((x, -0.18, z0), (x + 0.05, -0.16, z1), "paint", light)
        if kind > 0:
            z = rng.choice([z0, (z0 + z1) / 2, z1 - 0.05])
            g.box((x, -0.18, z), (x + step * 0.7, -0.16, z + 0.05), "paint", light)
        if kind > 1:
            g.box((x + step * 0.6, -0.18, z0), (x + step * 0.6 + 0.05, -0.16, z1), "paint", light)
        x += step + 0.06
    if rng.random() < 0.3:  # an awning
        out, low = rng.uniform(0.9, 1.4), top - 0.55
        stripes = max(4, round(width / 0.5))
        for k, (x0, x1) in enumerate(
            zip(
                np.linspace(0.1, width - 0.1, stripes + 1)[:-1],
                np.linspace(0.1, width - 0.1, stripes + 1)[1:],
                strict=True,
            )
        ):
            color = accent if k % 2 else (0.75, 0.73, 0.68)
            g.face(
                [(x0, -0.16, top), (x0, -out, low), (x1, -out, low), (x1, -0.16, top)],
                "cloth",
                color,
            )
            g.face(
                [(x0, -out, low), (x0, -out, low - 0.2), (x1, -out, low - 0.2), (x1, -out, low)],
                "cloth",
                color,
            )


def _bay(
    g: Geometry,
    x0: float,
    x1: float,
    z0: float,
    z1: float,
    wall: str,
    color: Color,
    frame: Color,
    roof: Color,
) -> None:
    """A canted bay window standing 0.7 m out of the wall."""
    out, cant = 0.7, 0.45
    plan = [(x0, 0.0), (x0 + cant, -out), (x1 - cant, -out), (x1, 0.0)]
    for a, b in itertools.pairwise(plan):
        along = np.array([b[0] - a[0], b[1] - a[1], 0.0])
        length = float(np.linalg.norm(along))
        panel = Geometry()
        sheet = _Wall(panel, length, wall, color)
        opening = (0.12, length - 0.12, z0 + 0.75, z1 - 0.3)
        sheet.band(z0, z1, [opening])
        _window(panel, *opening, frame, frame, 0 if length < 1.2 else 2)
        g.extend(panel, rotation(math.atan2(along[1], along[0])), (a[0], a[1], 0))
    g.face([(*p, z1) for p in plan], "paint", frame)
    top = [(x0 + 0.1, 0.0, z1 + 0.5), (x1 - 0.1, 0.0, z1 + 0.5)]
    lip = [
        (x0 - 0.1, 0.02),
        (x0 + cant - 0.05, -out - 0.1),
        (x1 - cant + 0.05, -out - 0.1),
        (x1 + 0.1, 0.02),
    ]
    g.face([(*lip[0], z1), (*lip[1], z1), top[0]], "roof", roof)
    g.face([(*lip[1], z1), (*lip[2], z1), top[1], top[0]], "roof", roof)
    g.face([(*lip[2], z1), (*lip[3], z1), top[1]], "roof", roof)


def _facade(
    g: Geometry, rng: random.Random, width: float, floors: int, o: dict, front: bool
) -> None:
    """One wall of the building with its rows of windows."""
    wall = _Wall(g, width, o["wall"], o["wall_color"])
    spacing = o["spacing"] if front else o["spacing"] * 1.8
    bays = max(1, round(width / spacing))
    pitch = width / bays
    half = min(o["window_width"], pitch * 0.8) / 2
    z = 0.0
    for floor in range(floors):
        height = o["ground_height"] if floor == 0 else FLOOR
        centers = [(k + 0.5) * pitch for k in range(bays)]
        if not front:
            centers = [c for c in centers if rng.random() < 0.45]
        low, high = z + o["sill"], z + min(height - 0.35, o["sill"] + o["window_height"])
        if front and floor == 0 and o["ground"] == "shop":
            _shop_front(g, wall, rng, height, o["frame_color"], o["accent_color"])
            wall.band(height - 0.75, height, [])
        elif front and floor == 0 and o["ground"] == "lobby":
            openings = [(c - pitch * 0.42, c + pitch * 0.42, 0.3, height - 0.4) for c in centers]
            wall.band(z, z + height, openings)
            for opening in openings:
                _window(g, *opening, o["frame_color"], o["trim_color"], 1)
        elif front and floor == 0:
            door = centers.pop(rng.choice([0, len(centers) - 1])) if len(centers) > 1 else None
            openings = [(c - half, c + half, low, high) for c in centers]
            doorway = [] if door is None else [(door - 0.55, door + 0.55, 0.0, 2.35)]
            wall.band(z, z + height, openings + doorway)
            for c, opening in zip(centers, openings, strict=True):
                if o["bay"] and c == centers[0] and pitch > 2.0:
                    reach = min(1.35, pitch * 0.48)
                    tall = height + (FLOOR - 0.25 if floors > 1 and o["tall_bay"] else -0.3)
                    _bay(
                        g,
                        c - reach,
                        c + reach,
                        0.0,
                        min(tall, height) - 0.05,
                        o["wall"],
                        o["wall_color"],
                        o["frame_color"],
                        o["roof_color"],
                    )
                _window(g, *opening, o["frame_color"], o["trim_color"], o["window_style"])
            if door is not None:
                _door(g, door - 0.55, door + 0.55, 2.35, o["frame_color"], o["accent_color"])
                if o["porch"]:
                    g.box(
                        (door - 0.9, -0.8, 2.45), (door + 0.9, 0.0, 2.6), "stone", o["trim_color"]
                    )
        else:
            openings = [(c - half, c + half, low, high) for c in centers]
            wall.band(z, z + height, openings)
            for k, opening in enumerate(openings):
                _window(g, *opening, o["frame_color"], o["trim_color"], o["window_style"])
                if front and o["balconies"] and k % 2 == 0:
                    _balcony(g, (opening[0] + opening[1]) / 2, z, o["frame_color"])
        z += height
        if front and o["string_course"] and floor < floors - 1:
            g.box((0, -0.06, z - 0.12), (width, 0.0, z + 0.06), "stone", o["trim_color"])


def _balcony(g: Geometry, x: float, z: float, color: Color) -> None:
    g.box((x - 1.3, -1.1, z - 0.1), (x + 1.3, 0, z + 0.05), "concrete", (0.5, 0.5, 0.5))
    for z1 in (0.3, 0.6, 0.95):
        g.box((x - 1.3, -1.1, z + z1), (x + 1.3, -1.06, z + z1 + 0.04), "paint", color)
    for k in range(14):
        at = x - 1.3 + k * 0.2
        g.box((at, -1.1, z), (at + 0.025, -1.07, z + 0.95), "paint", color)
    for side in (-1.3, 1.27):
        g.box((x + side, -1.1, z + 0.9), (x + side + 0.03, 0, z + 0.95), "paint", color)


def _gable_roof(g: Geometry, width: float, depth: float, z: float, o: dict, hip: float) -> None:
    """A pitched roof, ridge along the front; `hip` metres slope away at both ends."""
    over, rise = 0.35, depth / 2 * o["pitch"]
    eave = z - over * o["pitch"]
    y0, y1, middle = -over, depth + over, depth / 2
    x0, x1 = (-over, width + over) if hip else (-0.02, width + 0.02)
    r0, r1 = x0 + hip, x1 - hip
    top = z + rise
    g.face(
        [(x0, y0, eave), (x1, y0, eave), (r1, middle, top), (r0, middle, top)],
        "roof",
        o["roof_color"],
    )
    g.face(
        [(x1, y1, eave), (x0, y1, eave), (r0, middle, top), (r1, middle, top)],
        "roof",
        o["roof_color"],
    )
    for x, ridge, flip in ((x0, r0, False), (x1, r1, True)):
        if hip:
            points = [(x, y1, eave), (x, y0, eave), (ridge, middle, top)]
            g.face(points[::-1] if flip else points, "roof", o["roof_color"])
        else:
            inner = 0.0 if not flip else width
            points = [(inner, depth, z), (inner, 0.0, z), (inner, middle, top)]
            g.face(points[::-1] if flip else points, o["wall"], o["wall_color"])
    g.box((x0, y0 - 0.02, eave - 0.14), (x1, y0 + 0.1, eave + 0.02), "paint", o["frame_color"])
    g.cylinder((r0, middle, top), (r1, middle, top), 0.1, "roof", o["roof_color"], sides=6)


def _front_gable(g: Geometry, width: float, depth: float, z: float, o: dict) -> None:
    """A pitched roof whose gable looks at the street."""
    over, rise = 0.3, width / 2 * o["pitch"]
    eave, middle, top = z - over * o["pitch"], width / 2, z + rise
    y0, y1 = -over, depth
    g.face(
        [(-over, y1, eave), (-over, y0, eave), (middle, y0, top), (middle, y1, top)],
        "roof",
        o["roof_color"],
    )
    g.face(
        [(width + over, y0, eave), (width + over, y1, eave), (middle, y1, top), (middle, y0, top)],
        "roof",
        o["roof_color"],
    )
    g.face([(0, 0, z), (width, 0, z), (middle, 0, top)], o["wall"], o["wall_color"])
    for x, sign in ((-over, 1), (width + over, -1)):  # barge boards
        board = Geometry()
        length = math.hypot(middle + over, top - eave)
        board.box((0, -0.05, -0.2), (length, 0.04, 0.02), "paint", o["frame_color"])
        angle = math.atan2(top - eave, (middle + over) * sign)
        g.extend(board, rotation(pitch=-angle), (x, y0, eave))
    if rise > 2.0:
        half = 0.5
        g.box(
            (middle - half, -0.02, z + 0.3),
            (middle + half, 0.0, z + 1.4),
            "paint",
            o["frame_color"],
        )
        g.face(
            [
                (middle - half + 0.06, -0.025, z + 0.36),
                (middle + half - 0.06, -0.025, z + 0.36),
                (middle + half - 0.06, -0.025, z + 1.34),
                (middle - half + 0.06, -0.025, z + 1.34),
            ],
            "window",
        )


def _flat_roof(
    g: Geometry, rng: random.Random, width: float, depth: float, z: float, o: dict, parapet: float
) -> None:
    g.face(
        [(0, 0, z), (width, 0, z), (width, depth, z), (0, depth, z)], "concrete", (0.3, 0.3, 0.3)
    )
    for low, high in (
        ((0, -0.05), (width, 0.25)),
        ((0, depth - 0.25), (width, depth)),
        ((0, 0), (0.25, depth)),
        ((width - 0.25, 0), (width, depth)),
    ):
        g.box((*low, z), (*high, z + parapet), o["wall"], o["wall_color"])
    g.box(
        (-0.05, -0.18, z + parapet),
        (width + 0.05, 0.3, z + parapet + 0.14),
        "stone",
        o["trim_color"],
    )
    for _ in range(rng.randint(0, 2)):
        x, y = rng.uniform(1, max(1.1, width - 4)), rng.uniform(2, depth - 3)
        g.box(
            (x, y, z),
            (x + rng.uniform(1.5, 3), y + 2, z + rng.uniform(1, 2.4)),
            "concrete",
            (0.4, 0.4, 0.42),
        )


def _chimney(g: Geometry, x: float, y: float, z: float, o: dict) -> None:
    g.box(
        (x - 0.4, y - 0.3, z - 1.2),
        (x + 0.4, y + 0.3, z + 1.2),
        "brick",
        o["wall_color"] if o["wall"] == "brick" else (0.32, 0.15, 0.1),
    )
    g.box(
        (x - 0.46, y - 0.36, z + 1.2), (x + 0.46, y + 0.36, z + 1.32), "concrete", (0.45, 0.43, 0.4)
    )
    for dx in (-0.2, 0.2):
        g.cylinder((x + dx, y, z + 1.3), (x + dx, y, z + 1.75), 0.11, "roof", (0.45, 0.2, 0.1))


def building(
    width: float,
    depth: float,
    floors: int,
    wall: str,
    wall_color: Color,
    trim_color: Color,
    frame_color: Color,
    accent_color: Color,
    roof: str,
    roof_color: Color,
    ground: str,
    bay: bool,
    balconies: bool,
    seed: int,
) -> Model:
    """A house `width` by `depth` metres, standing behind y = 0."""
    rng = random.Random(seed)
    style = random.Random(repr((wall, wall_color, floors, ground)))  # equal along one terrace
    o: dict[str, Any] = {
        "wall": wall,
        "wall_color": wall_color,
        "trim_color": trim_color,
        "bay": bay,
        "frame_color": frame_color,
        "accent_color": accent_color,
        "roof_color": roof_color,
        "ground": ground,
        "balconies": balconies,
        "ground_height": {"shop": 3.7, "lobby": 3.4}.get(ground, 3.0),
        "spacing": style.uniform(2.0, 2.7) if ground == "door" else style.uniform(2.0, 3.4),
        "window_width": style.uniform(0.95, 1.4) if ground != "lobby" else style.uniform(1.3, 2.4),
        "window_height": style.uniform(1.25, 1.65),
        "sill": style.uniform(0.75, 0.95),
        "window_style": style.randrange(4),
        "pitch": style.uniform(0.6, 0.95),
        "porch": style.random() < 0.4,
        "string_course": style.random() < 0.5,
        "tall_bay": style.random() < 0.3,
    }
    g = Geometry()
    height = o["ground_height"] + (floors - 1) * FLOOR
    _facade(g, rng, width, floors, o, front=True)
    for turn, move, length in (
        (-math.pi / 2, (0, depth, 0), depth),
        (math.pi / 2, (width, 0, 0), depth),
    ):
        side = Geometry()
        _facade(side, rng, length, floors, o, front=False)
        g.extend(side, rotation(turn), move)
    g.face(
        [(width, depth, 0), (0, depth, 0), (0, depth, height), (width, depth, height)],
        wall,
        wall_color,
    )
    g.box((-0.01, -0.04, -0.3), (width + 0.01, depth, 0.03), "stone", (0.35, 0.34, 0.32))
    rise = depth / 2 * o["pitch"]
    if roof in ("gable", "hip"):
        _gable_roof(g, width, depth, height, o, min(depth, width) * 0.45 if roof == "hip" else 0.0)
        if ground != "lobby":
            _chimney(g, 0.5 if roof == "gable" else width * 0.3, depth / 2, height + rise, o)
        if roof == "gable" and rng.random() < 0.35:
            _dormer(g, width / 2, height, o)
    elif roof == "gable_front":
        _front_gable(g, width, depth, height, o)
        _chimney(g, width * 0.8, depth * 0.6, height + rise * 0.5, o)
    else:
        _flat_roof(g, rng, width, depth, height, o, 0.9 if roof == "parapet" else 0.35)
    pipe = 0.15 if rng.random() < 0.5 else width - 0.15
    g.cylinder(
        (pipe, -0.07, 0),
        (pipe, -0.07, height),
        0.05,
        "paint",
        rng.choice([(0.06, 0.06, 0.06), o["frame_color"]]),
        sides=6,
    )
    return [Part(Label.BUILDING, g)]


def _dormer(g: Geometry, x: float, z: float, o: dict) -> None:
    y, top = 0.7, z + 1.9
    g.box((x - 0.8, y, z), (x + 0.8, y + 3, top), "roof", o["roof_color"])
    g.box((x - 0.95, y - 0.12, top), (x + 0.95, y + 3, top + 0.12), "paint", o["frame_color"])
    panel = Geometry()
    _window(panel, x - 0.6, x + 0.6, z + 0.75, top - 0.15, o["frame_color"], o["trim_color"], 1)
    g.extend(panel, move=(0, y - RECESS - 0.01, 0))
