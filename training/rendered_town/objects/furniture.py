# SPDX-License-Identifier: Apache-2.0
"""Lamps, signs, traffic lights, bollards, fences and walls.

Signs and lights look towards -x, at traffic that drives along +x. Boundaries run along x from 0.
"""

from __future__ import annotations

import itertools
import math
import random

import numpy as np

from training.rendered_town.geometry import Color, Geometry, Model, Part, rotation, shaded
from training.rendered_town.labels import VOID, Label
from training.rendered_town.objects import plant

GREY: Color = (0.33, 0.34, 0.35)
WHITE: Color = (0.8, 0.8, 0.8)
RED: Color = (0.55, 0.01, 0.02)
BLUE: Color = (0.01, 0.08, 0.42)
BLACK: Color = (0.015, 0.015, 0.015)


def lamp(style: int) -> Model:
    """A street lamp of 6 to 8 m whose arm reaches over the road (towards -y)."""
    g = Geometry()
    if style == 0:  # a modern column with a flat head
        g.tube(
            np.array([(0, 0, 0), (0, 0, 1.2), (0, 0, 1.25), (0, 0, 7.6)]),
            np.array([0.1, 0.1, 0.065, 0.05]),
            "metal",
            GREY,
        )
        g.tube(
            np.array([(0, 0, 7.5), (0, -0.3, 7.85), (0, -1.5, 8.0)]),
            np.array([0.04, 0.035, 0.03]),
            "metal",
            GREY,
        )
        g.box((-0.14, -2.1, 7.93), (0.14, -1.45, 8.05), "metal", GREY)
    elif style == 1:  # a curved neck
        arc = np.linspace(0, math.pi / 2, 8)
        neck = np.stack([0 * arc, -1.5 + 1.5 * np.cos(arc), 6.2 + 1.5 * np.sin(arc)], 1)
        points = np.concatenate([[(0, 0, 0), (0, 0, 1.0), (0, 0, 1.02)], neck, [(0, -1.9, 7.7)]])
        radii = np.concatenate([[0.11, 0.11, 0.07], np.linspace(0.06, 0.035, 8), [0.035]])
        g.tube(points, radii, "concrete" if style == 2 else "metal", (0.28, 0.3, 0.28))
        g.ellipsoid((0, -2.1, 7.68), (0.13, 0.36, 0.09), "metal", (0.5, 0.5, 0.5))
    else:  # an old lantern
        g.tube(
            np.array([(0, 0, 0), (0, 0, 0.5), (0, 0, 0.9), (0, 0, 0.95), (0, 0, 4.2)]),
            np.array([0.14, 0.12, 0.1, 0.055, 0.045]),
            "paint",
            BLACK,
        )
        g.cylinder((-0.35, 0, 3.7), (0.35, 0, 3.7), 0.02, "paint", BLACK)
        g.tube(
            np.array([(0, 0, 4.2), (0, 0, 4.3), (0, 0, 4.75), (0, 0, 4.8), (0, 0, 5.0)]),
            np.array([0.06, 0.13, 0.22, 0.25, 0.03]),
            "paint",
            (0.25, 0.25, 0.22),
            sides=6,
        )
    return [Part(Label.POLE, g)]


def _disc(
    g: Geometry, r: float, x: float, color: Color, z: float, sides: int = 28, turn: float = 0.0
) -> None:
    angle = np.linspace(0, 2 * math.pi, sides, endpoint=False) + turn
    g.face([(x, -r * math.cos(a), z + r * math.sin(a)) for a in angle][::-1], "sign", color)


def _backed(g: Geometry, r: float, color: Color, z: float, sides: int, turn: float = 0.0) -> None:
    """A plate with a grey back, `sides` = 3 for a triangle."""
    angle = np.linspace(0, 2 * math.pi, sides, endpoint=False) + turn
    ring = [(-r * math.cos(a), z + r * math.sin(a)) for a in angle]
    g.face([(-0.012, *p) for p in ring], "metal", (0.3, 0.3, 0.3))
    _disc(g, r, -0.02, color, z, sides, turn)


def _plate(
    g: Geometry,
    half_width: float,
    z0: float,
    z1: float,
    color: Color,
    border: Color,
    rng: random.Random,
    lettering: bool = True,
) -> None:
    g.box((-0.02, -half_width, z0), (0.0, half_width, z1), "sign", border)
    g.box(
        (-0.024, -half_width + 0.03, z0 + 0.03),
        (-0.02, half_width - 0.03, z1 - 0.03),
        "sign",
        color,
    )
    if not lettering:
        return
    z = z1 - 0.12
    while z > z0 + 0.1:
        y, end = half_width - 0.08, -half_width * rng.uniform(0.1, 0.8)
        while y > end:
            step = rng.uniform(0.04, 0.1)
            g.box((-0.027, y - step, z - 0.07), (-0.024, y, z), "sign", border)
            y -= step + 0.03
        z -= 0.15


