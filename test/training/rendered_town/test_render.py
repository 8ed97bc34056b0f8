# SPDX-License-Identifier: Apache-2.0
"""A tiny drive through the real renderer; needs Blender (requirements/render.in)."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.panoptic_quality import read_ids
from training.rendered_town.labels import VALID_LABELS, Label

pytestmark = pytest.mark.render
ROOT = Path(__file__).parents[3]


def render(output: Path, *options: str) -> str:
    pytest.importorskip("bpy", reason="Blender is not installed here")
    command = [
        *(sys.executable, "-m", "training.rendered_town.render", "--seed", "64", "--frames", "2"),
        *("--size", "64", "96", "--samples", "1", "--output-dir", str(output), *options),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=True
    )
    return done.stdout


def read(output: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    lines = (output / f"{split}.txt").read_text().splitlines()
    pairs = [line.split() for line in lines]
    return [
        (cv2.imread(str(output / i)), cv2.imread(str(output / t), cv2.IMREAD_UNCHANGED))
        for i, t in pairs
    ]


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("town")
    render(output, "--split", "demo")
    return output


def test_labels_hold_class_numbers_only(drive: Path) -> None:
    for image, labels in read(drive, "demo"):
        assert image.shape == (64, 96, 3)
        assert labels.shape == (64, 96)
        assert labels.dtype == np.uint8
        assert {int(v) for v in np.unique(labels)} <= VALID_LABELS


def test_picture_and_labels_line_up(drive: Path) -> None:
    image, labels = read(drive, "demo")[0]

    luma = image.mean(-1)
    assert luma[labels == Label.SKY].mean() > luma[labels == Label.ROAD].mean() + 20
    rows = np.arange(64)[:, None]
    assert (rows * (labels == Label.ROAD)).sum() / (labels == Label.ROAD).sum() > 40
    assert (rows * (labels == Label.SKY)).sum() / (labels == Label.SKY).sum() < 24
    # Along the border of the sky the picture changes more than elsewhere.
    border = cv2.morphologyEx(
        (labels == Label.SKY).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))
    )
    change = np.hypot(*np.gradient(luma))
    assert change[border > 0].mean() > 2 * change[border == 0].mean()


def test_an_interrupted_rendering_resumes_where_it_stopped(drive: Path) -> None:
    last = sorted((drive / "labels" / "demo").iterdir())[-1]
    before = last.read_bytes()
    last.unlink()

    report = render(drive, "--split", "demo")

    assert "1 of 2 frames to render" in report
    assert last.read_bytes() == before


def test_stills_of_one_seed_show_different_places(tmp_path: Path) -> None:
    render(tmp_path, "--stills")

    (_, first), (_, second) = read(tmp_path, "train")
    assert (first != second).mean() > 0.2


def test_panoptic_files_hold_the_labels_with_instances(drive: Path) -> None:
    listing = json.loads((drive / "panoptic_demo.json").read_text())
    cars = 0
    for entry, (_, labels) in zip(listing["annotations"], read(drive, "demo"), strict=True):
        ids = read_ids(drive / "panoptic_demo" / entry["file_name"])
        found = {segment["id"]: segment for segment in entry["segments_info"]}
        assert set(found) == {int(v) for v in np.unique(ids)} - {0}
        for number, segment in found.items():
            assert (labels[ids == number] == segment["category_id"]).all()
            assert segment["area"] == (ids == number).sum()
        cars += sum(s["category_id"] == Label.CAR and not s["iscrowd"] for s in found.values())
    assert cars >= 4  # the drive's plan puts two in front of the camera, parked ones beside it
