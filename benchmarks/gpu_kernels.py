# SPDX-License-Identifier: Apache-2.0
"""Compare each kernel with the equivalent PyTorch operators and with the copy bandwidth.

Sizes are those of SFNet-Lite at 1024x2048. All times are replays of CUDA graphs that hold one call
for each of several sets of buffers, which together exceed the L2 cache. The variants of a row take
turns; ratios are medians over the turns. Started by benchmarks/gpu.py.
"""

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_device import (
    Device,
    Report,
    Work,
    copy_work,
    device_of,
    sets_past_cache,
    statistics_of,
    times_faster,
)
from sfseg_ros.geometry import WHOLE_IMAGE, geometry_of
from sfseg_ros.kernels.camera_image import NetworkInput, camera_image_launch
from sfseg_ros.kernels.flow_warp import flow_warp_launch
from sfseg_ros.kernels.gated_flow_fusion import gated_flow_fusion_launch
from sfseg_ros.kernels.launch import Launch
from sfseg_ros.kernels.overlay import overlay_launch
from sfseg_ros.kernels.upsample_argmax import upsample_argmax_launch
from training import operators

ROUNDS = 200
COPY_BYTES = 2**30
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3}
"""Allowed difference from the fp32 reference: norm of the difference over the norm."""

COMPILED = ((torch.float16, "hwc"), (torch.float32, "linear"))
"""Rows that include torch.compile, which takes seconds for each."""

Chain = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """One kernel with one set of shapes.

    `inputs()` makes fresh random inputs, `outputs()` empty outputs. `chains` are
    sequences of PyTorch operators with the same result. The first is exact: it is the reference,
    and the input of torch.compile if `compiled` is set.
    """

    name: str
    launch: Launch
    inputs: Callable[[], list[Tensor]]
    outputs: Callable[[], list[Tensor]]
    chains: dict[str, Chain]
    compiled: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    device = device_of(arguments.rehearse)
    report = Report(arguments.result, arguments.seconds)
    rounds = 2 if device.rehearsal else ROUNDS
    report.put("copy_bytes_per_s", copy_bandwidth(device, rounds))
    for case in cases(device):
        row = report.attempt(case.name, partial(measured, device, report, case, rounds), needs_s=5)
        if row is not None:
            report.add("rows", row)
            print(line_of(row), flush=True)
        gc.collect()
        torch.cuda.empty_cache()


def copy_bandwidth(device: Device, rounds: int) -> dict[str, float]:
    """Return the bytes per second of a large copy, by the median and by the minimum time."""
    work, moved = copy_work(device, 2**16 if device.rehearsal else COPY_BYTES)
    found = statistics_of(device.times_ms({"copy": work}, rounds)["copy"])
    return {name: moved / found[f"{name}_ms"] * 1e3 for name in ("median", "min")}


