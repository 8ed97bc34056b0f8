# SPDX-License-Identifier: Apache-2.0
"""TensorRT on an NVIDIA GPU: host image to host labels as one CUDA graph.

A graph holds one upload, the engine and one download of a byte per pixel and output. Each frame
synchronises once.
"""

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sfseg_ros.backends.cut_graph import model_of
from sfseg_ros.backends.protocol import (
    DEFAULT_OPTIONS,
    BackendOptions,
    Inferred,
    check_images,
)
from sfseg_ros.backends.tensorrt import plugin
from sfseg_ros.backends.tensorrt.engine_store import EngineStore, StoredEngine
from sfseg_ros.backends.tensorrt.engines import (
    EngineRequest,
    built_engine,
    check_accepted,
    fitting_engines,
    is_accepted,
    is_for_one_size,
)
from sfseg_ros.backends.tensorrt.library import load_tensorrt
from sfseg_ros.backends.tensorrt.pipeline import (
    CONFIDENCE,
    LABELS,
    CameraInput,
    OpenEngine,
    Pipeline,
    PipelineKey,
)
from sfseg_ros.errors import BackendError, BackendUnavailableError
from sfseg_ros.geometry import FrameGeometry
from sfseg_ros.imaging import CameraBytes, Uint8Array
from sfseg_ros.kernels.cuda_memory import (
    NO_GPU,
    OUT_OF_MEMORY,
    CudaError,
    Gpu,
    load_kernels,
)
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.model.published_labels import NO_RULES, LabelRules

MAX_PIPELINES = 16
"""Maximum number of input shapes kept ready. Each has its activations, its buffers, and one graph
per choice of outputs. Cameras whose images become the input in the same way share a batch of 1 to
as many images as there are such cameras, so n cameras make at most n shapes. Sixteen is enough for
eight cameras and for the eight RGB shapes of their warm-up, which are dropped first."""
USUAL_BATCH = 8
"""Largest batch of an engine that the backend builds; larger batches run in parts."""
LONGEST_SIDE = 2.0
"""Such an engine accepts sides up to this multiple of the side of a square with the model's usual
pixel count, which allows an aspect ratio of 4 (`Manifest.network_size_for` keeps the pixel count).
A larger range would only cost build time and memory."""


