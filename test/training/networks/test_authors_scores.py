# SPDX-License-Identifier: Apache-2.0
"""Networks beside their authors' code: same weights, same input, same scores.

`authors_scores.json` holds scores of networks that are not here, at every sixth class, 21st row and
31st column: those of github.com/lxtGH/SFSegNets at ba475ba (SFNet, SFNet-Lite, PSPNet), BiSeNet of
github.com/ycszen/TorchSeg at 62eeb15 (logarithms of the softmax), and the layers of
icnet_cityscapes_bnnomerge.prototxt of github.com/hszhao/ICNet, run one by one in torch with
adaptive pooling. Each was built and its tensors filled by `value_of` under its own names, ICNet's
under ours. Here our network is filled with the same values under the names that its tensors have in
such a checkpoint, by the key map.
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

from training.networks import bisenet, pspnet, sfnet, sfnet_lite
from training.networks.flow_alignment import FlowAlignment
from training.networks.icnet import ICNet
from training.networks.sfnet_lite import GatedDualFlowAlignment
from training.weights import load_matching

SCORES = json.loads(Path(__file__).with_name("authors_scores.json").read_text(encoding="utf-8"))

# Our names and theirs, from their class definitions; each is replaced in turn.
SFSEGNETS = (
    (r"^head\.3\.", "head.conv_last.1."),
    (r"^head\.(?!conv_last)", "head.conv_last.0."),
    (r"^context\.stages\.(\d)\.0\.", r"head.ppm.stages.\1.1."),
    (r"^context\.stages\.(\d)\.1\.", r"head.ppm.stages.\1.2."),
    (r"^context\.bottleneck\.", "head.ppm.bottleneck."),
    (r"^trunk\.conv1\.", "layer0.0."),
    (r"^trunk\.bn1\.", "layer0.1."),
    (r"^trunk\.layer", "layer"),
    (r"^trunk\.", "backbone."),
    # SFNet
    (r"^laterals\.", "head.fpn_in."),
    (r"^alignments\.", "head.fpn_out_align."),
    (r"^smoothings\.(\d)\.", r"head.fpn_out.\1.0."),
    (r"^supervision\.", "head.dsn."),
    # SFNet-Lite
    (r"^lateral_fine\.", "head.fpn_in.0."),
    (r"^lateral_middle\.", "head.fpn_in.1."),
    (r"^align\.", "head.flow_align_module."),
)
SFSEGNETS_PSPNET = (
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

Names = tuple[tuple[str, str], ...]
NETWORKS: dict[str, tuple[Callable[..., nn.Module], Names]] = {
    "DeepR18_SF_deeply": (sfnet.sfnet_r18, SFSEGNETS),
    # Their code of 2020, where grid_sample had no align_corners.
    "DeepR18_SF_deeply, 2020": (
        partial(sfnet.sfnet_r18, align=partial(FlowAlignment, align_corners=False)),
        SFSEGNETS,
    ),
    "DeepR50_SF_deeply": (sfnet.sfnet_r50, SFSEGNETS),
    "AlignedDFnetv1": (partial(sfnet.sfnet_df1, channels=64), SFSEGNETS),
    "AlignedDFnetv2": (partial(sfnet.sfnet_df2, channels=64), SFSEGNETS),
    "AlignedSTDC1": (sfnet.sfnet_stdc1, SFSEGNETS),
    "AlignedSTDC2": (sfnet.sfnet_stdc2, SFSEGNETS),
    "STDC1": (partial(sfnet.sfnet_stdc1, aligned_levels=()), SFSEGNETS),
    "DeepR18_SFV2_deeply_dsn_FA_Atten": (sfnet_lite.sfnet_lite_r18, SFSEGNETS),
    "AlignedSTDC1_SFV2_spatial_atten": (sfnet_lite.sfnet_lite_stdc1, SFSEGNETS),
    "AlignedSTDC2_SFV2_spatial_atten": (sfnet_lite.sfnet_lite_stdc2, SFSEGNETS),
    "AlignedSTDC1_SFV2": (
        partial(
            sfnet_lite.sfnet_lite_stdc1, align=partial(GatedDualFlowAlignment, gate="convolution")
        ),
        SFSEGNETS,
    ),
    "PSPNet_v1_r50": (partial(pspnet.pspnet, depth=50, head="sfnet"), SFSEGNETS_PSPNET),
    "BiSeNet R18": (bisenet.bisenet_r18, TORCHSEG),
    "BiSeNet X39": (bisenet.bisenet_xception39, TORCHSEG),
}


def value_of(name: str, shape: torch.Size) -> Tensor:
    """The tensor of that name in the seeded checkpoint: any values that keep every layer busy."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:  # flows of a few pixels, or the warps would not matter
        gain = 8.0 if "flow_make" in name else 1.0
        value = gain * rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = 0.1 * rng.standard_normal(shape)
    return torch.from_numpy(np.asarray(value, np.float32))


def authors_name(name: str, names: Names) -> str:
    """The name of one of our tensors in a checkpoint of theirs."""
    for ours, theirs in names:
        name = re.sub(ours, theirs, name)
    return name


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


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_equal_those_of_the_authors_code(name: str) -> None:
    build, names = NETWORKS[name]
    network = build(19)
    theirs = {authors_name(own, names): v.shape for own, v in network.state_dict().items()}
    matches = load_matching(network, {n: value_of(n, shape) for n, shape in theirs.items()})
    assert (matches.left, matches.unused) == ([], [])
    assert_scores(network, (64, 96), name)


def test_scores_of_icnet_equal_those_of_the_authors_layers() -> None:
    network = ICNet(19, auxiliary=False)
    # The prototxt has the stride of "conv3_1" on its first 1x1 convolution, see ICNet.
    block = network.trunk.layer2[0]
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    state = network.state_dict()
    network.load_state_dict({name: value_of(name, v.shape) for name, v in state.items()})
    # 32n + 1 as the prototxt wants it.
    assert_scores(network, (65, 97), "ICNet prototxt")


@pytest.mark.parametrize("prefix", ["", "module."])  # as saved by their distributed training
@pytest.mark.parametrize("lite", [False, True])
def test_the_key_map_keeps_what_runs_and_drops_the_rest(prefix: str, lite: bool) -> None:
    module = sfnet_lite if lite else sfnet
    build = sfnet_lite.sfnet_lite_r18 if lite else partial(sfnet.sfnet_r18, deep_supervision=True)
    with torch.device("meta"):
        names = build(19).state_dict().keys()
    theirs = {prefix + authors_name(name, SFSEGNETS): torch.zeros(1) for name in names}
    theirs[prefix + "backbone.linear.weight"] = torch.zeros(1)  # STDC's classifier of ImageNet
    if lite:
        theirs[prefix + "head.fpn_in.2.0.weight"] = torch.zeros(1)  # built but never run
        theirs[prefix + "head.dsn.0.weight"] = torch.zeros(1)
    assert module.state_from_authors(theirs).keys() == names
