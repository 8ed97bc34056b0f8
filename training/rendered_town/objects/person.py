# SPDX-License-Identifier: Apache-2.0
"""Pedestrians and cyclists: jointed bodies in clothes, posed by a phase of their step.

Local frame: x forward, y left, z up, origin on the ground under the hips.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from training.rendered_town.geometry import Color, Geometry, Model, Part
from training.rendered_town.labels import Label

PHASES = 8  # poses of one step or one turn of the pedals


@dataclass(frozen=True)
class Look:
    """Size, clothes and skin of one person; colours are linear RGB."""

    height: float
    build: float
    coat: Color
    trousers: Color
    shoes: Color
    skin: Color
    hair: Color
    skirt: bool
    long_coat: bool
    long_hair: bool
    bag: str  # "", "backpack" or "shoulder"
    helmet: bool


def look(seed: int) -> Look:
    """Draws a look from a seed."""
    rng = random.Random(seed)
    woman = rng.random() < 0.5
    bright = (rng.uniform(0.02, 0.6), rng.uniform(0.02, 0.5), rng.uniform(0.02, 0.6))
    coat = rng.choice(
        [
            (0.02, 0.02, 0.025),
            (0.03, 0.04, 0.08),
            (0.10, 0.09, 0.07),
            bright,
            bright,
            (0.3, 0.05, 0.05),
            (0.5, 0.48, 0.44),
            (0.14, 0.16, 0.10),
        ]
    )
    return Look(
        height=rng.gauss(1.66 if woman else 1.77, 0.06),
        build=rng.uniform(0.9, 1.2),
        coat=coat,
        trousers=rng.choice(
            [
                (0.02, 0.02, 0.03),
                (0.04, 0.06, 0.13),
                (0.07, 0.06, 0.05),
                (0.25, 0.21, 0.15),
                (0.1, 0.14, 0.24),
            ]
        ),
        shoes=rng.choice([(0.02, 0.02, 0.02), (0.08, 0.04, 0.02), (0.5, 0.5, 0.5)]),
        skin=rng.choice(
            [(0.55, 0.32, 0.22), (0.6, 0.38, 0.28), (0.32, 0.17, 0.1), (0.14, 0.07, 0.04)]
        ),
        hair=rng.choice(
            [(0.01, 0.008, 0.006), (0.06, 0.03, 0.015), (0.3, 0.2, 0.08), (0.3, 0.29, 0.28)]
        ),
        skirt=woman and rng.random() < 0.3,
        long_coat=rng.random() < 0.35,
        long_hair=woman and rng.random() < 0.7,
        bag=rng.choice(["", "", "backpack", "shoulder"]),
        helmet=rng.random() < 0.6,
    )


def _limb(
    g: Geometry,
    a: np.ndarray,
    b: np.ndarray,
    thick: float,
    thin: float,
    material: str,
    color: Color,
) -> None:
    """A limb from joint a to joint b, fuller in its upper third."""
    t = np.array([-0.04, 0.0, 0.3, 0.75, 1.0, 1.04])
    r = np.array([0.55, 0.95, 1.0, 0.85, 0.75, 0.4])
    r *= thick + (thin - thick) * t.clip(0, 1)
    g.tube(a + (b - a) * t[:, None], r, material, color, sides=8)


def _knee(
    hip: np.ndarray, foot: np.ndarray, upper: float, lower: float, ahead: float
) -> np.ndarray:
    """The joint between two bones of given lengths, bent towards +x (`ahead` > 0) or -x."""
    along = foot - hip
    distance = min(float(np.linalg.norm(along)), (upper + lower) * 0.999)
    along = along / (np.linalg.norm(along) + 1e-9)
    a = (upper**2 - lower**2 + distance**2) / (2 * distance)
    out = np.array([1.0, 0.0, 0.0]) * ahead
    out = out - (out @ along) * along
    out /= np.linalg.norm(out) + 1e-9
    return np.asarray(hip + along * a + out * math.sqrt(max(0.0, upper**2 - a**2)))


def _head(g: Geometry, at: np.ndarray, k: float, who: Look, helmet: bool) -> None:
    """`at` is the base of the neck, `k` the person's size over 1.75 m."""
    g.tube(
        np.array([at - [0, 0, 0.03], at + np.array([0.02, 0, 0.12]) * k]),
        np.array([0.06, 0.052]) * k,
        "skin",
        who.skin,
    )
    center = at + np.array([0.03, 0, 0.20]) * k
    g.ellipsoid(tuple(center), (0.095 * k, 0.075 * k, 0.125 * k), "skin", who.skin)
    g.ellipsoid(
        tuple(center + np.array([0.09, 0, -0.015]) * k),
        (0.02 * k, 0.014 * k, 0.025 * k),
        "skin",
        who.skin,
        sides=6,
    )
    if helmet:
        red, green, blue = (min(0.8, 0.1 + 2 * c) for c in who.coat)
        g.ellipsoid(
            tuple(center + np.array([-0.01, 0, 0.065]) * k),
            (0.135 * k, 0.1 * k, 0.09 * k),
            "paint",
            (red, green, blue),
        )
        return
    g.ellipsoid(
        tuple(center + np.array([-0.038, 0, 0.045]) * k),
        (0.09 * k, 0.083 * k, 0.1 * k),
        "cloth",
        who.hair,
    )
    if who.long_hair:
        g.tube(
            center + np.array([(-0.06, 0, 0.05), (-0.085, 0, -0.06), (-0.09, 0, -0.2)]) * k,
            np.array([(0.085, 0.06), (0.09, 0.05), (0.06, 0.03)]) * k,
            "cloth",
            who.hair,
        )


