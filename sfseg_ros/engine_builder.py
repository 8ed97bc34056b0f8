# SPDX-License-Identifier: Apache-2.0
"""An engine from an ONNX file, built in a process of its own.

The parser and the builder can abort instead of raising, and a library link may have to be in place
before the process starts (`trt.link_environment`): a child takes both away from the caller.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, inliner

from sfseg_ros import trt
from sfseg_ros.errors import BackendError, SfsegError, one_line
from sfseg_ros.kernels import plugin

MODEL, REQUEST, ENGINE, RESULT = "model.onnx", "request.json", "engine", "result.json"
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class BuildRequest:
    """How to build: `shapes` are the smallest, the usual and the largest `image` (N, H, W, 3).

    `library` is one of trt.LIBRARIES or "auto". `plugins`: our kernels for the `sfseg` nodes;
    without them the engine runs wherever the library does.
    """

    shapes: tuple[Shape, Shape, Shape]
    plugins: bool
    library: str = "auto"


@dataclass(frozen=True)
class BuildResult:
    """`layers`: (name, type) of each layer of the network before the library fuses them."""

    library: str
    layers: tuple[tuple[str, str], ...]

    @property
    def plugin_layers(self) -> list[str]:
        return [name for name, kind in self.layers if kind == "PLUGIN_V3"]


def prepare(model: ModelProto, plugins: bool) -> ModelProto:
    """The model in the form that means the same to every TensorRT, as a copy.

    What a library does with a node that has both a body and a plugin differs from version to
    version. So with `plugins` the nodes that have one lose their bodies, and every other body is
    put in place; without, all bodies are. With `plugins`, labels and confidence are int8 to the
    library; their bytes are the uint8 of the contract (plugin.BYTES).
    """
    if not plugins:
        return inliner.inline_local_functions(model)
    taken = [(plugin.NAMESPACE, operator) for operator in plugin.OPERATORS]
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
    model: ModelProto, request: BuildRequest, progress: Callable[[str], None] = lambda _line: None
) -> tuple[bytes, BuildResult]:
    """Build the engine of `model` as `request` says, in a child process.

    `progress` gets each line that the child says, in this thread. Raises BackendError with the
    library's reason, also where it ended the child.
    """
    with tempfile.TemporaryDirectory(prefix="sfseg_engine_") as name:
        folder = Path(name)
        onnx.save(prepare(model, request.plugins), folder / MODEL)
        (folder / REQUEST).write_text(json.dumps(asdict(request)), encoding="utf-8")
        _run_child(folder, progress)
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        layers = tuple((name, kind) for name, kind in result["layers"])
        return (folder / ENGINE).read_bytes(), BuildResult(result["library"], layers)


def _run_child(folder: Path, progress: Callable[[str], None]) -> None:
    package_parent = str(Path(__file__).resolve().parent.parent)
    environment = trt.link_environment(os.environ, folder)
    paths = [package_parent, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, "-m", "sfseg_ros.engine_builder", str(folder)]
    lines: list[str] = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line.rstrip())
            progress(lines[-1])
    if child.returncode:
        raise BackendError(_failure(child.returncode, lines))


def _failure(code: int, lines: list[str]) -> str:
    said = [line for line in lines if line]
    if code == REFUSED:
        return said[-1]
    how = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"the engine's build {how}: {' | '.join(said[-3:]) or 'without a word'}"


REFUSED = 3  # the child's exit code where its last line is the reason


def _child(folder: Path) -> None:
    """Read model and request in `folder`, write engine and result there."""
    fields = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    request = BuildRequest(**{**fields, "shapes": tuple(map(tuple, fields["shapes"]))})
    library = trt.load(request.library)
    if request.plugins:
        library.check_plugins()
        library.check_parser_link()
        library.register(plugin.creators(library.module))
    log = library.module.Logger(library.module.Logger.WARNING)
    builder = library.module.Builder(log)
    network = library.create_network(builder)
    library.parse(network, log, (folder / MODEL).read_bytes())
    plugin.raise_noted()
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *request.shapes)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    plugin.raise_noted()
    if engine is None:
        raise BackendError(f"{library.title} cannot build an engine of this model: see above")
    (folder / ENGINE).write_bytes(engine)
    result = {"library": library.title, "layers": library.layer_types(network)}
    (folder / RESULT).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    try:
        _child(Path(sys.argv[1]))
    except SfsegError as error:
        print(one_line(error), flush=True)
        sys.exit(REFUSED)
