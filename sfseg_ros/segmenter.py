# SPDX-License-Identifier: Apache-2.0
"""Camera frames through the model: fit to the network, infer, bring back to the output's pixels."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sfseg_ros.allocator import give_back_free_memory
from sfseg_ros.backends.choice import open_backend
from sfseg_ros.backends.protocol import (
    DEFAULT_OPTIONS,
    Backend,
    BackendOptions,
    DeviceBackend,
    Inferred,
)
from sfseg_ros.errors import ImageError, SfsegError
from sfseg_ros.geometry import WHOLE_IMAGE, FrameGeometry, View, geometry_of
from sfseg_ros.imaging import CameraBytes, ImageFormat, Picture, Uint8Array
from sfseg_ros.model.manifest import UNLABELLED, Manifest, load_manifest
from sfseg_ros.model.published_labels import NO_RULES, LabelRules


@dataclass(frozen=True)
class Segmentation:
    """The result for one image, and where the time went.

    `labels` is uint8 of `geometry.output_size`: indices of the manifest's classes, or published
    labels if rules were given; 255 marks pixels outside the network's view. `confidence` is uint8
    of the same size: the softmax probability of the network's label in 255ths, 0 outside the view;
    None unless requested. `painted` maps names of PAINTED_IMAGES to uint8 RGB of the same size. It
    holds those that the backend painted; the caller paints the others. `inference_ms` is the time
    of the whole batch, because each of its frames waits for all of them.
    """

    labels: Uint8Array
    confidence: Uint8Array | None
    geometry: FrameGeometry
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float
    painted: Mapping[str, Uint8Array] = field(default_factory=dict)


@dataclass(frozen=True)
class _NetworkInput:
    """One frame of a batch, ready for the backend; `index` is its position in the batch.

    `image` is uint8 (H, W, 3) RGB of the network's size, or the camera's bytes if the backend
    converts them itself.
    """

    index: int
    geometry: FrameGeometry
    image: Uint8Array | CameraBytes
    preprocess_ms: float


class Segmenter:
    """A model that segments images of any size in one thread; `warm_up` may run in another."""

    def __init__(
        self, manifest: Manifest, backend: Backend, network_size: tuple[int, int] | None = None
    ) -> None:
        """`network_size` (height, width) fixes the network's input; None fits it to each image
        size (`Manifest.network_size_for`). Raises ManifestError if the model refuses it."""
        if network_size is not None:
            manifest.check_network_size(network_size)
        self.manifest = manifest
        self.backend = backend
        self._device = backend if isinstance(backend, DeviceBackend) else None
        self._network_size = network_size

    def network_size_for(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the network's input (height, width) for an area of `size` (height, width)."""
        return self._network_size or self.manifest.network_size_for(size)

    def geometry_of(self, image_size: tuple[int, int], view: View = WHOLE_IMAGE) -> FrameGeometry:
        """Return the geometry of images of `image_size` (height, width) under `view`.

        Raises ImageError if the view's region leaves the image.
        """
        return geometry_of(image_size, view, self.network_size_for)

    def segment(
        self, rgb: Uint8Array, confidence: bool = True, view: View = WHOLE_IMAGE
    ) -> Segmentation:
        """Segment one uint8 (H, W, 3) RGB image; without a `view` the result has its size.

        Raises ImageError for other arrays and for a view that leaves the image, BackendError if
        inference fails.
        """
        (outcome,) = self.segment_batch([(Picture(rgb), view)], confidence)
        if isinstance(outcome, SfsegError):
            raise outcome
        return outcome

    def segment_batch(
        self,
        frames: Sequence[tuple[Picture, View]],
        confidence: bool,
        rules: LabelRules = NO_RULES,
        to_paint: Collection[str] = (),
    ) -> list[Segmentation | SfsegError]:
        """Segment pictures of any sizes, each under its view, and apply `rules` to their labels.

        `to_paint` holds names of PAINTED_IMAGES. `painted` of a result has those that the backend
        painted. Frames of one network size are inferred together. If a frame cannot be segmented,
        the list holds the error that `segment` would raise for it; other frames are unaffected.
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
                segmented = self._segmented(batch, confidence, rules, to_paint)
            except SfsegError as error:
                outcomes.update((frame.index, error) for frame in batch)
            else:
                outcomes.update(zip((frame.index for frame in batch), segmented))
        return [outcomes[index] for index in range(len(frames))]

    def warm_up(
        self,
        images: "tuple[int, int] | ImageFormat",
        view: View = WHOLE_IMAGE,
        rules: LabelRules = NO_RULES,
        count: int = 1,
    ) -> None:
        """Run the model once, so that the first frame does not wait for compilation.

        `images` is a (height, width) or a camera's format, seen under `view`; the model runs with
        and without confidence. A DeviceBackend runs every batch size from 1 to `count`. May run in
        its own thread while another thread segments images of other sizes.
        """
        picture = ImageFormat(*images).blank()
        geometry = self.geometry_of(picture.size, view)
        black = np.zeros((*geometry.network_size, 3), np.uint8)
        camera = self._camera_of(picture, geometry)
        frame = _NetworkInput(0, geometry, black if camera is None else camera, 0.0)
        for number in range(1, count + 1) if self._device is not None else (1,):
            for confidence in (False, True):
                self._segmented([frame] * number, confidence, rules, ())

    def close(self) -> None:
        """Release the model and its memory."""
        self.backend.close()
        give_back_free_memory()

    def _network_input(self, index: int, picture: Picture, view: View) -> _NetworkInput:
        start = time.perf_counter()
        if picture.camera is not None and self._device is not None:
            geometry = self.geometry_of(picture.size, view)
            camera = self._camera_of(picture, geometry)
            if camera is not None:
                return _NetworkInput(index, geometry, camera, _ms_since(start))
        pixels = picture.pixels
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise ImageError(
                f"image is {pixels.dtype} {pixels.shape}: expected uint8 (height, width, 3)"
            )
        geometry = self.geometry_of(picture.size, view)
        network_rgb = picture.rgb_of(geometry.network_input(pixels))
        return _NetworkInput(index, geometry, network_rgb, _ms_since(start))

    def _camera_of(self, picture: Picture, geometry: FrameGeometry) -> CameraBytes | None:
        """Return the camera's bytes if the backend converts them; None if the processor must."""
        camera = picture.camera
        if camera is None or self._device is None:
            return None
        return camera if self._device.takes_camera(camera, geometry) else None

    def _segmented(
        self,
        batch: list[_NetworkInput],
        confidence: bool,
        rules: LabelRules,
        to_paint: Collection[str],
    ) -> list[Segmentation]:
        """Segment a batch of one network size and one kind of image.

        The backend applies the rules if it can. Otherwise the processor does, and a threshold then
        needs the confidence. The backend paints the network's pixels. If no frame's output has
        these pixels, the processor paints at the output's size instead: the image is sharper, and
        the painted image need not cross the bus.
        """
        start = time.perf_counter()
        size = batch[0].geometry.network_size
        if self._device is not None and self._device.applies_label_rules(size):
            wanted = any(frame.geometry.output_has_network_pixels for frame in batch)
            inferred = self._inferred(batch, confidence, rules, to_paint if wanted else ())
            rules = NO_RULES
        else:
            needed = confidence or rules.least_confidence > 0
            inferred = self._inferred(batch, needed, NO_RULES, ())
        inference_ms = _ms_since(start)
        return [
            _segmentation(frame, inferred, i, confidence, rules, inference_ms)
            for i, frame in enumerate(batch)
        ]

    def _inferred(
        self,
        batch: list[_NetworkInput],
        confidence: bool,
        rules: LabelRules,
        to_paint: Collection[str],
    ) -> Inferred:
        if self._device is None:
            inputs = [frame.image for frame in batch if not isinstance(frame.image, CameraBytes)]
            rgb = (
                np.stack(inputs) if len(inputs) > 1 else inputs[0][None]
            )  # no copy for a single frame
            return Inferred(*self.backend.infer(rgb, confidence))
        frames = [
            (frame.image, frame.geometry) if isinstance(frame.image, CameraBytes) else frame.image
            for frame in batch
        ]
        return self._device.infer_frames(frames, confidence, rules, to_paint)


