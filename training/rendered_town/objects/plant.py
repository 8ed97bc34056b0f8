# SPDX-License-Identifier: Apache-2.0
"""Trees grown by branching, bushes and hedges; each leaf is one face."""

from __future__ import annotations

import math

import numpy as np

from training.rendered_town.geometry import Color, Geometry, Model, Part
from training.rendered_town.labels import Label


def _leaves(
    g: Geometry,
    rng: np.random.Generator,
    centers: np.ndarray,
    spread: float,
    size: float,
    count: int,
    color: Color,
    material: str = "leaf",
) -> None:
    """`count` pointed leaves of about `size` metres around each of the centers (N, 3)."""
    at = np.repeat(centers, count, axis=0)
    n = len(at)
    offset = rng.normal(size=(n, 3))
    offset *= (rng.random((n, 1)) ** 0.4) / (np.linalg.norm(offset, axis=1, keepdims=True) + 1e-9)
    at = at + offset * spread * np.array([1, 1, 0.8])
    along = rng.normal(size=(n, 3))
    along[:, 2] -= 0.4  # leaves hang
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, rng.normal(size=(n, 3)))
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    length = size * rng.uniform(0.7, 1.4, (n, 1))
    points = np.stack(
        [
            at,
            at + along * length * 0.5 + across * length * 0.36,
            at + along * length,
            at + along * length * 0.5 - across * length * 0.36,
        ],
        1,
    )
    tint = np.array(color) * rng.uniform(0.65, 1.35, (n, 1))
    tint[:, 0] *= rng.uniform(0.8, 1.25, n)
    g.add(points.reshape(-1, 3), np.arange(4 * n).reshape(n, 4), material, tint.clip(0, 1))


def _grow(
    g: Geometry,
    rng: np.random.Generator,
    base: np.ndarray,
    direction: np.ndarray,
    length: float,
    radius: float,
    level: int,
    tips: list[np.ndarray],
    twigs: int,
) -> None:
    """Grows a branch and, recursively, its branches; collects the ends of twigs in `tips`."""
    steps = 4 if level > 1 else 3
    points, heading = [base], direction
    for _ in range(steps):
        heading = heading + rng.normal(size=3) * 0.16 + np.array([0, 0, 0.05])
        heading = heading / np.linalg.norm(heading)
        points.append(points[-1] + heading * length / steps)
    taper = np.linspace(1.0, 0.55 if level else 0.3, steps + 1)
    g.tube(
        np.array(points),
        radius * taper,
        "bark",
        sides=8 if level > 2 else (5 if level else 3),
        caps=False,
    )
    tips += points[2:] if level <= 1 else []
    if level == 0:
        return
    for k in range(twigs):
        at = points[-1] if k == 0 else points[int(rng.integers(2, steps + 1))]
        spread = 0.35 if k == 0 else 0.9
        side = rng.normal(size=3)
        side -= (side @ heading) * heading
        side /= np.linalg.norm(side)
        child = heading * math.cos(spread) + side * math.sin(spread) + np.array([0, 0, 0.12])
        _grow(
            g,
            rng,
            at,
            child / np.linalg.norm(child),
            length * rng.uniform(0.6, 0.8),
            radius * (0.6 if k == 0 else 0.45),
            level - 1,
            tips,
            twigs,
        )


SEASONS: dict[str, tuple[Color, ...]] = {
    "summer": ((0.10, 0.17, 0.03), (0.07, 0.14, 0.035), (0.14, 0.19, 0.04), (0.05, 0.11, 0.03)),
    "autumn": ((0.30, 0.19, 0.03), (0.24, 0.11, 0.03), (0.17, 0.17, 0.04), (0.33, 0.14, 0.03)),
    "winter": ((0.05, 0.09, 0.03), (0.08, 0.12, 0.04), (0.05, 0.09, 0.03), (0.07, 0.10, 0.03)),
}


