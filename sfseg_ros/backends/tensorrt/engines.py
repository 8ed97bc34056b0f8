# SPDX-License-Identifier: Apache-2.0
"""Find or build the engine of a model directory.

`find_engine` only looks; `built_engine` also builds. Both return engines of exactly this model,
these kernels, this library and this GPU, with the bytes that were built (engine_store.py).
"""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sfseg_ros.backends.cut_graph import model_of
from sfseg_ros.backends.tensorrt import engine_builder, plugin
from sfseg_ros.backends.tensorrt.calibration import calibrate
from sfseg_ros.backends.tensorrt.engine_builder import BuildRequest, BuildResult, Layer
from sfseg_ros.backends.tensorrt.engine_store import EngineKey, EngineStore, Shape, StoredEngine
from sfseg_ros.backends.tensorrt.library import TensorRt, load_tensorrt
from sfseg_ros.backends.tensorrt.precision import (
    ENGINE_PRECISIONS,
    QUANTIZED_PRECISIONS,
    RECIPE,
    typed_model,
)
from sfseg_ros.errors import BackendError, ManifestError
from sfseg_ros.imaging import Uint8Array
from sfseg_ros.kernels import binaries
from sfseg_ros.model.manifest import Manifest

LARGEST_BATCH = 64
"""Largest batch that can be requested."""
PORTABLE = "portable: "


@dataclass(frozen=True)
class EngineRequest:
    """Which engine of a model is wanted.

    `sizes`: smallest, usual and largest network input, each (height, width); equal sizes make a
    faster engine. `batches`: fewest, usual and most images. `library`, `plugins` and
    `compute_capabilities` as in `BuildRequest`; `precision` one of ENGINE_PRECISIONS.
    """

    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    batches: tuple[int, int, int] = (1, 1, 1)
    precision: str = "fp16"
    plugins: bool = True
    library: str = "auto"
    compute_capabilities: tuple[int, ...] = ()

    @property
    def shapes(self) -> tuple[Shape, Shape, Shape]:
        """Smallest, usual and largest shape of the input `image`, each (N, H, W, 3)."""
        small, usual, large = (
            (n, *size, 3) for n, size in zip(self.batches, self.sizes, strict=True)
        )
        return small, usual, large

    def check(self, manifest: Manifest) -> None:
        """Raise BackendError unless the model takes these sizes."""
        if self.precision not in ENGINE_PRECISIONS:
            raise BackendError(
                f"precision {self.precision!r}: expected one of {', '.join(ENGINE_PRECISIONS)}"
            )
        try:
            for size in self.sizes:
                manifest.check_network_size(size)
        except ManifestError as error:
            raise BackendError(str(error)) from error
        rising = all(a <= b for a, b in zip(self.batches, self.batches[1:]))
        if not rising or not 1 <= self.batches[0] <= self.batches[2] <= LARGEST_BATCH:
            raise BackendError(f"batches {self.batches}: expected 1 to {LARGEST_BATCH}, rising")
        for small, large in zip(self.sizes, self.sizes[1:]):
            if small[0] > large[0] or small[1] > large[1]:
                raise BackendError(
                    f"sizes {', '.join(f'{h}x{w}' for h, w in self.sizes)}: expected the smallest, "
                    "the usual and the largest, neither side falling"
                )


def engine_key(manifest: Manifest, request: EngineRequest, calibration: str = "") -> EngineKey:
    """Return the key of the engine of `request` on this machine. `calibration` is the digest of
    pictures and method for int8 and fp8. Raises BackendError if TensorRT is missing."""
    request.check(manifest)
    library = load_tensorrt(request.library)
    return EngineKey(
        onnx_sha256=manifest.onnx_sha256,
        precision=request.precision,
        shapes=request.shapes,
        library=library.title,
        gpu=_target(library, request.compute_capabilities),
        plugins=plugins_digest() if request.plugins else "",
        calibration=calibration,
        recipe=RECIPE,
    )


