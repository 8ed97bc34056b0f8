# SPDX-License-Identifier: Apache-2.0
"""Reads the list of cameras of launch/multi_camera.launch.py."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from sfseg_ros.errors import shortened
from sfseg_ros.nodes import parameters as declared
from sfseg_ros.nodes.interface import INPUT_NAMES
from sfseg_ros.nodes.parameters import ParameterError
from sfseg_ros.yaml_files import read_yaml


@dataclasses.dataclass(frozen=True)
class CameraList:
    """Parameters and remappings of one node for a list of cameras."""

    parameters: dict[str, Any]
    remappings: list[tuple[str, str]]


def load_cameras(path: Path) -> CameraList:
    """Read the key `cameras` of a YAML file: a list of mappings with `name`, topics of INPUT_NAMES
    and fields of CameraParameters.

    Raises ParameterError, also for a misspelt parameter, which the node would silently ignore.
    """
    try:
        document = read_yaml(path)
    except ValueError as error:
        raise ParameterError(f"{path}: {error}; expected a YAML file of cameras") from error
    entries = document.get("cameras") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ParameterError(f"{path}: expected a key `cameras` with a list of cameras")
    try:
        return _camera_list(entries)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from error


def camera_info_beside(image: str) -> str:
    """The topic on which drivers publish the calibration of `image`: in the same namespace."""
    folder, slash, _ = image.removesuffix("/compressed").rpartition("/")
    return f"{folder}{slash}camera_info"


def _camera_list(entries: list[Any]) -> CameraList:
    fields = {field.name: field for field in dataclasses.fields(declared.CameraParameters)}
    names: list[str] = []
    parameters: dict[str, Any] = {}
    remappings: list[tuple[str, str]] = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not re.fullmatch(declared.CAMERA_NAME, name):
            raise ParameterError(
                f"camera {shortened(entry)}: expected a mapping with a `name` of up to 60 "
                "letters, digits and _"
            )
        if name in names:
            raise ParameterError(f"camera {name} is listed twice")
        names.append(name)
        if unknown := sorted(map(str, entry.keys() - {"name", *INPUT_NAMES, *fields})):
            known = ", ".join(("name", *INPUT_NAMES, *fields))
            raise ParameterError(
                f"camera {name}: no {shortened(unknown[0])}, expected one of {known}"
            )
        # `depth:` without a value means no depth, not a topic `None`.
        topics = {i: str(entry[i]) for i in INPUT_NAMES if entry.get(i)}
        if "image" in topics:
            topics.setdefault("camera_info", camera_info_beside(topics["image"]))
        remappings += [(f"{name}/{i}", topics[i]) for i in INPUT_NAMES if i in topics]
        values: dict[str, Any] = {n: _as_type(fields[n], entry[n]) for n in fields if n in entry}
        try:
            checked: dict[str, Any] = {
                n: tuple(v) if isinstance(v, list) else v for n, v in values.items()
            }
            declared.CameraParameters(**checked)
        except ParameterError as error:
            raise ParameterError(f"camera {name}: {error}") from error
        parameters |= {f"{name}.{n}": value for n, value in values.items()}
    return CameraList({"cameras": names, **parameters}, remappings)


def _as_type(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Convert integers to floats if needed: YAML has 10, but a ROS parameter needs 10.0."""
    if field.type is float and type(value) is int:
        return float(value)
    if field.type == tuple[float, ...] and isinstance(value, list):
        return [float(v) if type(v) is int else v for v in value]
    return value
