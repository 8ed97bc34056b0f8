# SPDX-License-Identifier: Apache-2.0
"""From a network to panoptic quality: sizes, files, scores of perfect and of blind predictions."""

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from training.backbones.resnet import ResNet
from training.data.rendered_town import rendered_town_panoptic
from training.evaluate_panoptic import (
    main,
    most_frequent_classes,
    segments_of,
    write_prediction,
)
from training.networks.knet import KNet
from training.networks.sfnet import SFNet
from training.panoptic_quality import quality_of_files, read_ids
from training.recipes.knet import TOWN_THINGS, cityscapes_stdc1, town_r18
from training.rendered_town.labels import Label
from training.rendered_town.panoptic import add_to_split
from training.schedules import two_drops
from training.train import Length, optimiser, train_epoch

CPU = torch.device("cpu")


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """Three pictures of 40 x 60: sky, road and two cars that move."""
    (tmp_path / "images/train").mkdir(parents=True)
    for k in range(3):
        labels = np.full((40, 60), int(Label.ROAD), np.uint8)
        labels[:16] = Label.SKY
        instances = np.zeros((40, 60), np.uint16)
        for number, left in ((1, 4 + k), (2, 34 + k)):
            labels[20:36, left : left + 16] = Label.CAR
            instances[20:36, left : left + 16] = number
        add_to_split(tmp_path, "train", f"p{k}", labels, instances)
        cv2.imwrite(str(tmp_path / f"images/train/p{k}.jpg"), labels * 20)
    return tmp_path


def tiny(**options: int) -> KNet:
    torch.manual_seed(0)
    decoder = SFNet(ResNet(18, "plain", width=8), 11, 16)
    sizes = {"kernels": 6, "channels": 32, "stages": 1, "feedforward": 32} | options
    return KNet(decoder, 11, TOWN_THINGS, **sizes)


@pytest.mark.parametrize("fit", [(64, 96), (40, 40), (200, 100)])
def test_segments_have_the_size_of_the_picture(town: Path, fit: tuple[int, int]) -> None:
    segments, classes = segments_of(
        tiny().eval(), rendered_town_panoptic(town, "train")[0].image, fit, CPU
    )

    assert segments.shape == (40, 60)
    assert segments.max() <= len(classes)


def test_the_truth_as_prediction_scores_one(town: Path, tmp_path: Path) -> None:
    data = rendered_town_panoptic(town, "train")
    predictions = []
    for _, entry in data.entries:
        ids = read_ids(data.folder / entry["file_name"])
        order = [segment["id"] for segment in entry["segments_info"]]
        segments = np.searchsorted(order, ids) + 1
        predictions.append((segments, [s["category_id"] for s in entry["segments_info"]]))

    write_prediction(data, tmp_path / "said" / "panoptic_train.json", predictions)

    quality = quality_of_files(data.annotations, tmp_path / "said" / "panoptic_train.json")
    assert quality.mean() == (1.0, 1.0, 1.0)
    assert quality.classes[Label.CAR].matched == 6


def test_blind_finds_the_sky_and_no_car(town: Path, tmp_path: Path) -> None:
    data = rendered_town_panoptic(town, "train")
    blind = most_frequent_classes(data)

    write_prediction(data, tmp_path / "blind.json", [(blind + 1, list(range(11)))] * 3)

    quality = quality_of_files(data.annotations, tmp_path / "blind.json")
    assert quality.classes[Label.SKY].panoptic == 1.0
    assert quality.classes[Label.CAR].matched == 0
    assert json.loads((tmp_path / "blind.json").read_text())["annotations"][0]["image_id"] == "p0"


def test_blind_refuses_pictures_of_several_sizes(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images/val").mkdir()
    labels = np.full((30, 60), int(Label.ROAD), np.uint8)
    add_to_split(town, "val", "q", labels, np.zeros((30, 60), np.uint16))
    cv2.imwrite(str(town / "images/val/q.jpg"), labels)
    options = ["--blind", "--data", str(town), "--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["", "knet:town_r18", *options])
    with pytest.raises(SystemExit, match=r"prediction is \(40, 60\), expected \(30, 60\)"):
        main()
    add_to_split(town, "train", "q", labels, np.zeros((30, 60), np.uint16))
    cv2.imwrite(str(town / "images/train/q.jpg"), labels)
    with pytest.raises(SystemExit, match=r"q is 30x60, the first picture 40x60: --blind expects"):
        main()


def test_the_truth_is_not_overwritten(town: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (town / "panoptic_train.json").read_bytes()
    options = ["--blind", "--data", str(town), "--split", "train", "--output-dir", str(town)]
    monkeypatch.setattr("sys.argv", ["", "knet:town_r18", *options])
    with pytest.raises(SystemExit, match=r"panoptic_train\.json is the ground truth"):
        main()
    assert (town / "panoptic_train.json").read_bytes() == before


def test_a_data_set_of_other_classes_than_the_recipes_is_refused(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", str(town), "--split", "train", "--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["", "knet:cityscapes_stdc1", *options])
    with pytest.raises(SystemExit, match="has 11 categories, expected the recipe's 19 classes"):
        main()
    assert not (tmp_path / "out").exists()


def test_the_town_recipe_trains_through_the_loop_of_all_networks(
    town: Path, tmp_path: Path
) -> None:
    pytest.importorskip("scipy", reason="requirements/training.in")
    from training.train import Run, averaging

    recipe = replace(
        town_r18(),
        network=tiny,
        batch_size=3,
        augmentation=replace(town_r18().augmentation, crop_size=(32, 64)),
    )
    network = recipe.network()
    ema = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=averaging(0.9))
    run = Run(network, ema, optimiser(recipe, network, set()), seed=0)
    before = {name: value.clone() for name, value in network.named_parameters()}

    train_epoch(
        run, recipe, recipe.mixture({"town": town}), Length(1), CPU, 0, SummaryWriter(tmp_path)
    )

    assert run.step == 1
    still = [n for n, p in network.named_parameters() if torch.equal(p, before[n])]
    assert still == []


def test_loaded_layers_of_the_trunk_learn_slower() -> None:
    network = tiny()

    groups = optimiser(town_r18(), network, {"conv1.weight"}).param_groups

    slow = [g for g in groups if g["base_lr"] < 5e-4]
    assert [tuple(p.shape) for g in slow for p in g["params"]] == [
        tuple(network.trunk.conv1.weight.shape)
    ]


def test_the_papers_recipe_steps_down_at_nine_and_eleven_twelfths() -> None:
    recipe = cityscapes_stdc1()

    assert recipe.network().things == tuple(range(11, 19))
    factors = [two_drops(step, 1200, warmup=100) for step in (0, 100, 899, 900, 1100)]
    assert [round(math.log10(f), 6) for f in factors] == [-2, 0, 0, -1, -2]