def measured(device: Device, report: Report, case: Case, rounds: int) -> dict[str, Any]:
    """Return one row: correctness, and times of our kernel, of each chain and of copies."""
    sets = sets_past_cache(device, case.launch.bytes_moved)
    inputs = [case.inputs() for _ in range(sets)]
    outputs = [case.outputs() for _ in range(sets)]
    exact = next(iter(case.chains))
    error = difference(device, case, inputs[0])

    def ours() -> None:
        for given, results in zip(inputs, outputs, strict=True):
            device.launch(case.launch, given, results)

    def every(chain: Chain) -> Work:
        def run() -> None:
            for given in inputs:
                chain(*given)  # the result is dropped: the graph needs the memory of one call

        return run

    works: dict[str, Work] = {"ours": device.graph(ours)}
    for name, chain in case.chains.items():
        work = report.attempt(f"{case.name}: {name}", partial(device.graph, every(chain)))
        if work is not None:
            works[name] = work
    if case.compiled:
        # Each row has its own cache, because torch.compile stops after eight shapes of a function.
        torch.compiler.reset()
        fused = torch.compile(case.chains[exact], dynamic=False)
        work = report.attempt(
            f"{case.name}: torch.compile", partial(device.graph, every(fused)), needs_s=30
        )
        if work is not None:
            works["torch.compile"] = work
    copies = [copy_work(device, max(1, case.launch.bytes_moved // 2))[0] for _ in range(sets)]

    def copy_as_many() -> None:
        for copy in copies:
            copy()

    works["copy of as many bytes"] = device.graph(copy_as_many)
    large, large_moved = copy_work(device, 2**16 if device.rehearsal else COPY_BYTES)
    works["large copy"] = large

    times = device.times_ms(works, rounds)
    bandwidths = [large_moved / t for t in times["large copy"]]
    ours_bandwidth = [sets * case.launch.bytes_moved / t for t in times["ours"]]
    del times["large copy"]
    row: dict[str, Any] = {
        "what": case.name,
        "kernel": case.launch.kernel,
        "bytes_moved": case.launch.bytes_moved,
        "sets_of_buffers": sets,
        "error": error,
        "correct": error is not None and error <= limit_of(case),
        "share_of_copy": times_faster(ours_bandwidth, bandwidths),
        "times_faster_than": {
            name: times_faster(found, times["ours"])
            for name, found in times.items()
            if name != "ours"
        },
        "times": {name: statistics_of(found, sets) for name, found in times.items()},
    }
    return row


def difference(device: Device, case: Case, inputs: list[Tensor]) -> float:
    """Compare our first output with the exact chain in fp32. Returns the norm of the difference
    over the norm for floats, and the share of values that differ by more than 1 for labels and
    pixels."""
    outputs = case.outputs()
    for output in outputs:
        output.fill_(float("nan") if output.is_floating_point() else 0xA5)
    device.launch(case.launch, inputs, outputs)
    device.synchronize()
    exact = next(iter(case.chains.values()))
    wide = [t.float() if t.is_floating_point() else t for t in inputs]
    reference = exact(*wide)
    expected = reference[0] if isinstance(reference, tuple) else reference
    ours = outputs[0]
    if ours.is_floating_point():
        off = (ours.float() - expected.float()).norm() / expected.float().norm()
        return float(off) if bool(torch.isfinite(off)) else float("inf")
    if "upsample_argmax" in case.launch.kernel:
        return float((ours != expected).float().mean())
    return float(((ours.int() - expected.int()).abs() > 1).float().mean())


def limit_of(case: Case) -> float:
    outputs = case.outputs()
    return LIMITS.get(outputs[0].dtype, 1e-4)


def line_of(row: dict[str, Any]) -> str:
    ratios = ", ".join(f"{r:.1f}x {name}" for name, r in row["times_faster_than"].items())
    ours = row["times"]["ours"]
    return (
        f"{row['what']}: {ours['median_ms'] * 1e3:.1f} us (p99 {ours['p99_ms'] * 1e3:.1f}), "
        f"{100 * row['share_of_copy']:.0f} % of copy; {ratios}"
        f"{'' if row['correct'] else '; WRONG, error ' + format(row['error'], '.1e')}"
    )


# --- the cases ------------------------------------------------------------------------------------


def cases(device: Device) -> list[Case]:
    """Yield the most important cases first: if time runs out, the last are missing."""
    found: list[Case] = []
    for dtype, layout in (
        (torch.float16, "hwc"),
        (torch.float32, "linear"),
        (torch.float16, "linear"),
        (torch.float32, "hwc"),
    ):
        for batch in (4, 1):
            for make in (gated_flow_fusion_case, upsample_argmax_case, flow_warp_case):
                found.append(make(device, batch, dtype, layout))
            if (dtype, layout) in COMPILED:
                found.append(upsample_argmax_case(device, batch, dtype, layout, confidence=True))
    return [
        *found,
        *(camera_image_case(device, to) for to in ("same size", "half")),
        overlay_case(device),
    ]


def gated_flow_fusion_case(device: Device, batch: int, dtype: torch.dtype, layout: str) -> Case:
    """SFNet-Lite's GD-FAM: the context map at 1/32 and the fine map at 1/4 of the image."""
    height, width, channels = (16, 32, 16) if device.rehearsal else (256, 512, 128)
    high = (batch, channels, height // 8, width // 8)
    low = (batch, channels, height, width)
    make = partial(_normal, device, dtype)

    def inputs() -> list[Tensor]:
        flow = torch.cat([_flow(device, batch, height, width, dtype) for _ in range(2)], dim=1)
        gate = torch.sigmoid(make((batch, 1, height, width), "linear"))
        return [make(high, layout), make(low, layout), flow, gate]

    return Case(
        f"GatedFlowFusion {_words(dtype, layout)}, batch {batch}",
        gated_flow_fusion_launch(high, low, True, _name(dtype), layout, _name(dtype)),
        inputs,
        lambda: [torch.empty_like(make(low, layout))],
        _chains(operators.gated_flow_fusion, gated_flow_fusion_of_dtype, dtype),
        compiled=(dtype, layout) in COMPILED,
    )


def flow_warp_case(device: Device, batch: int, dtype: torch.dtype, layout: str) -> Case:
    """SFNet's largest warp: from 1/8 to 1/4 of the image."""
    height, width, channels = (16, 32, 16) if device.rehearsal else (256, 512, 128)
    features = (batch, channels, height // 2, width // 2)
    result = (batch, channels, height, width)
    make = partial(_normal, device, dtype)
    return Case(
        f"FlowWarp {_words(dtype, layout)}, batch {batch}",
        flow_warp_launch(
            features, (batch, 2, height, width), True, _name(dtype), layout, _name(dtype)
        ),
        lambda: [make(features, layout), _flow(device, batch, height, width, dtype)],
        lambda: [torch.empty_like(make(result, layout))],
        _chains(operators.flow_warp, flow_warp_of_dtype, dtype),
        compiled=(dtype, layout) in COMPILED,
    )


def upsample_argmax_case(
    device: Device, batch: int, dtype: torch.dtype, layout: str, confidence: bool = False
) -> Case:
    """Labels from scores of 19 classes at 1/4 of the image; the chain is interpolate + argmax. With
    `confidence`, the kernel is the one of an engine, and the chain includes softmax."""
    height, width, classes, stride = (*((8, 16) if device.rehearsal else (256, 512)), 19, 4)
    shape = (batch, classes, height, width)
    size = (stride * height, stride * width)
    chains: dict[str, Chain] = (
        {"interpolate + softmax + max": partial(interpolate_softmax, size=size)}
        if confidence
        else {"interpolate + argmax": partial(interpolate_argmax, size=size)}
    )
    return Case(
        f"UpsampleArgmax {_words(dtype, layout)}, batch {batch}"
        + (", with confidence" if confidence else ""),
        upsample_argmax_launch(shape, stride, _name(dtype), layout, confidence),
        lambda: [_scores(device, shape, dtype, layout)],
        lambda: [
            torch.empty(batch, *size, dtype=torch.uint8, device=device.torch_device)
            for _ in range(1 + confidence)
        ],
        chains,
        compiled=(dtype, layout) in COMPILED,
    )


def camera_image_case(device: Device, to: str) -> Case:
    """A normalised fp16 channels-last input from a bgr8 picture."""
    image = (32, 64) if device.rehearsal else (1024, 2048)
    network = image if to == "same size" else (image[0] // 2, image[1] // 2)
    geometry = geometry_of(image, WHOLE_IMAGE, lambda _size: network)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    launch = camera_image_launch(
        "bgr8", 3 * image[1], geometry, made=NetworkInput("float16", "hwc", mean, std)
    )
    options: dict[str, Any] = {"device": device.torch_device}
    # Made here: a copy from the host cannot be captured in a graph.
    offset, scale = (255 * torch.tensor(x, **options)[:, None, None] for x in (mean, std))

    def inputs() -> list[Tensor]:
        return [torch.randint(0, 256, (1, *image, 3), dtype=torch.uint8, **options)]

    def chain(bgr: Tensor) -> Tensor:
        x = bgr.flip(3).permute(0, 3, 1, 2).float()
        if network != image:
            x = F.avg_pool2d(x, 2).add_(0.5).floor_()  # a picture of bytes, as the camera's
        x = (x - offset) / scale
        return x.half().contiguous(memory_format=torch.channels_last)

    return Case(
        f"CameraImage bgr8 {image[0]}x{image[1]}, {to}",
        launch,
        inputs,
        lambda: [
            torch.empty(1, 3, *network, dtype=torch.float16, **options).to(
                memory_format=torch.channels_last
            )
        ],
        {"torch": chain},
    )


def overlay_case(device: Device) -> Case:
    """Colours over the picture."""
    image = (32, 64) if device.rehearsal else (1024, 2048)
    options: dict[str, Any] = {"device": device.torch_device, "dtype": torch.uint8}

    def inputs() -> list[Tensor]:
        return [
            torch.randint(0, 256, (1, *image, 3), **options),
            torch.randint(0, 19, (1, *image), **options),
            torch.randint(0, 256, (256, 3), **options),
        ]

    def chain(rgb: Tensor, labels: Tensor, palette: Tensor) -> Tensor:
        colours = palette[labels.long()].float()
        return torch.round(torch.lerp(rgb.float(), colours, 0.5)).to(torch.uint8)

    return Case(
        f"Overlay {image[0]}x{image[1]}",
        overlay_launch((1, *image), 0.5),
        inputs,
        lambda: [torch.empty(1, *image, 3, **options)],
        {"torch": chain},
    )


def flow_warp_of_dtype(features: Tensor, flow: Tensor) -> Tensor:
    """Warp with a half-precision grid, as a network in half precision does unless changed. At this
    width the grid is off by an eighth of a pixel."""
    grid = operators.sampling_grid(flow).to(features.dtype)
    return F.grid_sample(features, grid, padding_mode="zeros", align_corners=True)


def gated_flow_fusion_of_dtype(high: Tensor, low: Tensor, flow: Tensor, gate: Tensor) -> Tensor:
    return torch.lerp(
        flow_warp_of_dtype(low, flow[:, 2:4]), flow_warp_of_dtype(high, flow[:, 0:2]), gate
    )


def interpolate_argmax(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute labels as PyTorch networks usually do."""
    full = F.interpolate(scores, size=size, mode="bilinear", align_corners=True)
    return full.argmax(dim=1).to(torch.uint8)


def interpolate_softmax(scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Compute labels and confidence in the same way."""
    full = F.interpolate(scores, size=size, mode="bilinear", align_corners=True)
    share, labels = full.softmax(dim=1).max(dim=1)
    return labels.to(torch.uint8), share.mul(255).round().to(torch.uint8)


def _chains(exact: Chain, of_dtype: Chain, dtype: torch.dtype) -> dict[str, Chain]:
    chains = {"grid_sample chain": exact}
    return chains if dtype == torch.float32 else chains | {"chain with an fp16 grid": of_dtype}


def _normal(device: Device, dtype: torch.dtype, shape: Sequence[int], layout: str) -> Tensor:
    """Return random features in memory layout `layout`."""
    x = torch.randn(*shape, device=device.torch_device).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if layout == "hwc" else x


def _flow(device: Device, batch: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """A smooth flow of some pixels, like a network's: noise at 1/8, enlarged."""
    coarse = torch.randn(batch, 2, height // 8, width // 8, device=device.torch_device)
    return (8 * operators.resize(coarse, (height, width))).to(dtype)


def _scores(device: Device, shape: Sequence[int], dtype: torch.dtype, layout: str) -> Tensor:
    """Scores with areas, like a network's: noise at 1/4, enlarged. White noise would have a border
    at every pixel."""
    batch, classes, height, width = shape
    coarse = torch.randn(batch, classes, height // 4, width // 4, device=device.torch_device)
    scores = (4 * operators.resize(coarse, (height, width))).to(dtype)
    memory = torch.channels_last if layout == "hwc" else torch.contiguous_format
    return scores.contiguous(memory_format=memory)


def _name(dtype: torch.dtype) -> str:
    return "float16" if dtype == torch.float16 else "float32"


def _words(dtype: torch.dtype, layout: str) -> str:
    return f"{'fp16' if dtype == torch.float16 else 'fp32'} {layout}"


if __name__ == "__main__":
    main()
