# SPDX-License-Identifier: Apache-2.0
import pytest

from training.schedules import cosine, poly


def test_poly_falls_from_one_to_zero() -> None:
    factors = [poly(step, 100) for step in range(101)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(0.5**0.9)
    assert factors[100] == 0.0
    assert factors == sorted(factors, reverse=True)


def test_warm_up_rises_linearly() -> None:
    assert [poly(s, 10**9, warmup=4) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_cosine_falls_from_one_over_a_half_to_zero() -> None:
    factors = [cosine(step, 100) for step in range(102)]
    assert factors[0] == 1.0
    assert factors[25] == pytest.approx(0.5 + 0.5 * 0.5**0.5)
    assert factors[50] == pytest.approx(0.5)
    assert factors[100] == factors[101] == 0.0
    assert factors == sorted(factors, reverse=True)
    assert [cosine(s, 10**9, warmup=2) for s in range(3)] == pytest.approx([0.5, 1, 1])