class TensorRtBackend:
    """See `Backend`. If no engine is stored, opening builds one, which can take minutes."""

    name = "tensorrt"
    precisions = ("fp32", "fp16", "bf16", "int8", "fp8")
    reason = "asked for"

    def __init__(
        self,
        manifest: Manifest,
        options: BackendOptions = DEFAULT_OPTIONS,
        only: StoredEngine | None = None,
    ) -> None:
        """`only`: run this engine, whatever the options and its accuracy say. Raises
        BackendUnavailableError without a GPU or the library, BackendError if the engine cannot be
        built or loaded."""
        self._manifest, self._options, self._only = manifest, options, only
        self.precision = "fp16" if options.precision == "auto" else options.precision
        usual_size, library = options.network_size or manifest.input_size, "auto"
        if only is not None:
            self.precision, library = only.key.precision, only.key.library_name
            usual_size = only.key.shapes[1][1:3]
        self._pipelines: OrderedDict[PipelineKey, Pipeline] = OrderedDict()
        self._engines: dict[tuple[int, int], OpenEngine] = {}  # by the images' size
        self._lock = threading.Lock()  # _pipelines, _closed
        self._building = threading.Lock()  # _engines
        self._closed = self._told = False
        # Keys of dropped pipelines, until one of them is needed again (then None).
        self._pushed_out: deque[PipelineKey] | None = deque(maxlen=8 * MAX_PIPELINES)
        try:
            self._gpu = Gpu(wait=options.gpu_wait)
        except CudaError as error:
            if error.name not in NO_GPU:  # a GPU that is there and fails is an error
                raise
            raise BackendUnavailableError(f"tensorrt: {error}") from error
        try:
            self._open(library, usual_size)
        except BaseException:
            self.close()
            raise

    def _open(self, library: str, usual_size: tuple[int, int]) -> None:
        try:
            self._library = load_tensorrt(library)
        except BackendError as error:
            raise BackendUnavailableError(f"tensorrt: {error}") from error
        self._log = self._library.logger()
        model_of(self._manifest)  # an engine that was built before may not fit today's manifest
        only = self._only
        self._plugins = self._our_kernels_run() if only is None else only.key.form == "plugins"
        form = "" if self._plugins else ", no plugins"
        self.description = f"{self._library.title}, {self.precision}{form}, {self._gpu.name}"
        self._engine_for(usual_size)

    def infer(self, rgb: Uint8Array, confidence: bool) -> tuple[Uint8Array, Uint8Array | None]:
        check_images(self._manifest, rgb)
        inferred = self.infer_frames(list(rgb), confidence)
        return inferred.labels, inferred.confidence

    def takes_camera(self, camera: CameraBytes, geometry: FrameGeometry) -> bool:
        if not self._plugins:
            return False  # without a compiler there is no camera kernel either
        try:
            CameraInput.of(camera, geometry).launch()
        except BackendError:  # no kernel takes these sizes; the processor makes the input
            return False
        return True

    def applies_label_rules(self, size: tuple[int, int]) -> bool:
        """Return whether the engine calls our UpsampleArgmax plugin, which applies the rules."""
        return self._engine_for(size).has_plugins

    def infer_frames(
        self,
        frames: Sequence[Uint8Array | tuple[CameraBytes, FrameGeometry]],
        confidence: bool,
        rules: LabelRules = NO_RULES,
        to_paint: Collection[str] = (),
    ) -> Inferred:
        """See `DeviceBackend`. A graph has one kind of frame, so kinds run one after the other."""
        kinds: dict[CameraInput | None, list[int]] = {}
        images: list[Uint8Array] = []
        for index, frame in enumerate(frames):
            if isinstance(frame, np.ndarray):
                kind, image, size = None, frame, frame.shape[:2]
            else:
                kind, image, size = CameraInput.of(*frame), frame[0].data, frame[1].network_size
            kinds.setdefault(kind, []).append(index)
            images.append(image)
        maps = (LABELS, CONFIDENCE) if confidence else (LABELS,)
        results = {name: np.empty((len(frames), *size), np.uint8) for name in maps}
        painted = {name: np.empty((len(frames), *size, 3), np.uint8) for name in sorted(to_paint)}
        results |= painted
        engine = self._engine_for(size)
        for kind, places in kinds.items():
            for begin in range(0, len(places), engine.max_batch):
                part = places[begin : begin + engine.max_batch]
                pipeline_key = kind, size, len(part)
                self._run(engine, pipeline_key, [images[i] for i in part], rules, results, part)
        return Inferred(results[LABELS], results.get(CONFIDENCE), painted)

    def close(self) -> None:
        with self._lock:
            closed, self._closed = self._closed, True
            pipelines = list(self._pipelines.values())
            self._pipelines.clear()
        if closed:
            return
        with self._building:  # wait for an engine that is being opened: it needs the context
            try:
                with self._gpu.current():
                    while pipelines:
                        pipelines.pop().free()
            except CudaError:
                if not self._gpu.lost:
                    raise
            finally:
                pipelines.clear()  # free TensorRT's objects before their context
                self._engines = {}
                self._gpu.close()

    def _run(
        self,
        engine: OpenEngine,
        key: PipelineKey,
        images: Sequence[Uint8Array],
        rules: LabelRules,
        results: Mapping[str, Uint8Array],
        places: Sequence[int],
    ) -> None:
        while True:
            pipeline = self._pipeline(engine, key)
            with pipeline.lock, self._gpu.current():
                if pipeline.freed:  # another thread's sizes replaced it in the meantime
                    continue
                pipeline.run(images, rules, results, places)
                return

    def _pipeline(self, engine: OpenEngine, key: PipelineKey) -> Pipeline:
        pushed_out, comes_back = None, False
        with self._lock:
            self._check_usable()
            if key not in self._pipelines:
                if self._pushed_out is not None and key in self._pushed_out:
                    comes_back, self._pushed_out = True, None
                self._pipelines[key] = Pipeline(engine, self._gpu, *key, self._tell_once)
            self._pipelines.move_to_end(key)
            if len(self._pipelines) > MAX_PIPELINES:
                old, pushed_out = self._pipelines.popitem(last=False)
                if self._pushed_out is not None:
                    self._pushed_out.append(old)
            pipeline = self._pipelines[key]
        if comes_back:
            self._options.warn(
                f"more than {MAX_PIPELINES} shapes of input take turns, so that frames wait while "
                "memory and CUDA graph are made again: give cameras one image size and encoding, "
                "set network_size, or max_batch 1"
            )
        if pushed_out is not None:
            with self._gpu.current():
                pushed_out.free()
        return pipeline

    def _engine_for(self, size: tuple[int, int]) -> OpenEngine:
        """Return the engine for images of `size`, which is chosen at the first of them."""
        if size not in self._engines:
            with self._building:
                if size not in self._engines:  # no other thread was faster
                    self._check_usable()
                    self._engines = {**self._engines, size: self._chosen_engine(size)}
        return self._engines[size]

    def _chosen_engine(self, size: tuple[int, int]) -> OpenEngine:
        """Return an engine that takes `size`. In order of preference: a stored engine for this size
        alone, an open engine, another stored engine, a new engine."""
        opened = next((e for e in self._engines.values() if e.takes(size)), None)
        if self._only is not None:
            if opened is None and self._engines:
                raise BackendError(f"{self._only.path}: is not for {size[0]}x{size[1]} images")
            return opened or self._loaded(self._only, self._only.read())
        store, request = EngineStore(), self._request(size)
        found = fitting_engines(self._manifest, request, size, store, self._gpu.architecture)
        candidates = [s for s in found if is_accepted(s) and (not opened or is_for_one_size(s))]
        for stored in candidates:
            try:
                return self._loaded(stored, stored.read())
            except CudaError:
                raise
            except BackendError as error:
                last = stored is candidates[-1] and opened is None
                self._options.warn(f"{error}; {'building' if last else 'taking'} another")
        if opened is not None:
            return opened
        if found and not candidates:
            check_accepted(found[0])
        say = self._options.progress
        try:
            built, data = built_engine(
                self._manifest,
                request,
                store,
                say=lambda line: say(f"TensorRT engine: {line}"),
                cancelled=lambda: self._closed or self._options.cancelled(),
                rebuild=any(stored.key.shapes == request.shapes for stored in candidates),
            )
        finally:
            say("")
        return self._loaded(built, data)

    def _request(self, size: tuple[int, int]) -> EngineRequest:
        """Request all usual sizes if `size` is among them, else `size` alone."""
        sizes = usual_sizes(self._manifest)
        takes = all(low <= side <= high for low, side, high in zip(sizes[0], size, sizes[2]))
        return EngineRequest(
            sizes=sizes if takes and self._options.network_size is None else (size, size, size),
            batches=(1, 1, USUAL_BATCH),
            precision=self.precision,
            plugins=self._plugins,
            library=self._library.name,
        )

    def _loaded(self, stored: StoredEngine, data: bytes) -> OpenEngine:
        if stored.key.form == "plugins":
            self._library.register(plugin.creators(self._library.module))
        with self._gpu.current():
            plugins = stored.key.form == "plugins"
            return OpenEngine(
                self._library, self._log, stored.path, data, plugins, self._options.warn
            )

    def _our_kernels_run(self) -> bool:
        """Return whether this machine can compile our kernels and its driver loads them. If not,
        the engine is built without plugins."""
        try:
            self._library.check_plugins()
            with self._gpu.current():
                load_kernels()
        except BackendError as error:
            # With such a GPU a portable engine would fail, too.
            if error.lost or (isinstance(error, CudaError) and error.name == OUT_OF_MEMORY):
                raise
            self._options.warn(f"the engine is slower, without our own kernels: {error}")
            return False
        return True

    def _check_usable(self) -> None:
        if self._closed:
            raise BackendError("backend tensorrt is closed: open it again")
        if (lost := self._gpu.lost) is not None:
            # A new error each time: one that is raised repeatedly keeps the images of all frames.
            raise CudaError(str(lost), lost.name)

    def _tell_once(self, text: str) -> None:
        """Warn, once, that there is no CUDA graph."""
        if not self._told:
            self._told = True
            self.description += ", no CUDA graph"
            self._options.warn(text)


def usual_sizes(
    manifest: Manifest,
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return the smallest, usual and largest (height, width) of the network's input for cameras."""
    multiple = manifest.size_multiple
    longest = LONGEST_SIDE * math.sqrt(math.prod(manifest.input_size))
    side = multiple * math.ceil(longest / multiple)
    usual = manifest.input_size
    height, width = (
        max(at_usual, min(side, most)) for at_usual, most in zip(usual, manifest.max_size)
    )
    return manifest.min_size, usual, (height, width)
