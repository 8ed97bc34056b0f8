# SPDX-License-Identifier: Apache-2.0
"""Try whether TensorRT or TensorRT-RTX builds, loads and runs our engines on this GPU.

Each step is a process with its own time limit, because the library can abort. Its messages are
recorded verbatim. The documentation of TensorRT-RTX does not list every chip (Hopper is missing),
so this test shows whether it works there. Started by benchmarks/gpu.py.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.gpu_device import Report
from sfseg_ros.backends.cut_graph import model_of
from sfseg_ros.backends.tensorrt import plugin
from sfseg_ros.backends.tensorrt.engine_builder import (
    BuildRequest,
    engine_from_onnx,
    prepare,
)
from sfseg_ros.backends.tensorrt.engine_store import Shape
from sfseg_ros.backends.tensorrt.library import TensorRt, link_environment, load_tensorrt
from sfseg_ros.backends.tensorrt.precision import typed_model
from sfseg_ros.installed_files import DEFAULT_MODEL, find_model
from sfseg_ros.model.manifest import Manifest, load_manifest

SHAPE: Shape = (1, 64, 128, 3)
STEP_LIMIT_S = 60.0
ENGINE = "engine"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--result", type=Path, default=Path("build/gpu/tensorrt.json"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rehearse", action="store_true", help="says nothing here")
    parser.add_argument("--step", choices=sorted(STEPS))
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.step:
        STEPS[arguments.step](load_manifest(find_model(arguments.model)), arguments.folder)
        return
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    report = Report(arguments.result, arguments.seconds)
    report.put("what", "each step in a process of its own; `said` is all that it said")
    with tempfile.TemporaryDirectory(prefix="sfseg_tensorrt_") as name:
        for step in STEPS:
            found = report.attempt(
                step, partial(run_step, step, arguments.model, Path(name), report), needs_s=3
            )
            if found is not None:
                report.add("steps", found)
                last = found["said"].splitlines()[-1:]
                print(f"{step}: status {found['status']}, {last}", flush=True)
                if step == "import" and found["status"]:
                    break  # no library, so no steps


def run_step(step: str, model: str, folder: Path, report: Report) -> dict[str, Any]:
    """Return exit status (None after a timeout) and output of one step."""
    command = [sys.executable, "-m", "benchmarks.gpu_tensorrt", "--step", step, "--model", model]
    limit = min(STEP_LIMIT_S, report.seconds_left())
    begin = time.monotonic()
    try:
        done = subprocess.run(
            [*command, "--folder", str(folder)],
            env=link_environment(os.environ, folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
        status, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        status, said = None, f"{_text(error.stdout)}\nended after {limit:.0f} s"
    seconds = round(time.monotonic() - begin, 1)
    return {"step": step, "status": status, "seconds": seconds, "said": said.strip()[-8000:]}


# --- the steps, each in its own process -----------------------------------------------------------


def import_library(_manifest: Manifest, _folder: Path) -> None:
    print(load_tensorrt().title)


def build(manifest: Manifest, folder: Path) -> None:
    """Build with plugins, as the runtime does: RTX for all known GPUs, TensorRT for this one."""
    request = BuildRequest(shapes=(SHAPE, SHAPE, SHAPE), plugins=True)
    engine, result = engine_from_onnx(_model(manifest), request, print)
    (folder / ENGINE).write_bytes(engine)
    print(f"{len(engine)} bytes, {len(result.plugin_layers)} plugin layers")


def validity(_manifest: Manifest, folder: Path) -> None:
    """Print what RTX says about that engine before loading it."""
    library, _, runtime = _runtime()
    ask = getattr(runtime, "get_engine_validity", None)
    if ask is None:
        print(f"{library.title} has no get_engine_validity")
    else:
        print(ask((folder / ENGINE).read_bytes()))


def load(_manifest: Manifest, folder: Path) -> None:
    _, _, runtime = _runtime("VERBOSE")
    if runtime.deserialize_cuda_engine((folder / ENGINE).read_bytes()) is None:
        sys.exit("deserialize_cuda_engine returned None")
    print("loaded")


def build_for_this_gpu(manifest: Manifest, folder: Path) -> None:
    """Build for the capability that the library calls CURRENT, and load the engine at once."""
    library, log, runtime = _runtime()
    module = library.module
    library.check_parser_link()
    builder = module.Builder(log)
    network = library.create_network(builder)
    library.parse(network, log, prepare(_model(manifest), plugins=True).SerializeToString())
    config = builder.create_builder_config()
    if library.is_rtx:
        config.num_compute_capabilities = 1
        accepted = config.set_compute_capability(module.ComputeCapability.CURRENT, 0)
        print(f"set_compute_capability(CURRENT): {accepted}")
    profile = builder.create_optimization_profile()
    profile.set_shape("image", SHAPE, SHAPE, SHAPE)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    plugin.raise_noted()
    if engine is None:
        sys.exit("build_serialized_network returned None")
    print(f"{engine.nbytes} bytes")
    if runtime.deserialize_cuda_engine(engine) is None:
        sys.exit("deserialize_cuda_engine returned None")
    print("loaded")


def infer(manifest: Manifest, _folder: Path) -> None:
    """Run the runtime's backend, from host image to host labels."""
    from sfseg_ros.backends.choice import open_backend
    from sfseg_ros.backends.protocol import BackendOptions

    options = BackendOptions("fp16", network_size=(SHAPE[1], SHAPE[2]))
    backend = open_backend("tensorrt", manifest, options)
    rgb = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    labels, _ = backend.infer(rgb, False)
    print(f"{backend.description}: labels {np.unique(labels).tolist()}")
    backend.close()


def _model(manifest: Manifest) -> onnx.ModelProto:
    return typed_model(model_of(manifest), "fp16")


def _runtime(level: str = "INFO") -> tuple[TensorRt, Any, Any]:
    """Return (library, log that prints from `level` on, runtime) with our plugins registered."""
    library = load_tensorrt()
    library.register(plugin.creators(library.module))
    log = library.module.Logger(getattr(library.module.Logger, level))
    return library, log, library.module.Runtime(log)


def _text(said: Any) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said or ""


# Steps that may hang or abort come last.
STEPS: dict[str, Callable[[Manifest, Path], None]] = {
    "import": import_library,
    "build": build,
    "validity": validity,
    "load": load,
    "infer": infer,
    "build for this GPU": build_for_this_gpu,
}


if __name__ == "__main__":
    main()
