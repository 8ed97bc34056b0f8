# SPDX-License-Identifier: Apache-2.0
"""BiSeNet, PSPNet and ICNet beside their authors' layers: same weights, same input, same scores.

`authors_baselines.json` holds scores of networks that are not here, at every sixth class, 21st row
and 31st column: BiSeNet of github.com/ycszen/TorchSeg at 62eeb15 (logarithms of the softmax),
PSPNet of github.com/lxtGH/SFSegNets at ba475ba, and the layers of
icnet_cityscapes_bnnomerge.prototxt of github.com/hszhao/ICNet, run one by one in torch with
adaptive pooling. Their tensors were filled by `value_of`, ICNet's under our names.
"""

import json
import re
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.networks import bisenet, pspnet
from training.networks.icnet import ICNet

SCORES = json.loads(Path(__file__).with_name("authors_baselines.json").read_text(encoding="utf-8"))


def value_of(name: str, shape: torch.Size) -> Tensor:
    """The tensor of that name in the seeded checkpoint: any values that keep every layer busy."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:
        value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = 0.1 * rng.standard_normal(shape)
    return torch.from_numpy(np.asarray(value, np.float32))


def assert_scores(network: nn.Module, size: tuple[int, int], name: str) -> None:
    pixels = np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(pixels))["logits"]
    if name.startswith("BiSeNet"):
        logits = torch.log_softmax(logits, dim=1)
    expected = torch.tensor(SCORES[name])
    assert expected.std() > 0.05 * expected.abs().max()  # scores that differ from place to place
    scores = logits[0, ::6, ::21, ::31].flatten()
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


# Our names and theirs, from their class definitions.
TORCHSEG = (
    (r"^attention_(deep|middle)\.convolution\.", r"attention_\1.conv_3x3."),
    (r"^attention_(deep|middle)\.attention\.", r"attention_\1.channel_attention.1."),
    (r"^attention_deep\.", "arms.0."),
    (r"^attention_middle\.", "arms.1."),
    (r"^refine_deep\.", "refines.0."),
    (r"^refine_middle\.", "refines.1."),
    (r"^fusion\.convolution\.", "ffm.conv_1x1."),
    (r"^fusion\.attention\.0\.", "ffm.channel_attention.1.conv."),
    (r"^fusion\.attention\.2\.", "ffm.channel_attention.2.conv."),
    (r"^spatial_path\.0\.", "spatial_path.conv_7x7."),
    (r"^spatial_path\.([12])\.", r"spatial_path.conv_3x3_\1."),
    (r"^spatial_path\.3\.", "spatial_path.conv_1x1."),
    (r"^global_context\.", "global_context.1."),
    (r"^auxiliary_heads\.", "heads."),
    (r"^head\.", "heads.2."),
    (r"^(heads\.\d)\.3\.", r"\1.conv_1x1."),
    (r"^(heads\.\d)\.(?=[01]\.)", r"\1.conv_3x3."),
    (r"^(trunk\.layer\d\.\d+)\.residual\.(\d)\.0\.", r"\1.residual_branch.\2.conv1."),
    (r"^(trunk\.layer\d\.\d+)\.residual\.(\d)\.1\.", r"\1.residual_branch.\2.point_wise_cbr.conv."),
    (r"^(trunk\.layer\d\.\d+)\.residual\.(\d)\.2\.", r"\1.residual_branch.\2.point_wise_cbr.bn."),
    (r"^(trunk\.layer\d\.\d+)\.shortcut\.0\.", r"\1.proj.conv1."),
    (r"^(trunk\.layer\d\.\d+)\.shortcut\.1\.", r"\1.proj.point_wise_cbr.conv."),
    (r"^(trunk\.layer\d\.\d+)\.shortcut\.2\.", r"\1.proj.point_wise_cbr.bn."),
    (r"^trunk\.", "context_path."),
    (r"(?<!downsample)\.0\.(?=weight$)(?<!layer\d\.0\.)", ".conv."),
    (r"(?<!downsample)\.1\.(?=(weight|bias|running_\w+|num_batches_tracked)$)", ".bn."),
)
SFSEGNETS = (
    (r"^head\.0\.stages\.(\d)\.0\.", r"ppm.stages.\1.1."),
    (r"^head\.0\.stages\.(\d)\.1\.", r"ppm.stages.\1.2."),
    (r"^head\.0\.bottleneck\.", "ppm.bottleneck."),
    (r"^head\.1\.", "final.0."),
    (r"^head\.2\.", "final.1."),
    (r"^head\.4\.", "final.3."),
    (r"^trunk\.conv1\.", "layer0.0."),
    (r"^trunk\.bn1\.", "layer0.1."),
    (r"^trunk\.", ""),
)


def authors_name(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in names:
        name = re.sub(ours, theirs, name)
    return name


@pytest.mark.parametrize(
    ("name", "build", "key_map", "names"),
    [
        ("BiSeNet R18", bisenet.bisenet_r18, bisenet.state_from_authors, TORCHSEG),
        ("BiSeNet X39", bisenet.bisenet_xception39, bisenet.state_from_authors, TORCHSEG),
        (
            "PSPNet_v1_r50",
            partial(pspnet.pspnet, depth=50, head="sfnet"),
            pspnet.state_from_authors,
            SFSEGNETS,
        ),
    ],
)
def test_scores_are_those_of_the_authors_code(
    name: str,
    build: Callable[[int], nn.Module],
    key_map: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    names: tuple[tuple[str, str], ...],
) -> None:
    network = build(19)
    theirs = {authors_name(own, names): v.shape for own, v in network.state_dict().items()}
    network.load_state_dict(key_map({n: value_of(n, shape) for n, shape in theirs.items()}))
    assert_scores(network, (64, 96), name)


def test_scores_of_icnet_are_those_of_the_authors_layers() -> None:
    network = ICNet(19, auxiliary=False)
    # The prototxt has the stride of "conv3_1" on its first 1x1 convolution, see ICNet.
    block = network.trunk.layer2[0]
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    state = network.state_dict()
    network.load_state_dict({name: value_of(name, v.shape) for name, v in state.items()})
    # 32n + 1 as the prototxt wants it.
    assert_scores(network, (65, 97), "ICNet prototxt")
