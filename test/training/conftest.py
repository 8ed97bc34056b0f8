# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a street of coloured blocks in CamVid's layout, a recipe that trains in seconds, and
the build of an engine without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

if find_spec("torch") is None:  # on a robot, where `colcon test` runs all tests that it finds
    collect_ignore_glob = ["*"]
    warnings.warn(
        "test/training does not run without PyTorch: install requirements/training.in",
        stacklevel=1,
    )
else:
    import torch

    # A second thread does not help tiny networks. If other processes use the cores, OpenMP's
    # threads spin while they wait for each other, which took ten times as long.
    torch.set_num_threads(1)

    from training.data.camvid import camvid
    from training.data.listed_folder import ListedFolder
    from training.data.mixture import MixturePart
    from training.data.transforms import Augmentation
    from training.networks.sfnet_lite import sfnet_lite_r18
    from training.recipe import Recipe
    from training.recipes.sfnet_lite import camvid_r18

# Runs in a child process, because the library's parser and builder can abort instead of raising.
BUILD_ENGINE = """
import json
import sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse(open(sys.argv[1], "rb").read()):
    sys.exit("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
profile.set_shape("image", *json.loads(sys.argv[2]))
config.add_optimization_profile(profile)
engine = builder.build_serialized_network(network, config)
print("engine", None if engine is None else engine.nbytes)
"""
CLASSES = (("Sky", (200, 220, 255)), ("Road", (90, 90, 90)), ("Car", (180, 30, 30)))


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Eight pictures 64x96: sky over road with a car, each class one colour plus noise."""
    rng = np.random.default_rng(0)
    for folder in ("images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    lines = []
    for i in range(8):
        labels = np.zeros((64, 96), np.uint8)
        labels[30:] = 1
        labels[35:50, 8 * i : 8 * i + 24] = 2
        labels[:4, :4] = 255
        rgb = np.array([c for _, c in CLASSES] + [(0, 0, 0)])[np.minimum(labels, 3)]
        rgb = np.clip(rgb + rng.integers(-20, 20, rgb.shape), 0, 255).astype(np.uint8)
        drive = "A" if i < 6 else "B"
        names = (f"images/train/{drive}_{i:03}.png", f"labels/train/{drive}_{i:03}.png")
        cv2.imwrite(str(tmp_path / names[0]), rgb[..., ::-1])
        cv2.imwrite(str(tmp_path / names[1]), labels)
        lines.append(" ".join(names))
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def tiny_recipe() -> Recipe:
    """The real network and training loop on the street above."""

    def mixture(roots: dict[str, Path]) -> list[MixturePart]:
        return [MixturePart(camvid(roots["street"], ("train.txt",)), 8)]

    def validation(roots: dict[str, Path]) -> ListedFolder:
        return camvid(roots["street"], ("train.txt",))

    return replace(
        camvid_r18(),
        name="tiny",
        network=partial(sfnet_lite_r18, 3, "plain", (1, 1)),
        classes=CLASSES,
        mixture=mixture,
        validation=validation,
        augmentation=Augmentation((64, 64), (0.8, 1.2)),
        backbone_weights=None,
        batch_size=4,
        epochs=4,
        warmup_steps=1,
        ema_decay=0.5,
        input_size=(64, 96),
    )


@pytest.fixture(scope="session")
def tensorrt_rtx_engine_bytes() -> Callable[..., int]:
    """Builds a TensorRT-RTX engine: (ONNX file, smallest, usual and largest shape of "image") ->
    size in bytes."""
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT-RTX is not installed (pip install -r requirements/tensorrt.in)")

    def engine_bytes(onnx_path: Path, *shapes: tuple[int, int, int, int]) -> int:
        build = subprocess.run(
            [sys.executable, "-c", BUILD_ENGINE, str(onnx_path), json.dumps(shapes)],
            capture_output=True,
            text=True,
            timeout=800,
        )
        assert build.returncode == 0, build.stderr
        return int(build.stdout.rsplit(maxsplit=1)[-1])

    return engine_bytes
