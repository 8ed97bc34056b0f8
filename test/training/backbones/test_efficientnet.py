# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from training.backbones.efficientnet import (
    EfficientNet,
    scaled_channels,
    state_from_timm,
    state_from_torchvision,
)
from training.weights import load_matching

# EfficientNet-B1, one row per stage: expansion, channels, blocks, kernel.
B1 = ((1, 16, 2, 3), (6, 24, 3, 3), (6, 40, 3, 5), (6, 80, 4, 3), (6, 112, 4, 5), (6, 192, 5, 5),
      (6, 320, 2, 3))  # fmt: skip
# Mean and deviation of each map, and its first value, from torchvision 0.28's efficientnet_b1 with
# the tensors below; timm 1.0.31's gives the same.
DIGEST = (
    (0.0867, 0.2820263, -0.01623621),
    (0.01978619, 0.2733617, 0.4049563),
    (-0.04303082, 0.318728, -0.04411456),
    (-0.01771226, 0.2305906, -0.2911695),
)


def layers() -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """Yields each layer of the published networks: kind, names in torchvision and timm, shape."""
    yield "conv", "features.0.0", "conv_stem", (32, 3, 3, 3)
    yield "norm", "features.0.1", "bn1", (32,)
    width = 32
    for stage, (expansion, channels, blocks, kernel) in enumerate(B1):
        for block in range(blocks):
            theirs = f"features.{stage + 1}.{block}.block"
            timm = f"blocks.{stage}.{block}"
            middle, squeezed = width * expansion, width // 4
            first = 0
            if expansion > 1:
                yield "conv", f"{theirs}.0.0", f"{timm}.conv_pw", (middle, width, 1, 1)
                yield "norm", f"{theirs}.0.1", f"{timm}.bn1", (middle,)
                first = 1
            yield "conv", f"{theirs}.{first}.0", f"{timm}.conv_dw", (middle, 1, kernel, kernel)
            yield "norm", f"{theirs}.{first}.1", f"{timm}.bn{first + 1}", (middle,)
            gate = f"{theirs}.{first + 1}"
            yield "gate", f"{gate}.fc1", f"{timm}.se.conv_reduce", (squeezed, middle, 1, 1)
            yield "gate", f"{gate}.fc2", f"{timm}.se.conv_expand", (middle, squeezed, 1, 1)
            project = f"{timm}.conv_pwl" if expansion > 1 else f"{timm}.conv_pw"
            yield "conv", f"{theirs}.{first + 2}.0", project, (channels, middle, 1, 1)
            yield "norm", f"{theirs}.{first + 2}.1", f"{timm}.bn{first + 2}", (channels,)
            width = channels
    yield "conv", "features.8.0", "conv_head", (1280, 320, 1, 1)
    yield "norm", "features.8.1", "bn2", (1280,)


def published_state(timm: bool) -> dict[str, Tensor]:
    """A random state dict of either layout; a layer has the same values in both."""
    rng = np.random.default_rng(0)
    state: dict[str, Tensor] = {}
    for kind, torchvision_name, timm_name, shape in layers():
        name = timm_name if timm else torchvision_name
        if kind == "norm":
            values = {
                "weight": rng.uniform(0.5, 1.5, shape),
                "bias": rng.normal(0, 0.1, shape),
                "running_mean": rng.normal(0, 0.1, shape),
                "running_var": rng.uniform(0.5, 1.5, shape),
                "num_batches_tracked": np.asarray(7),
            }
        else:
            values = {"weight": rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)}
            if kind == "gate":
                values["bias"] = rng.normal(0, 0.1, shape[0])
        for tensor, value in values.items():
            dtype = torch.int64 if tensor == "num_batches_tracked" else torch.float32
            state[f"{name}.{tensor}"] = torch.tensor(value, dtype=dtype)
    return state


@pytest.mark.parametrize("timm", [False, True])
def test_published_weights_give_the_maps_of_the_library_they_come_from(timm: bool) -> None:
    network = EfficientNet(1.0, 1.1).eval()
    matches = load_matching(network, published_state(timm))
    assert matches.left == []
    assert all(name.startswith(("features.8", "conv_head", "bn2")) for name in matches.unused)
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3, 90, 120))).float()
    with torch.inference_mode():
        maps = network(image)
    found = [(float(x.mean()), float(x.std()), float(x[0, 0, 0, 0])) for x in maps]
    assert [x.shape[2:] for x in maps] == [(23, 30), (12, 15), (6, 8), (3, 4)]
    np.testing.assert_allclose(found, DIGEST, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mapped", [state_from_torchvision, state_from_timm])
def test_tensors_of_another_network_are_left_out(
    mapped: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    foreign = ("features.0.weight", "features.12.weight", "blocks.0.norm1.weight", "layer1.0.bn1")
    assert mapped({name: torch.zeros(1) for name in foreign}) == {}


@pytest.mark.parametrize(
    ("channels", "width", "scaled"),
    [
        (32, 0.4, 16),  # 12.8: 8 would be more than 10 % below
        (320, 0.4, 128),
        (112, 1.4, 160),
        (24, 2.0, 48),
    ],
)
def test_scaled_channels_are_the_papers(channels: int, width: float, scaled: int) -> None:
    assert scaled_channels(channels, width) == scaled


@pytest.mark.parametrize("lite", [False, True])
def test_the_last_stride_can_become_dilation_with_the_same_parameters(lite: bool) -> None:
    strided, dilated = (EfficientNet(0.4, 0.6, lite, stride) for stride in (32, 16))
    dilated.load_state_dict(strided.state_dict())
    assert {m.dilation for m in strided.modules() if isinstance(m, torch.nn.Conv2d)} == {(1, 1)}
    assert {m.dilation[0] for m in dilated.modules() if isinstance(m, torch.nn.Conv2d)} == {1, 2}


def test_another_output_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="output_stride is 8, expected 16 or 32"):
        EfficientNet(output_stride=8)


def test_the_lite_form_has_no_depthwise_convolution_swish_or_gate() -> None:
    modules = list(EfficientNet(0.4, 0.6, lite=True).modules())
    assert not any(isinstance(m, torch.nn.SiLU) for m in modules)
    convolutions = [m for m in modules if isinstance(m, torch.nn.Conv2d)]
    assert all(m.groups == 1 for m in convolutions)
    assert {m.kernel_size for m in convolutions} == {(1, 1), (3, 3), (5, 5)}
