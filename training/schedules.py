# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules: factors of the base rate by step."""

from __future__ import annotations

import math


def poly(step: int, total: int, power: float = 0.9, warmup: int = 0) -> float:
    """Returns (1 - step/total)^power, after a linear warm-up. Paper: SFNet section 4.1."""
    return float(_rise(step, warmup) * (1.0 - min(step, total) / total) ** power)


def cosine(step: int, total: int, warmup: int = 0) -> float:
    """Returns half a cosine from 1 to 0, after a linear warm-up. Paper: ESeg section 4.1."""
    return _rise(step, warmup) * 0.5 * (1.0 + math.cos(math.pi * min(step, total) / total))


def two_drops(step: int, total: int, warmup: int = 0) -> float:
    """Returns 1, 0.1 from 9/12 of the run and 0.01 from 11/12, after a linear warm-up.

    Source: the code of K-Net's authors.
    """
    return _rise(step, warmup) * 0.1 ** ((12 * step >= 9 * total) + (12 * step >= 11 * total))


def _rise(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0
