# SPDX-License-Identifier: Apache-2.0
"""An open TensorRT engine, and the buffers and CUDA graphs that run it for one input shape.

The code follows the headers of TensorRT 10.3 to 11 and of TensorRT-RTX 1.7.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfseg_ros.backends.tensorrt import plugin
from sfseg_ros.backends.tensorrt.library import TensorRt
from sfseg_ros.errors import BackendError, one_line
from sfseg_ros.geometry import FrameGeometry
from sfseg_ros.imaging import CameraBytes, Uint8Array
from sfseg_ros.kernels.camera_image import camera_image_launch
from sfseg_ros.kernels.cuda_memory import (
    DeviceBuffer,
    Gpu,
    Graph,
    PinnedBuffer,
    launch_kernel,
)
from sfseg_ros.kernels.launch import Launch
from sfseg_ros.kernels.overlay import color_mask_launch, overlay_launch
from sfseg_ros.model.published_labels import NO_RULES, PAINTED_IMAGES, LabelRules
from sfseg_ros.private_files import read_private, write_private

IMAGE, LABELS, CONFIDENCE = "image", "labels", "confidence"
SOURCE = "source"
"""Name of the uploaded buffer: the image, or the camera's bytes from which the image is made."""
TABLES, TABLE_BYTES, PALETTE_BYTES = "tables", 256, 3 * 256
"""Device tables of the label rules: the published label of each label, then its colour."""


class OpenEngine:
    """A deserialised engine. Its CUDA context must be current in the thread that makes one."""

    def __init__(
        self,
        library: TensorRt,
        log: Any,
        path: Path,
        data: bytes,
        has_plugins: bool,
        warn: Callable[[str], None],
    ) -> None:
        self.library, self.log, self.has_plugins, self._warn = library, log, has_plugins, warn
        self._runtime = library.module.Runtime(log)
        self.engine = self._runtime.deserialize_cuda_engine(data)
        plugin.raise_noted()
        if self.engine is None:
            raise BackendError(f"{library.title} refuses {path}: {_reason(log)}")
        self._check_contract(path)
        low, _, high = self.engine.get_tensor_profile_shape(IMAGE, 0)
        self._low, self._high = tuple(low), tuple(high)
        self.max_batch = self._high[0]
        self._cache_path = path.with_suffix(".runtime_cache")
        self._cache: Any = None
        self._cache_size = 0

    def takes(self, size: tuple[int, int]) -> bool:
        """Return whether images of `size` (height, width) are within the profile."""
        return all(
            low <= side <= high for low, side, high in zip(self._low[1:3], size, self._high[1:3])
        )

    def context(self, whole_graph: bool) -> Any:
        """Return an execution context without memory. With `whole_graph`, TensorRT-RTX captures its
        part in its own graph, for engines that cannot be part of ours."""
        module = self.library.module
        own_memory = module.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.library.is_rtx:
            config = self.engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(own_memory)
            strategy = module.CudaGraphStrategy
            config.cuda_graph_strategy = (
                strategy.WHOLE_GRAPH_CAPTURE if whole_graph else strategy.DISABLED
            )
            # With lazy specialisation the library would replace kernels of a captured graph.
            config.dynamic_shapes_kernel_specialization_strategy = (
                module.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            config.set_runtime_cache(self._runtime_cache(config))
            context = self.engine.create_execution_context(config)
        else:
            context = self.engine.create_execution_context(own_memory)
        if context is None:
            raise BackendError(f"{self.library.title} makes no context: {_reason(self.log)}")
        return context

    def save_runtime_cache(self) -> None:
        """Save the kernels that TensorRT-RTX has compiled for new shapes, for the next start."""
        if self._cache is None:
            return
        data = bytes(self._cache.serialize())
        if len(data) != self._cache_size:
            self._cache_size = len(data)
            with contextlib.suppress(OSError):  # a cache: the next start compiles again
                write_private(self._cache_path, data)

    def _runtime_cache(self, config: Any) -> Any:
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            try:
                found = read_private(self._cache_path, self._cache_path.parents[2])
            except FileNotFoundError:
                pass
            except (OSError, BackendError) as error:
                self._warn(f"{one_line(error)}; TensorRT-RTX compiles its kernels again")
            else:  # a cache that is damaged or from another machine is refused; ours is then empty
                self._cache.deserialize(found)
        return self._cache

    def _check_contract(self, path: Path) -> None:
        names = {self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)}
        if names != {IMAGE, LABELS, CONFIDENCE}:
            raise BackendError(f"{path}: its tensors are {', '.join(sorted(names))}")
        kinds = self.library.module.DataType
        for name in names:
            # Plugins cannot have uint8 outputs; theirs are int8 with the same bytes.
            if self.engine.get_tensor_dtype(name) not in (kinds.UINT8, kinds.INT8):
                raise BackendError(f"{path}: {name} is not of bytes")


