# SPDX-License-Identifier: Apache-2.0
"""The SFNets beside their authors' code: same weights, same input, same scores.

`authors_sfnet.json` holds scores of the networks of github.com/lxtGH/SFSegNets at ba475ba, which is
not here: each was built, its tensors filled by `value_of` under its own names, and run on `image`;
every sixth class at every 21st row and 31st column was written down. Here our network is filled
with the same values under the names that its tensors have in such a checkpoint, by the key map.
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

from training.networks import sfnet, sfnet_lite
from training.networks.sfnet import FlowAlignment
from training.networks.sfnet_lite import GatedDualFlowAlignment

SCORES = json.loads(Path(__file__).with_name("authors_sfnet.json").read_text(encoding="utf-8"))
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "DeepR18_SF_deeply": partial(sfnet.sfnet_r18, 19),
    # Their code of 2020, where grid_sample had no align_corners.
    "DeepR18_SF_deeply, 2020": partial(
        sfnet.sfnet_r18, 19, align=partial(FlowAlignment, align_corners=False)
    ),
    "DeepR50_SF_deeply": partial(sfnet.sfnet_r50, 19),
    "AlignedDFnetv1": partial(sfnet.sfnet_df1, 19, channels=64),
    "AlignedDFnetv2": partial(sfnet.sfnet_df2, 19, channels=64),
    "AlignedSTDC1": partial(sfnet.sfnet_stdc1, 19),
    "AlignedSTDC2": partial(sfnet.sfnet_stdc2, 19),
    "STDC1": partial(sfnet.sfnet_stdc1, 19, aligned_levels=()),
    "DeepR18_SFV2_deeply_dsn_FA_Atten": partial(sfnet_lite.sfnet_lite_r18, 19),
    "AlignedSTDC1_SFV2_spatial_atten": partial(sfnet_lite.sfnet_lite_stdc1, 19),
    "AlignedSTDC2_SFV2_spatial_atten": partial(sfnet_lite.sfnet_lite_stdc2, 19),
    "AlignedSTDC1_SFV2": partial(
        sfnet_lite.sfnet_lite_stdc1, 19, align=partial(GatedDualFlowAlignment, gate="convolution")
    ),
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


def image() -> Tensor:
    pixels = np.random.default_rng(0).standard_normal((1, 3, 64, 96))
    return torch.from_numpy(pixels.astype(np.float32))


def sampled(logits: Tensor) -> Tensor:
    return logits[0, ::6, ::21, ::31].flatten()


def authors_name(name: str, lite: bool) -> str:
    """The name of one of our tensors in a checkpoint of theirs, from their class definitions."""
    head = [
        (r"context\.stages\.(\d)\.0\.", r"head.ppm.stages.\1.1."),
        (r"context\.stages\.(\d)\.1\.", r"head.ppm.stages.\1.2."),
        (r"context\.bottleneck\.", "head.ppm.bottleneck."),
        (r"head\.3\.", "head.conv_last.1."),
        (r"head\.", "head.conv_last.0."),
        (r"trunk\.conv1\.", "layer0.0."),
        (r"trunk\.bn1\.", "layer0.1."),
        (r"trunk\.layer", "layer"),
        (r"trunk\.", "backbone."),
    ]
    v1 = [
        (r"laterals\.", "head.fpn_in."),
        (r"alignments\.", "head.fpn_out_align."),
        (r"smoothings\.(\d)\.", r"head.fpn_out.\1.0."),
        (r"supervision\.", "head.dsn."),
    ]
    v2 = [
        (r"lateral_fine\.", "head.fpn_in.0."),
        (r"lateral_middle\.", "head.fpn_in.1."),
        (r"align\.", "head.flow_align_module."),
    ]
    ours, theirs = next(
        (a, b) for a, b in [*head, *(v2 if lite else v1)] if re.match(a, name) is not None
    )
    return re.sub("^" + ours, theirs, name)


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_the_authors_code(name: str) -> None:
    network = NETWORKS[name]().eval()
    lite = isinstance(network, sfnet_lite.SFNetLite)
    module = sfnet_lite if lite else sfnet
    names = [authors_name(own, lite) for own in network.state_dict()]
    shapes = [value.shape for value in network.state_dict().values()]
    theirs = {n: value_of(n, shape) for n, shape in zip(names, shapes, strict=True)}
    network.load_state_dict(module.state_from_authors(theirs))
    with torch.inference_mode():
        scores = sampled(network(image())["logits"])
    expected = torch.tensor(SCORES[name])
    assert expected.std() > 0.05 * expected.abs().max()  # scores that differ from place to place
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("prefix", ["", "module."])  # as saved by their distributed training
@pytest.mark.parametrize("lite", [False, True])
def test_the_key_map_keeps_what_runs_and_drops_the_rest(prefix: str, lite: bool) -> None:
    module = sfnet_lite if lite else sfnet
    build = sfnet_lite.sfnet_lite_r18 if lite else partial(sfnet.sfnet_r18, deep_supervision=True)
    with torch.device("meta"):
        names = build(19).state_dict().keys()
    theirs = {prefix + authors_name(name, lite): torch.zeros(1) for name in names}
    theirs[prefix + "backbone.linear.weight"] = torch.zeros(1)  # STDC's classifier of ImageNet
    if lite:
        theirs[prefix + "head.fpn_in.2.0.weight"] = torch.zeros(1)  # built but never run
        theirs[prefix + "head.dsn.0.weight"] = torch.zeros(1)
    assert module.state_from_authors(theirs).keys() == names
