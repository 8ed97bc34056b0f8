# SPDX-License-Identifier: Apache-2.0
import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from training import checkpoint
from training.data.camvid import camvid
from training.evaluate import evaluate
from training.networks.sfnet_lite import sfnet_lite_r18
from training.recipe import Recipe, load_recipe
from training.train import (
    DataRoots,
    Length,
    Run,
    averaging,
    fastest_precision,
    main,
    save,
    start,
    train_epoch,
)

CPU = torch.device("cpu")


def arguments(folder: Path, resume: bool = False) -> argparse.Namespace:
    return argparse.Namespace(
        seed=3, data_root=DataRoots(), init=None, resume=resume, output_dir=folder
    )


def train(run: Run, recipe: Recipe, street: Path, log: Path, until: int) -> None:
    parts = recipe.mixture({"street": street})
    for _ in range(run.epoch, until):
        train_epoch(run, recipe, parts, Length(recipe.epochs), CPU, 0, SummaryWriter(str(log)))
        run.epoch += 1


def test_the_network_learns_a_street_of_blocks(
    street: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, epochs=12)
    assert recipe.validation is not None
    held_out = recipe.validation({"street": street})
    run = start(recipe, arguments(tmp_path / "run"), CPU)
    before = evaluate(run.ema.module, held_out, 3, CPU).miou()
    train(run, recipe, street, tmp_path / "run", until=12)
    after = evaluate(run.ema.module, held_out, 3, CPU).miou()
    assert before < 0.4
    assert after > 0.8


def test_averaged_weights_forget_their_start_and_then_average_slowly() -> None:
    mean = [torch.zeros(1)]
    for step in range(1, 200):
        averaging(0.998)(mean, [torch.ones(1)], step)
    assert mean[0].item() > 0.99
    averaging(0.9)(mean, [torch.zeros(1)], 10**6)
    assert mean[0].item() == pytest.approx(0.9, abs=0.01)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    street: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    # Only dropout is not a function of seed and epoch.
    whole = start(tiny_recipe, arguments(tmp_path / "whole"), CPU)
    part = start(tiny_recipe, arguments(tmp_path / "part"), CPU)
    for run in (whole, part):
        _without_dropout(run)
    train(whole, tiny_recipe, street, tmp_path / "whole", until=2)
    train(part, tiny_recipe, street, tmp_path / "part", until=1)
    save(part, tmp_path / "part" / "last.pt", "tiny")
    resumed = start(tiny_recipe, arguments(tmp_path / "part", resume=True), CPU)
    _without_dropout(resumed)
    assert (resumed.epoch, resumed.step) == (1, 2)
    train(resumed, tiny_recipe, street, tmp_path / "part", until=2)
    for name, value in whole.ema.module.state_dict().items():
        torch.testing.assert_close(
            resumed.ema.module.state_dict()[name], value, rtol=1e-3, atol=1e-4
        )


