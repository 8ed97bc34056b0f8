# SPDX-License-Identifier: Apache-2.0
"""K-Net on SFNet: shapes, what the rounds see, merging, learning, export."""

import math

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch

from sfseg_ros.backends.openvino_backend import new_core
from training.backbones.resnet import ResNet
from training.export import DeployedModel, onnx_from_network
from training.networks.knet import CITYSCAPES_THINGS, KNet, gather, knet_stdc1, merge, position_code
from training.networks.sfnet import SFNet
from training.panoptic_losses import knet_loss

THINGS = (1, 3)
ROAD, PERSON, SKY, CAR = 0, 1, 2, 3


def tiny(**options: int) -> KNet:
    torch.manual_seed(0)
    decoder = SFNet(ResNet(18, "plain", width=8), 4, 16)
    sizes = {"kernels": 6, "channels": 32, "stages": 2, "feedforward": 32} | options
    return KNet(decoder, 4, THINGS, **sizes)


def test_shapes_that_training_and_evaluation_return() -> None:
    network = tiny()
    images = torch.randn(2, 3, 64, 96)

    output = network(images)
    assert output["logits"].shape == (2, 4, 64, 96)
    assert output["aux"] == []
    assert output["segmentation"].shape == (2, 4, 16, 24)
    assert [m.shape for m in output["masks"]] == [(2, 6, 16, 24), *[(2, 8, 16, 24)] * 2]
    assert [c.shape for c in output["classes"]] == [(2, 8, 4)] * 2

    output = network.eval()(images)
    assert [m.shape for m in output["masks"]] == [(2, 8, 16, 24)]
    assert network.scores(images).shape == (2, 4, 16, 24)


def test_features_are_summed_where_the_mask_is_above_a_half() -> None:
    features = torch.arange(8.0).reshape(1, 2, 2, 2)
    masks = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]], [[-1.0, -1.0], [-1.0, 0.0]]]])

    assert gather(features, masks).tolist() == [[[0 + 3, 4 + 7], [0, 0]]]


def test_two_equal_cars_differ_by_their_position() -> None:
    code = position_code(8, 16, 32, torch.device("cpu"))

    assert code.shape == (1, 32, 8, 16)
    cells = code[0].flatten(1).T
    assert (torch.cdist(cells, cells) + 9 * torch.eye(len(cells))).min() > 0.1
    # Both coordinates run to 2 pi whatever the size: the last row is the last row.
    torch.testing.assert_close(
        code[0, :16, -1, 0], position_code(4, 4, 32, code.device)[0, :16, -1, 0]
    )


def test_every_parameter_learns() -> None:
    pytest.importorskip("scipy", reason="requirements/training.in")
    network = tiny()
    labels = torch.full((2, 64, 64), ROAD)
    labels[:, 16:40, 8:40] = CAR + 256
    labels[:, :16] = SKY

    knet_loss(network(torch.randn(2, 3, 64, 64)), labels, THINGS).backward()

    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert idle == []


