# SPDX-License-Identifier: Apache-2.0
"""The street of a town, and the types of its plan.

Everything along the road is placed in street coordinates: `s` metres along the centre line,
`d` metres to the left of it. `Street.locate` turns them into world metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from training.rendered_town.weather import Light

Side = int  # +1: left of the centre line, -1: right

KERB = 0.12  # m, height of the pavement over the road
CORNER = 3.5  # m, radius of the kerb at a crossing


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
class Town:
    """A street with everything that does not move."""

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


def in_crossing(town: Town, side: Side, s: float, margin: float) -> Crossing | None:
    for crossing in town.crossings:
        if side in crossing.sides and abs(s - crossing.s) < crossing.width / 2 + margin:
            return crossing
    return None


def facing_road(side: Side) -> float:
    """Returns the yaw of an object whose -y side faces the road."""
    return 0.0 if side > 0 else math.pi
