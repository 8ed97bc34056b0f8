# SPDX-License-Identifier: Apache-2.0
"""Polygon soups with materials and colours, from which the models are built, without Blender.

Lengths are metres, z is up. A colour is linear RGB in 0..1; the material decides what it tints.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Color = tuple[float, float, float]
WHITE: Color = (1.0, 1.0, 1.0)


def shaded(color: Color, factor: float) -> Color:
    """The colour, darker (factor < 1) or brighter."""
    red, green, blue = color
    return (red * factor, green * factor, blue * factor)


def rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """(3, 3) rotation: roll about x, then pitch about y, then yaw about z; radians."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return np.asarray(about_z @ about_y @ about_x)


@dataclass
class _Patch:
    vertices: np.ndarray  # (V, 3)
    faces: np.ndarray  # (F, K) indices into vertices
    material: str
    colors: np.ndarray  # (F, 3)
    smooth: bool


@dataclass
class Geometry:
    """A growing list of patches, each one material and one number of corners per face."""

    patches: list[_Patch] = field(default_factory=list)

    def add(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        material: str,
        color: Color | np.ndarray = WHITE,
        smooth: bool = False,
    ) -> None:
        """Append faces (F, K) over vertices (V, 3); `color` is one RGB or one per face (F, 3)."""
        faces = np.asarray(faces, dtype=np.int64)
        colors = np.broadcast_to(np.asarray(color, dtype=float), (len(faces), 3))
        self.patches.append(
            _Patch(np.asarray(vertices, dtype=float), faces, material, colors, smooth)
        )

    def extend(
        self, other: Geometry, rotate: np.ndarray | None = None, move: tuple = (0.0, 0.0, 0.0)
    ) -> None:
        """Append a rotated, then moved copy of another geometry."""
        turn = np.eye(3) if rotate is None else rotate
        for p in other.patches:
            moved = p.vertices @ turn.T + np.asarray(move, dtype=float)
            self.patches.append(_Patch(moved, p.faces, p.material, p.colors, p.smooth))

    def face(self, points: list, material: str, color: Color = WHITE) -> None:
        """One flat polygon, counter-clockwise seen from outside."""
        self.add(np.array(points), np.arange(len(points))[None], material, color)

    def box(self, low: tuple, high: tuple, material: str, color: Color = WHITE) -> None:
        """An axis-aligned box between two corners."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        corners = [(x, y, z) for z in (z0, z1) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        faces = [(3, 2, 1, 0), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
        self.add(np.array(corners), np.array(faces), material, color)

    def tube(
        self,
        points: np.ndarray,
        radii: np.ndarray,
        material: str,
        color: Color = WHITE,
        sides: int = 8,
        caps: bool = True,
        across: tuple = (0.0, 1.0, 0.0),
    ) -> None:
        """A smooth tube through points (N, 3) with radii (N,) or elliptic (N, 2).

        The first radius of an ellipse lies along `across`, the second across that and the tube.
        """
        points = np.asarray(points, dtype=float)
        radii = np.asarray(radii, dtype=float)
        if radii.ndim == 1:
            radii = np.stack([radii, radii], 1)
        tangent = np.gradient(points, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
        reference = np.broadcast_to(np.asarray(across, dtype=float), tangent.shape)
        parallel = np.abs((reference * tangent).sum(1, keepdims=True)) > 0.95
        reference = np.where(parallel, np.array([1.0, 0.03, 0.02]), reference)
        axis_a = reference - (reference * tangent).sum(1, keepdims=True) * tangent
        axis_a /= np.linalg.norm(axis_a, axis=1, keepdims=True) + 1e-9
        axis_b = np.cross(tangent, axis_a)
        angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        ring = axis_a[:, None] * (np.cos(angle)[None, :, None] * radii[:, :1, None]) + axis_b[
            :, None
        ] * (np.sin(angle)[None, :, None] * radii[:, 1:, None])
        vertices = (points[:, None] + ring).reshape(-1, 3)
        i, j = np.meshgrid(np.arange(len(points) - 1), np.arange(sides), indexing="ij")
        k = (j + 1) % sides
        faces = np.stack(
            [i * sides + j, i * sides + k, (i + 1) * sides + k, (i + 1) * sides + j], -1
        )
        self.add(vertices, faces.reshape(-1, 4), material, color, smooth=True)
        if caps:
            last = (len(points) - 1) * sides
            self.add(vertices, np.arange(sides)[::-1][None], material, color)
            self.add(vertices, last + np.arange(sides)[None], material, color)

    def cylinder(
        self,
        start: tuple,
        end: tuple,
        radius: float,
        material: str,
        color: Color = WHITE,
        sides: int = 8,
    ) -> None:
        """A straight round bar with caps."""
        self.tube(np.array([start, end]), np.array([radius, radius]), material, color, sides)

    def lathe(
        self, profile: np.ndarray, material: str, color: Color = WHITE, sides: int = 20
    ) -> None:
        """Turn (N, 2) pairs of (radius, y) about the y axis: wheels, lamps, discs."""
        profile = np.asarray(profile, dtype=float)
        angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        vertices = np.stack(
            [
                profile[:, :1] * np.cos(angle),
                np.broadcast_to(profile[:, 1:], (len(profile), sides)),
                profile[:, :1] * np.sin(angle),
            ],
            -1,
        ).reshape(-1, 3)
        i, j = np.meshgrid(np.arange(len(profile) - 1), np.arange(sides), indexing="ij")
        k = (j + 1) % sides
        faces = np.stack(
            [i * sides + j, (i + 1) * sides + j, (i + 1) * sides + k, i * sides + k], -1
        )
        self.add(vertices, faces.reshape(-1, 4), material, color, smooth=True)

    def ellipsoid(
        self, center: tuple, radii: tuple, material: str, color: Color = WHITE, sides: int = 10
    ) -> None:
        """A smooth ellipsoid with poles along z."""
        rings = max(4, sides // 2 + 1)
        polar = np.linspace(0.06, np.pi - 0.06, rings)
        points = np.zeros((rings, 3))
        points[:, 2] = -np.cos(polar)
        x, y, z = radii
        points = points * z + np.asarray(center, dtype=float)
        self.tube(
            points, np.stack([np.sin(polar) * y, np.sin(polar) * x], 1), material, color, sides
        )


@dataclass
class Part:
    """Geometry of one class. `subdivide` rounds it by that many Catmull-Clark steps."""

    label: int
    geometry: Geometry
    subdivide: int = 0


Model = list[Part]
