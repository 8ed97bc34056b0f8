# SPDX-License-Identifier: Apache-2.0
"""Every topic and service of the node: `python -m sfseg_ros.nodes.interface` prints the Markdown
tables of the documentation. test/nodes/test_interface.py compares them with a running node.
"""

from dataclasses import dataclass

from sfseg_ros.nodes import parameter_text
from sfseg_ros.nodes.outputs import OUTPUTS


@dataclass(frozen=True)
class Row:
    """A topic or service of a node with a single camera. With a camera `front`, inputs start with
    `front/` and outputs with `~/front/`."""

    name: str
    type: str
    description: str


INPUTS = (
    Row(
        "image",
        "sensor_msgs/Image",
        "Camera. The newest frame wins: it replaces an older one that still waits.",
    ),
    Row(
        "image/compressed",
        "sensor_msgs/CompressedImage",
        "Camera, as JPEG or PNG, if `image_transport` is compressed.",
    ),
    Row(
        "camera_info",
        "sensor_msgs/CameraInfo",
        "Calibration, needed only for point clouds.",
    ),
    Row(
        "depth",
        "sensor_msgs/Image, 16UC1 in mm or 32FC1 in m",
        "Depth in the camera's view, at any resolution; read while `~/points` has a subscriber.",
    ),
    Row(
        "points_in",
        "sensor_msgs/PointCloud2",
        "Lidar; read while `~/labelled_points` has a subscriber.",
    ),
)
INPUT_NAMES = tuple(row.name for row in INPUTS if "/" not in row.name)
"""Topics that can be remapped; image_transport derives `image/compressed` from `image`."""
LATCHED = (
    Row("~/label_map", "std_msgs/String, latched", "JSON: model, class names, colours, threshold."),
    Row(
        "~/label_info",
        "vision_msgs/LabelInfo, latched",
        "Class names for Nav2's semantic layer, if vision_msgs is installed.",
    ),
)
LATENCIES = {
    "latency": "age of the image, by its stamp, when its mask is published.",
    "wait": "from the arrival of the message until the worker takes it.",
    "convert": "message to picture.",
    "preprocess": "picture to the network's input; 0 if the GPU makes it.",
    "inference": "the network, for the whole batch, with the transfers to and from the GPU.",
    "postprocess": "threshold and groups, unless the GPU applies them; labels to the mask's size.",
    "publish": "making and publishing the mask.",
    "processing": "everything from when the worker takes the frame until its mask is published.",
}
HEALTH = (
    *(
        Row(
            f"~/latency/{step}",
            "std_msgs/Float64MultiArray",
            f"p50, p95, p99 in ms, once a second: {meaning}",
        )
        for step, meaning in LATENCIES.items()
    ),
    Row(
        "/diagnostics",
        "diagnostic_msgs/DiagnosticArray",
        "Once a second, per camera: frames in, out, replaced, rejected, lost; rates; ages; "
        "backend; model.",
    ),
)
SERVICES = (
    Row(
        "~/set_enabled",
        "std_srvs/SetBool",
        "False: frames are skipped and counted; the model stays loaded.",
    ),
    Row(
        "~/reload_model",
        "std_srvs/Trigger",
        "Read the model and the class groups again; the response comes when they are in use.",
    ),
    Row(
        "~/save_snapshot",
        "std_srvs/Trigger",
        "Write the next frame of each camera to files in `snapshot_dir`.",
    ),
)


def output_rows() -> list[Row]:
    """The topics that are published for each frame."""
    return [
        Row(
            f"~/{output.name}",
            output.type_name.replace("/msg/", "/")
            + (f", {output.encoding}" if output.encoding else ""),
            output.description,
        )
        for output in OUTPUTS
    ]


def markdown_tables() -> dict[str, str]:
    """Markdown tables by title."""
    return {
        "Subscribed topics": _table("Topic", INPUTS),
        "Published topics": _table("Topic", [*output_rows(), *LATCHED, *HEALTH]),
        "Services": _table("Service", SERVICES),
        "Parameters": parameter_text.markdown_table(),
    }


def markdown() -> str:
    """All tables, each below its title."""
    return "\n".join(f"### {title}\n\n{table}" for title, table in markdown_tables().items())


def _table(kind: str, rows: "tuple[Row, ...] | list[Row]") -> str:
    lines = [f"| {kind} | Type | What |", "| --- | --- | --- |"]
    lines += [f"| `{row.name}` | {row.type} | {row.description} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
