# SPDX-License-Identifier: Apache-2.0
"""Merge the classes of a model into the few that a consumer needs: drivable, obstacle, ignore.

A consumer such as a costmap has few classes with stable names. A YAML file maps the classes of a
model to them (config/groups_drivable.yaml is an example), so that the model stays unchanged.
"""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import ManifestError, listed, shortened
from sfseg_ros.model.manifest import (
    UNLABELLED,
    Manifest,
    SemanticClass,
    palette_rgb_of,
    text_problem,
)
from sfseg_ros.yaml_files import read_yaml

IGNORE = "ignore"
"""Name of the group whose pixels become 255 (unlabelled)."""


@dataclass(frozen=True, eq=False)
class LabelMapping:
    """Which label is published for each label of the model.

    `table` is uint8 (256,): the published label at the index of the model's label. `classes` are
    the published classes; their `index` is the published label.
    """

    table: npt.NDArray[np.uint8]
    classes: tuple[SemanticClass, ...]

    @functools.cached_property
    def palette_rgb(self) -> npt.NDArray[np.uint8]:
        """uint8 (256, 3): the RGB colour of each published label; black if no class has it."""
        return palette_rgb_of(self.classes)

    @functools.cached_property
    def changes_labels(self) -> bool:
        return not np.array_equal(self.table, np.arange(256))

    def apply(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the published labels for uint8 (H, W) labels of the model; the same array if the
        mapping changes no label."""
        if not self.changes_labels:
            return labels
        # Three times as fast as numpy.take.
        return np.asarray(cv2.LUT(labels, self.table), np.uint8)


UNCHANGED = LabelMapping(np.arange(256, dtype=np.uint8), ())
"""Publishes every label as it is, without classes or colours."""


def identity(manifest: Manifest) -> LabelMapping:
    """Return the mapping that publishes the model's own classes and labels."""
    return LabelMapping(UNCHANGED.table, manifest.classes)


def load_class_groups(path: Path | str, manifest: Manifest) -> LabelMapping:
    """Read a YAML file of groups for the classes of `manifest`:

        groups:
          drivable: {classes: [road, parking], color: [0, 160, 0]}   # RGB, 0 to 255
          obstacle: [car, building]      # in the colour of its first class
          ignore: [sky]                  # becomes 255

    The groups get the labels 0, 1, 2 in the order of the file. Each class of the model must be in
    exactly one group, so that no class is forgotten when the model changes. Raises ManifestError.
    """
    path = Path(path)
    try:
        document = read_yaml(path)
    except ValueError as error:
        raise ManifestError(f"{path}: {error}; expected a YAML file of class groups") from error
    try:
        return _mapping_from_groups(_groups_of(document), manifest)
    except ValueError as error:
        raise ManifestError(f"{path}: {error}") from error


@dataclass(frozen=True)
class _Group:
    """A group of the file, before its class names are compared with those of the model."""

    name: str
    classes: tuple[str, ...]
    color_rgb: tuple[int, int, int] | None


def _groups_of(document: object) -> list[_Group]:
    if not isinstance(document, Mapping) or set(document) != {"groups"}:
        raise ValueError("expected one key, `groups`, that maps names to groups")
    groups = document["groups"]
    if not isinstance(groups, Mapping):
        raise ValueError("groups: expected a mapping from names to groups")
    return [_group_of(name, value) for name, value in groups.items()]


def _group_of(name: object, value: object) -> _Group:
    if not isinstance(name, str):
        raise ValueError(f"group {shortened(name)}: its name is not a string (put it in quotes)")
    if problem := text_problem(name):
        raise ValueError(f"group {shortened(name)}: its name must have {problem}")
    color = None
    if isinstance(value, Mapping):
        if unknown := sorted(str(key) for key in value if key not in ("classes", "color")):
            raise ValueError(
                f"group {name}: unknown key {shortened(unknown[0])}, expected classes and color"
            )
        if "color" in value:
            color = _color_of(name, value["color"])
        value = value.get("classes")
    if not isinstance(value, list):
        raise ValueError(f"group {name}: expected a list of classes, or classes and color")
    for class_name in value:
        if not isinstance(class_name, str):
            raise ValueError(
                f"group {name}: class {shortened(class_name)} is not a string (put it in quotes)"
            )
        if problem := text_problem(class_name):
            raise ValueError(
                f"group {name}: class {shortened(class_name)}: its name must have {problem}"
            )
    if name == IGNORE and color is not None:
        raise ValueError(
            f"group {IGNORE}: must not have a color, because its pixels are unlabelled"
        )
    if name != IGNORE and not value:
        raise ValueError(f"group {name}: has no classes; remove it")
    return _Group(name, tuple(value), color)


def _color_of(name: str, value: object) -> tuple[int, int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(type(part) is int and 0 <= part <= 255 for part in value)
    ):
        raise ValueError(
            f"group {name}: color is {shortened(value)}, expected 3 integers from 0 to 255"
        )
    red, green, blue = value
    return red, green, blue


def _mapping_from_groups(groups: list[_Group], manifest: Manifest) -> LabelMapping:
    members = [class_name for group in groups for class_name in group.classes]
    names = manifest.class_names
    if unknown := [name for name in members if name not in names]:
        raise ValueError(f"{manifest.name} has no class {listed(unknown)}; it has {listed(names)}")
    if double := sorted(name for name, count in Counter(members).items() if count > 1):
        raise ValueError(f"{listed(double)} occurs twice; put each class in one group")
    if missing := [name for name in names if name not in members]:
        raise ValueError(
            f"no group contains {listed(missing)} of {manifest.name}; "
            f"put unwanted classes into {IGNORE}"
        )
    by_name = {semantic_class.name: semantic_class for semantic_class in manifest.classes}
    published = [group for group in groups if group.name != IGNORE]
    if not published:
        raise ValueError(f"expected at least one group besides {IGNORE}")
    table = np.full(256, UNLABELLED, np.uint8)
    classes = []
    for index, group in enumerate(published):
        color = group.color_rgb or by_name[group.classes[0]].color_rgb
        classes.append(SemanticClass(index, group.name, color))
        for class_name in group.classes:
            table[by_name[class_name].index] = index
    return LabelMapping(table, tuple(classes))
