# SPDX-License-Identifier: Apache-2.0
"""Camera frames through the model: fit to the network, infer, bring back to the output's pixels."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sfseg_ros.backends import DEFAULT_GPU, Backend, CameraBackend, GpuOptions, open_backend
from sfseg_ros.errors import ImageError, SfsegError
from sfseg_ros.geometry import WHOLE_IMAGE, FrameGeometry, View, geometry_of
from sfseg_ros.imaging import CameraBytes, Picture, Uint8Array
from sfseg_ros.manifest import UNLABELLED, Manifest, load_manifest
from sfseg_ros.memory import give_back_free_memory


@dataclass(frozen=True)
class Segmentation:
    """The result for one image, and where the time went.

    `labels` is uint8 of `geometry.output_size`, indices of the manifest's classes and 255 where
    the network saw nothing; `confidence` is uint8 of the same size, the softmax probability of
    that class in 255ths and 0 where there is none, or None where it was not asked for.
    `inference_ms` is that of the whole batch, for which each of its frames waited.
    """

    labels: Uint8Array
    confidence: Uint8Array | None
    geometry: FrameGeometry
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float


@dataclass(frozen=True)
class _NetworkInput:
    """One frame of a batch, ready for the backend: `index` is its place among the frames. `image`
    is uint8 (H, W, 3) RGB of the network's size, or for a backend that wants it what came."""

    index: int
    geometry: FrameGeometry
    image: Uint8Array | CameraBytes
    preprocess_ms: float


class Segmenter:
    """A model, ready for images of any size. One thread segments; `warm_up` may run in another."""

    def __init__(
        self, manifest: Manifest, backend: Backend, network_size: tuple[int, int] | None = None
    ) -> None:
        """`network_size` (height, width) fixes the network's input; None fits it to each image
        size (`Manifest.network_size_for`). Raises ManifestError for a size it does not take."""
        if network_size is not None:
            manifest.check_network_size(network_size)
        self.manifest = manifest
        self.backend = backend
        self._cameras = backend if isinstance(backend, CameraBackend) else None
        self._network_size = network_size

    def network_size_for(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the network sees an area of `size` (height, width)."""
        return self._network_size or self.manifest.network_size_for(size)

    def geometry_of(self, image_size: tuple[int, int], view: View = WHOLE_IMAGE) -> FrameGeometry:
        """How images of `image_size` (height, width) go through this model under `view`.

        Raises ImageError where the view's region leaves the image.
        """
        return geometry_of(image_size, view, self.network_size_for)

    def segment(
        self, rgb: Uint8Array, confidence: bool = True, view: View = WHOLE_IMAGE
    ) -> Segmentation:
        """Segment one uint8 (H, W, 3) RGB image; without a `view` the result has its size.

        Raises ImageError for another kind of array and a view that leaves the image, BackendError
        where inference fails.
        """
        (outcome,) = self.segment_batch([(Picture(rgb), view)], confidence)
        if isinstance(outcome, SfsegError):
            raise outcome
        return outcome

    def segment_batch(
        self, frames: Sequence[tuple[Picture, View]], confidence: bool
    ) -> list[Segmentation | SfsegError]:
        """Segment pictures of any sizes, each under its view.

        Frames of one network size are inferred together. In the place of a frame that cannot be
        segmented stands its error, as `segment` would raise it; the others are not affected.
        """
        outcomes: dict[int, Segmentation | SfsegError] = {}
        batches: dict[tuple[tuple[int, int], type], list[_NetworkInput]] = {}
        for index, (picture, view) in enumerate(frames):
            try:
                frame = self._network_input(index, picture, view)
            except SfsegError as error:
                outcomes[index] = error
            else:
                kind = frame.geometry.network_size, type(frame.image)
                batches.setdefault(kind, []).append(frame)
        for batch in batches.values():
            try:
                segmented = self._inferred(batch, confidence)
            except SfsegError as error:
                outcomes.update((frame.index, error) for frame in batch)
            else:
                outcomes.update(zip((frame.index for frame in batch), segmented))
        return [outcomes[index] for index in range(len(frames))]

    def warm_up(self, image_size: tuple[int, int], view: View = WHOLE_IMAGE) -> None:
        """Prepare for images of `image_size` (height, width) under `view`, with and without
        confidence, so that the first frame does not pay for compilation.

        May run in a thread of its own while another segments images of other sizes.
        """
        network_size = self.geometry_of(image_size, view).network_size
        black = np.zeros((1, *network_size, 3), np.uint8)
        for confidence in (False, True):
            self.backend.infer(black, confidence)

    def close(self) -> None:
        """Release the model and its memory."""
        self.backend.close()
        give_back_free_memory()

    def _network_input(self, index: int, picture: Picture, view: View) -> _NetworkInput:
        start = time.perf_counter()
        camera = picture.camera
        if camera is not None and self._cameras is not None:
            geometry = self.geometry_of(picture.size, view)
            if self._cameras.takes_camera(camera, geometry):
                return _NetworkInput(index, geometry, camera, _ms_since(start))
        pixels = picture.pixels
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise ImageError(
                f"image is {pixels.dtype} {pixels.shape}: expected uint8 (height, width, 3)"
            )
        geometry = self.geometry_of(picture.size, view)
        network_rgb = picture.rgb_of(geometry.network_input(pixels))
        return _NetworkInput(index, geometry, network_rgb, _ms_since(start))

    def _inferred(self, batch: list[_NetworkInput], confidence: bool) -> list[Segmentation]:
        """All of one network size and kind of image."""
        start = time.perf_counter()
        cameras = [(f.image, f.geometry) for f in batch if isinstance(f.image, CameraBytes)]
        if cameras:
            assert self._cameras is not None
            labels, certainty = self._cameras.infer_cameras(cameras, confidence)
        else:
            inputs = [frame.image for frame in batch if not isinstance(frame.image, CameraBytes)]
            rgb = np.stack(inputs) if len(inputs) > 1 else inputs[0][None]  # of one, no copy
            labels, certainty = self.backend.infer(rgb, confidence)
        inference_ms = _ms_since(start)
        return [
            _segmentation(
                frame, labels[i], None if certainty is None else certainty[i], inference_ms
            )
            for i, frame in enumerate(batch)
        ]


def _segmentation(
    frame: _NetworkInput, labels: Uint8Array, certainty: Uint8Array | None, inference_ms: float
) -> Segmentation:
    """From uint8 (h, w) at the network's size."""
    start = time.perf_counter()
    geometry = frame.geometry
    labels = geometry.output_from(labels, fill=UNLABELLED)
    if certainty is not None:
        certainty = geometry.output_from(certainty, fill=0)
    return Segmentation(
        labels, certainty, geometry, frame.preprocess_ms, inference_ms, _ms_since(start)
    )


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def open_segmenter(
    model_dir: Path | str,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    network_size: tuple[int, int] | None = None,
    gpu: GpuOptions = DEFAULT_GPU,
) -> Segmenter:
    """Load the model directory into a backend; arguments as in `open_backend` and `Segmenter`.

    Raises ManifestError where the directory is damaged, BackendError where no library can run it.
    """
    manifest = load_manifest(model_dir)
    if network_size is not None:
        manifest.check_network_size(network_size)  # before the seconds that loading takes
    gpu = replace(gpu, network_size=network_size)
    opened = open_backend(backend, manifest, precision, threads, gpu)
    return Segmenter(manifest, opened, network_size)
