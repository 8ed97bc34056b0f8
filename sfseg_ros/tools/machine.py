# SPDX-License-Identifier: Apache-2.0
"""Facts about this machine, which every measurement records."""

import os
import platform
import shutil
import subprocess
from datetime import datetime
from importlib import metadata
from pathlib import Path


def machine_facts() -> list[tuple[str, str]]:
    """Return (name, text) rows: processor, software versions, commit and time."""
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
    """Commit of the source tree, with "-dirty" if files are changed; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    if shutil.which("git") is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
