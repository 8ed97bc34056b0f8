# SPDX-License-Identifier: Apache-2.0
"""Weights in the layout of each published checkpoint give the output of the publisher's code.

A file of test/training/published holds the names and shapes of a checkpoint, and samples of the
output of the publisher's code for the weights of `filled` and the image of `picture`.
"""

from __future__ import annotations

import importlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.backbones.dfnet import DFNet
from training.backbones.resnet import ResNet
from training.backbones.shufflenet import ShuffleNetV2
from training.backbones.stdc import STDCNet
from training.weights import load_matching

BACKBONES = (DFNet, ResNet, ShuffleNetV2, STDCNet)

FILES = sorted((Path(__file__).parent / "published").glob("*.json"))


def filled(layout: dict[str, list[int]]) -> dict[str, Tensor]:
    """Returns values for each name of a checkpoint, from the name alone, for all torch versions."""
    state = {}
    for name, shape in layout.items():
        uniform = np.random.default_rng(zlib.crc32(name.encode())).random(shape)
        kind = name.rsplit(".", 1)[-1]
        if kind == "num_batches_tracked":
            values = np.zeros(shape)
        elif len(shape) > 1:
            # Keeps the scale of the maps about equal from layer to layer.
            values = (2.0 * uniform - 1.0) * np.sqrt(6.0 / np.prod(shape[1:]))
        elif kind in ("running_var", "weight"):
            values = 0.5 + uniform
        else:
            values = 0.4 * uniform - 0.2
        state[name] = torch.from_numpy(np.asarray(values, np.float32))
    return state


def picture(height: int, width: int) -> Tensor:
    """float (2, 3, height, width) in about [-2, 2]."""
    uniform = np.random.default_rng(0).random((2, 3, height, width))
    return torch.from_numpy((4.0 * uniform - 2.0).astype(np.float32))


def samples(output: Tensor) -> list[float]:
    """Largest absolute value and 24 values at positions spread over the tensor."""
    flat = output.flatten()
    positions = torch.linspace(0, flat.numel() - 1, 24).long()
    return [float(flat.abs().max()), *flat[positions].tolist()]


def built(record: dict[str, Any]) -> nn.Module:
    module, _, function = record["network"].partition(":")
    build = getattr(importlib.import_module(module), function)
    network = build(*record["arguments"], **record["options"])
    assert isinstance(network, nn.Module)
    return network.eval()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_weights_of_the_published_layout_give_the_published_output(path: Path) -> None:
    record = json.loads(path.read_text())
    network = built(record)
    matches = load_matching(network, filled(record["layout"]))
    assert matches.left == []
    assert sorted(matches.unused) == record["unused"]
    assert matches.foreign("trunk" if isinstance(network, BACKBONES) else "network") == []
    with torch.inference_mode():
        output = network(picture(*record["size"]))
    maps = output if isinstance(output, list) else [output["logits"]]
    for ours, theirs in zip(maps, record["samples"], strict=True):
        np.testing.assert_allclose(samples(ours), theirs, rtol=0, atol=1e-4 * theirs[0])
