# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.imaging: conversion between message bytes and arrays, ours and cv_bridge's.

cv_bridge cannot be installed from PyPI, so this file repeats the numpy and OpenCV calls of its
Python code (cv_bridge/core.py): `imgmsg_to_cv2` converts, or copies if the encoding is already
right; `cv2_to_imgmsg` does `array.frombytes(picture.tobytes())`. Both variants take turns in one
process. Writes benchmarks/imaging.json.
"""

import argparse
import json
import os
import statistics
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from sfseg_ros.imaging import Uint8Array, picture_from_buffer
from sfseg_ros.tools.machine import machine_facts

SIZES = ((480, 640), (1080, 1920))
CONVERSIONS = {"rgb8": None, "bgr8": cv2.COLOR_BGR2RGB, "bayer_rggb8": cv2.COLOR_BayerBG2RGB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for height, width in SIZES:
        for encoding in CONVERSIONS:
            pair = take_pair(encoding, height, width)
            rows.append(measured(f"take {encoding} {height}x{width}", pair, arguments.repeats))
        for channels, encoding in ((1, "mono8"), (3, "rgb8")):
            pair = publish_pair(height, width, channels)
            rows.append(measured(f"publish {encoding} {height}x{width}", pair, arguments.repeats))
    document = {
        "command": "python -m benchmarks.imaging",
        "machine": dict(machine_facts()),
        "load_average": os.getloadavg()[0],
        "unit": "ms, one thread; minimum and median",
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        ours, cv_bridge = row["ours"][1], row["cv_bridge"][1]
        print(f"{row['what']:28} ours {ours:7.3f}  cv_bridge style {cv_bridge:7.3f}")


def take_pair(encoding: str, height: int, width: int) -> dict[str, Callable[[], object]]:
    """From the bytes of a message to an RGB array."""
    step = width * (1 if encoding.startswith("bayer") else 3)
    data = array("B", np.random.default_rng(0).bytes(step * height))
    shape = (height, width) if step == width else (height, width, 3)

    def cv_bridge_style() -> Uint8Array:
        view = np.ascontiguousarray(np.ndarray(shape, np.uint8, buffer=data))
        code = CONVERSIONS[encoding]
        return view.copy() if code is None else np.asarray(cv2.cvtColor(view, code), np.uint8)

    return {
        "ours": lambda: picture_from_buffer(data, encoding, height, width, step).rgb,
        "cv_bridge": cv_bridge_style,
    }


def publish_pair(height: int, width: int, channels: int) -> dict[str, Callable[[], object]]:
    """From an array to the buffer of a message; the middleware's own copy adds to both."""
    picture = np.zeros((height, width, channels), np.uint8)

    def cv_bridge_style() -> object:
        data = array("B")
        data.frombytes(picture.tobytes())
        return data

    # As nodes/messages.py: the conversion to C reads the array through the buffer protocol.
    def ours() -> object:
        return memoryview(picture).cast("B")  # type: ignore[arg-type]

    return {"ours": ours, "cv_bridge": cv_bridge_style}


def measured(
    what: str, pair: dict[str, Callable[[], object]], repeats: int
) -> dict[str, str | list[float]]:
    """Return minimum and median in ms of each variant; they take turns under the same load."""
    times: dict[str, list[float]] = {name: [] for name in pair}
    for _ in range(repeats):
        for name, way in pair.items():
            start = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - start) * 1e3)
    row: dict[str, str | list[float]] = {"what": what}
    for name, values in times.items():
        row[name] = [round(min(values), 4), round(statistics.median(values), 4)]
    return row


if __name__ == "__main__":
    main()