def _torso(g: Geometry, hips: np.ndarray, neck: np.ndarray, k: float, who: Look) -> None:
    wide, deep = 1.0 * who.build, (0.6 + 0.25 * who.build)
    steps = np.array([-0.12, 0.0, 0.22, 0.48, 0.75, 0.90, 1.0, 1.04])
    width = np.array([0.15, 0.17, 0.155, 0.165, 0.185, 0.18, 0.11, 0.05])
    depth = np.array([0.11, 0.12, 0.115, 0.13, 0.13, 0.11, 0.08, 0.04])
    radii = np.stack([width * wide, depth * deep], 1) * k
    g.tube(hips + (neck - hips) * steps[:, None], radii, "cloth", who.coat, sides=14)


def _arm(g: Geometry, shoulder: np.ndarray, hand: np.ndarray, k: float, who: Look) -> None:
    g.ellipsoid(
        tuple(shoulder + np.array([0, 0, 0.005])),
        (0.075 * k, 0.075 * k * who.build, 0.075 * k),
        "cloth",
        who.coat,
    )
    elbow = _knee(shoulder, hand, 0.29 * k, 0.26 * k, -1.0)
    _limb(g, shoulder, elbow, 0.062 * k * who.build, 0.05 * k, "cloth", who.coat)
    _limb(g, elbow, hand, 0.052 * k, 0.038 * k, "cloth", who.coat)
    g.ellipsoid(
        tuple(hand + np.array([0.0, 0, -0.05]) * k),
        (0.04 * k, 0.025 * k, 0.06 * k),
        "skin",
        who.skin,
        sides=8,
    )


def _leg(g: Geometry, hip: np.ndarray, ankle: np.ndarray, k: float, who: Look, toe: float) -> None:
    knee = _knee(hip, ankle, 0.44 * k, 0.43 * k, 1.0)
    bare = who.skirt
    _limb(g, hip, knee, 0.095 * k * who.build, 0.068 * k, "cloth", who.trousers)
    _limb(
        g,
        knee,
        ankle,
        0.062 * k,
        0.045 * k,
        "skin" if bare else "cloth",
        who.skin if bare else who.trousers,
    )
    foot = np.array([(-0.07, 0, -0.035), (0.03, 0, -0.04), (0.12, 0, -0.055), (0.19, 0, -0.06)]) * k
    c, s = math.cos(toe), math.sin(toe)
    foot = foot @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    g.tube(
        ankle + foot,
        np.array([(0.036, 0.04), (0.046, 0.045), (0.05, 0.032), (0.035, 0.018)]) * k,
        "cloth",
        who.shoes,
    )


