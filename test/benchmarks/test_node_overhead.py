# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from benchmarks.node_overhead import CASES, Case, InstantBackend, breaches, percentiles

MASK = next(case for case in CASES if case.limited)


@pytest.mark.parametrize(
    ("p50", "p99", "broken"), [(2.9, 5.9, []), (3.1, 5.9, ["p50"]), (4.0, 7.0, ["p50", "p99"])]
)
def test_a_limit_that_is_exceeded_is_named(p50, p99, broken):
    found = breaches(MASK, {"added_ms": {"p50": p50, "p95": 5.0, "p99": p99}})
    assert [line.split(": ")[1].split()[0] for line in found] == broken


def test_an_idle_node_may_take_2_percent_of_a_processor():
    idle = Case("idle", 0, ())
    assert breaches(idle, {"cpu_percent": 1.9}) == []
    assert "limit 2 %" in breaches(idle, {"cpu_percent": 2.0})[0]


def test_the_instant_backend_answers_in_the_shape_of_a_real_one():
    backend = InstantBackend()
    labels, confidence = backend.infer(np.zeros((2, 8, 16, 3), np.uint8), confidence=True)
    assert labels.shape == confidence.shape == (2, 8, 16)
    assert labels.dtype == np.uint8
    assert backend.infer(np.zeros((2, 8, 16, 3), np.uint8), confidence=False)[1] is None


def test_percentiles_are_those_of_numpy():
    assert percentiles(np.arange(101.0)) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
