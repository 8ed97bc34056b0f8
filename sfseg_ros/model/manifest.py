# SPDX-License-Identifier: Apache-2.0
"""The model directory, which `training/export.py` writes and the runtime reads (docs/adr/0002).

`manifest.yaml` beside `model.onnx` holds everything that the runtime knows about a model: class
names and colours, accepted input sizes, accuracy and provenance.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import ManifestError, listed, shortened
from sfseg_ros.yaml_files import read_yaml, yaml_text

MANIFEST_FILE = "manifest.yaml"
FORMAT_VERSION = 1
UNLABELLED = 255
"""Label of a pixel without a class. A model therefore has at most 255 classes, 0 to 254."""
LONGEST_TEXT = 100
"""Maximum length of a name in characters; names appear in messages, logs and reports."""
LARGEST_INTEGER = 1 << 16
"""Upper bound of sizes in pixels, strides and versions."""
LARGEST_ONNX_BYTES = 1 << 31
"""Limit of protobuf, in which ONNX files are written."""


@dataclass(frozen=True)
class SemanticClass:
    """One class of a model. `index` is its label; `color_rgb` has three integers, 0 to 255."""

    index: int
    name: str
    color_rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Manifest:
    """A deployable model. Sizes are (height, width) in pixels of the network's input.

    `evaluation`, `parity` and `provenance` are plain YAML for people and reports. The runtime
    bases no decision on them.
    """

    directory: Path
    name: str
    classes: tuple[SemanticClass, ...]
    onnx_file: str
    onnx_sha256: str
    opset: int
    weights_dtype: str
    input_size: tuple[int, int]
    size_multiple: int
    min_size: tuple[int, int]
    max_size: tuple[int, int]
    output_stride: int
    evaluation: dict[str, Any]
    parity: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def onnx_path(self) -> Path:
        return self.directory / self.onnx_file

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(semantic_class.name for semantic_class in self.classes)

    @property
    def palette_rgb(self) -> npt.NDArray[np.uint8]:
        """uint8 (256, 3): the RGB colour of each label; black if no class has it."""
        return palette_rgb_of(self.classes)

    def network_size_for(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the network size (height, width) for images of `image_size` (height, width).

        The network size has the pixel count of `input_size` and the aspect ratio of the image.
        Objects then have about the size that the network was trained on, and the time per frame
        does not depend on the camera. Each side is rounded to the nearest multiple of
        `size_multiple` and clipped to [min, max].
        """
        height, width = image_size
        if height < 1 or width < 1:
            raise ManifestError(f"image size {height}x{width}: expected at least 1x1")
        area = self.input_size[0] * self.input_size[1]
        sides = (math.sqrt(area * height / width), math.sqrt(area * width / height))
        multiples = [
            max(1, round(side / self.size_multiple)) * self.size_multiple for side in sides
        ]
        clipped = [
            min(max(side, low), high)
            for side, low, high in zip(multiples, self.min_size, self.max_size, strict=True)
        ]
        return clipped[0], clipped[1]

    def check_network_size(self, size: tuple[int, int]) -> None:
        """Raise ManifestError unless the network takes inputs of `size` (height, width)."""
        height, width = size
        if height % self.size_multiple or width % self.size_multiple:
            raise ManifestError(
                f"network size {height}x{width}: {self.name} takes multiples of "
                f"{self.size_multiple} only, such as {_text(self.input_size)}"
            )
        fits = all(
            low <= side <= high
            for side, low, high in zip(size, self.min_size, self.max_size, strict=True)
        )
        if not fits:
            raise ManifestError(
                f"network size {height}x{width}: {self.name} takes {_text(self.min_size)} "
                f"to {_text(self.max_size)}"
            )


def palette_rgb_of(classes: Iterable[SemanticClass]) -> npt.NDArray[np.uint8]:
    """Return uint8 (256, 3): the RGB colour of each label; black if no class has it."""
    palette = np.zeros((256, 3), np.uint8)
    for semantic_class in classes:
        palette[semantic_class.index] = semantic_class.color_rgb
    return palette