def sign(style: str, height: float, seed: int) -> Model:
    """A traffic sign on its pole; `height` is that of the plate's middle."""
    rng = random.Random(seed)
    pole, face = Geometry(), Geometry()
    z, r = height, rng.uniform(0.3, 0.4)
    if style == "round_red":
        _backed(face, r, RED, z, 28)
        _disc(face, r * 0.8, -0.023, WHITE, z)
        for k in range(rng.randint(1, 2)):
            y = (-0.28 + 0.5 * k) * r
            face.box(
                (-0.026, y - 0.045, z - r * 0.4), (-0.023, y + 0.045, z + r * 0.4), "sign", BLACK
            )
            face.box((-0.026, y - 0.1, z - r * 0.4), (-0.023, y + 0.1, z - r * 0.25), "sign", BLACK)
    elif style in ("round_blue", "two"):
        _backed(face, r, WHITE, z, 28)
        _disc(face, r * 0.93, -0.023, BLUE, z)
        face.box((-0.026, -0.05, z - r * 0.6), (-0.023, 0.05, z + r * 0.3), "sign", WHITE)
        _disc(face, r * 0.35, -0.026, WHITE, z + r * 0.35, 3, math.pi / 2)
        if style == "two":
            _plate(face, 0.3, z - r - 0.4, z - r - 0.05, WHITE, BLACK, rng)
    elif style == "no_entry":
        _backed(face, r, RED, z, 28)
        face.box((-0.026, -r * 0.7, z - 0.07), (-0.022, r * 0.7, z + 0.07), "sign", WHITE)
    elif style in ("triangle", "yield"):
        turn = math.pi / 2 if style == "triangle" else -math.pi / 2
        _backed(face, r * 1.3, RED, z, 3, turn)
        _disc(face, r * 0.88, -0.023, WHITE, z, 3, turn)
        if style == "triangle":
            face.box((-0.026, -0.04, z - r * 0.22), (-0.024, 0.04, z + r * 0.4), "sign", BLACK)
    elif style == "stop":
        _backed(face, r * 1.1, WHITE, z, 8, math.pi / 8)
        _disc(face, r * 1.02, -0.023, RED, z, 8, math.pi / 8)
        for k in range(4):
            y = (k - 1.5) * r * 0.42
            face.box((-0.026, y - 0.05, z - 0.09), (-0.023, y + 0.05, z + 0.09), "sign", WHITE)
    elif style == "square_p":
        _plate(face, 0.3, z - 0.35, z + 0.35, BLUE, WHITE, rng, lettering=False)
        face.box((-0.03, 0.06, z - 0.22), (-0.024, 0.13, z + 0.22), "sign", WHITE)
        face.box((-0.03, -0.12, z + 0.14), (-0.024, 0.1, z + 0.22), "sign", WHITE)
        face.box((-0.03, -0.12, z - 0.02), (-0.024, 0.1, z + 0.05), "sign", WHITE)
        face.box((-0.03, -0.13, z - 0.02), (-0.024, -0.06, z + 0.22), "sign", WHITE)
    elif style == "direction":
        color = rng.choice([(0.0, 0.16, 0.08), BLUE, WHITE])
        border = BLACK if color == WHITE else WHITE
        half = rng.uniform(0.6, 0.95)
        _plate(face, half, z - 0.1, z + rng.uniform(0.4, 0.9), color, border, rng)
        pole.cylinder((0.05, -half * 0.7, 0), (0.05, -half * 0.7, z + 0.5), 0.04, "metal", GREY)
    else:
        color = rng.choice([WHITE, (0.65, 0.5, 0.02), (0.7, 0.7, 0.7)])
        _plate(face, rng.uniform(0.22, 0.4), z - 0.3, z + 0.3, color, BLACK, rng)
    at = 0.6 * 0.7 if style == "direction" else 0.0
    pole.cylinder(
        (0.05, at, 0), (0.05, at, z + (0.35 if style != "direction" else 0.5)), 0.038, "metal", GREY
    )
    return [Part(Label.POLE, pole), Part(Label.SIGN_SYMBOL, face)]