@dataclass(frozen=True)
class CameraInput:
    """How a camera's bytes become the network's input."""

    encoding: str
    step: int
    is_bigendian: bool
    geometry: FrameGeometry

    @classmethod
    def of(cls, camera: CameraBytes, geometry: FrameGeometry) -> "CameraInput":
        return cls(camera.encoding, camera.step, camera.is_bigendian, geometry)

    @property
    def image_bytes(self) -> int:
        return self.step * self.geometry.image_size[0]

    def launch(self) -> Launch:
        """Return the launch that makes uint8 (H, W, 3). Raises BackendError if no kernel does."""
        return camera_image_launch(self.encoding, self.step, self.geometry, self.is_bigendian)


PipelineKey = tuple[CameraInput | None, tuple[int, int], int]


class Pipeline:
    """Everything that one input shape needs; it is made at the first run.

    The input is `count` images of network `size`: RGB of that size or, if `camera` is given, bytes
    of such a camera. The caller must hold `lock` and make the GPU's context current.
    """

    def __init__(
        self,
        engine: OpenEngine,
        gpu: Gpu,
        camera: CameraInput | None,
        size: tuple[int, int],
        count: int,
        tell: Callable[[str], None],
    ) -> None:
        self._engine, self._gpu, self._camera, self._tell = engine, gpu, camera, tell
        self._shape = (count, *size, 3)
        self._pixels = count * size[0] * size[1]
        self._image_bytes = camera.image_bytes if camera else 3 * size[0] * size[1]
        self.lock = threading.Lock()
        self.freed = False
        self._context: Any = None
        self._owned: list[Any] = []
        self._host: dict[str, PinnedBuffer] = {}
        self._device: dict[str, DeviceBuffer] = {}
        self._graphs: dict[tuple[str, ...], Graph] = {}  # by the names of the downloaded buffers
        self._rules = NO_RULES  # of the graphs and of the context
        self._rules_applied = False  # the context was seen to take it up
        self._tables_of: LabelRules | None = None
        self._tables_are_new = False  # and not on the device
        self._capturable, self._whole_graph = True, False

    def run(
        self,
        images: Sequence[Uint8Array],
        rules: LabelRules,
        results: Mapping[str, Uint8Array],
        places: Sequence[int],
    ) -> None:
        """Segment `images`, and write the outputs that `results` names into its arrays.

        The outputs of image i go to index `places[i]`. Labels and confidence are uint8 (N, H, W),
        painted images uint8 (N, H, W, 3).
        """
        names = tuple(results)
        try:
            self._make_ready(names, rules)
        except BaseException:
            self._release()
            raise
        for index, image in enumerate(images):
            pinned = self._host[SOURCE].array((len(images), self._image_bytes))[index]
            pinned.reshape(image.shape)[...] = image
        try:
            if self._tables_are_new:
                device, host = self._device[TABLES], self._host[TABLES]
                self._stream.upload(device, host, host.size)
                self._tables_are_new = False
            if names in self._graphs:
                self._stream.launch(self._graphs[names])
            else:
                self._enqueue(names)
        finally:
            self._stream.wait()  # if the device failed, this raises the reason
        for name, result in results.items():
            result[places] = self._host[name].array((len(images), *result.shape[1:]))
        if names not in self._graphs:
            self._capture(names)

    def free(self) -> None:
        """Wait for the current run and free everything. The pipeline must not run again."""
        with self.lock:
            self.freed = True
            if self._gpu.lost:  # a lost context takes its objects with it
                self._graphs.clear()
                self._owned.clear()
            self._release()

    def _make_ready(self, names: Sequence[str], rules: LabelRules) -> None:
        """Allocate all memory that a run needs, because a capture cannot allocate."""
        if rules != self._rules:
            if self._whole_graph:
                self._release()  # the context may hold a graph with the old rules
            self._free_graphs()
            self._rules, self._rules_applied = rules, False
        if self._context is None:
            self._set_up()
        to_paint = [name for name in names if name in PAINTED_IMAGES]
        for name in to_paint:
            if name not in self._host:
                self._add(name, 3 * self._pixels)
        if (to_paint or rules.changes_labels) and self._tables_of != rules:
            size = TABLE_BYTES + PALETTE_BYTES
            if TABLES not in self._host:
                self._add(TABLES, size)
            tables = self._host[TABLES].array((size,))
            tables[:TABLE_BYTES] = rules.mapping.table
            tables[TABLE_BYTES:] = rules.mapping.palette_rgb.reshape(-1)
            self._tables_of, self._tables_are_new = rules, True

    def _set_up(self) -> None:
        self._stream = self._own(self._gpu.stream())
        self._add(SOURCE, self._shape[0] * self._image_bytes)
        self._add(LABELS, self._pixels)
        self._add(CONFIDENCE, self._pixels)
        if self._camera is None:
            self._device[IMAGE] = self._device[SOURCE]
        else:
            self._device[IMAGE] = self._own(self._gpu.memory(3 * self._pixels))
        self._context = self._new_context()

    def _add(self, name: str, size: int) -> None:
        """Add a pinned buffer on the host and a buffer on the device."""
        self._host[name] = self._own(self._gpu.pinned(size))
        self._device[name] = self._own(self._gpu.memory(size))

    def _release(self) -> None:
        """Free everything that runs and captures have made. None of it may be in use."""
        self._free_graphs()
        self._context = None  # free TensorRT's context before its memory
        self._host.clear()
        self._device.clear()
        self._rules_applied, self._tables_of, self._tables_are_new = False, None, False
        while self._owned:
            self._owned.pop().free()

    def _free_graphs(self) -> None:
        while self._graphs:
            self._graphs.popitem()[1].free()

    def _new_context(self) -> Any:
        context = self._engine.context(whole_graph=self._whole_graph)
        self._check(context.set_input_shape(IMAGE, self._shape), "the input's shape")
        missing = context.infer_shapes()
        self._check(not missing, f"its tensors {', '.join(missing)}")
        for name in (LABELS, CONFIDENCE):
            shape = tuple(context.get_tensor_shape(name))
            self._check(shape == self._shape[:3], f"{name} of {shape}")
        # Memory for this shape, not for the engine's largest.
        size = context.update_device_memory_size_for_shapes()
        if size:
            memory = self._own(self._gpu.memory(size))
            context.set_device_memory(memory.address, size)
        for name in (IMAGE, LABELS, CONFIDENCE):
            address = self._device[name].address
            self._check(context.set_tensor_address(name, address), f"{name}'s address")
        return context

    def _enqueue(self, names: Sequence[str]) -> None:
        """Put all work into the stream, from the pinned images to the pinned results."""
        count = self._shape[0]
        source, image = self._device[SOURCE], self._device[IMAGE]
        self._stream.upload(source, self._host[SOURCE], count * self._image_bytes)
        if self._camera is not None:
            launch = self._camera.launch()
            for index in range(count):
                launch_kernel(
                    launch,
                    [source.address + index * self._image_bytes],
                    [image.address + index * 3 * self._pixels // count],
                    self._stream.handle,
                )
        accepted = self._execute()
        plugin.raise_noted()  # the library may go on after a callback has raised
        if not accepted:
            raise BackendError(f"{self._engine.library.title} failed: {_reason(self._engine.log)}")
        for name in names:
            if name in PAINTED_IMAGES:
                self._paint(name)
            self._stream.download(self._host[name], self._device[name], self._host[name].size)

    def _execute(self) -> bool:
        if not self._rules.changes_labels:
            return bool(self._context.execute_async_v3(self._stream.handle))
        table = self._device[TABLES].address
        with plugin.applying_label_rules(self._rules.least_confidence, table):
            accepted = bool(self._context.execute_async_v3(self._stream.handle))
        self._rules_applied = self._rules_applied or plugin.nodes_that_applied_rules() > 0
        if accepted and not self._rules_applied:
            raise BackendError(
                f"{self._engine.library.title} did not ask our UpsampleArgmax: threshold and class "
                "groups had no effect, a bug in sfseg_ros"
            )
        return accepted

    def _paint(self, name: str) -> None:
        """Paint this run's labels, over the network's input for an overlay."""
        labels, palette = self._device[LABELS].address, self._device[TABLES].address + TABLE_BYTES
        if name == "overlay":
            launch = overlay_launch(self._shape[:3], self._rules.alpha)
            inputs = [self._device[IMAGE].address, labels, palette]
        else:
            launch, inputs = color_mask_launch(self._shape[:3]), [labels, palette]
        launch_kernel(launch, inputs, [self._device[name].address], self._stream.handle)

    def _capture(self, names: tuple[str, ...]) -> None:
        """Capture a graph. Call this after a run, because TensorRT loads modules at the first."""
        if not self._capturable:
            return
        try:
            if self._engine.library.is_rtx and not self._context.is_stream_capturable(
                self._stream.handle
            ):
                raise BackendError("this engine cannot be captured")
            self._graphs[names] = self._stream.captured(lambda: self._enqueue(names))
        except BackendError as error:
            if error.lost:
                raise
            self._capturable = False
            self._tell(f"no CUDA graph, each frame costs some launches more: {error}")
            if self._engine.library.is_rtx:
                # The next run makes a context that captures its own part. Free the old context
                # first: both together would need twice the memory.
                self._whole_graph = True
                self._release()
        self._engine.save_runtime_cache()

    def _own(self, resource: Any) -> Any:
        self._owned.append(resource)
        return resource

    def _check(self, accepted: bool, what: str) -> None:
        if not accepted:
            batch, height, width, _ = self._shape
            raise BackendError(
                f"{self._engine.library.title} refuses {what} for {batch} images of "
                f"{height}x{width}: {_reason(self._engine.log)}"
            )


def _reason(log: Any) -> str:
    return "; ".join(log.errors)[:500] or "it gives no reason"
