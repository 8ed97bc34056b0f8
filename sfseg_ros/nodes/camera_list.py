# SPDX-License-Identifier: Apache-2.0
"""The list of cameras that launch/multi_camera.launch.py reads: what it means for the one node."""

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
    """What a list of cameras means for one node: its parameters and remappings."""

    parameters: dict[str, Any]
    remappings: list[tuple[str, str]]


def load_cameras(path: Path) -> CameraList:
    """Read the key `cameras` of a YAML file: a list of mappings with `name`, topics of INPUT_NAMES
    and fields of CameraParameters. Raises ParameterError: the node itself would pass over a
    misspelt parameter in silence."""
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
    """Where drivers publish the calibration of the topic `image`: in the same namespace."""
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
            raise ParameterError(f"camera {name} is there twice")
        names.append(name)
        if unknown := sorted(map(str, entry.keys() - {"name", *INPUT_NAMES, *fields})):
            known = ", ".join(("name", *INPUT_NAMES, *fields))
            raise ParameterError(
                f"camera {name}: no {shortened(unknown[0])}, expected one of {known}"
            )
        # `depth:` without a value is no depth, not a topic `None`.
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
    """YAML writes 10 where a ROS parameter wants 10.0."""
    if field.type is float and type(value) is int:
        return float(value)
    if field.type == tuple[float, ...] and isinstance(value, list):
        return [float(v) if type(v) is int else v for v in value]
    return value
