# SPDX-License-Identifier: Apache-2.0
"""SFNet-Lite in PyTorch with our kernels, from a host picture to host labels by one CUDA graph.

The GPU benchmarks measure this pipeline if TensorRT does not run: fp16, channels last, batch norms
folded into the convolutions, and kernels launched through the driver API in torch's stream. For
measurements only; the runtime has no torch.
"""

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.gpu_device import Device, Work
from sfseg_ros.backends.cut_graph import read_onnx
from sfseg_ros.geometry import WHOLE_IMAGE, geometry_of
from sfseg_ros.kernels.camera_image import NetworkInput, camera_image_launch
from sfseg_ros.kernels.gated_flow_fusion import gated_flow_fusion_launch
from sfseg_ros.kernels.upsample_argmax import upsample_argmax_launch
from training.backbones.resnet import ResNet
from training.networks import sfnet_lite
from training.normalisation import IMAGENET

Uint8Array = npt.NDArray[np.uint8]
STRIDE = sfnet_lite.SFNetLite.output_stride
PADDED_CLASSES = 8
"""The classifier's channels are padded to a multiple of this for tensor cores and 16-byte loads."""


# --- the network ----------------------------------------------------------------------------------


def network_from_onnx(path: Path) -> sfnet_lite.SFNetLite:
    """Load the SFNet-Lite (ResNet-18, plain stem) of a model.onnx of this repository, in evaluation
    mode. Its batch norms only add the bias that the export folded into the convolution."""
    model = read_onnx(path)
    tensors = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    weights, biases = {}, {}
    for name, value in tensors.items():
        if found := re.fullmatch(r"network\.(.*)\.weight(\.folded)?(\.fp16)?", name):
            weights[found[1]] = torch.tensor(value.astype(np.float32))
        elif found := re.fullmatch(r"network\.(.*?)(\.weight_bias|\.weight\.bias|\.bias)", name):
            biases[found[1]] = torch.tensor(value.astype(np.float32))
    trunk = ResNet(18, "plain", (_dilation(model, "layer3"), _dilation(model, "layer4")))
    network = sfnet_lite.SFNetLite(trunk, len(weights["head.3"])).eval()
    modules: dict[str, Any] = dict(network.named_modules())
    for module in modules.values():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(1.0 - module.eps)
    with torch.no_grad():
        for name, weight in weights.items():
            convolution = modules[name]
            convolution.weight.copy_(weight)
            if name in biases:
                own = convolution.bias is not None
                target = convolution if own else modules[_batch_norm_of(name)]
                target.bias.copy_(biases[name])
    return network