def traffic_light(state: int) -> Model:
    """A signal head with three lamps (0 red, 1 amber, 2 green is lit) on a pole."""
    pole, head = Geometry(), Geometry()
    pole.cylinder((0, 0, 0), (0, 0, 3.5), 0.06, "metal", (0.12, 0.13, 0.13), sides=10)
    head.box((-0.26, -0.17, 2.35), (-0.08, 0.17, 3.35), "paint", BLACK)
    head.box((-0.245, -0.27, 2.25), (-0.235, 0.27, 3.45), "paint", BLACK)
    head.box((0.08, -0.12, 2.2), (0.2, 0.12, 2.6), "paint", BLACK)
    colors: list[Color] = [(1.0, 0.03, 0.02), (1.0, 0.4, 0.02), (0.02, 0.9, 0.35)]
    for k, color in enumerate(colors):
        z = 3.18 - 0.32 * k
        lit = k == state
        angle = np.linspace(0, 2 * math.pi, 18, endpoint=False)
        head.face(
            [(-0.275, -0.11 * math.cos(a), z + 0.11 * math.sin(a)) for a in angle][::-1],
            "glow" if lit else "paint",
            color if lit else shaded(color, 0.06),
        )
        arc = np.linspace(0.1, math.pi - 0.1, 9)
        for a, b in itertools.pairwise(arc):
            pa, pb = ((0.13 * math.cos(v), z + 0.13 * math.sin(v)) for v in (a, b))
            head.face([(-0.26, *pa), (-0.26, *pb), (-0.46, *pb), (-0.46, *pa)], "paint", BLACK)
    pole.box((-0.09, -0.03, 2.5), (0.0, 0.03, 2.56), "metal", GREY)
    pole.box((-0.09, -0.03, 3.1), (0.0, 0.03, 3.16), "metal", GREY)
    return [Part(Label.POLE, pole), Part(Label.SIGN_SYMBOL, head)]


def bollard(style: int = 0) -> Model:
    """A cast-iron bollard of 1 m: CamVid counts them as poles."""
    g = Geometry()
    g.tube(
        np.array(
            [
                (0, 0, 0),
                (0, 0, 0.1),
                (0, 0, 0.82),
                (0, 0, 0.84),
                (0, 0, 0.9),
                (0, 0, 0.98),
                (0, 0, 1.02),
            ]
        ),
        np.array([0.1, 0.075, 0.062, 0.085, 0.085, 0.06, 0.01]),
        "paint",
        BLACK,
        sides=10,
    )
    g.tube(np.array([(0, 0, 0.7), (0, 0, 0.78)]), np.array([0.07, 0.07]), "paint", WHITE, sides=10)
    return [Part(Label.POLE, g)]


def post() -> Model:
    """A bare mast, as along any street."""
    g = Geometry()
    g.cylinder((0, 0, 0), (0, 0, 5.8), 0.06, "metal", (0.24, 0.25, 0.24))
    return [Part(Label.POLE, g)]


def bin_() -> Model:
    """A litter bin; CamVid has no class for it."""
    g = Geometry()
    g.tube(
        np.array([(0, 0, 0), (0, 0, 0.9), (0, 0, 0.95), (0, 0, 1.1)]),
        np.array([0.24, 0.26, 0.27, 0.12]),
        "paint",
        (0.02, 0.05, 0.03),
        sides=14,
    )
    return [Part(VOID, g)]


def cabinet() -> Model:
    """A grey-green switch cabinet on the pavement; CamVid has no class for it."""
    g = Geometry()
    g.box((-0.5, 0.0, 0), (0.5, 0.4, 1.25), "paint", (0.13, 0.17, 0.13))
    g.box((-0.005, -0.004, 0.1), (0.005, 0.0, 1.2), "paint", (0.05, 0.06, 0.05))
    return [Part(VOID, g)]


