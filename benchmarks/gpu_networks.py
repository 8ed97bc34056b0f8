# SPDX-License-Identifier: Apache-2.0
"""Compare whole networks, and host image to host labels, side by side on one GPU.

`network`: from a uint8 picture to uint8 labels, both on the device. Times are latencies on the
host's clock, from the call until the device is done, so that the launches of eager PyTorch count.
The variants take turns; ratios are medians over the turns. `end_to_end`: from a camera's bytes to
labels, both in ordinary host memory, and each step alone. All variants have the weights of the
shipped model. Started by benchmarks/gpu.py.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_device import (
    Device,
    Report,
    Work,
    device_of,
    latencies_ms,
    matrix_product,
    statistics_of,
    times_faster,
)
from benchmarks.gpu_kernels import interpolate_argmax
from benchmarks.torch_pipeline import (
    KernelNetwork,
    Normaliser,
    TorchPipeline,
    Uint8Array,
    folded,
    kernel_normaliser,
    network_from_onnx,
)
from sfseg_ros.backends.cut_graph import model_of
from sfseg_ros.backends.protocol import Backend, BackendOptions
from sfseg_ros.backends.tensorrt.engine_store import Shape
from sfseg_ros.installed_files import DEFAULT_MODEL, find_model
from sfseg_ros.model.manifest import Manifest, load_manifest

ROUNDS = 200
SIZE = (1024, 2048)
EAGER = "torch eager fp16, channels last"
COMPILE_NEEDS_S = 60.0
"""Minimum time left to start torch.compile of a whole network."""

Segment = Callable[[Tensor], Tensor]  # uint8 (N, H, W, 3) RGB to uint8 (N, H, W), on the device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("network", "end_to_end"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = True
    device = device_of(arguments.rehearse)
    report = Report(arguments.result, arguments.seconds)
    manifest = load_manifest(find_model(arguments.model))
    size = (64, 128) if device.rehearsal else SIZE
    report.put("model", {"name": manifest.name, "size": size, "batch": arguments.batch})
    measure = whole_network if arguments.what == "network" else end_to_end
    measure(device, report, manifest, (arguments.batch, *size, 3))


# --- (b) and (d) ----------------------------------------------------------------------------------


def whole_network(
    device: Device, report: Report, manifest: Manifest, shape: tuple[int, ...]
) -> None:
    """Measure every variant. Rewrites the rows after each variant that takes minutes to prepare."""
    rounds, few = (2, 2) if device.rehearsal else (ROUNDS, ROUNDS // 10)
    rgb = torch.from_numpy(pictures(shape)).to(device.torch_device)
    operations = flops(device, manifest, rgb)
    report.put("gflop", operations / 1e9)
    rate = matrix_rate(device, rounds)
    report.put("matrix_tflops_fp16", rate / 1e12)
    works: dict[str, Work] = {}
    labels: dict[str, Tensor] = {}

    def include(ways: dict[str, Callable[[], tuple[Work, Tensor]]], needs_s: float = 0.0) -> None:
        for name, make in ways.items():
            made = report.attempt(name, make, needs_s=needs_s)
            if made is not None:
                works[name], labels[name] = made

    include(eager_ways(device, manifest, rgb))
    rows(device, report, works, labels, few, operations, rate)  # in case a later step fails
    include(library_ways(device, manifest, rgb))
    include(compiled_ways(device, manifest, rgb), COMPILE_NEEDS_S if not device.rehearsal else 0)
    rows(device, report, works, labels, rounds, operations, rate)


def rows(
    device: Device,
    report: Report,
    works: dict[str, Work],
    labels: dict[str, Tensor],
    rounds: int,
    operations: float,
    rate: float,
) -> None:
    times = latencies_ms(device, works, rounds)
    found = []
    for name in works:
        row: dict[str, Any] = {
            "what": name,
            **statistics_of(times[name]),
            "times_faster_than_eager_fp16": times_faster(times[EAGER], times[name]),
            "share_of_matrix_rate": operations / statistics.median(times[name]) * 1e3 / rate,
            "pixel_agreement_with_fp32": float(
                (labels[name].cpu() == labels[FP32].cpu()).float().mean()
            ),
        }
        found.append(row)
        print(
            f"{name}: {row['median_ms']:.3f} ms (p99 {row['p99_ms']:.3f}), "
            f"{row['times_faster_than_eager_fp16']:.2f}x eager fp16, "
            f"{100 * row['share_of_matrix_rate']:.1f} % of the matrix rate, "
            f"{100 * row['pixel_agreement_with_fp32']:.3f} % agree",
            flush=True,
        )
    report.put("rows", found)


FP32 = "torch eager fp32"


def eager_ways(
    device: Device, manifest: Manifest, rgb: Tensor
) -> dict[str, Callable[[], tuple[Work, Tensor]]]:
    """Return the variants without a compiler: eager PyTorch, a CUDA graph of it, our kernels."""
    size = (rgb.shape[1], rgb.shape[2])
    network = network_from_onnx(manifest.onnx_path)
    normalised32 = Normaliser(device, torch.float32)
    normalised16 = Normaliser(device, torch.float16)

    def fp32(allow_tf32: bool) -> tuple[Work, Tensor]:
        net = network_from_onnx(manifest.onnx_path).to(device.torch_device)

        def run() -> Tensor:
            torch.backends.cudnn.allow_tf32 = allow_tf32
            return interpolate_argmax(net.scores(normalised32(rgb)), size)

        return run, run()

    def fp16(graph: bool) -> tuple[Work, Tensor]:
        net = _half(device, network_from_onnx(manifest.onnx_path))
        run = lambda: interpolate_argmax(net.scores(normalised16(rgb)), size)  # noqa: E731
        return _captured(device, run) if graph else (run, run())

    def ours() -> tuple[Work, Tensor]:
        net = _half(device, KernelNetwork(device, folded(network)))
        run = _from_rgb(device, rgb, net)
        return _captured(device, run)

    return {
        FP32: partial(fp32, False),
        "torch eager fp32, TF32 convolutions": partial(fp32, True),
        EAGER: partial(fp16, False),
        "torch fp16, channels last, CUDA graph": partial(fp16, True),
        "ours: torch fp16 + our kernels, CUDA graph": ours,
    }


def compiled_ways(
    device: Device, manifest: Manifest, rgb: Tensor
) -> dict[str, Callable[[], tuple[Work, Tensor]]]:
    """Return the variants with torch.compile, without and with our kernels, as CUDA graphs."""
    size = (rgb.shape[1], rgb.shape[2])
    network = network_from_onnx(manifest.onnx_path)
    normalised = Normaliser(device, torch.float16)

    def plain() -> tuple[Work, Tensor]:
        torch.compiler.reset()
        net = _half(device, folded(network))
        classes = len(manifest.classes)

        def run_eagerly(pictures: Tensor) -> Tensor:
            return interpolate_argmax(net.scores(normalised(pictures))[:, :classes], size)

        compiled = torch.compile(run_eagerly, dynamic=False)
        run = lambda: compiled(rgb)  # noqa: E731
        return _captured(device, run)

    def ours() -> tuple[Work, Tensor]:
        torch.compiler.reset()
        net = _half(device, KernelNetwork(device, folded(network)))
        run = _from_rgb(device, rgb, torch.compile(net, dynamic=False))
        return _captured(device, run)

    return {
        "ours: torch.compile fp16 + our kernels, CUDA graph": ours,
        "torch.compile fp16, channels last, CUDA graph": plain,
    }


def library_ways(
    device: Device, manifest: Manifest, rgb: Tensor
) -> dict[str, Callable[[], tuple[Work, Tensor]]]:
    """TensorRT (either kind) with and without plugins, and ONNX Runtime's CUDA provider."""
    return {
        "TensorRT fp16, our plugins": partial(engine_way, device, manifest, rgb, True),
        "TensorRT fp16, portable": partial(engine_way, device, manifest, rgb, False),
        "ONNX Runtime CUDA fp32": partial(onnxruntime_way, manifest, rgb),
    }


