# SPDX-License-Identifier: Apache-2.0
"""Read untrusted YAML files: manifests, class groups, camera lists, metadata of recordings.

`read_yaml` bounds the bytes, values and depth of a file. Its errors give a position in the file and
never quote it, because the peer that gets the error may not be allowed to read the file.
"""

from pathlib import Path
from typing import Any

import yaml

from sfseg_ros.regular_files import open_regular

LARGEST_BYTES = 1_000_000
MOST_NODES = 20_000
"""Maximum number of scalars, lists and mappings; a manifest with 255 classes has about 2,000."""
DEEPEST = 20
"""Maximum depth of nested lists and mappings."""
LONGEST_SCALAR = 10_000
"""Maximum length of an unquoted scalar; PyYAML converts base-60 numbers in quadratic time."""
LONGEST_INTEGER = 40
"""Maximum length in characters; Python refuses to print integers of more than 4,300 digits."""

# CSafeLoader uses libyaml and is much faster, but some builds of PyYAML lack it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _BoundedLoader(_Loader):  # type: ignore[misc]
    """PyYAML's safe loader, except that it refuses very long integers."""


def _bounded_integer(loader: Any, node: yaml.ScalarNode) -> int:
    if len(node.value) > LONGEST_INTEGER:
        raise yaml.constructor.ConstructorError(problem_mark=node.start_mark)
    return int(loader.construct_yaml_int(node))


_BoundedLoader.add_constructor("tag:yaml.org,2002:int", _bounded_integer)


def read_yaml(path: Path) -> Any:
    """Return the document of a YAML file: None, bool, int, float, str, date, list or dict.

    The file must be a regular file of at most LARGEST_BYTES without anchors and aliases. Raises
    ValueError with one line, without the path, if the file is unreadable or not such a document.
    """
    text = _text_of(path)
    try:
        _check_bounds(text)
        return yaml.load(text, _BoundedLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"not YAML{_position(mark)}") from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"not YAML (a control character, number {error.position})") from None
    except _BoundsError as error:
        raise ValueError(str(error)) from None
    except Exception:  # PyYAML lets ValueError and others through, which quote the value
        raise ValueError("not YAML (a number or date that does not exist)") from None


class _PlainDumper(yaml.SafeDumper):
    """Writes no anchors, which `read_yaml` refuses: a list that occurs twice is written twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def yaml_text(document: object) -> str:
    """Return YAML text that `read_yaml` accepts. Keys keep their order."""
    return yaml.dump(
        document, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )


class _BoundsError(Exception):
    """The document exceeds a limit of this module."""


def _text_of(path: Path) -> str:
    try:
        file = open_regular(path)
        if file is None:
            raise ValueError("cannot be read (not a regular file)")
        with file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"cannot be read (more than {LARGEST_BYTES:,} bytes)")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot be read (byte {error.start} is not UTF-8)") from None


def _check_bounds(text: str) -> None:
    """Raise _BoundsError unless the document is small, flat and without anchors."""
    nodes = depth = 0
    for event in yaml.parse(text, _Loader):
        if getattr(event, "anchor", None) is not None:
            raise _BoundsError(f"anchor or alias{_position(event.start_mark)}: write it out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        nodes += isinstance(event, yaml.NodeEvent)
        if depth > DEEPEST:
            raise _BoundsError(f"nested over {DEEPEST} levels{_position(event.start_mark)}")
        if nodes > MOST_NODES:
            raise _BoundsError(f"over {MOST_NODES:,} values{_position(event.start_mark)}")
        if (
            isinstance(event, yaml.ScalarEvent)
            and len(event.value) > LONGEST_SCALAR
            and not (event.style and event.tag is None)
        ):
            raise _BoundsError(f"over {LONGEST_SCALAR:,} characters{_position(event.start_mark)}")


def _position(mark: Any) -> str:
    return "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