def _segmentation(
    frame: _NetworkInput,
    inferred: Inferred,
    index: int,
    confidence: bool,
    rules: LabelRules,
    inference_ms: float,
) -> Segmentation:
    """Return the result for image `index` of a batch; `rules` are those not applied yet.

    Rules act on each label alone, so they commute with nearest-neighbour resizing. Applying them at
    the network's size therefore gives the same labels and touches fewer pixels.
    """
    start = time.perf_counter()
    geometry, certainty = frame.geometry, None
    if inferred.confidence is not None:
        certainty = inferred.confidence[index]
    labels = rules.labels_from(inferred.labels[index], certainty)
    if not confidence:
        certainty = None
    painted = inferred.painted if geometry.output_has_network_pixels else {}
    return Segmentation(
        labels=geometry.output_from(labels, fill=UNLABELLED),
        confidence=None if certainty is None else geometry.output_from(certainty, fill=0),
        geometry=geometry,
        preprocess_ms=frame.preprocess_ms,
        inference_ms=inference_ms,
        painted={name: geometry.output_from(rgb[index], 0) for name, rgb in painted.items()},
        postprocess_ms=_ms_since(start),
    )


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def open_segmenter(
    model_dir: Path | str,
    backend: str = "auto",
    options: BackendOptions = DEFAULT_OPTIONS,
) -> Segmenter:
    """Load the model directory into a backend; arguments as in `open_backend`.

    Raises ManifestError if the directory is damaged, BackendError if no library can run the model.
    """
    manifest = load_manifest(model_dir)
    if options.network_size is not None:
        manifest.check_network_size(options.network_size)  # before the seconds that loading takes
    return Segmenter(manifest, open_backend(backend, manifest, options), options.network_size)
