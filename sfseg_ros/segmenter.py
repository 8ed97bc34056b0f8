# SPDX-License-Identifier: Apache-2.0
"""One camera frame through the model: resize, infer, resize back."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfseg_ros.backends import Backend, open_backend
from sfseg_ros.errors import ImageError
from sfseg_ros.imaging import Uint8Array, resized_labels, resized_rgb
from sfseg_ros.manifest import Manifest, load_manifest


@dataclass(frozen=True)
class Segmentation:
    """The result for one image of height H and width W, and where the time went.

    `labels` is uint8 (H, W), indices of the manifest's classes; `confidence` uint8 (H, W), the
    softmax probability of that class in 255ths, or None where it was not asked for.
    """

    labels: Uint8Array
    confidence: Uint8Array | None
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float


class Segmenter:
    """A model, ready for images of any size. Not thread-safe: one thread calls it."""

    def __init__(
        self, manifest: Manifest, backend: Backend, network_size: tuple[int, int] | None = None
    ) -> None:
        """`network_size` (height, width) fixes the network's input; None fits it to each image
        size (`Manifest.network_size_for`). Raises ManifestError for a size it does not take."""
        if network_size is not None:
            manifest.check_network_size(network_size)
        self.manifest = manifest
        self.backend = backend
        self._network_size = network_size

    def network_size_for(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the network sees images of `image_size` (height, width)."""
        return self._network_size or self.manifest.network_size_for(image_size)

    def segment(self, rgb: Uint8Array, confidence: bool = True) -> Segmentation:
        """Segment one uint8 (H, W, 3) RGB image; the result has its size.

        Raises ImageError for another kind of array, BackendError where inference fails.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
            raise ImageError(f"image is {rgb.dtype} {rgb.shape}: expected uint8 (height, width, 3)")
        image_size = rgb.shape[:2]
        start = time.perf_counter()
        network_rgb = resized_rgb(rgb, self.network_size_for(image_size))
        resized = time.perf_counter()
        labels, certainty = self.backend.infer(network_rgb[None], confidence)
        inferred = time.perf_counter()
        labels_at_size = resized_labels(labels[0], image_size)
        confidence_at_size = None if certainty is None else resized_labels(certainty[0], image_size)
        end = time.perf_counter()
        return Segmentation(
            labels=labels_at_size,
            confidence=confidence_at_size,
            preprocess_ms=(resized - start) * 1e3,
            inference_ms=(inferred - resized) * 1e3,
            postprocess_ms=(end - inferred) * 1e3,
        )

    def warm_up(self, image_size: tuple[int, int]) -> None:
        """Segment a black image of `image_size` (height, width), with and without confidence,
        so that the first frame does not pay for compilation."""
        black = np.zeros((*image_size, 3), np.uint8)
        for confidence in (False, True):
            self.segment(black, confidence)

    def close(self) -> None:
        self.backend.close()


def open_segmenter(
    model_dir: Path | str,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    network_size: tuple[int, int] | None = None,
) -> Segmenter:
    """Load the model directory into a backend; arguments as in `open_backend` and `Segmenter`.

    Raises ManifestError where the directory is damaged, BackendError where no library can run it.
    """
    manifest = load_manifest(model_dir)
    if network_size is not None:
        manifest.check_network_size(network_size)  # before the seconds that loading takes
    return Segmenter(manifest, open_backend(backend, manifest, precision, threads), network_size)