def test_loaded_layers_have_their_own_learning_rate(
    tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = tiny_recipe.network().get_submodule("trunk").state_dict()
    published = {"module." + n: v for n, v in trunk.items() if n.startswith(("conv1", "layer1"))}
    torch.save({"state_dict": published}, tmp_path / "resnet18.pth")
    recipe = replace(tiny_recipe, backbone_weights="resnet18.pth")
    given = arguments(tmp_path / "run")
    given.data_root = {"weights": tmp_path}
    run = start(recipe, given, CPU)
    assert "resnet18.pth: 21 tensors loaded" in capsys.readouterr().out
    assert torch.equal(run.network.state_dict()["trunk.conv1.weight"], trunk["conv1.weight"])
    rates = {id(p): group["lr"] for group in run.optimiser.param_groups for p in group["params"]}
    names = dict(run.network.named_parameters())
    slow = recipe.learning_rate * recipe.pretrained_factor
    assert rates[id(names["trunk.layer1.0.conv1.weight"])] == slow
    assert rates[id(names["trunk.layer2.0.conv1.weight"])] == recipe.learning_rate
    assert rates[id(names["head.0.weight"])] == recipe.learning_rate


def test_backbone_file_of_another_network_ends_the_run(tiny_recipe: Recipe, tmp_path: Path) -> None:
    torch.save({"features.0.conv.weight": torch.ones(32, 3, 3, 3)}, tmp_path / "stdc.pth")
    given = arguments(tmp_path / "run")
    given.data_root = {"weights": tmp_path}
    with pytest.raises(SystemExit, match="stdc.pth fits no layer of the trunk"):
        start(replace(tiny_recipe, backbone_weights="stdc.pth"), given, CPU)


def published_trunk(recipe: Recipe, folder: Path) -> Recipe:
    """Writes a file of the trunk to `folder`; returns `recipe` that starts from it."""
    torch.save(recipe.network().get_submodule("trunk").state_dict(), folder / "trunk.pth")
    return replace(recipe, backbone_weights="trunk.pth")


def test_missing_trunk_file_is_named_as_weights(tiny_recipe: Recipe, tmp_path: Path) -> None:
    given = arguments(tmp_path / "run")
    given.data_root["weights"] = tmp_path
    for name in ("trunk.pth", "trunk.safetensors"):
        with pytest.raises(SystemExit, match=rf"^weights .*{name} are missing") as end:
            start(replace(tiny_recipe, backbone_weights=name), given, CPU)
        assert "\n" not in str(end.value)


@pytest.mark.parametrize("changed", [False, True])
def test_run_resumes_without_the_file_that_filled_its_trunk(
    tiny_recipe: Recipe, tmp_path: Path, changed: bool
) -> None:
    recipe = published_trunk(tiny_recipe, tmp_path)
    given = arguments(tmp_path / "run")
    given.data_root["weights"] = tmp_path
    run = start(recipe, given, CPU)
    save(run, tmp_path / "run/last.pt", "tiny")
    (tmp_path / "trunk.pth").unlink()
    going_on = replace(recipe, backbone_weights=None) if changed else recipe
    resumed = start(going_on, arguments(tmp_path / "run", resume=True), CPU)
    rates = [(g["lr"], len(g["params"])) for g in resumed.optimiser.param_groups]
    assert rates == [(g["lr"], len(g["params"])) for g in run.optimiser.param_groups]
    assert len(rates) == 4


def test_what_cannot_be_resumed_is_one_line(tiny_recipe: Recipe, tmp_path: Path) -> None:
    assert tiny_recipe.optimiser == "adamw"
    run = start(tiny_recipe, arguments(tmp_path), CPU)
    save(run, tmp_path / "last.pt", "tiny")
    resume = arguments(tmp_path, resume=True)
    with pytest.raises(SystemExit, match="with the optimiser 'adamw', expected .* 'sgd'"):
        start(replace(tiny_recipe, optimiser="sgd"), resume, CPU)
    # Older versions did not record which tensors a published file had filled.
    state = checkpoint.load(tmp_path / "last.pt")
    del state["pretrained"]
    torch.save(state, tmp_path / "last.pt")
    resume.data_root["weights"] = tmp_path
    with pytest.raises(SystemExit, match="expected the backbone_weights that the run started with"):
        start(published_trunk(tiny_recipe, tmp_path), resume, CPU)
    assert start(tiny_recipe, resume, CPU).step == 0
    torch.save({"ema": run.network.state_dict(), "published": "here"}, tmp_path / "last.pt")
    with pytest.raises(SystemExit, match="holds weights but no run to resume"):
        start(tiny_recipe, resume, CPU)


def test_init_takes_all_but_the_classes_of_another_recipe(
    tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eleven = sfnet_lite_r18(11, "plain", (1, 1))
    torch.save({"ema": eleven.state_dict()}, tmp_path / "eleven.pt")
    given = arguments(tmp_path / "run")
    given.init = tmp_path / "eleven.pt"
    run = start(tiny_recipe, given, CPU)
    assert capsys.readouterr().out == (
        f"{given.init}: loaded, except 2 tensors that start from random values for 3 classes: "
        "head.3.bias, head.3.weight\n"
    )
    own, theirs = run.network.state_dict(), eleven.state_dict()
    differing = [name for name in own if not torch.equal(own[name], theirs[name])]
    assert differing == ["head.3.weight", "head.3.bias"]


@pytest.mark.parametrize("classes", [3, 11])
def test_init_refuses_another_network_whatever_its_classes(
    tiny_recipe: Recipe, tmp_path: Path, classes: int
) -> None:
    deep = sfnet_lite_r18(classes, "deep", (1, 1))
    torch.save({"ema": deep.state_dict()}, tmp_path / "deep.pt")
    given = arguments(tmp_path / "run")
    given.init = tmp_path / "deep.pt"
    with pytest.raises(SystemExit, match=r"deep\.pt holds another network: .* first is trunk"):
        start(tiny_recipe, given, CPU)


def test_init_refuses_tensors_of_another_size_that_is_no_number_of_classes(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    state = tiny_recipe.network().state_dict()
    state["trunk.bn1.weight"] = torch.ones(32)
    torch.save({"ema": state}, tmp_path / "narrow.pt")
    given = arguments(tmp_path / "run")
    given.init = tmp_path / "narrow.pt"
    with pytest.raises(SystemExit, match=r"another network: 1 tensors .* trunk\.bn1\.weight"):
        start(tiny_recipe, given, CPU)


def test_a_batch_that_the_network_does_not_take_ends_with_one_line(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tiny_command: list[str]
) -> None:
    alone = replace(tiny_recipe, batch_size=1)  # the pyramid pools to one value a channel
    monkeypatch.setattr("training.train.load_recipe", lambda _: alone)
    with pytest.raises(SystemExit, match=r"refuses a batch of 1 pictures 64x64 .* batch_size") as e:
        main()
    assert "\n" not in str(e.value)


def test_a_run_by_minutes_ends_by_the_clock_with_the_schedule_at_its_end(
    street: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    factors: list[float] = []

    def schedule(step: int, total: int, warmup: int) -> float:
        factors.append(1.0 - step / total)
        return factors[-1]

    recipe = replace(tiny_recipe, schedule=schedule)
    run = start(recipe, arguments(tmp_path / "run"), CPU)
    parts, length = recipe.mixture({"street": street}), Length(1, minutes=5 / 60)
    while not length.is_reached(run.seconds):
        train_epoch(run, recipe, parts, length, CPU, 0, SummaryWriter(str(tmp_path)))
        run.epoch += 1
    assert run.step == len(factors) > 3
    assert 5.0 <= run.seconds < 15.0
    assert factors[0] == 1.0
    assert factors[-1] < 0.4
    assert length.total_steps(run, 100, 0, seconds=2.5) == 2 * run.step


def test_a_run_by_epochs_counts_its_steps_from_where_it_stands(tiny_recipe: Recipe) -> None:
    run = Run.__new__(Run)
    run.epoch, run.step = 2, 57  # seven steps into an epoch of ten, after one of fifty
    assert Length(5).total_steps(run, 10, 7, seconds=1.0) == 50 + 3 * 10
    assert not Length(5).is_reached(1e9)


@pytest.mark.parametrize(("faster", "bf16_seconds"), [(torch.float32, 9.0), (torch.bfloat16, 1.0)])
def test_precision_is_the_one_measured_as_faster(
    faster: torch.dtype,
    bf16_seconds: float,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = start(tiny_recipe, arguments(tmp_path / "run"), CPU)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    clock = [0.0]

    def loss(output: dict[str, torch.Tensor], _: torch.Tensor) -> torch.Tensor:
        clock[0] += bf16_seconds if output["logits"].dtype == torch.bfloat16 else 3.0
        return output["logits"].float().sum()

    monkeypatch.setattr("time.process_time", lambda: clock[0])
    assert fastest_precision(run, replace(tiny_recipe, loss=loss)) == faster
    assert "3.00 times as long" in capsys.readouterr().out
    after = run.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def _without_dropout(run: Run) -> None:
    for module in run.network.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0


def test_a_checkpoint_records_its_origin(street: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    run = start(tiny_recipe, arguments(tmp_path), CPU)
    save(run, tmp_path / "last.pt", "module:tiny")
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["recipe"] == "module:tiny"
    assert state["seed"] == 3
    assert "torch" in state["hardware"]


def test_a_damaged_checkpoint_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(SystemExit, match=r"last.pt cannot be read") as failure:
        checkpoint.load(tmp_path / "last.pt")
    assert "\n" not in str(failure.value)


def test_a_checkpoint_of_another_network_ends_with_one_line(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    network = tiny_recipe.network()
    state = network.state_dict()
    torch.save({"ema": {**state, "extra": torch.ones(1)}, "recipe": "a:b"}, tmp_path / "other.pt")
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(SystemExit, match=r"other.pt holds another network \(.* a:b\): 1 .* extra"):
        checkpoint.load_network(network, tmp_path / "other.pt")
    with pytest.raises(SystemExit, match=r"bare.pt is no checkpoint of a run.*training\.weights"):
        checkpoint.load_network(network, tmp_path / "bare.pt")


@pytest.fixture
def tiny_command(
    street: Path, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The command line of a run of `tiny_recipe` on `street`; a test may extend it."""
    monkeypatch.setattr("training.train.load_recipe", lambda _: tiny_recipe)
    command = ["", "tiny", "--data-root", f"street={street}", "--output-dir", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    return command


def test_an_unreadable_picture_ends_the_run_with_its_name(
    street: Path, tiny_command: list[str]
) -> None:
    for picture in street.glob("images/*/*"):
        picture.write_text("no picture")
    with pytest.raises(SystemExit, match=r"^/[^ ]*\.png: picture missing or unreadable \(.*\)$"):
        main()


def test_an_unknown_id_is_found_before_augmentation(street: Path, tiny_command: list[str]) -> None:
    for path in street.glob("labels/*/*"):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[0, 0] = 11  # a corner, which a crop of 64x64 seldom holds
        cv2.imwrite(str(path), labels)
    with pytest.raises(SystemExit, match=r"^/[^ ]*\.png holds 11: expected 0 to 2, or 255"):
        main()


def test_an_unusable_validation_label_map_ends_with_one_line(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_command: list[str]
) -> None:
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    cv2.imwrite(str(held_out / "a.png"), np.zeros((64, 96, 3), np.uint8))
    (held_out / "train.txt").write_text("a.png a.png\n")
    recipe = replace(tiny_recipe, validation=lambda _: camvid(held_out, ("train.txt",)), epochs=1)
    monkeypatch.setattr("training.train.load_recipe", lambda _: recipe)
    with pytest.raises(SystemExit, match=r"^validation: .*a\.png: label map of 3 x uint8") as end:
        main()
    assert "\n" not in str(end.value)
    assert (tmp_path / "last.pt").is_file()


def test_network_with_other_classes_than_the_recipe_is_refused_before_the_run(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, classes=tiny_recipe.classes[:2])
    with pytest.raises(SystemExit, match=r"'tiny' has 2 classes, but its network scores 3") as end:
        start(recipe, arguments(tmp_path / "run"), CPU)
    assert "\n" not in str(end.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "path", ["sfnet_lite:nothing", "nowhere:camvid_r18", "sfnet_lite", "sfnet_lite:_trainval"]
)
def test_error_names_an_unknown_recipe(path: str) -> None:
    with pytest.raises(SystemExit, match="module:function"):
        load_recipe(path)


@pytest.mark.parametrize(
    "name",
    ["camvid_r18", "camvid_town_r18", "camvid_r18_held_out", "camvid_r18_paper"],
)
def test_every_recipe_loads_and_builds_its_network(name: str) -> None:
    recipe = load_recipe(f"sfnet_lite:{name}")
    with torch.device("meta"):
        network = recipe.network()
    assert network.num_classes == len(recipe.classes) == 11


def test_the_recipes_schedule_decides_the_step(
    street: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    asked = []

    def nothing(step: int, total: int, warmup: int) -> float:
        asked.append((step, total, warmup))
        return 0.0

    run = start(replace(tiny_recipe, schedule=nothing), arguments(tmp_path), CPU)
    before = [parameter.clone() for parameter in run.network.parameters()]
    train(run, replace(tiny_recipe, schedule=nothing), street, tmp_path, until=1)
    assert asked == [(0, 8, 1), (1, 8, 1)]
    assert all(torch.equal(a, b) for a, b in zip(before, run.network.parameters(), strict=True))
