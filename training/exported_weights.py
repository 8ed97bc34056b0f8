# SPDX-License-Identifier: Apache-2.0
"""Reads the weights of a network from the model.onnx of a model directory, so that a run can start
from a shipped model.

The file has batch norms folded into convolutions. A norm that is read back has mean 0 and variance
1 and gives the same output in evaluation. In training, norms use the statistics of the batch, so
`fit_norms` must first set those of real pictures.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from sfseg_ros.backends.cut_graph import read_onnx
from sfseg_ros.errors import SfsegError
from sfseg_ros.model.manifest import load_manifest

PREFIX = "network."
"""Prefix of parameter names in the graph."""
MAX_NOTED = 4096
"""Maximum number of values of a parameter in a note."""
Weights = dict[str, Tensor]


def note_lost_parameters(model: onnx.ModelProto, network: nn.Module) -> None:
    """Notes in the metadata the small parameters that the exporter folded into nameless constants,
    such as the weights of ESeg's fusions."""
    named = {tensor.name for tensor in model.graph.initializer}
    convolutions = _Convolutions(model).weights
    norms = {f"{name}." for name, part in network.named_modules() if _is_norm(part)}
    ran = _Order(network).ran
    for name, parameter in network.named_parameters():
        owner = name.rpartition(".")[0]
        known = PREFIX + name in named or f"{owner}.weight" in convolutions or f"{owner}." in norms
        if known or owner not in ran or parameter.numel() > MAX_NOTED:
            continue
        values = parameter.detach().flatten().tolist()
        model.metadata_props.add(key=PREFIX + name, value=json.dumps(values))


def weights_of_model(network: nn.Module, directory: Path) -> Weights:
    """Reads the weights in `directory`/model.onnx under the names of `network`.

    They lack layers that only training runs. Shapes are not compared.

    Raises:
        SystemExit: `directory` is no model directory, or lacks a tensor of the network.
    """
    try:
        model = read_onnx(load_manifest(directory).onnx_path)
    except (SfsegError, OSError) as error:
        raise SystemExit(str(error)) from None
    own = network.state_dict()
    found = _named(model, own)
    order = _Order(network)
    for name, (weight, bias) in _Convolutions(model).parts.items():
        owner = name.removesuffix(".weight")
        found[name] = weight
        norm = order.norm_after.get(owner)
        if f"{owner}.bias" in own:
            found[f"{owner}.bias"] = bias if norm is None else torch.zeros_like(bias)
        if norm is not None and f"{norm}.running_var" not in found:
            epsilon = network.get_submodule(norm).eps
            found |= _norm_that_adds(norm, bias, float(epsilon))  # type: ignore[arg-type]
    missing = [n for n in own if n not in found and n.rpartition(".")[0] in order.ran]
    missing = [n for n in missing if not n.endswith("num_batches_tracked")]
    if missing:
        raise SystemExit(
            f"{directory}: model.onnx has no {missing[0]} ({len(missing)} tensors are missing): "
            "expected a model that training.export wrote of this recipe's network"
        )
    return found


def fit_norms(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Sets the statistics of the norms that `weights_of_model` filled, from `batches` of normalised
    images (N, 3, H, W). Returns the number of these norms.

    Scale and shift change as well, so that the output in evaluation stays the same. Leaves the
    network in evaluation mode.
    """
    norms = [p for p in network.modules() if isinstance(p, nn.BatchNorm2d) and _only_adds(p)]
    sums: dict[nn.Module, Tensor] = {
        norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms
    }

    def observe(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].detach().double().transpose(0, 1).flatten(1)
        count = torch.full((x.shape[0],), float(x.shape[1]), dtype=torch.float64)
        sums[norm] += torch.stack([count, x.sum(1).cpu(), x.square().sum(1).cpu()])

    hooks = [norm.register_forward_pre_hook(observe) for norm in norms]
    network.eval()
    with torch.no_grad():
        for images in batches:
            network(images)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        count, total, squares = sums[norm]
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        with torch.no_grad():
            norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
            norm.bias.add_(norm.running_mean)
    return len(norms)


class _Convolutions:
    """The convolutions of a graph whose weights are parameters of a network."""

    def __init__(self, model: onnx.ModelProto) -> None:
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        halves = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Cast"}
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}
        for node in model.graph.node:
            if node.op_type != "Conv":
                continue
            stored = halves.get(node.input[1], node.input[1])
            name = stored.removesuffix(".fp16").removesuffix(".folded")
            if stored not in tensors or not name.startswith(PREFIX):
                continue
            weight = _tensor(tensors[stored])
            has_bias = len(node.input) > 2 and node.input[2] in tensors
            bias = _tensor(tensors[node.input[2]]) if has_bias else torch.zeros(len(weight))
            self.parts[name.removeprefix(PREFIX)] = (weight, bias)

    @property
    def weights(self) -> set[str]:
        return set(self.parts)


class _Order:
    """Records one evaluation of a network: the modules that ran, and the norm after each
    convolution."""

    def __init__(self, network: nn.Module) -> None:
        twin = copy.deepcopy(network).cpu().eval()
        self.ran: set[str] = {""}  # the network itself, whose `scores` runs without a hook
        self.norm_after: dict[str, str] = {}
        producers: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept: its id is not reused

        def watch(name: str, module: nn.Module) -> None:
            def after(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
                self.ran.add(name)
                if _is_norm(module) and id(inputs[0]) in producers:
                    self.norm_after[producers[id(inputs[0])][0]] = name
                if isinstance(module, nn.Conv2d) and isinstance(output, Tensor):
                    producers[id(output)] = (name, output)

            module.register_forward_hook(after)

        for name, module in twin.named_modules():
            watch(name, module)
        side = 2 * int(network.size_multiple)  # type: ignore[arg-type]
        with torch.no_grad():
            twin.scores(torch.zeros(1, 3, side, side))  # type: ignore[operator]


def _named(model: onnx.ModelProto, own: Weights) -> Weights:
    """Returns the network's tensors that the graph or its notes name."""
    found = {
        tensor.name.removeprefix(PREFIX): _tensor(tensor)
        for tensor in model.graph.initializer
        if tensor.name.removeprefix(PREFIX) in own
    }
    for note in model.metadata_props:
        name = note.key.removeprefix(PREFIX)
        if name in own:
            try:
                found[name] = torch.tensor(json.loads(note.value)).reshape(own[name].shape)
            except (ValueError, TypeError, RuntimeError) as error:
                raise SystemExit(f"model.onnx: its note {note.key} is damaged ({error})") from None
    return found


def _norm_that_adds(name: str, bias: Tensor, epsilon: float) -> Weights:
    return {
        f"{name}.weight": torch.full_like(bias, (1.0 + epsilon) ** 0.5),
        f"{name}.bias": bias,
        f"{name}.running_mean": torch.zeros_like(bias),
        f"{name}.running_var": torch.ones_like(bias),
    }


def _only_adds(norm: nn.BatchNorm2d) -> bool:
    """Whether a norm has the statistics of `_norm_that_adds`, as a new norm has."""
    mean, variance = norm.running_mean, norm.running_var
    return (
        mean is not None and variance is not None and not mean.any() and bool((variance == 1).all())
    )


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d)


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32))
