# SPDX-License-Identifier: Apache-2.0
"""The import rules (docs/adr/0029), checked by parsing the source.

`docs.folder_graph` reads the imports and draws the folders for the documentation.
"""

from pathlib import Path

import pytest

from docs import folder_graph
from docs.folder_graph import imported_modules, room_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sfseg_ros"

ROS = {
    *("ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs", "launch"),
    *("launch_ros", "lifecycle_msgs", "rcl_interfaces", "rclpy", "sensor_msgs", "std_msgs"),
    *("tf2_ros", "vision_msgs"),
}
SOURCE_TREE_ONLY = {"torch", "torchvision", "training", "benchmarks", "docs", "test"}
# Only these files import the library of a backend.
BACKEND_LIBRARIES = {
    "onnxruntime": ("onnxruntime_backend.py", "calibration.py"),
    "openvino": ("openvino_backend.py",),
    "tensorrt": ("library.py",),
    "tensorrt_rtx": ("library.py",),
    "cuda": ("cuda_memory.py", "binaries.py"),
}
# The rooms of sfseg_ros: its folders and the files beside them, lowest row first. A room imports
# rooms of lower rows only.
ROWS = [
    ["errors", "allocator", "regular_files"],
    [
        *("deadline", "frames", "installed_files", "picture_files", "private_files"),
        *("whole_files", "yaml_files"),
    ],
    ["model"],
    ["imaging"],
    ["geometry"],
    ["kernels", "points", "recordings"],
    ["backends"],
    ["segmenter"],
    ["evaluation"],
    ["nodes", "tools"],
]
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}


def breaches(root: Path) -> list[str]:
    """One line per forbidden import below sfseg_ros/ and training/: file, line and rule."""
    found = []
    for path in sorted((root / "sfseg_ros").rglob("*.py")):
        relative = path.relative_to(root)
        room = room_of(".".join(relative.with_suffix("").parts))
        if room not in (*ROW_OF, "__init__"):
            found.append(f"{relative}: give {room} a row in ROWS of test/test_import_rules.py")
            continue
        for line, module in imported_modules(path, root):
            top, imported = module.split(".")[0], room_of(module)
            where = f"{relative}:{line} imports {module}"
            if top in SOURCE_TREE_ONLY:
                found.append(f"{where}: the runtime imports neither torch nor {top}/")
            if top in ROS and room != "nodes":
                found.append(f"{where}: only sfseg_ros/nodes/ imports ROS")
            if path.name not in BACKEND_LIBRARIES.get(top, (path.name,)):
                found.append(f"{where}: only {' and '.join(BACKEND_LIBRARIES[top])} imports {top}")
            if imported != room and ROW_OF.get(imported, -1) >= ROW_OF.get(room, 0):
                found.append(f"{where}: {room} must not import {imported}")
    for path in sorted((root / "training").rglob("*.py")):
        for line, module in imported_modules(path, root):
            if module.split(".")[0] in ROS or room_of(module) in ("nodes", "tools"):
                found.append(
                    f"{path.relative_to(root)}:{line} imports {module}: training/ imports neither "
                    "ROS nor sfseg_ros/nodes/ and sfseg_ros/tools/"
                )
    return found


def test_no_module_of_this_repository_breaks_the_import_rules():
    assert (PACKAGE / "__init__.py").is_file()
    assert breaches(ROOT) == []


def test_every_row_names_rooms_that_exist():
    assert set(folder_graph.room_graph(ROOT)) == set(ROW_OF)


def test_folders_do_not_import_each_other_in_a_circle():
    """Files beside the folders and subfolders of sfseg_ros count as folders."""
    assert folder_graph.circles(folder_graph.folders(ROOT, "sfseg_ros")) == []
    assert folder_graph.circles(folder_graph.room_graph(ROOT, "training")) == []


def test_a_circle_of_folders_is_found(tmp_path):
    """Including circles through a third folder, and between a folder and its subfolder."""
    sources = {
        "a/one.py": "from p.b import two",
        "b/two.py": "def later():\n    import p.three",
        "three.py": "from .a.one import x",
        "c/four.py": "from p.c.d.five import y",
        "c/d/five.py": "import p.c.four",
        "six.py": "import p.a.one",
    }
    for name, source in sources.items():
        file = tmp_path / "p" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    found = folder_graph.circles(folder_graph.folders(tmp_path, "p"))
    assert found == [["p.a", "p.b", "p.three"], ["p.c", "p.c.d"]]


def test_the_drawing_of_the_folders_is_up_to_date():
    drawn = folder_graph.DRAWING.read_text(encoding="utf-8")
    assert drawn == folder_graph.svg_from(folder_graph.room_graph(ROOT)), (
        "run python -m docs.folder_graph"
    )


def test_the_drawing_shows_every_room_and_no_arrow_that_follows_from_others():
    graph = {"top": {"middle", "low", "errors"}, "middle": {"low"}, "low": set(), "errors": set()}
    assert folder_graph.rows_of(graph) == [["top"], ["errors", "middle"], ["low"]]
    svg = folder_graph.svg_from(graph)
    assert [svg.count(f">{room}.py</text>") for room in graph] == [1, 1, 1, 0]
    assert svg.count("marker-end") == 2


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("sfseg_ros/evaluation/metrics.py", "import torch", "neither torch nor torch"),
        ("sfseg_ros/segmenter.py", "def f():\n    from training import x", "nor training/"),
        ("sfseg_ros/tools/demo.py", "import rclpy", "only sfseg_ros/nodes/"),
        ("sfseg_ros/imaging.py", "from sensor_msgs.msg import Image", "only sfseg_ros/nodes/"),
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
            "evaluation must not import nodes",
        ),
        ("sfseg_ros/backends/a.py", "from ..segmenter import Segmenter", "not import segmenter"),
        ("sfseg_ros/kernels/a.py", "import sfseg_ros.backends.protocol", "not import backends"),
        ("sfseg_ros/frames/a.py", "from sfseg_ros.imaging import Picture", "not import imaging"),
        ("sfseg_ros/nodes/a.py", "from sfseg_ros.tools import demo", "not import tools"),
        ("sfseg_ros/tools/a.py", "from sfseg_ros.nodes import camera", "not import nodes"),
        ("sfseg_ros/geometry.py", "from benchmarks import camera", "nor benchmarks/"),
        ("sfseg_ros/common/a.py", "", "give common a row"),
        ("training/train.py", "from sfseg_ros.nodes import messages", "training/ imports neither"),
        ("training/train.py", "import sfseg_ros.tools.demo", "training/ imports neither"),
        ("training/train.py", "import rclpy", "training/ imports neither ROS"),
    ],
)
def test_the_check_finds_a_breach(tmp_path, path, source, rule):
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
def test_the_check_accepts_the_allowed_directions(tmp_path, path, source):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert breaches(tmp_path) == []
