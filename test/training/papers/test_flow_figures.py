# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from training.networks.sfnet import sfnet_df1
from training.networks.sfnet_lite import sfnet_lite_r18
from training.papers import flow_figures as figures
from training.recipe import Recipe

PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[1] = (10, 20, 30)


class ConstantFlow(nn.Module):
    """Replaces a flow convolution: the same flow (one value per channel) everywhere."""

    def __init__(self, flow: list[float]) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flow = torch.tensor(self.flow)[None, :, None, None]
        return flow.expand(x.shape[0], -1, *x.shape[2:])


@pytest.fixture
def rgb() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))


def test_both_warps_of_gd_fam_are_seen_in_pixels_of_their_grid(rgb: np.ndarray) -> None:
    network = sfnet_lite_r18(3, "plain", (1, 1)).eval()
    # One pixel of a map of w columns is 2 w / (w - 1) units: here one right and two down.
    one_px_x, one_px_y = 2 * 24 / 23, 2 * 16 / 15
    network.align.flow_make = ConstantFlow([0, 0, one_px_x, 2 * one_px_y])
    labels, (coarse, fine) = figures.see(network, rgb)
    assert labels.shape == rgb.shape[:2]
    assert (coarse.what, fine.what) == ("coarse map 2x3 on 16x24", "fine map 16x24 on 16x24")
    np.testing.assert_allclose(coarse.before, coarse.after, atol=1e-5)
    np.testing.assert_allclose(fine.flow_px, np.broadcast_to((1.0, 2.0), (16, 24, 2)), atol=1e-5)
    np.testing.assert_allclose(fine.after[:-2, :-1], fine.before[2:, 1:], atol=1e-3)


def test_sfnet_shows_one_warp_per_level_and_a_network_without_flow_is_refused(
    rgb: np.ndarray,
) -> None:
    _, warps = figures.see(sfnet_df1(3).eval(), rgb)
    assert [warp.what for warp in warps] == ["coarse map 2x3 on 2x3", "coarse map 2x3 on 4x6"]
    with pytest.raises(SystemExit, match="warps nothing"):
        figures.see(sfnet_df1(3, aligned_levels=()).eval(), rgb)


def test_colours_say_direction_and_length() -> None:
    flow = np.array([[[0, 0], [2, 0], [-2, 0], [0, 2], [1, 0], [9, 0]]], np.float32)
    still, right, left, down, half, far = figures.colours_of_flow(flow, 2.0)[0]
    assert still.tolist() == [255, 255, 255]
    assert right.tolist() == far.tolist() == [255, 0, 0]
    assert left.tolist() == [0, 255, 255]
    assert down[1] == 255
    assert 100 < down[0] < 150
    assert half[0] == 255
    assert 120 < half[1] < 135


def test_correct_pixels_are_black_and_wrong_ones_show_the_true_class() -> None:
    labels = np.array([[1, 0, 1]], np.uint8)
    truth = np.array([[1, 1, 255]], np.uint8)
    right, wrong, unlabelled = figures.errors(labels, truth, PALETTE)[0].tolist()
    assert right == [0, 0, 0]
    assert wrong == [10, 20, 30]
    assert unlabelled == list(figures.UNLABELLED_RGB)


def test_arrows_point_along_the_flow() -> None:
    flow = np.zeros((40, 40, 2), np.float32)
    flow[10, 10] = (5, 0)
    picture = figures.arrows(np.zeros((40, 40, 3), np.uint8), flow, 5.0)
    assert picture[10, 11:30].any(axis=1).all()
    assert not picture[11:, 2:9].any(axis=2)[:8].any()


@pytest.fixture
def command(
    street: Path, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line for one picture of the street, with its labels."""
    torch.save({"ema": tiny_recipe.network().state_dict()}, tmp_path / "last.pt")
    monkeypatch.setattr(figures, "load_recipe", lambda _: tiny_recipe)
    arguments = ["tiny", "--checkpoint", str(tmp_path / "last.pt")]
    arguments += ["--image", str(street / "images/train/A_000.png")]
    arguments += ["--labels", str(street / "labels/train/A_000.png")]
    monkeypatch.setattr(sys, "argv", ["", *arguments, "--output-dir", str(tmp_path / "out")])


@pytest.mark.usefixtures("command")
def test_labels_with_an_unknown_id_end_with_one_line_and_no_figure(
    street: Path, tmp_path: Path
) -> None:
    labels = street / "labels/train/A_000.png"
    cv2.imwrite(str(labels), np.full((64, 96), 7, np.uint8))
    with pytest.raises(SystemExit, match=r"A_000\.png: truth holds 7: expected 0 to 2 or 255"):
        figures.main()
    cv2.imwrite(str(labels), np.zeros((64, 96, 3), np.uint8))
    with pytest.raises(SystemExit, match=r"A_000\.png: label map of 3 x uint8 per pixel"):
        figures.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("command")
def test_one_command_writes_the_figures(tmp_path: Path) -> None:
    figures.main()
    caption = figures.CAPTION_PX
    assert cv2.imread(str(tmp_path / "out/flow.png")).shape == (2 * (64 + caption), 4 * 96, 3)
    assert cv2.imread(str(tmp_path / "out/prediction.png")).shape == (64 + 2 * caption, 4 * 96, 3)
    table = (tmp_path / "out/classes.md").read_text().splitlines()
    assert table[0] == "| Class | IoU, % | pixels, % |"
    assert [line.split(" | ")[0] for line in table[2:]] == [
        "| Sky",
        "| Road",
        "| Car",
        "| **mean**",
    ]