def find_engine(
    manifest: Manifest, request: EngineRequest, store: EngineStore
) -> StoredEngine | None:
    """Return the stored engine of `request` on this machine, or None if there is no intact one.

    For int8 and fp8, the pictures of the calibration do not matter: engines that `is_accepted` come
    first, then the newest.
    """
    wanted = engine_key(manifest, request)
    found = [
        stored
        for _, stored in store.engines(manifest.name)
        if isinstance(stored, StoredEngine) and replace(stored.key, calibration="") == wanted
    ]
    return max(found, key=lambda stored: (is_accepted(stored), _built(stored)), default=None)


def fitting_engines(
    manifest: Manifest,
    request: EngineRequest,
    size: tuple[int, int],
    store: EngineStore,
    architecture: int,
) -> list[StoredEngine]:
    """Return the stored engines for images of `size` (height, width), the best first.

    Except for their shapes they match `request`. A portable engine for named GPUs also fits if this
    GPU is among them; its compute capability is `architecture`, such as 86 for 8.6. Engines that
    `sfseg engine verify` has refused come last. The engine for this size alone precedes others,
    then the one with the larger batch, then the newer one.
    """
    wanted = engine_key(manifest, request)
    found = []
    for _, stored in store.engines(manifest.name):
        if not isinstance(stored, StoredEngine):
            continue
        (_, *low, _), _, (batch, *high, _) = stored.key.shapes
        takes = all(a <= side <= b for a, side, b in zip(low, size, high, strict=True))
        gpu = wanted.gpu if architecture in named_capabilities(stored.key) else stored.key.gpu
        key = replace(stored.key, calibration="", shapes=wanted.shapes, gpu=gpu)
        if takes and key == wanted:
            rank = (is_accepted(stored), is_for_one_size(stored), batch, _built(stored))
            found.append((*rank, stored))
    return [row[-1] for row in sorted(found, key=lambda row: row[:-1], reverse=True)]


def _built(stored: StoredEngine) -> str:
    return str(stored.about.get("built", ""))


def is_for_one_size(stored: StoredEngine) -> bool:
    """Return whether the engine takes one (height, width) only, which makes it faster."""
    small, _, large = stored.key.shapes
    return small[1:] == large[1:]