def pedestrian(seed: int, phase: int, standing: bool = False) -> Model:
    """A person in one of `PHASES` poses of a step, or standing."""
    who = look(seed)
    k = who.height / 1.75
    g = Geometry()
    cycle = 2 * math.pi * phase / PHASES
    swing = 0.0 if standing else 0.33 * k
    hips = np.array([0.0, 0.0, (0.93 if standing else 0.915) * k + 0.012 * math.cos(2 * cycle)])
    neck = hips + np.array([0.03, 0, 0.53]) * k
    for sign in (1, -1):
        a = cycle + (0 if sign > 0 else math.pi)
        lift = max(0.0, math.cos(a)) * 0.10 * k * (0 if standing else 1)
        ankle = np.array([math.sin(a) * swing, sign * 0.085 * k, 0.085 * k + lift])
        toe = 0.0 if standing else -0.45 * math.sin(a)
        _leg(g, hips + np.array([0, sign * 0.085 * k, 0]), ankle, k, who, toe)
        shoulder = neck + np.array([-0.01, sign * 0.165 * who.build, -0.06]) * k
        hand = (
            shoulder
            + np.array(
                [
                    -math.sin(a) * (0.25 if not standing else 0.03) + 0.06,
                    sign * 0.05,
                    -0.48 + 0.05 * abs(math.sin(a)),
                ]
            )
            * k
        )
        _arm(g, shoulder, hand, k, who)
    _torso(g, hips, neck, k, who)
    if who.skirt or who.long_coat:
        color = who.trousers if who.skirt else who.coat
        length = 0.42 if who.skirt else 0.36
        points = hips + np.array([(0, 0, 0.08), (0, 0, -0.1), (0, 0, -length)]) * k
        flare = 0.17 + (0.06 if not standing else 0.0)
        g.tube(
            points,
            np.array([(0.16, 0.12), (0.175, 0.135), (0.19, flare)]) * k,
            "cloth",
            color,
            sides=12,
        )
    _head(g, neck, k, who, helmet=False)
    if who.bag == "backpack":
        center = (hips + neck) / 2 + np.array([-0.19, 0, 0.06]) * k
        g.ellipsoid(tuple(center), (0.11, 0.15, 0.22), "cloth", who.shoes)
    elif who.bag == "shoulder":
        center = hips + np.array([0.0, 0.24, 0.0]) * k
        g.box(
            tuple(center - [0.15, 0.04, 0.14]),
            tuple(center + np.array([0.15, 0.04, 0.1])),
            "cloth",
            (0.1, 0.05, 0.03),
        )
    return [Part(Label.PEDESTRIAN, g)]


