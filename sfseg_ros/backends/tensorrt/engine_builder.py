# SPDX-License-Identifier: Apache-2.0
"""Build an engine from an ONNX file, in a child process.

The parser and the builder can abort instead of raising, and a library link may have to exist before
the process starts (`library.link_environment`). A child process protects the caller from both.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto, inliner

from sfseg_ros.backends.tensorrt import plugin
from sfseg_ros.backends.tensorrt.engine_store import Shape
from sfseg_ros.backends.tensorrt.library import TensorRt, link_environment, load_tensorrt
from sfseg_ros.errors import BackendError, SfsegError, one_line
from sfseg_ros.kernels import ONNX_DOMAIN
from sfseg_ros.kernels.cuda_memory import gpu_is_there
from sfseg_ros.private_files import make_folders, read_private, write_private

MODEL, REQUEST, ENGINE, RESULT = "model.onnx", "request.json", "engine", "result.json"
SCRATCH = "sfseg_engine_"
POLL_S = 0.2
# Prefix of the child's lines of progress; all other lines are the library's log.
PROGRESS = "progress: "


@dataclass(frozen=True)
class BuildRequest:
    """How to build: `shapes` are the smallest, the usual and the largest `image` (N, H, W, 3).

    `library` is one of LIBRARIES or "auto". `plugins`: use our kernels for the `sfseg` nodes; an
    engine without them runs wherever the library does. `tf32`: allow fp32 products to be rounded to
    10 bits. `compute_capabilities`, for TensorRT-RTX only, are the GPUs to build for, such as 86
    for 8.6; if empty, the library builds for all that it knows from 8.0 on. `timing_cache` is a
    file that TensorRT reads and extends, "" for none; RTX does not use it.
    """

    shapes: tuple[Shape, Shape, Shape]
    plugins: bool
    library: str = "auto"
    tf32: bool = True
    compute_capabilities: tuple[int, ...] = ()
    timing_cache: str = ""


@dataclass(frozen=True)
class Layer:
    """A layer and the type in which it computes: "fp32", "fp16", "bf16", "int8", "fp8", or the
    name of another type in lower case."""

    name: str
    type: str
    precision: str


@dataclass(frozen=True)
class BuildResult:
    """Layers of the parsed network and of the engine.

    `layers` are those of the network before the library fuses them, with the types of their
    tensors. `engine_layers` are those that the engine's inspector reports, or None without a GPU.
    """

    library: str
    layers: tuple[Layer, ...]
    engine_layers: tuple[Layer, ...] | None = None

    @property
    def plugin_layers(self) -> list[str]:
        return [layer.name for layer in self.layers if layer.type == "PLUGIN_V3"]


def prepare(model: ModelProto, plugins: bool) -> ModelProto:
    """Return a copy of the model that means the same to every version of TensorRT.

    Versions treat a node with both a body and a plugin differently. With `plugins`, nodes that have
    a plugin therefore lose their bodies, and all other bodies are inlined. Without `plugins`, all
    bodies are inlined. With `plugins`, labels and confidence have type int8 for the library; their
    bytes are the uint8 of the contract (plugin.BYTES).
    """
    if not plugins:
        bodies = {(function.domain, function.name) for function in model.functions}
        for node in model.graph.node:
            if node.domain == ONNX_DOMAIN and (node.domain, node.op_type) not in bodies:
                raise BackendError(
                    f"the file lacks the standard-ONNX body of {node.domain}::{node.op_type}, "
                    "which a portable engine needs: export the model again, or build with plugins"
                )
        return inliner.inline_local_functions(model)
    taken = [(ONNX_DOMAIN, operator) for operator in plugin.OPERATORS]
    prepared = inliner.inline_selected_functions(model, taken, exclude=True)
    del prepared.functions[:]
    tails = [node for node in prepared.graph.node if node.op_type == "UpsampleArgmax"]
    byte_outputs = {name for tail in tails for name in tail.output}
    for output in prepared.graph.output:
        if output.name in byte_outputs:
            output.type.tensor_type.elem_type = TensorProto.INT8
    if any(byte_outputs.intersection(node.input) for node in prepared.graph.node):
        raise BackendError(
            "UpsampleArgmax must end the graph to run as a plugin; build without plugins"
        )
    return prepared


def engine_from_onnx(
    model: ModelProto,
    request: BuildRequest,
    progress: Callable[[str], None] = lambda _line: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[bytes, BuildResult]:
    """Build the engine of `model` as `request` says, in a child process.

    This thread calls `progress` with lines of progress and polls `cancelled` a few times a second.
    Raises BackendError with the library's reason, also if the library ended the child or the build
    was cancelled.
    """
    files = {
        MODEL: prepare(model, request.plugins).SerializeToString(),
        REQUEST: json.dumps(asdict(request)).encode(),
    }
    with _scratch_folder(files) as folder:
        _run_child(folder, progress, cancelled)
        try:
            result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            engine = (folder / ENGINE).read_bytes()
        except (OSError, ValueError) as error:
            raise BackendError(f"the engine's build left no result ({one_line(error)})") from error
        layers, inspected = result["layers"], result["engine_layers"]
        return engine, BuildResult(
            result["library"],
            tuple(Layer(*row) for row in layers),
            None if inspected is None else tuple(Layer(*row) for row in inspected),
        )


def engine_is_wellformed(engine: bytes, library: str = "auto") -> str:
    """Check an engine without running it, in a child process. Returns one line for people.

    Raises BackendError if the library finds the engine malformed.
    """
    files = {ENGINE: engine, REQUEST: json.dumps({"library": library}).encode()}
    with _scratch_folder(files) as folder:
        _run_child(folder, lambda _line: None, lambda: False)
        return (folder / RESULT).read_text(encoding="utf-8")


@contextlib.contextmanager
def _scratch_folder(files: dict[str, bytes]) -> Iterator[Path]:
    """Make a folder with these files for the child. Raises BackendError if it cannot be written.

    The folder is locked (flock) as long as its builder lives. Folders of dead builders are removed.
    """
    _remove_abandoned()
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=SCRATCH)))
            lock = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name, content in files.items():
                (folder / name).write_bytes(content)
        except OSError as error:
            raise BackendError(
                f"building needs about 200 MB in {tempfile.gettempdir()} ({one_line(error)}); free "
                "space there or set TMPDIR"
            ) from error
        yield folder


def _remove_abandoned() -> None:
    """Remove scratch folders of killed builders. An empty folder is kept: its builder may not have
    locked it yet."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):  # in use, or of another user
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if any(folder.iterdir()):
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