def load_manifest(directory: Path | str, verify_hash: bool = True) -> Manifest:
    """Read and check `directory`/manifest.yaml.

    With `verify_hash`, also compare the SHA-256 of the ONNX file, so that a half-copied or replaced
    model is an error here instead of wrong labels later. Raises ManifestError.
    """
    directory = Path(directory)
    path = directory / MANIFEST_FILE
    try:
        document = read_yaml(path)
    except ValueError as error:
        raise ManifestError(
            f"{path}: {error}; expected a model directory that training/export.py wrote"
        ) from error
    try:
        manifest = _manifest_from_document(directory, _Section(document, ""))
    except ValueError as error:
        raise ManifestError(f"{path}: {error}") from error
    if not manifest.onnx_path.is_file():
        raise ManifestError(f"{manifest.onnx_path}: missing; copy the whole model directory")
    if verify_hash:
        _check_hash(manifest)
    return manifest


def save_manifest(manifest: Manifest) -> Path:
    """Write `manifest.directory`/manifest.yaml and return its path.

    `load_manifest` then returns an equal manifest. Raises ManifestError for an invalid manifest.
    """
    document = {
        "format_version": FORMAT_VERSION,
        "name": manifest.name,
        "onnx": {
            "file": manifest.onnx_file,
            "sha256": manifest.onnx_sha256,
            "opset": manifest.opset,
            "weights_dtype": manifest.weights_dtype,
        },
        "input": {
            "size": list(manifest.input_size),
            "multiple_of": manifest.size_multiple,
            "min_size": list(manifest.min_size),
            "max_size": list(manifest.max_size),
        },
        "output": {"stride": manifest.output_stride},
        "classes": [{"name": c.name, "color": list(c.color_rgb)} for c in manifest.classes],
        "evaluation": manifest.evaluation,
        "parity": manifest.parity,
        "provenance": manifest.provenance,
    }
    try:
        _manifest_from_document(manifest.directory, _Section(document, ""))
    except ValueError as error:
        raise ManifestError(f"manifest of {manifest.name}: {error}") from error
    path = manifest.directory / MANIFEST_FILE
    path.write_text(yaml_text(document), encoding="utf-8")
    return path


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def text_problem(value: object) -> str | None:
    """Return what a name must be, or None if `value` is a valid name.

    DDS cannot encode a lone surrogate, and a control character can rewrite a terminal or a log.
    """
    if not isinstance(value, str) or not value.strip():
        return "a non-empty string"
    if len(value) > LONGEST_TEXT or not value.isprintable():
        return f"at most {LONGEST_TEXT} printable characters"
    return None


def _check_hash(manifest: Manifest) -> None:
    try:
        if (size := manifest.onnx_path.stat().st_size) > LARGEST_ONNX_BYTES:
            raise ManifestError(
                f"{manifest.onnx_path}: has {size:,} bytes, expected at most "
                f"{LARGEST_ONNX_BYTES:,}, the limit of ONNX; export the model again"
            )
        actual = sha256_of_file(manifest.onnx_path)
    except OSError as error:
        raise ManifestError(f"{manifest.onnx_path}: cannot be read ({error.strerror})") from error
    if actual != manifest.onnx_sha256:
        raise ManifestError(
            f"{manifest.onnx_path}: SHA-256 begins {actual[:12]}, the manifest says "
            f"{manifest.onnx_sha256[:12]}; copy or export the model again"
        )


