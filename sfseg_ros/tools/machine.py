# SPDX-License-Identifier: Apache-2.0
"""What a measurement was made on: a number without it means nothing."""

import os
import platform
import shutil
import subprocess
from datetime import datetime
from importlib import metadata
from pathlib import Path


def machine_facts() -> list[tuple[str, str]]:
    """Processor, software versions, commit and time, for the report."""
    cores = len(os.sched_getaffinity(0))
    libraries = [
        f"{name} {version}"
        for name in ("openvino", "onnxruntime", "numpy", "ros-rclpy")
        if (version := _version(name)) is not None
    ]
    facts = [
        ("processor", f"{_processor()}, {cores} core{'s' if cores > 1 else ''}"),
        ("software", f"Python {platform.python_version()}, {', '.join(libraries)}"),
    ]
    if commit := _commit():
        facts.append(("commit", commit))
    facts.append(("time", datetime.now().astimezone().isoformat(" ", "seconds")))
    return facts


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str | None:
    """Short hash of the source tree, marked where files were changed; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    if shutil.which("git") is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