def tree(variant: int, season: str, seed: int) -> Model:
    """A tree about 8 m tall; variant 4 is a conifer, in winter most others are bare."""
    rng = np.random.default_rng([seed, variant])
    g = Geometry()
    color = SEASONS[season][variant % 4]
    if variant == 4:
        _conifer(g, rng, (0.035, 0.075, 0.03))
        return [Part(Label.TREE, g)]
    bare = season == "winter" and variant != 1
    tips: list[np.ndarray] = []
    trunk = rng.uniform(1.8, 2.8)
    g.tube(
        np.array([(0, 0, -0.3), (0, 0, 0.2), (0.03, 0.02, trunk * 0.6), (0, 0.03, trunk)]),
        np.array([0.27, 0.2, 0.16, 0.14]),
        "bark",
        sides=10,
        caps=False,
    )
    limbs = int(rng.integers(4, 7))
    for k in range(limbs):
        angle = 2 * math.pi * (k + rng.uniform(-0.3, 0.3)) / limbs
        rise = rng.uniform(0.5, 1.6) if k else 4.0
        out = np.array([math.cos(angle), math.sin(angle), rise])
        _grow(
            g,
            rng,
            np.array([0, 0.02, trunk * rng.uniform(0.75, 1.0)]),
            out / np.linalg.norm(out),
            rng.uniform(1.7, 2.4),
            0.09,
            3 if bare else 2,
            tips,
            4,
        )
    if not bare:
        centers = np.array(tips)
        _leaves(g, rng, centers, 0.55, 0.27, max(6, 6500 // len(centers)), color)
    return [Part(Label.TREE, g)]


def _conifer(g: Geometry, rng: np.random.Generator, color: Color) -> None:
    height = 8.5
    g.tube(np.array([(0, 0, -0.3), (0, 0, height)]), np.array([0.2, 0.02]), "bark", sides=7)
    centers = []
    for z in np.arange(0.9, height, 0.22):
        reach = 2.1 * (1 - z / height) ** 0.8 + 0.1
        for angle in rng.uniform(0, 2 * math.pi, 7):
            for f in (0.35, 0.65, 0.95):
                r = reach * f * rng.uniform(0.8, 1.1)
                centers.append((r * math.cos(angle), r * math.sin(angle), z - 0.25 * r))
    _leaves(g, rng, np.array(centers), 0.25, 0.2, 14, color)


def bush(variant: int, season: str, seed: int) -> Model:
    """A shrub about 1.4 m across and 1.2 m tall."""
    rng = np.random.default_rng([seed, 50, variant])
    g = Geometry()
    color = SEASONS["summer" if season == "winter" else season][variant]
    blobs = rng.normal(size=(60, 3)) * (0.32, 0.32, 0.25) + (0, 0, 0.55)
    _leaves(g, rng, blobs, 0.3, 0.11, 50, color)
    return [Part(Label.TREE, g)]


def hedge(width: float, height: float, seed: int) -> Model:
    """A clipped hedge along x from 0 to `width`, 0.7 m deep behind y = 0."""
    rng = np.random.default_rng([seed, 99])
    g, depth = Geometry(), 0.7
    g.box((0.06, 0.1, 0), (width - 0.06, depth - 0.08, height - 0.1), "hedge", (0.02, 0.035, 0.012))
    count = int(width * 420)
    top = rng.random(count) < depth / (depth + height)
    centers = np.stack(
        [
            rng.uniform(0, width, count),
            np.where(top, rng.uniform(0, depth, count), rng.normal(0.05, 0.03, count)),
            np.where(top, rng.normal(height - 0.06, 0.05, count), rng.uniform(0.02, height, count)),
        ],
        1,
    )
    color = (0.06, 0.12, 0.03) if seed % 3 else (0.09, 0.13, 0.03)
    _leaves(g, rng, centers, 0.06, 0.1, 3, color)
    return [Part(Label.TREE, g)]