class _Section:
    """A mapping of the document. Its getters raise ValueError with the full name of the key."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{path.rstrip('.') or 'document'} is {_kind(value)}, not a mapping")
        self._values = value
        self._path = path

    def section(self, key: str) -> "_Section":
        return _Section(self._get(key), f"{self._path}{key}.")

    def text(self, key: str) -> str:
        value = self._get(key)
        if problem := text_problem(value):
            raise ValueError(f"{self._path}{key} is {shortened(value)}, expected {problem}")
        return str(value)

    def integer(self, key: str) -> int:
        value = self._get(key)
        if not _is_integer(value) or not 1 <= value <= LARGEST_INTEGER:
            raise ValueError(
                f"{self._path}{key} is {shortened(value)}, expected an integer from 1 to "
                f"{LARGEST_INTEGER}"
            )
        return int(value)

    def integers(self, key: str, count: int, low: int, high: int) -> tuple[int, ...]:
        value = self._get(key)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(_is_integer(item) and low <= item <= high for item in value)
        ):
            raise ValueError(
                f"{self._path}{key} is {shortened(value)}, expected {count} integers from "
                f"{low} to {high}"
            )
        return tuple(value)

    def rows(self, key: str) -> list["_Section"]:
        value = self._get(key)
        if not isinstance(value, list):
            raise ValueError(f"{self._path}{key} is {_kind(value)}, expected a list")
        return [_Section(row, f"{self._path}{key}[{i}].") for i, row in enumerate(value)]

    def mapping(self, key: str) -> dict[str, Any]:
        """Return a free-form mapping, or an empty one if the key is absent."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"{self._path}{key} is {_kind(value)}, expected a mapping")
        return dict(value or {})

    def _get(self, key: str) -> Any:
        if key not in self._values:
            raise ValueError(f"{self._path}{key} is missing")
        return self._values[key]


def _manifest_from_document(directory: Path, document: _Section) -> Manifest:
    version = document.integer("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"format_version is {version}, this release reads {FORMAT_VERSION}; "
            "export the model again, or install the release of sfseg_ros that exported it"
        )
    onnx, sizes = document.section("onnx"), document.section("input")
    manifest = Manifest(
        directory=directory,
        name=document.text("name"),
        classes=_classes(document.rows("classes")),
        onnx_file=onnx.text("file"),
        onnx_sha256=onnx.text("sha256"),
        opset=onnx.integer("opset"),
        weights_dtype=onnx.text("weights_dtype"),
        input_size=_size(sizes, "size"),
        size_multiple=sizes.integer("multiple_of"),
        min_size=_size(sizes, "min_size"),
        max_size=_size(sizes, "max_size"),
        output_stride=document.section("output").integer("stride"),
        evaluation=document.mapping("evaluation"),
        parity=document.mapping("parity"),
        provenance=document.mapping("provenance"),
    )
    if not re.fullmatch(r"[0-9a-f]{64}", manifest.onnx_sha256):
        raise ValueError(f"onnx.sha256 is {manifest.onnx_sha256!r}, expected 64 hexadecimal digits")
    if Path(manifest.onnx_file).name != manifest.onnx_file:
        raise ValueError(
            f"onnx.file is {manifest.onnx_file!r}, expected a file name without a folder"
        )
    for key, size in (("size", manifest.input_size), ("min_size", manifest.min_size)):
        if size[0] % manifest.size_multiple or size[1] % manifest.size_multiple:
            raise ValueError(
                f"input.{key} is {_text(size)}, expected multiples of {manifest.size_multiple}"
            )
    try:
        manifest.check_network_size(manifest.input_size)
        manifest.check_network_size(manifest.max_size)
    except ManifestError as error:
        raise ValueError(f"input: {error}") from error
    return manifest


def _classes(rows: list[_Section]) -> tuple[SemanticClass, ...]:
    if not 1 <= len(rows) <= UNLABELLED:
        raise ValueError(f"classes has {len(rows)} entries, expected 1 to {UNLABELLED}")
    classes = []
    for index, row in enumerate(rows):
        red, green, blue = row.integers("color", 3, 0, 255)
        classes.append(SemanticClass(index, row.text("name"), (red, green, blue)))
    names = [semantic_class.name for semantic_class in classes]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"classes contains {listed(repeated)} twice")
    return tuple(classes)


def _size(section: _Section, key: str) -> tuple[int, int]:
    height, width = section.integers(key, 2, 1, LARGEST_INTEGER)
    return height, width


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: object) -> str:
    return "empty" if value is None else type(value).__name__


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
