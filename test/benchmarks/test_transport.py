# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import asdict

import pytest

from benchmarks.transport import Case, begun, cases, markdown, remaining

MACHINE = {"processor": "one", "software": "two", "commit": "three", "time": "now"}


@pytest.fixture
def document():
    return {"command": "c", "machine": dict(MACHINE), "results": []}


def row(case, arrived=9):
    ages = {"age_p50_ms": 1.0, "age_p95_ms": 2.0, "age_p99_ms": 3.0}
    return {**asdict(case), "sent": 10, "arrived": arrived} | (ages if arrived else {})


def test_a_case_that_was_measured_is_not_measured_again(document):
    wanted = cases(["480x640"], [10.0])
    document["results"] = json.loads(json.dumps([row(wanted[0]), row(wanted[2])]))
    assert remaining(document, wanted) == [wanted[1], *wanted[3:]]


def test_the_file_of_the_same_commit_and_command_goes_on(document, tmp_path):
    file = tmp_path / "transport.json"
    before = document | {"results": [row(cases()[0])]}
    file.write_text(json.dumps(before))
    assert begun(file, document)["results"] == before["results"]
    assert begun(file, document | {"command": "other"})["results"] == []
    other = document | {"machine": MACHINE | {"commit": "four"}}
    assert begun(file, other)["results"] == []
    assert begun(tmp_path / "none.json", document) is document


def test_the_table_has_a_line_for_each_size_and_rate_and_a_cell_for_each_transport(document):
    document["results"] = [row(case) for case in cases(["480x640"], [10.0, 30.0])]
    document["results"][0] = row(Case("480x640", 10.0, "raw", False, "reliable"), arrived=0)
    lines = markdown(document).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 480x640 | 10 Hz | 0 % | 90 %, 1.0 / 3.0 |")
