# SPDX-License-Identifier: Apache-2.0
"""Build the package with pip, or with colcon in a ROS 2 workspace.

`launch/`, `config/` and each folder of `models/` are installed below `share/sfseg_ros/`, where
`ros2 launch` and the node look for them.
"""

from pathlib import Path

from setuptools import Extension, find_packages, setup

PACKAGE = "sfseg_ros"
SHARE = Path("share") / PACKAGE
OPENCV, ONNX = "opencv-python-headless>=4.5", "onnx>=1.16"
CPU = [OPENCV, ONNX, "openvino>=2024.4", "onnxruntime>=1.18"]
RECORDINGS = ["rosbags>=0.11,<0.12", "av>=12"]
# rclpy, the messages and Fast DDS as wheels, for a machine without a ROS installation.
ROS = ["ros-jazzy-rclpy>=7.1", "ros-jazzy-common-interfaces>=5.3", "ros-rmw-fastrtps-cpp>=8.4"]


def files_of(folder: Path) -> list[str]:
    """Return the regular files in `folder` as relative paths, as setuptools expects."""
    if not folder.is_dir():
        return []
    return [str(path) for path in sorted(folder.iterdir()) if path.is_file()]


def data_files() -> list[tuple[str, list[str]]]:
    """Return (folder below the install prefix, files) for all files that are not Python."""
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


def extensions() -> list[Extension]:
    """The compiled routine for the processor, which Python loads by ctypes.

    Without a C compiler the build goes on; the backends then use slower operators and say so.
    """
    folder = Path(PACKAGE) / "kernels"
    return [
        Extension(
            f"{PACKAGE}.kernels._cpu_tail",
            [str(folder / "cpu_tail.c")],
            depends=[str(folder / "cpu_tail_body.h")],
            # Labels are bit-equal on every processor only without contraction to multiply-adds.
            libraries=["m"],
            extra_compile_args=["-O3", "-ffp-contract=off", "-Wno-psabi"],
            py_limited_api=True,
            optional=True,
        )
    ]


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
    # The CUDA kernels are compiled on the machine that runs them.
    package_data={f"{PACKAGE}.kernels": ["*.cu", "*.cuh", "*.h"]},
    ext_modules=extensions(),
    data_files=data_files(),
    zip_safe=False,
    # Lower bounds only: on a robot these come from the distribution (ROS 2 Humble has numpy 1.21),
    # and a newer minimum would make pip replace the numpy that the system's rclpy was built with.
    # OpenCV is not here because pip does not see Ubuntu's python3-opencv and would install a
    # second one.
    install_requires=["numpy>=1.21", "PyYAML>=5.4", "setuptools"],
    extras_require={
        "cpu": CPU,
        # Without TensorRT: on a Jetson it is part of JetPack, elsewhere its wheel is for one CUDA
        # version. `sfseg engine build` names the command that installs it.
        "gpu": [OPENCV, ONNX, "cuda-bindings>=12.6"],
        "recordings": RECORDINGS,
        "demo": [*CPU, *RECORDINGS, *ROS],
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