def built_engine(
    manifest: Manifest,
    request: EngineRequest,
    store: EngineStore,
    calibration_images: Callable[[], Sequence[Uint8Array]] | None = None,
    say: Callable[[str], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    rebuild: bool = False,
) -> tuple[StoredEngine, bytes]:
    """Return the engine of `request`, stored or built now, and its bytes.

    `calibration_images` returns uint8 (H, W, 3) RGB images of the usual size, for int8 and fp8. If
    it is None, a stored engine is used, whatever its calibration. `say` is called with lines of
    progress in this thread. Raises BackendError, also if the engine is not `is_accepted`. Only an
    engine that was calibrated with these images is returned unaccepted, so that it can be measured.
    """
    request.check(manifest)
    model = model_of(manifest)
    digest, ranges, pictures = "", None, 0
    if request.precision in QUANTIZED_PRECISIONS:
        if calibration_images is None:
            stored = None if rebuild else find_engine(manifest, request, store)
            if stored is None:
                raise BackendError(
                    f"precision {request.precision} needs pictures to calibrate with: sfseg engine "
                    f"build {manifest.directory} --precision {request.precision} --calibration "
                    "FOLDER_OR_BAG"
                )
            check_accepted(stored)
            return stored, stored.read()
        calibration = calibrate(model, request.precision, calibration_images(), say)
        digest, ranges, pictures = calibration.digest, calibration.ranges, calibration.pictures
    key = engine_key(manifest, request, digest)

    def build() -> tuple[bytes, dict[str, Any]]:
        began = time.monotonic()
        say(f"writing the network in {request.precision}")
        typed = typed_model(model, request.precision, ranges)
        engine, result = engine_builder.engine_from_onnx(
            typed, _build_request(request, key, store), say, cancelled
        )
        seconds = round(time.monotonic() - began, 1)
        say(f"built in {seconds:g} s: {len(engine) / 1e6:.1f} MB")
        return engine, _about(manifest, result, seconds, ranges, pictures)

    began = datetime.now(timezone.utc).isoformat(timespec="seconds")
    stored, engine = store.get_or_build(manifest.name, key, build, say, rebuild, cancelled)
    built = str(stored.about.get("built"))
    if built < began:
        say(f"found, it was built {built}")
    if not digest:
        check_accepted(stored)
    return stored, engine


def is_accepted(stored: StoredEngine) -> bool:
    """Return whether the engine may be used.

    `sfseg engine verify` must not have refused it. For int8 and fp8, the loss of accuracy must have
    been measured; an interrupted build has not measured it.
    """
    if accuracy := stored.about.get("accuracy"):
        return bool(accuracy["accepted"])
    return stored.key.precision not in QUANTIZED_PRECISIONS


def check_accepted(stored: StoredEngine) -> None:
    """Raise BackendError unless the engine `is_accepted`."""
    if is_accepted(stored):
        return
    accuracy, precision = stored.about.get("accuracy"), stored.key.precision
    if accuracy is None:
        raise BackendError(
            f"{stored.path}: the accuracy in {precision} was not measured, because the build was "
            f"interrupted: sfseg engine verify {stored.about.get('model', 'MODEL')} --precision "
            f"{precision} --images FOLDER_OR_BAG"
        )
    raise BackendError(
        f"{stored.path}: refused by sfseg engine verify, its labels agree with fp32 on "
        f"{100 * accuracy['pixel_agreement']:.2f} % of the pixels, "
        f"{100 * accuracy['threshold']:g} % are required; use another precision, or calibrate with "
        "more pictures"
    )


def plugins_digest() -> str:
    """Return the SHA-256 of the code that an engine with plugins calls: kernels and plugins."""
    plugin_code = Path(plugin.__file__).read_bytes()
    return hashlib.sha256(binaries.source_digest().encode() + plugin_code).hexdigest()


def layer_rows(about: dict[str, Any]) -> tuple[str, list[Layer]]:
    """Return (source, layers) from what `built_engine` recorded about an engine."""
    if about.get("engine_layers"):
        return "by the engine's inspector", [Layer(*row) for row in about["engine_layers"]]
    layers = [Layer(*row) for row in about.get("layers", [])]
    return "by the network's tensor types before the build: no GPU to inspect the engine", layers


def named_capabilities(key: EngineKey) -> tuple[int, ...]:
    """Return the `compute_capabilities` that a portable engine was built for. Empty if the library
    chose them, and for an engine of one GPU."""
    named = re.findall(r"(\d+)\.(\d)", key.gpu) if key.gpu.startswith(PORTABLE) else []
    return tuple(int(major + minor) for major, minor in named)


def _target(library: TensorRt, compute_capabilities: tuple[int, ...]) -> str:
    """RTX completes an engine on the GPU that runs it; TensorRT builds for the GPU at hand."""
    if library.is_rtx:
        named = ", ".join(f"{c // 10}.{c % 10}" for c in compute_capabilities)
        return PORTABLE + (named or "the library's choice")
    from sfseg_ros.kernels.cuda_memory import Gpu

    gpu = Gpu()
    try:
        return f"{gpu.name}, {gpu.architecture // 10}.{gpu.architecture % 10}"
    finally:
        gpu.close()


def _build_request(request: EngineRequest, key: EngineKey, store: EngineStore) -> BuildRequest:
    # Timings are valid for one GPU and one version only.
    machine = hashlib.sha256(f"{key.library} {key.gpu}".encode()).hexdigest()[:16]
    return BuildRequest(
        shapes=request.shapes,
        plugins=request.plugins,
        library=request.library,
        tf32=request.precision != "fp32",
        compute_capabilities=request.compute_capabilities,
        timing_cache=str(store.folder / f"timing-{machine}.cache"),
    )


def _about(
    manifest: Manifest,
    result: BuildResult,
    seconds: float,
    ranges: dict[str, float] | None,
    pictures: int,
) -> dict[str, Any]:
    def rows(layers: tuple[Layer, ...] | None) -> list[list[str]]:
        return [[layer.name, layer.type, layer.precision] for layer in layers or ()]

    return {
        "model": manifest.name,
        "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "build_seconds": seconds,
        "layers": rows(result.layers),
        "engine_layers": rows(result.engine_layers),
        "calibration": {"pictures": pictures, "ranges": ranges} if ranges else None,
        "accuracy": None,
    }