def folded(network: sfnet_lite.SFNetLite) -> sfnet_lite.SFNetLite:
    """A copy without batch norms; the channels of its classifier are padded with zeros."""
    network = copy.deepcopy(network)
    modules: dict[str, Any] = dict(network.named_modules())
    for name in [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]:
        norm = modules.get(_batch_norm_of(name))
        if isinstance(norm, nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(modules[name], norm)
            _replace(network, name, fused)
            _replace(network, _batch_norm_of(name), nn.Identity())
    classifier: Any = network.head[3]
    classes = classifier.out_channels
    padded = nn.Conv2d(classifier.in_channels, -(-classes // PADDED_CLASSES) * PADDED_CLASSES, 1)
    with torch.no_grad():
        for target, source in zip(padded.parameters(), classifier.parameters(), strict=True):
            target.zero_()[:classes] = source
    network.head[3] = padded
    return network


def _dilation(model: onnx.ModelProto, layer: str) -> int:
    """Of the second convolution of each block of a trunk's layer."""
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    for node in model.graph.node:
        weight = sources.get(node.input[1], node.input[1]) if node.op_type == "Conv" else ""
        if f"trunk.{layer}.0.conv2." in weight:
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            return int(given.get("dilations", [1])[0])
    raise ValueError(f"no convolution of trunk.{layer}: not an SFNet-Lite with ResNet-18")


def _batch_norm_of(convolution: str) -> str:
    """The batch norm after a convolution, by the names of our networks."""
    parent, _, last = convolution.rpartition(".")
    if last.isdigit():
        return f"{parent}.{int(last) + 1}"
    return f"{parent}.{last.replace('conv', 'bn')}"


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


# --- our kernels as functions of tensors ----------------------------------------------------------


@functools.cache
def kernel_operators(device: Device) -> tuple[Any, Any]:
    """(gated_flow_fusion, upsample_argmax) as operators that torch.compile takes for one node.

    gated_flow_fusion(high, low, flow, gate, align_corners) and upsample_argmax(scores, classes),
    whose scores may have padded channels, as `training/operators.py`
    has them; maps are channels last.
    """

    @torch.library.custom_op("sfseg_benchmark::gated_flow_fusion", mutates_args=())
    def gated_flow_fusion(
        high: Tensor, low: Tensor, flow: Tensor, gate: Tensor, align_corners: bool
    ) -> Tensor:
        high, low = (x.contiguous(memory_format=torch.channels_last) for x in (high, low))
        name = str(low.dtype).removeprefix("torch.")
        launch = gated_flow_fusion_launch(
            tuple(high.shape), tuple(low.shape), align_corners, name, "hwc", name
        )
        fused = torch.empty_like(low)
        device.launch(launch, [high, low, flow.contiguous(), gate.contiguous()], [fused])
        return fused

    @gated_flow_fusion.register_fake
    def _(high: Tensor, low: Tensor, flow: Tensor, gate: Tensor, align_corners: bool) -> Tensor:
        return torch.empty_like(low, memory_format=torch.channels_last)

    @torch.library.custom_op("sfseg_benchmark::upsample_argmax", mutates_args=())
    def upsample_argmax(scores: Tensor, classes: int) -> Tensor:
        scores = scores.contiguous(memory_format=torch.channels_last)
        n, padded, height, width = scores.shape
        launch = upsample_argmax_launch(
            (n, classes, height, width),
            STRIDE,
            str(scores.dtype).removeprefix("torch."),
            "hwc",
            confidence=False,
            padded_channels=padded,
        )
        labels = scores.new_empty((n, STRIDE * height, STRIDE * width), dtype=torch.uint8)
        device.launch(launch, [scores], [labels])
        return labels

    @upsample_argmax.register_fake
    def _(scores: Tensor, classes: int) -> Tensor:
        n, _, height, width = scores.shape
        return scores.new_empty((n, STRIDE * height, STRIDE * width), dtype=torch.uint8)

    return gated_flow_fusion, upsample_argmax


class KernelNetwork(nn.Module):
    """A `folded` network that uses our kernels: normalised images (N, 3, H, W) to uint8
    labels (N, H, W)."""

    def __init__(self, device: Device, network: sfnet_lite.SFNetLite) -> None:
        super().__init__()
        self.network = network
        self._fusion, self._labels = kernel_operators(device)

    def forward(self, images: Tensor) -> Tensor:
        with mock.patch.object(sfnet_lite, "gated_flow_fusion", self._fusion):
            scores = self.network.scores(images)
        labels: Tensor = self._labels(scores, self.network.num_classes)
        return labels


class Normaliser:
    """uint8 (N, H, W, 3) to (N, 3, H, W), normalised, channels last; `training` has the same with
    constants that a CUDA graph cannot hold."""

    def __init__(self, device: Device, dtype: torch.dtype) -> None:
        options: dict[str, Any] = {"device": device.torch_device, "dtype": torch.float32}
        self._dtype = dtype
        self._mean, self._std = (
            255 * torch.tensor(x, **options) for x in (IMAGENET.mean, IMAGENET.std)
        )

    def __call__(self, rgb: Tensor) -> Tensor:
        return ((rgb.float() - self._mean) / self._std).to(self._dtype).permute(0, 3, 1, 2)


def kernel_normaliser(
    device: Device, encoding: str, shape: tuple[int, ...], network_size: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """Our kernel: uint8 pictures (N, h, w, 3) on the device to fp16 (N, 3, H, W), channels last."""
    count, height, width, _ = shape
    geometry = geometry_of((height, width), WHOLE_IMAGE, lambda _size: network_size)
    launch = camera_image_launch(
        encoding,
        3 * width,
        geometry,
        made=NetworkInput("float16", "hwc", IMAGENET.mean, IMAGENET.std),
    )

    def normalised(pictures: Tensor) -> Tensor:
        images = torch.empty(
            (count, *network_size, 3), dtype=torch.float16, device=device.torch_device
        )
        for i in range(count):
            device.launch(launch, [pictures[i]], [images[i]])
        return images.permute(0, 3, 1, 2)

    return normalised


# --- host to host ---------------------------------------------------------------------------------


class TorchPipeline:
    """Pictures uint8 (N, h, w, 3) of `encoding` in host memory to labels uint8 (N, H, W) there.

    `segment` makes labels of normalised fp16 images. One upload, one graph, one download, one
    synchronisation; buffers are pinned and belong to the pipeline.
    """

    def __init__(
        self,
        device: Device,
        segment: Callable[[Tensor], Tensor],
        shape: tuple[int, int, int, int],
        network_size: tuple[int, int],
        encoding: str = "bgr8",
    ) -> None:
        self._device = device
        pinned = not device.rehearsal
        self._host_pictures = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        self._pictures = torch.empty(shape, dtype=torch.uint8, device=device.torch_device)
        labels = (shape[0], *network_size)
        self._host_labels = torch.empty(labels, dtype=torch.uint8, pin_memory=pinned)
        self._labels = torch.empty(labels, dtype=torch.uint8, device=device.torch_device)
        self._normalised = kernel_normaliser(device, encoding, shape, network_size)
        self._images = self._normalised(self._pictures)
        self._segment = segment
        self._replay = device.graph(self._all)

    def infer(self, pictures: Uint8Array) -> Uint8Array:
        """Segment pictures. The caller owns the returned labels."""
        self.stage_in(pictures)
        self._replay()
        self._device.synchronize()
        return self.stage_out()

    def stage_in(self, pictures: Uint8Array) -> None:
        self._host_pictures.numpy()[...] = pictures

    def stage_out(self) -> Uint8Array:
        return self._host_labels.numpy().copy()

    def device_steps(self) -> dict[str, Work]:
        """The steps of one frame on the device, each as its own graph."""
        return {
            "upload": self._device.graph(self._upload),
            "camera image kernel": self._device.graph(self._normalise),
            "network and labels": self._device.graph(self._infer),
            "download": self._device.graph(self._download),
        }

    def _all(self) -> None:
        for step in (self._upload, self._normalise, self._infer, self._download):
            step()

    def _upload(self) -> None:
        self._device.upload(self._pictures, self._host_pictures)

    def _normalise(self) -> None:
        self._images = self._normalised(self._pictures)

    def _infer(self) -> None:
        self._labels.copy_(self._segment(self._images))

    def _download(self) -> None:
        self._device.download(self._host_labels, self._labels)
