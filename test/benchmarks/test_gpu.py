# SPDX-License-Identifier: Apache-2.0
"""`benchmarks.gpu` when parts fail, hang, are killed, or have no time or GPU."""

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Part, run_all, summary

MEASURES = """
import json, sys, time
path = sys.argv[sys.argv.index("--result") + 1]
json.dump({"rows": [{"what": "kernel"}]}, open(path, "w"))
print("measured", flush=True)
"""


def part(name, code, limit_s=20.0, **fields):
    return Part(name, limit_s, ("-c", code), **fields)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run parts and return the document on disk."""
    monkeypatch.setattr(gpu, "END_S", 0.5)

    def go(*parts, minutes=5.0, no_gpu="", rehearse=False):
        monkeypatch.setattr(gpu, "missing_gpu", lambda: no_gpu)
        document = {"rehearsal": rehearse, "minutes": minutes, "parts": {}}
        with (tmp_path / "gpu.log").open("w") as log:
            run_all(parts, document, tmp_path / "gpu.json", log)
        assert json.loads((tmp_path / "gpu.json").read_text()) == document
        return document

    return go


def test_a_failed_part_keeps_its_measurements_and_its_output(run, tmp_path):
    document = run(
        part("first", MEASURES + "raise RuntimeError('exact words')"), part("second", MEASURES)
    )
    first = document["parts"]["first"]
    assert first["status"] == "failed with status 1"
    assert "RuntimeError: exact words" in first["output_tail"]
    assert first["result"]["rows"][0]["what"] == "kernel"
    assert document["parts"]["second"]["status"] == "ok"
    assert "output_tail" not in document["parts"]["second"]
    assert "exact words" in (tmp_path / "gpu.log").read_text()


def test_a_hanging_part_is_ended_with_its_children_and_keeps_its_measurements(run, tmp_path):
    child = tmp_path / "pid"
    code = (
        MEASURES + "import subprocess\n"
        f"p = subprocess.Popen(['sleep', '60']); open({str(child)!r}, 'w').write(str(p.pid))\n"
        "time.sleep(60)"
    )
    begin = time.monotonic()
    document = run(part("hangs", code, limit_s=3.0), part("next", MEASURES))
    assert time.monotonic() - begin < 30
    assert document["parts"]["hangs"]["status"] == "timed out"
    assert document["parts"]["hangs"]["result"]["rows"]
    assert document["parts"]["next"]["status"] == "ok"
    state = ""
    for _ in range(50):  # until its new parent has reaped it
        try:
            stat = Path("/proc", child.read_text(), "stat").read_text()
            state = stat.split(")")[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            state = "gone"
        if state in ("Z", "gone"):
            break
        time.sleep(0.1)
    assert state in ("Z", "gone")


def test_a_part_that_is_killed_or_leaves_half_a_file_is_said(run):
    document = run(
        part("killed", "import os; print('last'); os.abort()"),
        part("half", MEASURES + "open(path, 'w').write('{')"),
    )
    assert document["parts"]["killed"]["status"] == "ended by signal 6"
    assert "result" not in document["parts"]["killed"]
    assert "result" not in document["parts"]["half"]


def test_parts_share_the_time_and_do_not_start_without_any(run):
    document = run(
        part("slow", "import time; time.sleep(60)"), part("late", MEASURES), minutes=0.05
    )
    assert document["parts"]["slow"]["status"] == "timed out"
    assert document["parts"]["slow"]["limit_s"] < 3.0
    assert document["parts"]["late"]["status"] == "not run"
    assert "no time left" in document["parts"]["late"]["reason"]


def test_without_a_gpu_nothing_runs_and_the_reason_is_written(run):
    document = run(part("one", MEASURES), part("two", MEASURES), no_gpu="no GPU: why")
    found = document["parts"].values()
    assert [p["status"] for p in found] == ["not run"] * 2
    assert all(p["reason"] == "no GPU: why" for p in found)


def test_a_rehearsal_needs_no_gpu_and_no_tool(run):
    checker = part("checker", MEASURES, tool="compute-sanitizer")
    document = run(part("one", MEASURES), checker, no_gpu="none", rehearse=True)
    assert document["parts"]["one"]["status"] == "ok"
    assert document["parts"]["checker"] == {"status": "skipped", "reason": "rehearsal"}
    missing = run(part("checker", MEASURES, tool="sfseg-no-such-tool"))
    assert "not on the PATH" in missing["parts"]["checker"]["reason"]


def test_tests_count_by_their_status_and_their_output_is_kept(run):
    tests = part("tests", "print('3 failed'); raise SystemExit(1)", measures=False)
    document = run(tests)
    assert document["parts"]["tests"]["status"] == "failed with status 1"
    assert document["parts"]["tests"]["output_tail"].strip() == "3 failed"


def test_the_summary_names_parts_and_reasons(run):
    document = run(part("one", MEASURES), part("two", "raise SystemExit(2)"))
    document["parts"]["one"]["result"]["not_measured"] = [{"what": "x", "reason": "because"}]
    lines = summary(document)
    assert "one: ok" in lines[2]
    assert "  not measured: x: 'because'" in lines
    assert any(line.startswith("two: failed with status 2") for line in lines)


def test_all_limits_fit_into_the_command_and_names_are_unique():
    """Each limit is for the worst case; together they may exceed the time by half."""
    names = [p.name for p in gpu.PARTS]
    assert len(set(names)) == len(names)
    assert sum(p.limit_s for p in gpu.PARTS) < 1.7 * 570
    assert max(p.limit_s for p in gpu.PARTS) < 200


def test_the_command_line(monkeypatch, tmp_path):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["gpu", "--only", "kernels", "--minutes", "2"])
    arguments = gpu.parsed()
    assert arguments.output == tmp_path
    assert (arguments.only, arguments.minutes) == (["kernels"], 2.0)
    monkeypatch.delenv("OUT")
    assert gpu.parsed().output == Path("build/gpu")
    monkeypatch.setattr(sys, "argv", ["gpu", "--only", "nothing"])
    with pytest.raises(SystemExit):
        gpu.parsed()
