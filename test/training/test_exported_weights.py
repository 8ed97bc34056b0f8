# SPDX-License-Identifier: Apache-2.0
"""A run can start from an exported model: the weights are read from model.onnx."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from training import checkpoint, export, train
from training.backbones.efficientnet import EfficientNet
from training.export import DeployedModel
from training.exported_weights import fit_norms, weights_of_model
from training.networks.eseg import ESeg, eseg_lite_s
from training.networks.stdc_seg import stdc1_seg
from training.normalisation import images_from_rgb
from training.recipe import Recipe
from training.recipes.sfnet_lite import camvid_r18


def small_eseg() -> ESeg:
    trunk = EfficientNet(0.2, 0.2, lite=True)
    return ESeg(trunk, 3, 16, 1, finest=3, deepest=5, activation=nn.ReLU)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ESeg": small_eseg,  # fusions whose weights the exporter folds
    "STDC-Seg": partial(stdc1_seg, 3),  # heads that only training runs
}


def shaken(network: nn.Module) -> nn.Module:
    """Returns the network with norms that are not the identity and unequal fusion weights."""
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                uniform(module.running_mean, -0.2, 0.2)
                uniform(module.running_var, 0.5, 1.5)
                uniform(module.weight, 0.5, 1.5)
                uniform(module.bias, -0.2, 0.2)
        for name, parameter in network.named_parameters():
            if "fusion" in name:
                uniform(parameter, 0.2, 2.0)
    return network.eval()


@dataclass(frozen=True)
class Exported:
    """A network with shaken weights, a way to build another one, and its model directory."""

    network: nn.Module
    build: Callable[[], nn.Module]
    directory: Path

    def read_back(self) -> nn.Module:
        network = self.build().eval()
        weights = weights_of_model(network, self.directory)
        missing, unexpected = network.load_state_dict(weights, strict=False)
        assert unexpected == []
        allowed = ("aux_head", "detail_head")
        assert all(n.startswith(allowed) or n.endswith("tracked") for n in missing), missing
        return network


@pytest.fixture(scope="module", params=list(NETWORKS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    build = NETWORKS[request.param]
    folder = tmp_path_factory.mktemp("exported")
    classes = (("Sky", (200, 220, 255)), ("Road", (90, 90, 90)), ("Car", (180, 30, 30)))
    recipe = replace(camvid_r18(), name="tiny", network=build, classes=classes, input_size=(64, 96))
    network = shaken(build())
    exact = export.onnx_from_network(network)
    content = export.halved_weights(exact).SerializeToString()
    picture = [pictures()[0].numpy()]
    parity = export.check_parity(network, exact.SerializeToString(), content, picture)
    source = {"recipe": "tiny", "training": "none: random weights"}
    manifest = export.manifest_of(recipe, network, folder / "model", content, parity, source, {})
    export.write_model(manifest, content)
    return Exported(network, build, folder / "model")


def pictures(count: int = 1) -> torch.Tensor:
    coarse = np.random.default_rng(1).integers(0, 256, (count, 4, 6, 3)).astype(np.uint8)
    return torch.from_numpy(coarse.repeat(32, axis=1).repeat(32, axis=2))


def scores(network: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return network.scores(images_from_rgb(pictures(), network))  # type: ignore[operator]


def test_a_new_network_gives_what_was_exported(exported: Exported) -> None:
    network = exported.read_back()
    expected = scores(exported.network)
    difference = (scores(network) - expected).abs().max() / expected.std()
    assert difference < 0.02, difference  # the file's weights are rounded to fp16
    session = onnxruntime.InferenceSession(str(exported.directory / "model.onnx"))
    labels, confidence = session.run(None, {"image": pictures().numpy()})
    with torch.inference_mode():
        own, own_confidence = DeployedModel(network)(pictures())
    assert (labels == own.numpy()).mean() >= 0.999
    assert np.abs(confidence.astype(int) - own_confidence.numpy().astype(int)).max() <= 1


def test_fitted_norms_keep_the_output_and_make_training_agree_with_evaluation(
    exported: Exported,
) -> None:
    network = exported.read_back()
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    before = scores(network)
    batch = images_from_rgb(pictures(4), network)
    assert fit_norms(network, [batch[:2], batch[2:]]) > 5
    torch.testing.assert_close(scores(network), before, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        evaluated = network(batch)["logits"]
        trained = network.train()(batch)["logits"]
    difference = (evaluated - trained).abs().mean() / evaluated.std()
    assert difference < 0.05, difference


def test_a_file_of_another_network_ends_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"manifest.yaml: cannot be read") as end:
        weights_of_model(eseg_lite_s(3), tmp_path)
    assert "\n" not in str(end.value)
    shipped = Path(__file__).resolve().parents[2] / "models" / "sfnet_lite_r18_camvid"
    with pytest.raises(SystemExit, match=r"tensors are missing\): expected a model that"):
        weights_of_model(eseg_lite_s(11), shipped)


def test_a_damaged_file_or_note_ends_with_one_line(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(exported.directory / "model.onnx")
    monkeypatch.setattr("training.exported_weights.read_onnx", lambda _: model)
    if not model.metadata_props:
        pytest.skip("the exporter has folded no parameter of this network")
    model.metadata_props[0].value = "[1.0,"
    with pytest.raises(SystemExit, match=r"its note network\..* is damaged"):
        weights_of_model(exported.build(), exported.directory)


def test_a_run_starts_from_a_model_directory(
    street: Path, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = shaken(tiny_recipe.network())
    checkpoint.save(tmp_path / "made.pt", {"ema": network.state_dict(), "published": "made"})
    monkeypatch.setattr(export, "load_recipe", lambda _: tiny_recipe)
    monkeypatch.setattr(train, "load_recipe", lambda _: tiny_recipe)
    model = str(tmp_path / "model")
    command = ["", "tiny", "--checkpoint", str(tmp_path / "made.pt"), "--output-dir", model]
    monkeypatch.setattr("sys.argv", [*command, "--data-root", f"street={street}"])
    export.main()
    run = ["", "tiny", "--data-root", f"street={street}", "--output-dir", str(tmp_path / "run")]
    # The step is too small to change a weight, so the saved weights equal the loaded ones.
    tiny = replace(tiny_recipe, learning_rate=1e-12, epochs=1, ema_decay=0.0)
    monkeypatch.setattr(train, "load_recipe", lambda _: tiny)
    monkeypatch.setattr("sys.argv", [*run, "--init", model, "--precision", "fp32"])
    train.main()
    again = tiny_recipe.network().eval()
    checkpoint.load_network(again, tmp_path / "run" / "last.pt")
    ours, theirs = scores(again), scores(network)
    agreement = (ours.argmax(1) == theirs.argmax(1)).float().mean()
    assert agreement > 0.9, agreement
