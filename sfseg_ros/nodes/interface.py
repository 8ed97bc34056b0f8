# SPDX-License-Identifier: Apache-2.0
"""Every topic and service of the node, for people: `python -m sfseg_ros.nodes.interface` prints the
Markdown tables of the README. test/nodes/test_interface.py holds them to a running node.
"""

from dataclasses import dataclass

from sfseg_ros.nodes import parameter_text
from sfseg_ros.nodes.outputs import OUTPUTS


@dataclass(frozen=True)
class Row:
    """A topic or service: name, type, what it is. Names are those of a single camera; those of
    a camera `front` have `front/` before the last part, or before all of an input."""

    name: str
    type: str
    description: str


INPUTS = (
    Row(
        "image",
        "sensor_msgs/Image",
        "Camera. Newest frame wins: an older one that still waits is replaced and counted.",
    ),
    Row(
        "image/compressed",
        "sensor_msgs/CompressedImage",
        "JPEG or PNG, with `image_transport:=compressed`.",
    ),
    Row("camera_info", "sensor_msgs/CameraInfo", "Its calibration; for 3D only, never waited for."),
    Row(
        "depth",
        "sensor_msgs/Image, 16UC1 in mm or 32FC1 in m",
        "Depth in the camera's view, at any resolution; read while somebody listens to `~/points`.",
    ),
    Row(
        "points_in",
        "sensor_msgs/PointCloud2",
        "Lidar; read while somebody listens to `~/labelled_points`.",
    ),
)
INPUT_NAMES = tuple(row.name for row in INPUTS if "/" not in row.name)
"""Topics that can be remapped; image_transport derives `image/compressed` from `image`."""
LATCHED = (
    Row("~/label_map", "std_msgs/String, latched", "JSON: model, class names, colours, threshold."),
    Row(
        "~/label_info",
        "vision_msgs/LabelInfo, latched",
        "Class names as Nav2 wants them, where vision_msgs is installed.",
    ),
)
LATENCIES = {
    "latency": "age of the mask when it is published, by the stamp of its image.",
    "wait": "from the message's arrival until the worker takes it.",
    "convert": "message to picture.",
    "preprocess": "picture to the network's input; nothing where the GPU makes it.",
    "inference": "the network, for the whole batch, with what goes to the GPU and back.",
    "postprocess": "threshold and groups, unless the GPU did them; labels to the mask's size.",
    "publish": "making and publishing the mask.",
    "processing": "all from the worker's taking to the mask's publishing.",
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
        "Once a second per camera: frames in, out, replaced, rejected, lost; rates; ages; backend "
        "and model.",
    ),
)
SERVICES = (
    Row(
        "~/set_enabled",
        "std_srvs/SetBool",
        "False: frames are counted as skipped, all stays loaded.",
    ),
    Row(
        "~/reload_model",
        "std_srvs/Trigger",
        "Read the model's folder and the class groups again; answered when it is in use.",
    ),
    Row(
        "~/save_snapshot",
        "std_srvs/Trigger",
        "The next frame of each camera as files below `snapshot_dir`.",
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
    """Title -> Markdown table of everything that the node has."""
    return {
        "Subscribed topics": _table("Topic", INPUTS),
        "Published topics": _table("Topic", [*output_rows(), *LATCHED, *HEALTH]),
        "Services": _table("Service", SERVICES),
        "Parameters": parameter_text.markdown_table(),
    }


def markdown() -> str:
    """All tables below their titles, as the README has them."""
    return "\n".join(f"### {title}\n\n{table}" for title, table in markdown_tables().items())


def _table(kind: str, rows: "tuple[Row, ...] | list[Row]") -> str:
    lines = [f"| {kind} | Type | What |", "| --- | --- | --- |"]
    lines += [f"| `{row.name}` | {row.type} | {row.description} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
