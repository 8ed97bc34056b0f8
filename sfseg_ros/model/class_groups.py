# SPDX-License-Identifier: Apache-2.0
"""Classes of the model gathered into those that a consumer wants: drivable, obstacle, ignore.

A consumer such as a costmap knows few classes and stable names; which of the model's belong to
them is a YAML file (config/groups_drivable.yaml is an example), not a property of the model.
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
"""The group whose pixels become 255, unlabelled."""


@dataclass(frozen=True, eq=False)
class LabelMapping:
    """What becomes of the model's labels.

    `table` is uint8 (256,): the published label for each label of the model; `classes` are those
    that are published, with their index in it.
    """

    table: npt.NDArray[np.uint8]
    classes: tuple[SemanticClass, ...]

    @functools.cached_property
    def palette_rgb(self) -> npt.NDArray[np.uint8]:
        """uint8 (256, 3): the RGB colour of each published label, black where there is no class."""
        return palette_rgb_of(self.classes)

    @functools.cached_property
    def changes_labels(self) -> bool:
        return not np.array_equal(self.table, np.arange(256))

    def apply(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The published labels for uint8 (H, W) labels of the model; the array itself where the
        mapping changes none."""
        if not self.changes_labels:
            return labels
        # Three times as fast as numpy's take.
        return np.asarray(cv2.LUT(labels, self.table), np.uint8)


UNCHANGED = LabelMapping(np.arange(256, dtype=np.uint8), ())
"""Every label as it is, all of them black."""


def identity(manifest: Manifest) -> LabelMapping:
    """The model's own classes and labels."""
    return LabelMapping(UNCHANGED.table, manifest.classes)


def load_class_groups(path: Path | str, manifest: Manifest) -> LabelMapping:
    """Read a YAML file of groups for the classes of `manifest`:

        groups:
          drivable: {classes: [road, parking], color: [0, 160, 0]}   # RGB, 0 to 255
          obstacle: [car, building]      # in the colour of its first class
          ignore: [sky]                  # becomes 255

    The groups are labelled 0, 1, 2 in the order of the file. Each class of the model has to stand
    in exactly one group, so that none is forgotten when the model changes. Raises ManifestError.
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
    """A group as it stands in the file; names not yet compared with the model's."""

    name: str
    classes: tuple[str, ...]
    color_rgb: tuple[int, int, int] | None


def _groups_of(document: object) -> list[_Group]:
    if not isinstance(document, Mapping) or set(document) != {"groups"}:
        raise ValueError("expected one key, groups, with the names of the groups below it")
    groups = document["groups"]
    if not isinstance(groups, Mapping):
        raise ValueError("groups: expected the names of the groups below it")
    return [_group_of(name, value) for name, value in groups.items()]


def _group_of(name: object, value: object) -> _Group:
    if not isinstance(name, str):
        raise ValueError(f"group {shortened(name)}: its name is not a text (put it in quotes)")
    if problem := text_problem(name):
        raise ValueError(f"group {shortened(name)}: its name must have {problem}")
    color = None
    if isinstance(value, Mapping):
        if unknown := sorted(str(key) for key in value if key not in ("classes", "color")):
            raise ValueError(f"group {name}: {shortened(unknown[0])}? expected classes and color")
        if "color" in value:
            color = _color_of(name, value["color"])
        value = value.get("classes")
    if not isinstance(value, list):
        raise ValueError(f"group {name}: expected a list of classes, or classes and color")
    for class_name in value:
        if not isinstance(class_name, str):
            raise ValueError(
                f"group {name}: class {shortened(class_name)} is not a text (put it in quotes)"
            )
        if problem := text_problem(class_name):
            raise ValueError(
                f"group {name}: class {shortened(class_name)}: its name must have {problem}"
            )
    if name == IGNORE and color is not None:
        raise ValueError(f"group {IGNORE}: has a color, but its pixels are 255, which has none")
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
        raise ValueError(f"{listed(double)} stands twice; each class belongs to one group")
    if missing := [name for name in names if name not in members]:
        raise ValueError(
            f"{listed(missing)} of {manifest.name} in no group; "
            f"put what is not wanted into {IGNORE}"
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