def boundary(kind: str, width: float, seed: int) -> Model:
    """A fence, wall or hedge along x from 0 to `width`."""
    rng = random.Random(seed)
    g = Geometry()
    label = Label.FENCE
    if width < 0.3:
        return [Part(label, g)]
    if kind == "hedge":
        return plant.hedge(width, rng.uniform(0.9, 1.9), seed)
    if kind in ("low_wall", "high_wall"):
        label = Label.BUILDING
        height = rng.uniform(0.6, 1.0) if kind == "low_wall" else rng.uniform(1.8, 2.6)
        color = rng.choice([(0.32, 0.14, 0.09), (0.4, 0.28, 0.18), (0.26, 0.12, 0.09)])
        g.box((0, 0, 0), (width, 0.23, height), "brick", color)
        g.box(
            (-0.02, -0.04, height), (width + 0.02, 0.27, height + 0.09), "stone", (0.45, 0.43, 0.4)
        )
    elif kind == "railing":
        color = rng.choice([BLACK, BLACK, (0.02, 0.06, 0.035), (0.3, 0.3, 0.3)])
        base, height = rng.choice([0.0, 0.35]), rng.uniform(1.1, 1.5)
        if base:
            g.box((0, 0, 0), (width, 0.22, base), "stone", (0.4, 0.38, 0.35))
        for z in (base + 0.12, height - 0.14):
            g.box((0, 0.09, z), (width, 0.13, z + 0.045), "paint", color)
        x = 0.03
        while x < width:
            g.box((x - 0.013, 0.097, base), (x + 0.013, 0.123, height), "paint", color)
            x += 0.125
        for k in range(int(width / 2.4) + 2):
            x = min(width, k * 2.4)
            g.box((x - 0.035, 0.075, 0), (x + 0.035, 0.145, height + 0.1), "paint", color)
    elif kind == "pedestrian_rail":
        color = rng.choice([GREY, (0.02, 0.05, 0.03), (0.4, 0.4, 0.4)])
        for k in range(int(width / 2) + 1):
            g.cylinder((k * 2.0, 0, 0), (k * 2.0, 0, 1.05), 0.03, "metal", color)
        for z in (0.15, 1.02):
            g.cylinder((0, 0, z), (width, 0, z), 0.022, "metal", color, sides=6)
        x = 0.12
        while x < width:
            g.box((x - 0.008, -0.008, 0.15), (x + 0.008, 0.008, 1.02), "metal", color)
            x += 0.12
    elif kind == "picket":
        color = rng.choice([WHITE, (0.3, 0.18, 0.09), (0.25, 0.3, 0.28)])
        for z in (0.25, 0.75):
            g.box((0, 0.06, z), (width, 0.1, z + 0.07), "paint", color)
        x = 0.05
        while x < width:
            g.box((x - 0.045, 0.03, 0.05), (x + 0.045, 0.06, 1.05), "paint", color)
            x += 0.13
    elif kind == "panel":
        color = rng.choice([(0.2, 0.11, 0.05), (0.3, 0.19, 0.1), (0.16, 0.14, 0.12)])
        height = rng.uniform(1.5, 1.9)
        x = 0.0
        while x < width - 0.02:
            step = min(0.145, width - x)
            shade = rng.uniform(0.75, 1.2)
            g.box(
                (x, 0.03, 0.06),
                (x + step - 0.008, 0.055, height),
                "wood",
                shaded(color, shade),
            )
            x += step
        for k in range(int(width / 1.8) + 2):
            x = min(width, k * 1.8)
            g.box((x - 0.05, 0.0, 0), (x + 0.05, 0.1, height + 0.08), "concrete", (0.4, 0.4, 0.38))
    elif kind == "mesh":
        color = rng.choice([(0.03, 0.14, 0.06), (0.3, 0.32, 0.33)])
        height = 2.0
        for k in range(int(width / 2.5) + 2):
            x = min(width, k * 2.5)
            g.cylinder((x, 0.05, 0), (x, 0.05, height), 0.03, "metal", color, sides=6)
        z = 0.1
        while z < height:
            g.box((0, 0.046, z), (width, 0.054, z + 0.008), "metal", color)
            z += 0.2
        x = 0.0
        while x < width:
            g.box((x, 0.047, 0.05), (x + 0.007, 0.053, height), "metal", color)
            x += 0.06
    else:  # red and white barrier boards round road works
        for k in range(int(width / 0.5)):
            for z in (0.45, 0.85):
                g.box(
                    (k * 0.5, 0.0, z),
                    (k * 0.5 + 0.5, 0.03, z + 0.2),
                    "paint",
                    RED if k % 2 else WHITE,
                )
        for k in range(int(width / 2) + 1):
            g.box((k * 2.0 - 0.03, 0.03, 0), (k * 2.0 + 0.03, 0.09, 1.1), "paint", (0.5, 0.2, 0.02))
    return [Part(label, g)]


def turned(model: Model, yaw: float) -> Model:
    """A copy of the model turned about z."""
    parts = []
    for part in model:
        g = Geometry()
        g.extend(part.geometry, rotation(yaw))
        parts.append(Part(part.label, g, part.subdivide))
    return parts