def _run_child(
    folder: Path, progress: Callable[[str], None], cancelled: Callable[[], bool]
) -> None:
    package_parent = str(Path(__file__).resolve().parents[3])
    environment = link_environment(os.environ, folder)
    paths = [package_parent, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [
        sys.executable,
        "-m",
        "sfseg_ros.backends.tensorrt.engine_builder",
        str(folder),
        str(os.getpid()),
    ]
    lines: list[str] = []
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # this process handles Ctrl-C
    ) as child:
        reader = threading.Thread(target=_read_lines, args=(child.stdout, arrived), daemon=True)
        reader.start()
        try:
            while True:
                try:
                    line = arrived.get(timeout=POLL_S)
                except queue.Empty:
                    pass
                else:
                    if line is None:
                        break
                    lines.append(line)
                    if line.startswith(PROGRESS):
                        progress(line.removeprefix(PROGRESS))
                if cancelled():
                    raise BackendError("the engine's build was cancelled")
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise BackendError(_failure(child.returncode, lines))


def _read_lines(stream: Any, arrived: "queue.SimpleQueue[str | None]") -> None:
    for line in stream:
        if line.strip():
            arrived.put(line.strip())
    arrived.put(None)


def _failure(code: int, lines: list[str]) -> str:
    if code == REFUSED and lines:
        return lines[-1]
    name = f"signal {-code}"
    if -code in signal.Signals.__members__.values():
        name = signal.Signals(-code).name
    if name == "SIGKILL":
        name += " (out of memory?)"
    how = f"ended by {name}" if code < 0 else f"ended with code {code}"
    said = [line for line in lines if not line.startswith(PROGRESS)]
    said = [line for line in said if "[E]" in line or line.startswith("[ERROR]")][-2:] + said[-1:]
    return f"the engine's build {how}; its last output: {' | '.join(said) or 'none'}"


REFUSED = 3  # the child's exit code if its last line is the reason


