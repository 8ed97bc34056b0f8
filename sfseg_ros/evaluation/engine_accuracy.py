# SPDX-License-Identifier: Apache-2.0
"""Measure what a precision costs: compare a candidate's labels with those of the fp32 network in
ONNX Runtime, and with ground truth if the pictures have it.

With a GPU the candidate is the engine. Without one it is the engine's graph with emulated rounding
(`precision.emulated`), which measures the cost of the types but not of TensorRT's or our kernels.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from sfseg_ros.backends.tensorrt.calibration import run, session_of
from sfseg_ros.backends.tensorrt.precision import emulated
from sfseg_ros.errors import BackendError, BagError
from sfseg_ros.evaluation.metrics import ConfusionMatrix
from sfseg_ros.imaging import Uint8Array, resized_labels, resized_rgb
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.recordings.pictures import LabelledPicture

# uint8 (1, H, W, 3) RGB -> uint8 (1, H, W) labels
Labeller = Callable[[Uint8Array], Uint8Array]

MIN_AGREEMENT = {"fp32": 0.999, "fp16": 0.995, "bf16": 0.99, "int8": 0.98, "fp8": 0.98}
"""Minimum share of pixels with the label of fp32. A broken engine (wrong scale, flow in half
precision, swapped axis) loses tens of percent; a sound one differs at the borders of classes,
where two scores are nearly equal. On CamVid's test pictures the shipped model's graph keeps 99.98 %
in fp16, 99.83 % in bf16, 99.4 % in int8 and 99.2 % in fp8; the thresholds allow other models
about three times that loss."""


@dataclass(frozen=True)
class Accuracy:
    """Agreement of a candidate with fp32 and with ground truth, each from 0 to 1.

    `pixel_agreement`: share of pixels with equal labels. `miou_of_fp32`: mIoU of the candidate with
    the labels of fp32 as ground truth. `miou`, `miou_fp32`: mIoU of candidate and fp32 with the
    pictures' ground truth, None without one.
    """

    pictures: int
    pixel_agreement: float
    miou_of_fp32: float
    miou: float | None
    miou_fp32: float | None

    def lines(self) -> list[str]:
        """The result as text, one fact a line."""
        lost = 100 * (1 - self.pixel_agreement)
        rows = [
            f"{self.pictures} pictures",
            f"pixel agreement with fp32: {100 * self.pixel_agreement:.3f} % ({lost:.3f} % lost)",
            f"mIoU with fp32's labels as truth: {100 * self.miou_of_fp32:.2f} %",
        ]
        if self.miou is None or self.miou_fp32 is None:
            return [*rows, "mIoU lost: not measured, these pictures have no true labels"]
        points = 100 * (self.miou_fp32 - self.miou)
        return [
            *rows,
            f"mIoU with true labels: fp32 {100 * self.miou_fp32:.2f} %, this "
            f"{100 * self.miou:.2f} %: {points:+.2f} points lost",
        ]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def labeller_of(model: ModelProto) -> Labeller:
    """Return a labeller that runs the graph in ONNX Runtime on the CPU and emulates typed nodes."""
    session = session_of(emulated(model), literal=True)
    return lambda rgb: np.asarray(run(session, rgb)[0], np.uint8)


def measure(
    reference: Labeller,
    candidate: Labeller,
    pictures: Iterable[LabelledPicture],
    manifest: Manifest,
    size: tuple[int, int],
    say: Callable[[str], None] = lambda _: None,
) -> Accuracy:
    """Compare both labellers on every picture at the network's `size` (height, width).

    Raises BackendError if there is no picture or a label is no class, BagError if the ground truth
    does not fit.
    """
    classes = len(manifest.classes)
    between = ConfusionMatrix(classes)
    matrices = (ConfusionMatrix(classes), ConfusionMatrix(classes))
    equal = total = count = 0
    last_s = time.monotonic()
    for count, picture in enumerate(pictures, start=1):
        rgb = np.ascontiguousarray(resized_rgb(picture.rgb, size))[None]
        expected, found = reference(rgb)[0], candidate(rgb)[0]
        if found.shape != expected.shape:
            raise BackendError(f"labels have shape {found.shape}, expected {expected.shape}")
        equal += int((found == expected).sum())
        total += expected.size
        try:
            between.update(found, expected)
        except ValueError as error:
            raise BackendError(f"the model gives labels without a class: {error}") from error
        if picture.truth is not None:
            for matrix, labels in zip(matrices, (expected, found)):
                try:
                    matrix.update(resized_labels(labels, picture.truth.shape), picture.truth)
                except ValueError as error:
                    raise BagError(f"truth of {picture.name}: {error}") from error
        if time.monotonic() - last_s > 2.0:
            last_s = time.monotonic()
            say(f"comparing with fp32: picture {count}")
    if count == 0:
        raise BackendError("no pictures to compare on")
    known = bool(matrices[0].truth_pixels.any())
    return Accuracy(
        pictures=count,
        pixel_agreement=equal / total,
        miou_of_fp32=between.miou(),
        miou=matrices[1].miou() if known else None,
        miou_fp32=matrices[0].miou() if known else None,
    )
