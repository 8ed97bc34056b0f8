# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.gpu: every GPU test and benchmark, in ten minutes, on a bare machine.

Each part is a process with its own time limit. OUTPUT/gpu.json is written after every part with its
results and the exact text of its errors; a part that fails, hangs or is killed loses only its own
numbers. OUTPUT/gpu.log has the complete output. benchmarks/README.md describes the parts;
`--rehearse` runs all of them without a GPU.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent
FORMAT = 1
TAIL_CHARACTERS = 6000
END_S = 8.0
"""Seconds kept for the final report, and seconds between ending and killing a part."""


@dataclass(frozen=True)
class Part:
    """A part of the benchmark. `arguments` follow `python`. A part that `measures` takes --result,
    --seconds and --rehearse; otherwise only its exit status counts. `tool` is a required
    program."""

    name: str
    limit_s: float
    arguments: tuple[str, ...]
    measures: bool = True
    tool: str = ""


def _tests(*arguments: str) -> tuple[str, ...]:
    options = ("-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    return ("-m", "pytest", *options, "--durations=5", *arguments)


# The most important parts come first, cheap ones before others.
PARTS = (
    Part("machine", 60, ("-m", "benchmarks.gpu_machine")),
    # Not all of test/: parts of it cannot be collected without ROS.
    Part("tests", 150, _tests("test/gpu", "test/backends", "test/kernels"), measures=False),
    Part("kernels", 170, ("-m", "benchmarks.gpu_kernels")),
    Part("end_to_end", 110, ("-m", "benchmarks.gpu_networks", "end_to_end")),
    Part("network_batch_1", 150, ("-m", "benchmarks.gpu_networks", "network")),
    Part("tensorrt", 60, ("-m", "benchmarks.gpu_tensorrt")),
    Part("network_batch_4", 150, ("-m", "benchmarks.gpu_networks", "network", "--batch", "4")),
    Part(
        "memory_checker",
        90,
        _tests("test/gpu/test_kernels.py", "-k", "checker", "-x"),
        measures=False,
        tool="compute-sanitizer",
    ),
)


def main() -> int:
    arguments = parsed()
    arguments.output.mkdir(parents=True, exist_ok=True)
    # nvcc and compute-sanitizer may be missing from the PATH of a bare machine.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    parts = [part for part in PARTS if not arguments.only or part.name in arguments.only]
    document: dict[str, Any] = {
        "format": FORMAT,
        "command": " ".join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        "rehearsal": arguments.rehearse,
        "minutes": arguments.minutes,
        "parts": {},
    }
    with (arguments.output / "gpu.log").open("w", encoding="utf-8") as log:
        run_all(parts, document, arguments.output / "gpu.json", log)
    print("\n".join(summary(document)), flush=True)
    well = ("ok", "skipped")
    return 0 if all(part["status"] in well for part in document["parts"].values()) else 1


def run_all(parts: Sequence[Part], document: dict[str, Any], path: Path, log: TextIO) -> None:
    """Run the parts in order. Writes the document to disk after each."""
    deadline = time.monotonic() + 60 * document["minutes"]
    no_gpu = "" if document["rehearsal"] else missing_gpu()
    for part in parts:
        left = deadline - time.monotonic() - END_S
        reason = no_gpu
        if not reason and left < END_S:
            reason = f"no time left of {document['minutes']:g} minutes"
        if reason:
            document["parts"][part.name] = {"status": "not run", "reason": reason}
        elif lacking := missing_tool(part, document["rehearsal"]):
            document["parts"][part.name] = {"status": "skipped", "reason": lacking}
        else:
            _say(f"--- {part.name}", log)
            document["parts"][part.name] = run(part, min(part.limit_s, left), document, log)
        write(document, path)


def run(part: Part, limit_s: float, document: dict[str, Any], log: TextIO) -> dict[str, Any]:
    """Run one part in a child process. Returns status, seconds, its measurements and, if it failed,
    the end of its output."""
    rehearse = document["rehearsal"]
    with tempfile.TemporaryDirectory(prefix="sfseg_gpu_") as name:
        result = Path(name) / "result.json"
        command = [sys.executable, *part.arguments]
        if part.tool:
            command = [part.tool, "--error-exitcode", "9", *command]
        if part.measures:
            command += ["--result", str(result), "--seconds", f"{max(limit_s - END_S, 1):.0f}"]
            command += ["--rehearse"] if rehearse else []
        begin = time.monotonic()
        status, output = _run(command, limit_s, log)
        row: dict[str, Any] = {
            "status": _word(status),
            "seconds": round(time.monotonic() - begin, 1),
            "limit_s": round(limit_s, 1),
            "command": " ".join(["python", *part.arguments]),
        }
        if row["status"] != "ok" or not part.measures:
            row["output_tail"] = output[-TAIL_CHARACTERS:]
        with contextlib.suppress(OSError, ValueError):  # it ended before it had found anything
            row["result"] = json.loads(result.read_text(encoding="utf-8"))
    return row


def _run(command: list[str], limit_s: float, log: TextIO) -> tuple[int | None, str]:
    """Return (exit status or None after a timeout, output). Its children end with it."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), environment.get("PYTHONPATH", "")])
    )
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status: int | None = None
        try:
            status = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            print(f"ended after {limit_s:.0f} s", flush=True)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        output.seek(0)
        text = output.read()
    _say(text.rstrip(), log)
    return status, text


def _word(status: int | None) -> str:
    if status is None:
        return "timed out"
    if status == 0:
        return "ok"
    return f"ended by signal {-status}" if status < 0 else f"failed with status {status}"


def missing_gpu() -> str:
    """Return why nothing can run here, or "" if there is a GPU."""
    code = "import torch; torch.zeros(1, device='cuda'); torch.cuda.synchronize()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 0:
        return ""
    return f"no GPU that torch can use: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"


def missing_tool(part: Part, rehearse: bool) -> str:
    if part.tool and rehearse:
        return "rehearsal"
    missing = part.tool and shutil.which(part.tool) is None
    return f"{part.tool} is not on the PATH" if missing else ""


def write(document: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def summary(document: dict[str, Any]) -> list[str]:
    """Return a short table for the end of the output."""
    lines = ["", "=== parts"]
    for name, part in document["parts"].items():
        seconds = f"{part['seconds']:.0f} s" if "seconds" in part else part["reason"]
        lines.append(f"{name}: {part['status']}, {seconds}")
        missed = part.get("result", {}).get("not_measured", [])
        lines += [f"  not measured: {m['what']}: {m['reason'][:160]!r}" for m in missed]
    return lines


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("OUT") or "build/gpu"))
    parser.add_argument("--minutes", type=float, default=9.5, help="for all parts together")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], default=[])
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the processor")
    return parser.parse_args()


def _say(text: str, log: TextIO) -> None:
    print(text, flush=True)
    log.write(text + "\n")
    log.flush()


if __name__ == "__main__":
    sys.exit(main())