def _child(folder: Path) -> None:
    """Read model and request from `folder`, and write engine and result there."""
    fields = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    if not (folder / MODEL).exists():
        (folder / RESULT).write_text(
            _validity(load_tensorrt(fields["library"]), folder), encoding="utf-8"
        )
        return
    fields |= {
        "shapes": tuple(map(tuple, fields["shapes"])),
        "compute_capabilities": tuple(fields["compute_capabilities"]),
    }
    request = BuildRequest(**fields)
    library = load_tensorrt(request.library)
    if request.plugins:
        library.check_plugins()
        library.check_parser_link()
        library.register(plugin.creators(library.module))
    _say(f"{library.title}: reading the network")
    log = library.logger(lambda line: print(line, flush=True))  # read by the caller
    builder = library.module.Builder(log)
    network = library.create_network(builder)
    try:
        library.parse(network, log, (folder / MODEL).read_bytes())
    finally:
        plugin.raise_noted(all_threads=True)  # more precise than the parser's own message
    layers = _network_layers(network)
    config = _config(library, builder, request)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *request.shapes)
    config.add_optimization_profile(profile)
    monitor = _monitor(library.module)
    config.progress_monitor = monitor
    _say(f"{library.title}: building an engine of {network.num_layers} layers")
    engine = builder.build_serialized_network(network, config)
    plugin.raise_noted(all_threads=True)
    if engine is None:
        reason = " | ".join(log.errors) or "it gives no reason"
        raise BackendError(f"{library.title} cannot build an engine of this model: {reason}")
    (folder / ENGINE).write_bytes(engine)
    _save_timing_cache(config, request.timing_cache)
    result = {
        "library": library.title,
        "layers": [(layer.name, layer.type, layer.precision) for layer in layers],
        "engine_layers": _inspected_layers(library, log, engine),
    }
    (folder / RESULT).write_text(json.dumps(result), encoding="utf-8")


def _config(library: TensorRt, builder: Any, request: BuildRequest) -> Any:
    module = library.module
    config = builder.create_builder_config()
    if not request.tf32:
        config.clear_flag(module.BuilderFlag.TF32)
    # Without this the engine's inspector does not report the types of layers.
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if request.compute_capabilities:
        if not library.is_rtx:
            raise BackendError(
                f"{library.title} builds for the GPU that it runs on; compute capabilities are for "
                "tensorrt_rtx"
            )
        config.num_compute_capabilities = len(request.compute_capabilities)
        for index, capability in enumerate(request.compute_capabilities):
            wanted = getattr(module.ComputeCapability, f"SM{capability}", None)
            if wanted is None or not config.set_compute_capability(wanted, index):
                known = [n[2:] for n in module.ComputeCapability.__members__ if n[:2] == "SM"]
                raise BackendError(
                    f"{library.title} does not build for compute capability {capability / 10}: "
                    f"expected of {', '.join(f'{int(name) / 10}' for name in known)}"
                )
    if request.timing_cache and not library.is_rtx:
        path = Path(request.timing_cache)
        known_times = read_private(path, path.parents[1]) if path.is_file() else b""
        cache = config.create_timing_cache(known_times)
        # If another version or GPU wrote it, it is refused or does not fit: begin a new one.
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return config


def _save_timing_cache(config: Any, name: str) -> None:
    """Write the measurements. If two builders write them, those of the last one stay."""
    cache = config.get_timing_cache() if name else None
    if cache is None:
        return
    path = Path(name)
    make_folders(path.parent, path.parents[1])
    write_private(path, bytes(cache.serialize()))


