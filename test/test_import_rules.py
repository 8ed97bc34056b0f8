# SPDX-License-Identifier: Apache-2.0
"""Who may import whom (docs/adr/0005), read from the source without running it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sfseg_ros"

ROS = {
    *("ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs", "launch"),
    *("launch_ros", "lifecycle_msgs", "rcl_interfaces", "rclpy", "sensor_msgs", "std_msgs"),
    *("tf2_ros", "vision_msgs"),
}
TRAINING = {"torch", "torchvision", "training"}
# The library of a backend is imported by its own modules and by no other.
BACKEND_LIBRARIES = {
    "onnxruntime": ("onnxruntime_backend.py", "calibration.py"),
    "openvino": ("openvino_backend.py",),
    "tensorrt": ("library.py",),
    "tensorrt_rtx": ("library.py",),
    "cuda": ("cuda_memory.py", "binaries.py"),
}
# Lowest first: a layer never imports one that comes after it.
LAYERS = ["sfseg_ros.backends", "sfseg_ros.segmenter", "sfseg_ros.nodes"]


def imported_modules(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import in the file, also those inside functions."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*start, *([node.module] if node.module else [])))
            yield node.lineno, module
            for alias in node.names:  # `from sfseg_ros import nodes` imports sfseg_ros.nodes
                yield node.lineno, f"{module}.{alias.name}"


def layer_of(module: str) -> int | None:
    """Position of the dotted name in LAYERS, None where the name belongs to none of them."""
    for position, layer in enumerate(LAYERS):
        if module == layer or module.startswith(layer + "."):
            return position
    return None


def breaches(root: Path) -> list[str]:
    """One line per forbidden import below sfseg_ros/ and training/: file, line and rule."""
    found = []
    for path in sorted((root / "sfseg_ros").rglob("*.py")):
        relative = path.relative_to(root)
        in_nodes = relative.parts[1] == "nodes"
        own_layer = layer_of(".".join(relative.with_suffix("").parts))
        for line, module in imported_modules(path, root):
            top = module.split(".")[0]
            where = f"{relative}:{line} imports {module}"
            if top in TRAINING:
                found.append(f"{where}: the runtime knows neither torch nor training/")
            if top in ROS and not in_nodes:
                found.append(f"{where}: ROS is imported in sfseg_ros/nodes/ only")
            if path.name not in BACKEND_LIBRARIES.get(top, (path.name,)):
                found.append(f"{where}: only {' and '.join(BACKEND_LIBRARIES[top])} imports {top}")
            target = layer_of(module)
            if target == LAYERS.index("sfseg_ros.nodes") and not in_nodes:
                found.append(f"{where}: nothing outside nodes/ imports a node")
            elif own_layer is not None and target is not None and target > own_layer:
                found.append(f"{where}: {LAYERS[own_layer]} must not know {LAYERS[target]}")
    for path in sorted((root / "training").rglob("*.py")):
        for line, module in imported_modules(path, root):
            if module.split(".")[0] in ROS or layer_of(module) == LAYERS.index("sfseg_ros.nodes"):
                found.append(
                    f"{path.relative_to(root)}:{line} imports {module}: no ROS in training/"
                )
    return found


def test_no_module_of_this_repository_breaks_the_import_rules():
    assert (PACKAGE / "__init__.py").is_file()
    assert breaches(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("sfseg_ros/evaluation/metrics.py", "import torch", "neither torch nor training"),
        ("sfseg_ros/segmenter.py", "def f():\n    from training import x", "neither torch"),
        ("sfseg_ros/tools/demo.py", "import rclpy", "nodes/ only"),
        ("sfseg_ros/imaging.py", "from sensor_msgs.msg import Image", "nodes/ only"),
        ("sfseg_ros/segmenter.py", "import openvino as ov", "only openvino_backend.py"),
        ("sfseg_ros/backends/tensorrt/backend.py", "import tensorrt", "only library.py imports"),
        (
            "sfseg_ros/backends/tensorrt/library.py",
            "from cuda.bindings import driver",
            "only cuda_memory.py and",
        ),
        (
            "sfseg_ros/evaluation/report.py",
            "from sfseg_ros.nodes import messages",
            "imports a node",
        ),
        ("sfseg_ros/backends/a.py", "from ..segmenter import Segmenter", "must not know"),
        ("training/train.py", "import rclpy", "no ROS in training"),
    ],
)
def test_the_check_sees_a_breach(tmp_path, path, source, rule):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert any(rule in line for line in breaches(tmp_path))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sfseg_ros/nodes/messages.py", "import rclpy\nfrom sfseg_ros.segmenter import Segmenter"),
        ("sfseg_ros/segmenter.py", "from sfseg_ros.backends.choice import open_backend"),
        ("sfseg_ros/backends/openvino_backend.py", "import openvino"),
        ("training/export.py", "import torch\nfrom sfseg_ros.model.manifest import save_manifest"),
    ],
)
def test_the_check_lets_the_allowed_directions_pass(tmp_path, path, source):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert breaches(tmp_path) == []