def _bicycle(g: Geometry, frame: Color, cycle: float) -> np.ndarray:
    """Wheels, frame, bars and cranks; returns the two pedals' positions (2, 3)."""
    r = 0.34
    rear, front = np.array([-0.53, 0, r]), np.array([0.53, 0, r])
    bottom, seat = np.array([-0.08, 0, 0.29]), np.array([-0.22, 0, 0.84])
    head, bars = np.array([0.38, 0, 0.78]), np.array([0.36, 0, 0.98])
    for hub in (rear, front):
        rim = Geometry()
        rim.lathe(
            np.array(
                [
                    (r, 0.0),
                    (r - 0.012, 0.02),
                    (r - 0.045, 0.014),
                    (r - 0.045, -0.014),
                    (r - 0.012, -0.02),
                    (r, 0.0),
                ]
            ),
            "rubber",
            (0.02, 0.02, 0.02),
            28,
        )
        g.extend(rim, move=tuple(hub))
        for k in range(14):
            angle = math.pi * 2 * k / 14 + cycle
            g.cylinder(
                tuple(hub),
                tuple(hub + np.array([math.cos(angle), 0, math.sin(angle)]) * (r - 0.03)),
                0.003,
                "metal",
                (0.5, 0.5, 0.5),
                sides=3,
            )
    for a, b, radius in (
        (bottom, seat, 0.018),
        (seat, head, 0.018),
        (bottom, head, 0.022),
        (bottom, rear, 0.012),
        (rear, seat, 0.011),
        (head, front, 0.016),
        (head, bars, 0.015),
    ):
        g.cylinder(tuple(a), tuple(b), radius, "paint", frame, sides=6)
    g.tube(
        bars
        + np.array([(-0.12, 0.27, 0), (0.02, 0.2, 0.01), (0.02, -0.2, 0.01), (-0.12, -0.27, 0)]),
        np.full(4, 0.014),
        "metal",
        (0.2, 0.2, 0.2),
        6,
    )
    g.tube(
        seat + np.array([(-0.14, 0, 0.06), (0.0, 0, 0.07), (0.14, 0, 0.06)]),
        np.array([(0.08, 0.03), (0.06, 0.03), (0.02, 0.02)]),
        "trim",
        (0.02, 0.02, 0.02),
    )
    for x in (-0.55, 0.55):  # mudguards
        arc = np.linspace(0.5, 2.6, 7)
        center = np.array([x, 0, r])
        g.tube(
            center + np.stack([np.cos(arc), 0 * arc, np.sin(arc)], 1) * (r + 0.03),
            np.full(7, 0.022),
            "paint",
            frame,
            sides=5,
        )
    pedals = []
    for sign in (1, -1):
        angle = cycle + (0 if sign > 0 else math.pi)
        turn = np.array([math.cos(angle) * 0.17, sign * 0.12, -math.sin(angle) * 0.17])
        pedal = bottom + turn
        g.cylinder(
            tuple(bottom + np.array([0, sign * 0.06, 0])),
            tuple(pedal - [0, sign * 0.05, 0]),
            0.01,
            "metal",
            (0.4, 0.4, 0.4),
            sides=5,
        )
        pedals.append(pedal)
    return np.array(pedals)


def cyclist(seed: int, phase: int) -> Model:
    """A rider on a bicycle, in one of `PHASES` poses of the pedals."""
    who = look(seed + 7919)
    rng = random.Random(seed)
    k = who.height / 1.75
    g = Geometry()
    cycle = 2 * math.pi * phase / PHASES
    frame = rng.choice(
        [
            (0.02, 0.02, 0.02),
            (0.35, 0.02, 0.02),
            (0.02, 0.08, 0.3),
            (0.5, 0.5, 0.5),
            (0.02, 0.2, 0.08),
            (0.55, 0.3, 0.02),
        ]
    )
    pedals = _bicycle(g, frame, cycle)
    hips = np.array([-0.24, 0, 0.97])
    neck = hips + np.array([0.28 + 0.12 * rng.random(), 0, 0.46]) * k
    for sign, pedal in zip((1, -1), pedals, strict=True):
        ankle = pedal + np.array([-0.05, -sign * 0.02, 0.08])
        _leg(g, hips + np.array([0, sign * 0.08, 0]), ankle, k, who, 0.0)
        shoulder = neck + np.array([0.0, sign * 0.18 * who.build, -0.06]) * k
        _arm(g, shoulder, np.array([0.28, sign * 0.25, 1.02]), k, who)
    _torso(g, hips, neck, k, who)
    _head(g, neck, k, who, helmet=who.helmet)
    if who.bag == "backpack":
        center = (hips + neck) / 2 + np.array([-0.2, 0, 0.12])
        g.ellipsoid(tuple(center), (0.12, 0.15, 0.2), "cloth", who.shoes)
    return [Part(Label.BICYCLIST, g)]