def engine_way(
    device: Device, manifest: Manifest, rgb: Tensor, plugins: bool
) -> tuple[Work, Tensor]:
    """Run an engine in torch's stream, as a CUDA graph."""
    from sfseg_ros.backends.tensorrt import plugin
    from sfseg_ros.backends.tensorrt.engine_builder import BuildRequest, engine_from_onnx
    from sfseg_ros.backends.tensorrt.library import load_tensorrt
    from sfseg_ros.backends.tensorrt.precision import typed_model

    if device.rehearsal:
        raise RuntimeError("rehearsal on the processor: no engine can run")
    library = load_tensorrt()
    module = library.module
    shape: Any = tuple(rgb.shape)
    request = BuildRequest(shapes=(shape, shape, shape), plugins=plugins, library=library.name)
    data, _ = engine_from_onnx(typed_model(model_of(manifest), "fp16"), request)
    if plugins:
        library.register(plugin.creators(module))
    runtime = module.Runtime(module.Logger(module.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(data)
    plugin.raise_noted()
    if engine is None:
        raise RuntimeError(f"{library.title} does not load the engine: see the log")
    context = engine.create_execution_context()
    labels = torch.empty(shape[:3], dtype=torch.uint8, device=rgb.device)
    confidence = torch.empty_like(labels)
    context.set_input_shape("image", shape)
    for name, tensor in (("image", rgb), ("labels", labels), ("confidence", confidence)):
        context.set_tensor_address(name, tensor.data_ptr())

    def run() -> None:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            plugin.raise_noted()
            raise RuntimeError(f"{library.title} failed: see the log")

    work = device.graph(run)
    work()
    return work, labels


def onnxruntime_way(manifest: Manifest, rgb: Tensor) -> tuple[Work, Tensor]:
    """Run the exported file with its standard bodies, input and outputs on the device."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise RuntimeError(
            f"onnxruntime {ort.__version__} has {', '.join(ort.get_available_providers())} only"
        )
    session = ort.InferenceSession(
        model_of(manifest).SerializeToString(),
        providers=[("CUDAExecutionProvider", {"use_tf32": "0"})],
    )
    if "CUDAExecutionProvider" not in session.get_providers():
        raise RuntimeError("ONNX Runtime could not start its CUDAExecutionProvider: see the log")
    labels = torch.empty(rgb.shape[:3], dtype=torch.uint8, device=rgb.device)
    confidence = torch.empty_like(labels)
    binding = session.io_binding()
    binding.bind_input("image", "cuda", 0, np.uint8, list(rgb.shape), rgb.data_ptr())
    for name, tensor in (("labels", labels), ("confidence", confidence)):
        binding.bind_output(name, "cuda", 0, np.uint8, list(tensor.shape), tensor.data_ptr())

    def run() -> None:
        session.run_with_iobinding(binding)

    run()
    return run, labels


def flops(device: Device, manifest: Manifest, rgb: Tensor) -> float:
    """Floating-point operations of the convolutions and products for one call."""
    network = _half(device, network_from_onnx(manifest.onnx_path))
    with FlopCounterMode(display=False) as counter:
        network.scores(Normaliser(device, torch.float16)(rgb))
    return float(counter.get_total_flops())


def matrix_rate(device: Device, rounds: int) -> float:
    """Operations per second of a large fp16 product of random matrices, by the median time."""
    work, operations = matrix_product(device)
    times = device.times_ms({"product": work}, min(rounds, 30))["product"]
    return operations / statistics.median(times) * 1e3


# --- (c) ------------------------------------------------------------------------------------------


def end_to_end(device: Device, report: Report, manifest: Manifest, shape: Shape) -> None:
    """Camera bytes (bgr8) to labels, both in ordinary host memory."""
    rounds = 2 if device.rehearsal else ROUNDS
    size = (shape[1], shape[2])
    bgr = np.ascontiguousarray(pictures(shape)[..., ::-1])
    network = network_from_onnx(manifest.onnx_path)
    eager = eager_infer(device, network, size)
    calls: dict[str, Callable[[Uint8Array], Uint8Array]] = {EAGER: eager}
    kernels = _half(device, KernelNetwork(device, folded(network)))

    def pipeline(segment: Segment) -> TorchPipeline:
        return TorchPipeline(device, segment, shape, size)

    def compiled() -> TorchPipeline:
        torch.compiler.reset()
        return pipeline(torch.compile(kernels, dynamic=False))

    # Better variants first: the steps are those of the last one that worked.
    ours: dict[str, Callable[[], TorchPipeline]] = {
        "ours: torch fp16 + our kernels, one CUDA graph": partial(pipeline, kernels),
        "ours: torch.compile fp16 + our kernels, one CUDA graph": compiled,
    }
    for name, make in ours.items():
        needs = COMPILE_NEEDS_S if make is compiled and not device.rehearsal else 0.0
        made = report.attempt(name, make, needs_s=needs)
        if made is None:
            continue
        calls[name] = made.infer
        rows_end_to_end(device, report, calls, bgr, rounds)
        report.put(f"steps of {name}", steps(device, made, bgr, rounds))
    for name, call in tensorrt_calls(report, manifest, bgr).items():
        calls[name] = call
        rows_end_to_end(device, report, calls, bgr, rounds)


def eager_infer(
    device: Device, network: torch.nn.Module, size: tuple[int, int]
) -> Callable[[Uint8Array], Uint8Array]:
    """Run the usual PyTorch code: upload, colours, normalise, network, interpolate, argmax."""
    net: Any = _half(device, network)
    normalised = Normaliser(device, torch.float16)

    def infer(bgr: Uint8Array) -> Uint8Array:
        rgb = torch.from_numpy(bgr).to(device.torch_device).flip(3)
        return np.asarray(interpolate_argmax(net.scores(normalised(rgb)), size).cpu().numpy())

    return infer


def rows_end_to_end(
    device: Device,
    report: Report,
    calls: dict[str, Callable[[Uint8Array], Uint8Array]],
    bgr: Uint8Array,
    rounds: int,
) -> None:
    labels = {name: call(bgr) for name, call in calls.items()}
    times = latencies_ms(device, {name: partial(call, bgr) for name, call in calls.items()}, rounds)
    found = []
    for name in calls:
        faster = times_faster(times[EAGER], times[name])
        row = {
            "what": name,
            **statistics_of(times[name]),
            "times_faster_than_eager_fp16": faster,
            "pixel_agreement_with_eager_fp16": float((labels[name] == labels[EAGER]).mean()),
        }
        found.append(row)
        print(
            f"{name}: {row['median_ms']:.3f} ms (p99 {row['p99_ms']:.3f}), "
            f"{faster:.2f}x eager fp16",
            flush=True,
        )
    report.put("rows", found)


def steps(device: Device, pipeline: TorchPipeline, bgr: Uint8Array, rounds: int) -> dict[str, Any]:
    """Time each step alone: device steps by the device's clock, host steps by the host's."""
    on_device = device.times_ms(pipeline.device_steps(), rounds)
    on_host = latencies_ms(
        device,
        {
            "copy into pinned memory": partial(pipeline.stage_in, bgr),
            "copy of the labels": pipeline.stage_out,
        },
        rounds,
    )
    found = {name: statistics_of(times) for name, times in {**on_host, **on_device}.items()}
    others = {name: s["median_ms"] for name, s in found.items() if name != "network and labels"}
    device_ms = sum(value for name, value in others.items() if name in on_device)
    for name, value in found.items():
        print(f"  {name}: {value['median_ms']:.3f} ms", flush=True)
    return {
        "steps": found,
        "other_than_network_ms": sum(others.values()),
        "other_than_network_on_device_ms": device_ms,
    }


def tensorrt_calls(
    report: Report, manifest: Manifest, bgr: Uint8Array
) -> dict[str, Callable[[Uint8Array], Uint8Array]]:
    """Return the runtime's backend if TensorRT is installed and supports the GPU. Its input is RGB.
    The host converts the camera's bytes beforehand; that time is not counted."""
    from sfseg_ros.backends.choice import open_backend

    rgb = np.ascontiguousarray(bgr[..., ::-1])

    found: dict[str, Callable[[Uint8Array], Uint8Array]] = {}
    for wait in ("block", "spin"):
        name = f"backend tensorrt fp16, {wait}"
        backend = report.attempt(
            name,
            partial(
                open_backend,
                "tensorrt",
                manifest,
                BackendOptions("fp16", network_size=(rgb.shape[1], rgb.shape[2]), gpu_wait=wait),
            ),
        )
        if backend is not None:
            found[name] = partial(_labels_of, backend, rgb)
    return found


def _labels_of(backend: Backend, rgb: Uint8Array, _bgr: Uint8Array) -> Uint8Array:
    return backend.infer(rgb, False)[0]


# --- shared ---------------------------------------------------------------------------------------


def pictures(shape: tuple[int, ...]) -> Uint8Array:
    """uint8 (N, H, W, 3): shapes of many sizes and colours; each picture of the batch differs.

    The scores of the classes are closer than in a street, so the agreement is a lower bound.
    """
    count, height, width, _ = shape
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, height // 16, width // 16, 3), np.uint8)
    return np.stack([cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC) for c in coarse])


def _captured(device: Device, run: Callable[[], Tensor]) -> tuple[Work, Tensor]:
    """Return `run` as a graph, and the labels that its replays write."""
    labels = torch.zeros_like(run())
    work = device.graph(lambda: labels.copy_(run()))
    labels.zero_()
    work()
    return work, labels


def _half(device: Device, network: Any) -> Any:
    return network.to(device.torch_device).half().to(memory_format=torch.channels_last).eval()


def _from_rgb(device: Device, rgb: Tensor, segment: Segment) -> Callable[[], Tensor]:
    normalised = kernel_normaliser(device, "rgb8", tuple(rgb.shape), (rgb.shape[1], rgb.shape[2]))
    return lambda: segment(normalised(rgb))


if __name__ == "__main__":
    main()
