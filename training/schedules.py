# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules as factors of the base rate, by step."""

from __future__ import annotations


def poly(step: int, total: int, power: float = 0.9, warmup: int = 0) -> float:
    """(1 - step/total)^power, after a linear warm-up of `warmup` steps. Paper: SFNet section
    4.1."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return float(rise * (1.0 - min(step, total) / total) ** power)