def test_training_separates_two_cars() -> None:
    pytest.importorskip("scipy", reason="requirements/training.in")
    network = tiny()
    image = torch.zeros(1, 3, 64, 64)
    labels = torch.full((1, 64, 64), ROAD)
    labels[:, :24], image[:, :, :24] = SKY, 1.0
    for number, left in ((1, 4), (2, 40)):
        labels[:, 28:52, left : left + 20] = CAR + 256 * number
        image[:, :, 28:52, left : left + 20] = -1.0
    image, labels = image.expand(2, -1, -1, -1), labels.expand(2, -1, -1)  # for the batch norms
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    losses = []
    for _ in range(120):
        loss = knet_loss(network(image), labels, THINGS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    with torch.no_grad():
        output = network(image)  # batch statistics: the averages are not settled yet
    segments, classes = merge(network, output["masks"][-1][0], output["classes"][-1][0], (64, 64))

    assert losses[-1] < losses[0] / 3
    assert sorted(classes) == [ROAD, SKY, CAR, CAR]
    for number in (1, 2):
        true = labels[0] == CAR + 256 * number
        found = segments == segments[true].mode().values
        assert (true & found).sum() / (true | found).sum() > 0.6


def masks_of(*areas: tuple[slice, slice], kernels: int = 6) -> torch.Tensor:
    """Masks (kernels + two stuff classes, 16, 16) before the sigmoid, the first ones as given."""
    masks = torch.full((kernels + 2, 16, 16), -20.0)
    for mask, area in zip(masks, areas, strict=False):
        mask[area] = 20.0
    masks[-2, 8:], masks[-1, :8] = 20.0, 20.0  # road below, sky above
    return masks


def classes_of(*scores: tuple[int, float]) -> torch.Tensor:
    classes = torch.full((8, 4), -20.0)
    for row, (c, probability) in zip(classes, scores, strict=False):
        row[c] = math.log(probability / (1 - probability))
    classes[-2, ROAD] = classes[-1, SKY] = 0.0
    return classes


LEFT, RIGHT = (slice(8, 16), slice(0, 2)), (slice(8, 16), slice(2, 4))


def test_merging_gives_each_pixel_to_the_best_kernel() -> None:
    segments, classes = merge(
        tiny(), masks_of(LEFT, RIGHT), classes_of((CAR, 0.9), (PERSON, 0.8)), (16, 16)
    )

    assert classes == [CAR, PERSON, ROAD, SKY]
    assert segments[12, 1] == 1
    assert segments[12, 3] == 2
    assert segments[12, 12] == 3
    assert segments[2, 12] == 4


def test_merging_drops_unsure_and_hidden_segments() -> None:
    # The second car is the first one again, a column wider: a third of its mask is its own.
    wider = (slice(8, 16), slice(0, 3))
    segments, classes = merge(
        tiny(), masks_of(LEFT, wider), classes_of((CAR, 0.9), (CAR, 0.8)), (16, 16)
    )
    assert classes.count(CAR) == 1
    assert (segments[8:, 2] == 0).all()  # no segment

    _, classes = merge(tiny(), masks_of(RIGHT), classes_of((CAR, 0.29)), (16, 16))
    assert CAR not in classes


def test_semantic_labels_equal_the_classes_of_the_merged_segments() -> None:
    network = tiny()
    masks, classes = masks_of(LEFT, RIGHT), classes_of((CAR, 0.9), (PERSON, 0.8))

    reading = network._reading(masks[None], classes[None])[0].argmax(dim=0)
    segments, found = merge(network, masks, classes, (16, 16))

    assert torch.equal(reading, torch.tensor([0, *found])[segments])


@pytest.fixture(scope="module")
def exported() -> tuple[KNet, onnx.ModelProto]:
    network = tiny(stages=1).eval()
    return network, onnx_from_network(network)


@pytest.mark.parametrize("size", [(64, 96), (128, 64)])
def test_exported_labels_equal_those_of_torch(
    exported: tuple[KNet, onnx.ModelProto], size: tuple[int, int]
) -> None:
    network, model = exported
    image = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    with torch.inference_mode():
        expected, expected_confidence = DeployedModel(network)(torch.from_numpy(image))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inlined = onnx.inliner.inline_local_functions(model).SerializeToString()
    core = new_core()
    compiled = core.compile_model(
        core.read_model(inlined), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )(image)

    for labels, confidence in (
        session.run(["labels", "confidence"], {"image": image}),
        (compiled["labels"], compiled["confidence"]),
    ):
        assert (labels == expected.numpy()).mean() > 0.999
        difference = confidence.astype(int) - expected_confidence.numpy().astype(int)
        assert np.abs(difference).max() <= 2


def test_exported_scores_stay_finite_if_a_mask_is_certain(
    exported: tuple[KNet, onnx.ModelProto],
) -> None:
    operators = {node.op_type for node in exported[1].graph.node}
    for function in exported[1].functions:
        operators |= {node.op_type for node in function.node}

    # ONNX Runtime's Sigmoid is 0 below -18, so its logarithm is infinite and the confidence 0.
    assert "Softplus" in operators
    assert "Log" not in operators
    scores = exported[0]._reading(torch.full((1, 8, 2, 2), -60.0), torch.full((1, 8, 4), -60.0))
    assert scores.tolist() == torch.full((1, 4, 2, 2), -120.0).tolist()


def test_cityscapes_has_eight_things() -> None:
    network = knet_stdc1(19, CITYSCAPES_THINGS, kernels=4, channels=32, feedforward=32)

    assert len(network.things) == 8
    assert network.stuff == tuple(range(11))
    assert network.size_multiple == 32


@pytest.mark.parametrize(
    ("things", "options", "message"),
    [
        ((), {}, "things is ()"),
        ((0, 1, 2, 3), {}, "expected some, not all, of 0..3"),
        ((4,), {}, "things is (4,)"),
        (THINGS, {"channels": 40}, "channels is 40, expected a multiple of 32"),
    ],
)
def test_wrong_arguments_are_named(things, options, message) -> None:
    decoder = SFNet(ResNet(18, "plain", width=8), 4, 16)

    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        KNet(decoder, 4, things, **options)
