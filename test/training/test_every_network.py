# SPDX-License-Identifier: Apache-2.0
"""Each network of the papers' tables trains, exports, agrees with torch, becomes an engine, and
refuses unsuitable sizes.

The networks are the rows in training/papers/rows. The quick tests take the cheapest network of each
file, `make zoo` takes all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from training.export import DeployedModel, onnx_from_network
from training.losses import deeply_supervised
from training.networks.knet import KNet
from training.normalisation import images_from_rgb
from training.papers import tables
from training.papers.published import Published

STEPS = 8
# Files whose own tests train and export their networks; here only `make zoo` does so.
SELF_TESTED = ("eseg", "knet")


class Case:
    """One network and its products that several tests need, made at first use."""

    def __init__(self, row: Published, folder: Path) -> None:
        torch.manual_seed(0)
        self.network = row.network()
        self.onnx_path = folder / "model.onnx"
        multiple = int(self.network.size_multiple)
        # Large enough for the deepest maps, at stride 128, to have more than one value to average.
        self.size = tuple(multiple * -(-side // multiple) for side in (128, 192))

    def pictures(self, count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Blocks of one colour per class, with noise: uint8 RGB (N, H, W, 3) and the classes (N, H,
        W)."""
        rng = np.random.default_rng(count)
        height, width = size
        colours = rng.integers(30, 226, (int(self.network.num_classes), 3))
        blocks = rng.integers(0, 4, (count, -(-height // 16), -(-width // 16)))
        labels = blocks.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
        rgb = colours[labels] + rng.integers(-20, 20, (*labels.shape, 3))
        return torch.from_numpy(rgb.astype(np.uint8)), torch.from_numpy(labels)

    @cached_property
    def losses(self) -> list[float]:
        """The losses of a few steps on two pictures; leaves the network in training mode."""
        network = self.network.train()
        rgb, labels = self.pictures(2, self.size)
        images = images_from_rgb(rgb, network)
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
        losses = []
        for _ in range(STEPS):
            loss = deeply_supervised(network(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        return losses

    @cached_property
    def trained(self) -> nn.Module:
        """The trained network in evaluation mode, with batch norm statistics of its pictures.

        With the initial statistics, a deep network gives the same scores everywhere.
        """
        assert self.losses
        network = deepcopy(self.network)
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None
            norm.reset_running_stats()
        rgb = self.pictures(2, self.size)[0]
        with torch.no_grad():
            network(images_from_rgb(rgb, network))
        network.eval()
        variances = [norm.running_var.clone() for norm in norms]
        # Dividing by a variance near zero amplifies rounding errors until they decide the labels;
        # torch in fp32 and fp64 then disagree as much as torch and ONNX Runtime do. If all channels
        # of a deep network vary little, only the lower limit leaves scores that differ.
        for least in (0.1, 0.01):
            for norm, variance in zip(norms, variances, strict=True):
                norm.running_var.copy_(variance.clamp(min=least))
            with torch.inference_mode():
                confidence = DeployedModel(network)(rgb)[1]
            if len(confidence.unique()) > 1:
                break
        return network

    @cached_property
    def model(self) -> onnx.ModelProto:
        model = onnx_from_network(self.trained)
        onnx.save(model, self.onnx_path)
        return model

    def deployed(self, rgb: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Labels and confidence of torch."""
        network = DeployedModel(self.trained)
        with torch.inference_mode():
            labels, confidence = network(rgb)
        return labels.numpy(), confidence.numpy()


def cases() -> list[object]:
    """Returns one parameter per network; several rows about one network count once."""
    parameters = []
    for file, rows in tables.published_rows().items():
        distinct = {repr(row.network): row for row in reversed(rows)}
        cheapest = repr(min(rows, key=printed_cost).network)
        for network, row in reversed(distinct.items()):
            quick = network == cheapest and file not in SELF_TESTED
            marks = [] if quick else [pytest.mark.slow]
            name = f"{file}-{row.table}-{row.name}"
            parameters.append(pytest.param(row, id=name, marks=marks))
    return parameters


def printed_cost(row: Published) -> tuple[float, float]:
    """Sort key of the cheapest network: parameters, then multiply-adds, then the file's order."""
    return row.params_m or float("inf"), row.gflops or float("inf")


@pytest.fixture(scope="module", params=cases())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("network"))


def sizes(case: Case) -> Iterator[tuple[int, int]]:
    """Two sizes that are not multiples of each other."""
    height, width = case.size
    multiple = int(case.network.size_multiple)
    yield height, width
    yield height + multiple, width + 2 * multiple


def test_loss_falls_on_a_handful_of_pictures(case: Case) -> None:
    assert np.mean(case.losses[-2:]) < 0.9 * case.losses[0], case.losses


def test_evaluation_gives_scores_of_the_images_size_without_auxiliary_scores(case: Case) -> None:
    network = case.trained
    images = images_from_rgb(case.pictures(1, case.size)[0], network)
    with torch.inference_mode():
        output, scores = network(images), network.scores(images)
    assert output["logits"].shape == (1, case.network.num_classes, *case.size)
    assert output["aux"] == []
    stride = case.network.output_stride
    assert scores.shape[1:] == (case.network.num_classes, *(side // stride for side in case.size))


@pytest.mark.parametrize("size", [(101, 75), (96, 130), (33, 64), (20, 20)])
def test_any_other_size_is_right_or_refused_by_name(case: Case, size: tuple[int, int]) -> None:
    network = case.trained
    images = images_from_rgb(case.pictures(1, size)[0], network)
    try:
        with torch.inference_mode():
            logits = network(images)["logits"]
    except ValueError as error:
        assert "\n" not in str(error)
        assert str(size[0]) in str(error) or str(size[1]) in str(error), error
        assert str(case.network.size_multiple) in str(error), error
    else:
        assert logits.shape[2:] == size
        assert bool(logits.isfinite().all())


def test_onnx_runtime_agrees_with_torch(case: Case) -> None:
    session = onnxruntime.InferenceSession(
        case.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for size in sizes(case):
        rgb = case.pictures(2, size)[0]
        labels, confidence = session.run(None, {"image": rgb.numpy()})
        assert_agreement(case, rgb, labels, confidence)


def test_openvino_agrees_with_torch(case: Case) -> None:
    import onnx.inliner

    from sfseg_ros.backends.openvino_backend import new_core

    core = new_core()
    inlined = onnx.inliner.inline_local_functions(case.model)
    compiled = core.compile_model(
        core.read_model(inlined.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for size in sizes(case):
        rgb = case.pictures(2, size)[0]
        outputs = compiled(rgb.numpy())
        assert_agreement(case, rgb, outputs["labels"], outputs["confidence"])


def assert_agreement(case: Case, rgb: Tensor, labels: np.ndarray, confidence: np.ndarray) -> None:
    expected, expected_confidence = case.deployed(rgb)
    # Equal output everywhere would prove nothing. K-Net learns only such output from the loss of
    # class scores alone; networks/test_knet.py tests it properly.
    assert len(np.unique(expected_confidence)) > 1 or isinstance(case.network, KNet)
    assert (labels == expected).mean() >= 0.999
    assert np.abs(confidence.astype(int) - expected_confidence.astype(int)).max() <= 2


@pytest.mark.slow
def test_tensorrt_rtx_builds_an_engine(
    tensorrt_rtx_engine_bytes: Callable[..., int], case: Case
) -> None:
    size = case.model.ByteSize()
    multiple = int(case.network.size_multiple)
    shapes = [(1, n * multiple, 2 * n * multiple, 3) for n in (max(1, 64 // multiple), 2, 3)]
    profile = (shapes[0], max(shapes[:2]), max(shapes))
    # An engine holds the weights, which are nearly all of the model.
    assert tensorrt_rtx_engine_bytes(case.onnx_path, *profile) > size // 4
