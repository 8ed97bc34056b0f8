# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from training.networks.icnet import ICNet


@pytest.fixture(scope="module")
def network() -> ICNet:
    torch.manual_seed(0)
    return ICNet(5)


def test_the_trunk_has_half_the_channels_of_resnet_50(network: ICNet) -> None:
    assert network.trunk.channels == (128, 256, 512, 1024)


def test_each_branch_sees_its_own_resolution(network: ICNet) -> None:
    """Paper: figure 2: 1/8 of the whole picture, 1/16 of the half, 1/32 of the quarter."""
    sizes = {}
    names = ("detail", "trunk.layer2.0", "trunk.layer4")
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: sizes.__setitem__(name, tuple(output.shape[2:]))
        )
        for name in names
    ]
    network.eval()
    with torch.inference_mode():
        network.scores(torch.randn(1, 3, 64, 128))
    for hook in hooks:
        hook.remove()
    assert sizes == {"detail": (8, 16), "trunk.layer2.0": (4, 8), "trunk.layer4": (2, 4)}
