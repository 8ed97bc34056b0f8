# SPDX-License-Identifier: Apache-2.0
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training import checkpoint, weights
from training.backbones.resnet import ResNet, Stem
from training.backbones.shufflenet import ShuffleNetV2
from training.export import training_record
from training.networks.df_seg import df1_seg
from training.networks.sfnet import sfnet_df1, sfnet_r101
from training.networks.stdc_seg import stdc1_seg
from training.recipe import load_recipe
from training.weights import load_matching, plain_norms, read_state, renamed

PUBLISHED = Path(__file__).parent / "published"


def filled(layout: dict[str, list[int]]) -> dict[str, Tensor]:
    """Random values for every name of a checkpoint; variances are positive."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) + 0.5 for name, shape in layout.items()}


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.second = nn.Linear(3, 1)


def test_tensors_of_another_name_or_shape_are_reported_and_not_copied() -> None:
    pair = Pair()
    before = pair.second.weight.detach().clone()
    state = {
        "first.weight": torch.ones(3, 2),
        "first.bias": torch.ones(3),
        "second.weight": torch.ones(1, 4),
        "classifier.weight": torch.ones(5, 5),
    }
    matches = load_matching(pair, state)
    assert matches.loaded == ["first.weight", "first.bias"]
    assert matches.left == ["second.weight", "second.bias"]
    assert matches.unused == ["second.weight", "classifier.weight"]
    assert (pair.first.weight == 1).all()
    assert torch.equal(pair.second.weight, before)
    assert str(matches).splitlines() == [
        "2 tensors loaded, 2 left as they were, 2 of the file not used",
        "  left: second.weight, second.bias",
        "  not used: second.weight, classifier.weight",
        "  of another shape: second.weight (1, 4), expected (1, 3)",
    ]


def test_report_shortens_long_lists() -> None:
    names = [f"layer{i}.weight" for i in range(11)]
    report = str(weights.Matches([], left=names, unused=[], misfits=[], unknown=[], surplus=[]))
    assert report.endswith("layer7.weight and 3 more")


def test_layout_that_fits_most_tensors_is_taken() -> None:
    source, target = df1_seg(5), df1_seg(5)
    theirs = {"backbone." + n: v for n, v in source.trunk.state_dict().items()}
    theirs["trunk.stage1.0.weight"] = torch.zeros(32, 3, 3, 3)  # one of our names, as a trap
    matches = load_matching(target, theirs)
    assert matches.unused == ["trunk.stage1.0.weight"]
    assert all(name.startswith("trunk.") for name in matches.loaded)
    assert torch.equal(target.trunk.stage1[0].weight, source.trunk.stage1[0].weight)


def state_from_letters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {{"a": "first.bias"}[name]: value for name, value in state.items()}


@pytest.mark.parametrize(("name", "loaded"), [("a", ["first.bias"]), ("b", [])])
def test_key_map_is_found_in_the_file_of_the_class_and_may_fail_on_a_name(
    name: str, loaded: list[str]
) -> None:
    assert load_matching(Pair(), {name: torch.ones(3)}).loaded == loaded


def test_first_prefix_that_fits_renames() -> None:
    state = {"module.a.b.w": torch.ones(1), "a.w": torch.ones(1), "c.w": torch.ones(1)}
    assert list(renamed(state, (("a.b.", "x."), ("a.", "y.")))) == ["x.w", "y.w"]


@pytest.mark.parametrize("key", [None, "state_dict", "model", "ema"])
def test_torch_files_are_unpacked(tmp_path: Path, key: str | None) -> None:
    tensors = {"module.first.bias": torch.ones(3)}
    path = tmp_path / "weights.tar"
    torch.save({key: tensors, "epoch": 3} if key else tensors, path)
    assert list(read_state(path)) == ["first.bias"]


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_file_with_a_numpy_number_as_the_authors_save_it_is_read(
    tmp_path: Path, module: str
) -> None:
    path = tmp_path / "best_epoch_3_mean-iu_0.78000.pth"
    content = {"state_dict": {"module.first.bias": torch.ones(3)}, "mean_iu": np.float64(0.78)}
    # The format without a checksum, from the time of the module's old name.
    torch.save(content, path, _use_new_zipfile_serialization=False)
    written = f"c{np.float64(0).__reduce__()[0].__module__}\nscalar\n".encode()
    assert written in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(written, f"c{module}\nscalar\n".encode()))
    assert list(read_state(path)) == ["first.bias"]
    assert checkpoint.load(path)["mean_iu"] == 0.78


def test_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "path": tmp_path}, tmp_path / "weights.pth")
    with pytest.raises(SystemExit, match="cannot be read"):
        read_state(tmp_path / "weights.pth")


def test_safetensors_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"first.bias": torch.arange(3.0)}, tmp_path / "weights.safetensors")
    state = read_state(tmp_path / "weights.safetensors")
    torch.testing.assert_close(state["first.bias"], torch.arange(3.0))


def test_files_that_are_no_weights_end_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"no")
    (tmp_path / "weights.pth").write_bytes(b"no")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for name, message in (
        ("weights.safetensors", "cannot be read"),
        ("weights.pth", "cannot be read"),
        ("missing.pth", "weights .* are missing: expected a published file"),
        ("empty.pth", "holds no tensors by name"),
    ):
        with pytest.raises(SystemExit, match=message):
            read_state(tmp_path / name)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["weights", *arguments])
    weights.main()


def test_command_says_what_a_trunk_file_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.backbones.stdc import stdc1

    path = tmp_path / "STDCNet813M_73.91.tar"
    torch.save({"state_dict": {**stdc1().state_dict(), "fc.weight": torch.ones(2, 2)}}, path)
    run(monkeypatch, "stdc_seg:cityscapes_stdc1", str(path))
    assert capsys.readouterr().out.splitlines() == [
        "STDCNet813M_73.91.tar, as weights of the trunk: 145 tensors loaded, 0 left as they were, "
        "1 of the file not used",
        "  not used: fc.weight",
    ]


def test_published_network_becomes_a_checkpoint_that_the_manifest_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = df1_seg(11)
    path, output = tmp_path / "df1_seg.pth", tmp_path / "ours.pt"
    theirs = {"module." + name: value for name, value in network.state_dict().items()}
    torch.save({"state_dict": theirs}, path)
    run(monkeypatch, "df_seg:camvid_df1", str(path), "--output", str(output))
    state = checkpoint.load(output)
    assert state["ema"].keys() == network.state_dict().keys()
    assert torch.equal(state["ema"]["head.4.weight"], network.head[4].weight)
    record = training_record(state)["training"]
    assert record.startswith("none here: published weights df1_seg.pth, SHA-256 ")


def test_checkpoint_with_random_tensors_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = tmp_path / "df1.pth", tmp_path / "ours.pt"
    headless = {n: v for n, v in df1_seg(11).state_dict().items() if not n.startswith("head.")}
    torch.save({**headless, "head.0.weight": df1_seg(11).head[0].weight.detach()}, path)
    with pytest.raises(SystemExit, match="not written: .* tensors of df_seg:camvid_df1 random"):
        run(monkeypatch, "df_seg:camvid_df1", str(path), "--output", str(output))
    assert not output.exists()


def test_a_trunk_file_is_no_checkpoint_and_the_error_says_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = tmp_path / "df1.pth", tmp_path / "ours.pt"
    torch.save(df1_seg(11).trunk.state_dict(), path)
    with pytest.raises(
        SystemExit, match=r"is one of a trunk: .* backbone_weights .* weights="
    ) as e:
        run(monkeypatch, "df_seg:camvid_df1", str(path), "--output", str(output))
    assert "\n" not in str(e.value)
    assert not output.exists()


def test_trunk_is_filled_from_a_run_of_ours_with_other_classes(tmp_path: Path) -> None:
    run_of_ours, trunk = df1_seg(11), df1_seg(5).trunk
    torch.save({"network": {}, "ema": run_of_ours.state_dict()}, tmp_path / "last.pt")
    matches = load_matching(trunk, read_state(tmp_path / "last.pt"))
    assert matches.left == []
    assert torch.equal(trunk.stage1[0].weight, run_of_ours.trunk.stage1[0].weight)


@pytest.mark.parametrize("stem", ["deep", "plain"])
def test_trunk_is_filled_with_its_stem_from_a_published_sfnet(stem: Stem) -> None:
    theirs, trunk = ResNet(18, stem), ResNet(18, stem)
    stems = {"conv1": "layer0.0", "bn1": "layer0.1"}
    published = {}
    for name, value in theirs.state_dict().items():
        first, _, rest = name.partition(".")
        published[f"{stems.get(first, first)}.{rest}"] = value
    matches = load_matching(trunk, {**published, "head.conv_last.1.weight": torch.ones(19, 128)})
    assert matches.left == []
    assert matches.unused == ["head.conv_last.1.weight"]
    assert torch.equal(trunk.bn1.weight, theirs.bn1.weight)


def test_heads_that_only_training_runs_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = tmp_path / "sfnet_df1.pth", tmp_path / "ours.pt"
    published = sfnet_df1(19)
    torch.save(published.state_dict(), path)
    run(monkeypatch, "sfnet:cityscapes_df1", str(path), "--output", str(output))
    network = load_recipe("sfnet:cityscapes_df1").network()
    network.load_state_dict(checkpoint.load(output)["ema"])
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        ours, theirs = network.eval()(images), published.eval()(images)
    assert torch.equal(ours["logits"], theirs["logits"])


def test_command_refuses_weights_of_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shufflenet.pth"
    torch.save(ShuffleNetV2().state_dict(), path)
    with pytest.raises(SystemExit, match="no tensor of stdc_seg:cityscapes_stdc1"):
        run(monkeypatch, "stdc_seg:cityscapes_stdc1", str(path))


def in_place_output(x: Tensor, state: dict[str, Tensor], norm: str) -> Tensor:
    """In-place batch norm without activation, in evaluation, as its authors define it."""
    weight, bias, mean, variance = (
        state[f"{norm}.{name}"][:, None, None]
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / torch.sqrt(variance + 1e-5) * (weight.abs() + 1e-5) + bias


def stdc_seg_file(head_counters: bool) -> dict[str, Tensor]:
    """Tensors in the layout of the authors' STDC1-Seg, whose norms outside the trunk have
    negative weights."""
    record = json.loads((PUBLISHED / "stdc1_seg.json").read_text())
    state = filled(record["layout"])
    for name in state:
        if name.endswith("bn.weight") and not name.startswith("cp.backbone."):
            state[name] = -state[name]
    if not head_counters:
        state = {
            name: value
            for name, value in state.items()
            if name.startswith("cp.backbone.") or not name.endswith("num_batches_tracked")
        }
    return state


def test_in_place_norms_of_stdc_seg_give_the_authors_output() -> None:
    state = stdc_seg_file(head_counters=False)
    network = stdc1_seg(19).eval()
    matches = load_matching(network, state)
    assert "in-place batch norms converted" in str(matches)
    assert matches.unknown == []
    x = torch.rand(1, 128, 4, 4)
    expected = in_place_output(x, state, "cp.conv_head16.bn")
    torch.testing.assert_close(network.smooth16.bn(x), expected)
    trunk_norm = "cp.backbone.features.0.bn.weight"
    assert torch.equal(network.trunk.features[0].bn.weight, state[trunk_norm])


def test_plain_norms_keep_their_negative_weights() -> None:
    for state in (stdc_seg_file(head_counters=True), {"bn.weight": -torch.ones(3)}):
        same, count = plain_norms(state)
        assert count == 0
        assert all(same[name] is value for name, value in state.items())
    old_file = {"bn.weight": -torch.ones(3), "bn.running_mean": torch.zeros(3)}
    assert plain_norms(old_file) == (old_file, 0)


def test_a_deeper_network_is_not_cut_to_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = tmp_path / "sfnet_r101.pth", tmp_path / "ours.pt"
    torch.save({"state_dict": sfnet_r101(19, deep_supervision=True).state_dict()}, path)
    with pytest.raises(SystemExit, match=r"of another network, such as trunk\.layer3\.6\.") as e:
        run(monkeypatch, "sfnet:cityscapes_r50", str(path), "--output", str(output))
    assert "\n" not in str(e.value)
    assert not output.exists()


def test_a_deeper_trunk_is_refused_and_heads_beside_a_trunk_are_not() -> None:
    names = {**ResNet(18).state_dict(), "fc.weight": torch.ones(1), "head.x.weight": torch.ones(1)}
    assert load_matching(ResNet(18), names).foreign("trunk") == []
    deeper = {**names, "layer3.2.conv1.weight": torch.ones(1)}
    assert load_matching(ResNet(18), deeper).foreign("trunk") == ["layer3.2.conv1.weight"]


def test_an_unknown_layer_refuses_a_network_and_a_dead_one_does_not() -> None:
    network = stdc1_seg(19)
    state = {**network.state_dict(), "conv_out_sp2.conv_out.weight": torch.ones(1)}
    assert load_matching(network, state).foreign("network") == []
    state["new_head.weight"] = torch.ones(1)
    assert load_matching(network, state).foreign("network") == ["new_head.weight"]
