# SPDX-License-Identifier: Apache-2.0
"""Cars, vans, a lorry and a bus: bodies lofted from a side profile, then rounded by subdivision.

Local frame: x forward, y left, z up, origin on the road under the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.rendered_town.geometry import Color, Geometry, Model, Part
from training.rendered_town.labels import Label


@dataclass(frozen=True)
class Shape:
    """A body's stations from tail to nose.

    Each station is (x, half width, underside z, belt z, roof z): where the roof is more than
    0.2 m above the belt there is a cabin, and its windows lie between the two.
    """

    stations: tuple[tuple[float, float, float, float, float], ...]
    pillars: tuple[float, ...]  # x of the pillars behind the windscreen pillar
    glazed: tuple[float, float]  # side windows only between these x
    axles: tuple[float, ...]
    wheel: float  # m, radius
    tumblehome: float = 0.32  # how much the cabin leans in, m per m
    rear_window: bool = True


SHAPES: dict[str, Shape] = {
    "hatchback": Shape(
        (
            (-1.98, 0.76, 0.25, 0.69, 0.73),
            (-1.90, 0.80, 0.26, 0.90, 0.96),
            (-1.72, 0.84, 0.24, 0.94, 1.06),
            (-1.42, 0.86, 0.22, 0.94, 1.40),
            (-0.75, 0.87, 0.20, 0.93, 1.47),
            (-0.62, 0.87, 0.20, 0.93, 1.48),
            (0.18, 0.87, 0.20, 0.91, 1.49),
            (0.30, 0.87, 0.20, 0.91, 1.48),
            (0.55, 0.87, 0.20, 0.91, 1.42),
            (1.15, 0.86, 0.20, 0.92, 0.98),
            (1.62, 0.83, 0.22, 0.84, 0.87),
            (1.88, 0.80, 0.24, 0.70, 0.73),
            (1.98, 0.72, 0.23, 0.63, 0.65),
        ),
        (-0.68, 0.24),
        (-1.42, 1.15),
        (1.25, -1.22),
        0.31,
    ),
    "saloon": Shape(
        (
            (-2.25, 0.78, 0.27, 0.77, 0.81),
            (-2.16, 0.82, 0.28, 0.93, 0.97),
            (-1.62, 0.86, 0.24, 0.96, 1.00),
            (-1.00, 0.87, 0.21, 0.94, 1.38),
            (-0.62, 0.88, 0.20, 0.93, 1.43),
            (-0.50, 0.88, 0.20, 0.93, 1.44),
            (0.20, 0.88, 0.20, 0.91, 1.44),
            (0.32, 0.88, 0.20, 0.91, 1.43),
            (0.55, 0.88, 0.20, 0.91, 1.37),
            (1.22, 0.87, 0.20, 0.90, 0.95),
            (1.85, 0.85, 0.22, 0.80, 0.83),
            (2.14, 0.82, 0.24, 0.66, 0.69),
            (2.25, 0.72, 0.23, 0.61, 0.63),
        ),
        (-0.56, 0.26),
        (-1.30, 1.22),
        (1.40, -1.35),
        0.32,
    ),
    "estate": Shape(
        (
            (-2.28, 0.80, 0.27, 0.77, 0.81),
            (-2.20, 0.84, 0.28, 0.94, 1.02),
            (-2.02, 0.87, 0.24, 0.95, 1.20),
            (-1.80, 0.87, 0.22, 0.95, 1.42),
            (-1.10, 0.88, 0.20, 0.94, 1.48),
            (-0.98, 0.88, 0.20, 0.94, 1.48),
            (-0.10, 0.88, 0.20, 0.92, 1.49),
            (0.02, 0.88, 0.20, 0.92, 1.49),
            (0.55, 0.88, 0.20, 0.91, 1.42),
            (1.20, 0.87, 0.20, 0.92, 0.97),
            (1.85, 0.85, 0.22, 0.83, 0.86),
            (2.16, 0.81, 0.24, 0.68, 0.71),
            (2.26, 0.72, 0.23, 0.62, 0.64),
        ),
        (-1.04, -0.04),
        (-1.90, 1.20),
        (1.40, -1.35),
        0.32,
    ),
    "suv": Shape(
        (
            (-2.20, 0.84, 0.41, 0.91, 0.95),
            (-2.14, 0.88, 0.40, 1.08, 1.16),
            (-2.00, 0.91, 0.36, 1.10, 1.40),
            (-1.82, 0.92, 0.34, 1.10, 1.64),
            (-1.05, 0.93, 0.32, 1.08, 1.72),
            (-0.92, 0.93, 0.32, 1.08, 1.72),
            (-0.02, 0.93, 0.32, 1.06, 1.73),
            (0.10, 0.93, 0.32, 1.06, 1.72),
            (0.50, 0.93, 0.32, 1.06, 1.64),
            (1.05, 0.92, 0.32, 1.08, 1.14),
            (1.80, 0.90, 0.34, 1.02, 1.05),
            (2.10, 0.87, 0.36, 0.88, 0.91),
            (2.20, 0.78, 0.35, 0.77, 0.79),
        ),
        (-0.98, 0.04),
        (-1.90, 1.05),
        (1.38, -1.35),
        0.37,
        0.25,
    ),
    "mpv": Shape(
        (
            (-2.15, 0.84, 0.27, 0.87, 0.91),
            (-2.10, 0.86, 0.28, 1.02, 1.12),
            (-1.98, 0.89, 0.24, 1.03, 1.40),
            (-1.82, 0.90, 0.22, 1.03, 1.62),
            (-1.00, 0.91, 0.20, 1.01, 1.70),
            (-0.88, 0.91, 0.20, 1.01, 1.70),
            (0.00, 0.91, 0.20, 0.98, 1.70),
            (0.12, 0.91, 0.20, 0.98, 1.69),
            (0.65, 0.91, 0.20, 0.96, 1.55),
            (1.50, 0.89, 0.20, 0.96, 1.01),
            (1.88, 0.86, 0.22, 0.86, 0.89),
            (2.06, 0.84, 0.24, 0.74, 0.77),
            (2.15, 0.74, 0.23, 0.65, 0.67),
        ),
        (-0.94, 0.06),
        (-1.90, 1.50),
        (1.35, -1.30),
        0.32,
        0.22,
    ),
    "van": Shape(
        (
            (-2.60, 0.98, 0.31, 1.27, 2.02),
            (-2.56, 0.95, 0.34, 1.22, 2.12),
            (-2.40, 0.97, 0.30, 1.22, 2.18),
            (-1.20, 0.97, 0.28, 1.20, 2.20),
            (0.25, 0.97, 0.28, 1.18, 2.20),
            (0.37, 0.97, 0.28, 1.16, 2.19),
            (0.95, 0.97, 0.28, 1.14, 2.05),
            (1.75, 0.95, 0.28, 1.16, 1.24),
            (2.25, 0.92, 0.30, 1.02, 1.06),
            (2.50, 0.88, 0.32, 0.82, 0.86),
            (2.60, 0.78, 0.31, 0.69, 0.71),
        ),
        (0.31,),
        (0.37, 1.75),
        (1.70, -1.55),
        0.34,
        0.10,
        False,
    ),
    "lorry": Shape(
        (
            (0.85, 1.15, 0.51, 1.62, 2.52),
            (0.92, 1.10, 0.50, 1.55, 2.60),
            (1.10, 1.12, 0.45, 1.55, 2.68),
            (1.70, 1.12, 0.42, 1.52, 2.68),
            (2.20, 1.12, 0.42, 1.48, 2.60),
            (2.52, 1.12, 0.42, 1.46, 1.60),
            (2.72, 1.12, 0.44, 1.25, 1.30),
            (2.80, 1.05, 0.41, 1.12, 1.15),
        ),
        (1.10,),
        (1.10, 2.52),
        (1.95, -1.80),
        0.45,
        0.06,
        False,
    ),
    "bus": Shape(
        (
            (-5.20, 1.18, 0.41, 1.32, 2.77),
            (-5.14, 1.20, 0.40, 1.25, 2.88),
            (-4.95, 1.25, 0.34, 1.25, 2.95),
            (-3.50, 1.25, 0.32, 1.25, 2.98),
            (-3.40, 1.25, 0.32, 1.25, 2.98),
            (-1.80, 1.25, 0.32, 1.25, 2.98),
            (-1.70, 1.25, 0.32, 1.25, 2.98),
            (0.00, 1.25, 0.32, 1.25, 2.98),
            (0.10, 1.25, 0.32, 1.25, 2.98),
            (1.80, 1.25, 0.32, 1.25, 2.98),
            (1.90, 1.25, 0.32, 1.25, 2.98),
            (3.60, 1.25, 0.32, 1.25, 2.98),
            (4.85, 1.25, 0.34, 1.20, 2.96),
            (5.08, 1.22, 0.38, 1.10, 2.60),
            (5.18, 1.18, 0.42, 1.05, 1.12),
            (5.24, 1.10, 0.43, 0.97, 1.02),
        ),
        (-3.45, -1.75, 0.05, 1.85),
        (-4.95, 5.08),
        (2.90, -3.00),
        0.48,
        0.03,
    ),
}


def _loft(shape: Shape, paint: str) -> Geometry:
    """Lofts the body shell; faces that look like windows in the side profile become windows."""
    rows = []
    for x, w, low, belt, roof in shape.stations:
        lean = max(0.0, roof - belt) * shape.tumblehome
        top = w - 0.04 - lean
        half = np.array(
            [
                (x, 0.0, low),
                (x, w - 0.10, low),
                (x, w - 0.01, low + 0.06),
                (x, w, low + 0.20),
                (x, w, belt - min(0.16, (belt - low) * 0.3)),
                (x, w - 0.035, belt),
                (x, top, roof - min(0.07, (roof - belt) * 0.3)),
                (x, top - 0.12, roof),
                (x, 0.0, roof + 0.025),
            ]
        )
        rows.append(np.concatenate([half, (half * [1, -1, 1])[-2:0:-1]]))
    ring = len(rows[0])
    vertices = np.concatenate(rows)
    g = Geometry()
    stations = shape.stations
    groups: dict[str, list[tuple[int, ...]]] = {paint: [], "car_glass": [], "trim": []}
    cabin = [s[4] - s[3] > 0.2 for s in stations]
    for i in range(len(stations) - 1):
        middle = (stations[i][0] + stations[i + 1][0]) / 2
        slope = abs(stations[i + 1][4] - stations[i][4]) / (stations[i + 1][0] - stations[i][0])
        pillar = any(abs(middle - x) < 0.08 for x in shape.pillars)
        rear = middle < 0
        for j in range(ring):
            k = (j + 1) % ring
            face = (i * ring + j, i * ring + k, (i + 1) * ring + k, (i + 1) * ring + j)
            strip = min(j, ring - 1 - j)  # 0 underside .. 7 roof middle
            material = paint
            if (
                strip == 5
                and (cabin[i] or cabin[i + 1])
                and not pillar
                and shape.glazed[0] <= middle <= shape.glazed[1]
            ):
                material = "car_glass"
            if (
                strip == 7
                and slope > 0.42
                and (cabin[i] or cabin[i + 1])
                and (shape.rear_window or not rear)
            ):
                material = "car_glass"
            if strip in (0, 1):
                material = "trim"
            groups[material].append(face)
    last = (len(rows) - 1) * ring  # the flat caps at tail and nose: quads between mirrored corners
    caps = [(j, j + 1, ring - 1 - j, ring - j) for j in range(1, ring // 2 - 1)]
    groups[paint] += caps + [tuple(last + v for v in reversed(face)) for face in caps]
    ends = np.array([(0, 1, ring - 1), (ring // 2 - 1, ring // 2, ring // 2 + 1)])
    g.add(vertices, np.concatenate([ends, last + ends[:, ::-1]]), paint, smooth=True)
    for material, faces in groups.items():
        if faces:
            color: Color = (0.03, 0.03, 0.03) if material == "trim" else (1, 1, 1)
            g.add(vertices, np.array(faces), material, color, smooth=True)
    return g


def _wheel(g: Geometry, x: float, y: float, r: float, spokes: int) -> None:
    """A tyre with a rim; `y` is its outer face, the sign tells the side of the car."""
    sign = 1 if y > 0 else -1
    width, wheel = 0.2, Geometry()
    wheel.lathe(
        np.array(
            [
                (r * 0.62, 0.0),
                (r * 0.9, 0.012),
                (r, -0.03),
                (r, -width + 0.03),
                (r * 0.9, -width),
                (r * 0.3, -width),
            ]
        ),
        "rubber",
        (0.02, 0.02, 0.02),
        22,
    )
    wheel.lathe(
        np.array([(r * 0.64, 0.004), (r * 0.6, -0.02), (r * 0.56, -0.07), (0.02, -0.08)]),
        "trim",
        (0.04, 0.04, 0.04),
        22,
    )
    wheel.lathe(np.array([(r * 0.64, 0.008), (r * 0.55, -0.005)]), "metal", (0.5, 0.5, 0.52), 22)
    wheel.lathe(np.array([(r * 0.18, -0.005), (0.001, 0.0)]), "metal", (0.5, 0.5, 0.52), 12)
    for k in range(spokes):
        angle = 2 * np.pi * k / spokes
        c, s = np.cos(angle), np.sin(angle)
        n = np.array([-s, 0, c]) * r * 0.09
        a, b = np.array([c, 0, s]) * r * 0.1, np.array([c, 0, s]) * r * 0.6
        quad = np.array([a - n, b - n * 0.7, b + n * 0.7, a + n])
        wheel.add(quad, np.arange(4)[None], "metal", (0.5, 0.5, 0.52))
    mirror = np.diag([1.0, sign, 1.0])
    g.extend(wheel, mirror, (x, y, r))


def vehicle(kind: str, plate: Color = (0.8, 0.62, 0.05), spokes: int = 7) -> Model:
    """One of `SHAPES`, its paint tinted by the object's own colour in the scene."""
    shape = SHAPES[kind]
    body, detail = _loft(shape, "car_paint"), Geometry()
    tail, nose = shape.stations[0], shape.stations[-1]
    side = max(s[1] for s in shape.stations)
    rear = tail[0] if kind != "lorry" else -3.6
    if kind == "lorry":
        body_box = Geometry()
        body_box.box((-3.5, -1.18, 0.95), (0.75, 1.18, 3.25), "painted_box", (0.75, 0.75, 0.74))
        for z in (0.95, 3.2):
            body_box.box((-3.55, -1.2, z - 0.04), (0.78, 1.2, z + 0.06), "metal", (0.3, 0.3, 0.3))
        body_box.box((-3.52, -0.02, 1.0), (-3.5, 0.02, 3.2), "trim", (0.1, 0.1, 0.1))
        body_box.box((-3.6, -0.5, 0.6), (0.9, 0.5, 0.95), "trim", (0.03, 0.03, 0.03))
        detail.extend(body_box)
    for x in shape.axles:
        for sign in (1, -1):
            angle = np.linspace(-0.25, np.pi + 0.25, 18)
            reach, y = shape.wheel * 1.2, sign * (side + 0.004)
            arch = [
                (x + reach * np.cos(a), y, shape.wheel * 1.03 + reach * np.sin(a)) for a in angle
            ]
            detail.face(arch if sign < 0 else arch[::-1], "trim", (0.012, 0.012, 0.012))
            _wheel(detail, x, sign * (side + 0.012), shape.wheel, spokes)
    belt = shape.stations[1][3] if kind not in ("bus", "van", "lorry") else 1.1
    wide = shape.stations[1][1]
    x0, x1 = rear, nose[0]
    for sign in (1, -1):
        if kind in ("bus", "lorry", "van", "mpv", "estate", "suv"):
            low, high, y = belt - 0.28, belt + 0.12, sign * (wide - 0.10)
        else:
            low, high, y = belt - 0.24, belt - 0.08, sign * (wide - 0.18)
        if kind == "lorry":
            low, high, y = 0.68, 0.86, sign * 0.95
        half = 0.06 if high - low > 0.3 else 0.13
        detail.box(
            (x0 - 0.012, y - half, low),
            (x0 + 0.16, y + half, high),
            "tail_light",
            (0.32, 0.008, 0.01),
        )
        detail.box(
            (x0 - 0.014, y - half, low), (x0 + 0.1, y + half, low + 0.05), "trim", (0.35, 0.3, 0.28)
        )
        front = shape.stations[-2]
        z = front[3] - 0.10
        detail.ellipsoid(
            (front[0] - 0.05, sign * (front[1] - 0.17), z),
            (0.16, 0.18, 0.085),
            "trim",
            (0.05, 0.05, 0.055),
        )
        detail.ellipsoid(
            (front[0] - 0.025, sign * (front[1] - 0.18), z),
            (0.155, 0.14, 0.075),
            "head_light",
            (0.8, 0.82, 0.85),
        )
        mirror_x = shape.stations[-4][0] - 0.25 if kind != "bus" else 5.1
        mirror_z = shape.stations[-4][3] + 0.10 if kind not in ("bus", "lorry") else 2.1
        detail.ellipsoid(
            (mirror_x, sign * (side + 0.10), mirror_z),
            (0.07, 0.12, 0.09),
            "trim" if kind in ("bus", "lorry", "van") else "car_paint",
            (0.03,) * 3,
        )
        if kind not in ("bus", "lorry"):
            for x in shape.pillars:  # door handles and shut lines
                detail.box(
                    (x + 0.04, sign * (side - 0.03) - 0.02, belt - 0.10),
                    (x + 0.20, sign * (side - 0.03) + 0.02, belt - 0.07),
                    "trim",
                    (0.04, 0.04, 0.04),
                )
    nose_z = (nose[2] + nose[3]) / 2
    for k in range(3):  # the grille
        z = nose_z + 0.03 + 0.05 * k
        detail.box(
            (x1 - 0.12, -0.42, z), (x1 + 0.01, 0.42, z + 0.035), "trim", (0.015, 0.015, 0.015)
        )
    detail.box(
        (x1 - 0.3, -nose[1] * 0.96, nose[2] - 0.05),
        (x1 + 0.012, nose[1] * 0.96, nose[2] + 0.09),
        "trim",
        (0.025, 0.025, 0.025),
    )
    detail.box(
        (x1 - 0.05, -0.26, nose_z - 0.14),
        (x1 + 0.016, 0.26, nose_z - 0.03),
        "plate",
        (0.8, 0.8, 0.78),
    )
    plate_z = 0.72 if kind in ("hatchback", "saloon", "estate", "mpv") else 0.62
    detail.box(
        (x0 - 0.012, -0.26, plate_z - 0.18), (x0 + 0.1, 0.26, plate_z - 0.07), "plate", plate
    )
    detail.box(
        (x0 - 0.015, -wide * 0.82, tail[2] - 0.06),
        (x0 + 0.2, wide * 0.82, tail[2] + 0.10),
        "trim",
        (0.03, 0.03, 0.03),
    )
    if kind == "bus":
        detail.box((5.0, -0.9, 2.62), (5.16, 0.9, 2.86), "trim", (0.02, 0.02, 0.02))
        detail.box((5.155, -0.6, 2.68), (5.165, 0.5, 2.8), "plate", (0.9, 0.5, 0.05))
        detail.box((-5.215, -0.85, 1.55), (-5.1, 0.85, 2.45), "car_glass")
    if kind == "van":
        for sign in (1, -1):
            detail.box(
                (-2.615, sign * 0.45 - 0.3, 1.3), (-2.55, sign * 0.45 + 0.3, 1.85), "car_glass"
            )
        detail.box((-2.62, -0.01, 0.5), (-2.55, 0.01, 2.1), "trim", (0.03, 0.03, 0.03))
    return [Part(Label.CAR, body, subdivide=1), Part(Label.CAR, detail)]
