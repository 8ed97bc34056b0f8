# SPDX-License-Identifier: Apache-2.0
import pytest

from training.schedules import poly


def test_poly_falls_from_one_to_zero() -> None:
    factors = [poly(step, 100) for step in range(101)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(0.5**0.9)
    assert factors[100] == 0.0
    assert factors == sorted(factors, reverse=True)


def test_warm_up_rises_linearly() -> None:
    assert [poly(s, 10**9, warmup=4) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