def _monitor(module: Any) -> Any:
    """Return a monitor that prints the library's outermost phases as "... 40 %", once a second."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.last_s = time.monotonic()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.steps[phase] = max(1, steps)

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.steps and time.monotonic() - self.last_s > 1.0:
                self.last_s = time.monotonic()
                _say(f"{phase}: {100 * (step + 1) // self.steps[phase]} %")
            return True

    return Monitor()


# --- layers -------------------------------------------------------------------------------------

_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}


def _precision(data_type: Any) -> str:
    name: str = data_type.name
    return _TYPES.get(name, name.lower())


def _network_layers(network: Any) -> list[Layer]:
    """Return the layers that compute on floats, with the types of their tensors. A convolution
    behind a DEQUANTIZE computes in the quantised type, because the builder fuses the two."""
    all_layers = [network.get_layer(i) for i in range(network.num_layers)]
    maker = {
        layer.get_output(i).name: layer for layer in all_layers for i in range(layer.num_outputs)
    }
    floats = (*_TYPES.values(), "int8", "fp8")
    rows = []
    for layer in all_layers:
        kind = layer.type.name
        first = layer.get_input(0) if layer.num_inputs else None
        # For a plugin the type of the features counts, because labels are bytes.
        tensor = first if kind == "PLUGIN_V3" and first is not None else layer.get_output(0)
        if tensor is None or kind in ("CONSTANT", "CAST", "SHAPE", "QUANTIZE", "DEQUANTIZE"):
            continue
        before = maker.get(first.name) if first is not None else None
        if before is not None and before.type.name == "DEQUANTIZE" and kind == "CONVOLUTION":
            tensor = before.get_input(0)
        precision = _precision(tensor.dtype)
        if precision in floats:
            rows.append(Layer(layer.name, kind, precision))
    return rows


def _inspected_layers(
    library: TensorRt, log: Any, engine: Any
) -> list[tuple[str, str, str]] | None:
    """Return the layers that the engine's inspector reports, or None without a GPU. Not run on a
    GPU."""
    if not gpu_is_there():
        return None
    loaded = library.module.Runtime(log).deserialize_cuda_engine(engine)
    if loaded is None:
        return None
    inspector = loaded.create_engine_inspector()
    text = inspector.get_engine_information(library.module.LayerInformationFormat.JSON)
    return layers_of_inspector(text)


def layers_of_inspector(text: str) -> list[tuple[str, str, str]]:
    """Return (name, type, precision) of each layer in an inspector's JSON.

    The precision is that of the first output, or of the first input if only the input is quantised.
    It is "unknown" if the library wrote only names (RTX, or an engine without details).
    """
    rows = []
    for layer in json.loads(text)["Layers"]:
        if isinstance(layer, str):
            rows.append((layer, "", "unknown"))
            continue
        kinds = [
            _inspector_type(tensor.get("Format/Datatype", ""))
            for side in ("Inputs", "Outputs")
            for tensor in layer.get(side, [])[:1]
        ]
        quantised = next((kind for kind in kinds if kind in ("int8", "fp8")), None)
        rows.append(
            (layer["Name"], layer.get("LayerType", ""), quantised or (kinds or ["unknown"])[-1])
        )
    return rows


def _inspector_type(text: str) -> str:
    """Return the precision in a text like "Half", "FP16 NHWC8" or "Channel major FP32 format"."""
    words = text.replace(",", " ").upper().split()
    for word, name in (
        *(("FP32", "fp32"), ("FLOAT", "fp32"), ("FP16", "fp16"), ("HALF", "fp16")),
        *(("BF16", "bf16"), ("BFLOAT16", "bf16"), ("INT8", "int8"), ("FP8", "fp8")),
    ):
        if word in words:
            return name
    return "unknown"


def _validity(library: TensorRt, folder: Path) -> str:
    """See `engine_is_wellformed`."""
    log = library.module.Logger(library.module.Logger.INTERNAL_ERROR)
    runtime = library.module.Runtime(log)
    if not hasattr(runtime, "get_engine_validity"):
        return f"{library.title} cannot judge an engine without loading it"
    _validity_enum, diagnostics = runtime.get_engine_validity((folder / ENGINE).read_bytes())
    malformed = library.module.EngineInvalidityDiagnostics.MALFORMED_ENGINE
    if int(diagnostics) & int(malformed):
        raise BackendError(f"{library.title} finds the engine malformed: build it again")
    return f"{library.title} finds it well-formed"


def _say(text: str) -> None:
    print(f"{PROGRESS}{text}", flush=True)


def _end_with(parent: int) -> None:
    """End this process when `parent` ends, however it ends."""
    set_signal = 1  # PR_SET_PDEATHSIG of prctl(2), Linux only
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_signal, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(REFUSED)


if __name__ == "__main__":
    _end_with(int(sys.argv[2]))
    try:
        _child(Path(sys.argv[1]))
    except SfsegError as error:
        print(one_line(error), flush=True)
        sys.exit(REFUSED)
