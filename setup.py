# SPDX-License-Identifier: Apache-2.0
"""Build of the package; read by pip, by colcon, and by colcon in a sourced ROS 2 workspace.

`launch/`, `config/` and each folder of `models/` are installed below `share/sfseg_ros/`, where
`ros2 launch` and the node look for them.
"""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "sfseg_ros"
SHARE = Path("share") / PACKAGE


def files_of(folder: Path) -> list[str]:
    """Regular files directly in `folder`, as the relative paths that setuptools wants."""
    if not folder.is_dir():
        return []
    return [str(path) for path in sorted(folder.iterdir()) if path.is_file()]


def data_files() -> list[tuple[str, list[str]]]:
    """(folder below the install prefix, files) for everything that is not Python."""
    rows = [
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (str(SHARE), ["package.xml"]),
        (str(SHARE / "launch"), files_of(Path("launch"))),
        (str(SHARE / "config"), files_of(Path("config"))),
    ]
    models = Path("models")
    for model in sorted(models.iterdir()) if models.is_dir() else []:
        if model.is_dir():
            rows.append((str(SHARE / model), files_of(model)))
    return rows


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Real-time semantic segmentation of camera topics for ROS 2",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    maintainer="sfseg_ros maintainers",
    maintainer_email="maintainers@sfseg-ros.example",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    # The kernels are compiled where they run.
    package_data={f"{PACKAGE}.kernels": ["*.cu", "*.cuh", "*.h"]},
    data_files=data_files(),
    zip_safe=False,
    # Lower bounds only: on a robot these come from the distribution (ROS 2 Humble has numpy 1.21),
    # and a newer minimum would make pip replace what the system's rclpy was built against.
    # No inference library and no rclpy: which one fits depends on the machine (see the README).
    install_requires=["numpy>=1.21", "PyYAML>=5.4", "setuptools"],
    extras_require={
        "opencv": ["opencv-python-headless>=4.5"],
        "openvino": ["openvino>=2024.4", "onnx>=1.16"],
        "onnxruntime": ["onnxruntime>=1.18", "onnx>=1.16"],
        # Without `tensorrt`: on a Jetson it is part of JetPack, elsewhere its wheel is of one CUDA.
        "gpu": ["cuda-bindings>=12.6", "onnx>=1.16"],
        "demo": ["opencv-python-headless>=4.5", "rosbags>=0.11,<0.12", "av>=12"],
        "test": ["pytest>=6.2", "pytest-timeout", "hypothesis>=6"],
    },
    entry_points={
        "console_scripts": [
            "segmentation_node = sfseg_ros.nodes.segmentation_node:main",
            "bag_player = sfseg_ros.nodes.bag_player:main",
            "bag_recorder = sfseg_ros.nodes.bag_recorder:main",
            "sfseg = sfseg_ros.tools.command_line:main",
        ]
    },
)
