# SPDX-License-Identifier: Apache-2.0
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros import yaml_files
from sfseg_ros.yaml_files import LARGEST_BYTES, read_yaml

ROOT = Path(__file__).resolve().parent.parent
SECRET = "hunter2"


@pytest.fixture(scope="module", params=["libyaml", "PyYAML alone"])
def read(request, tmp_path_factory):
    """Reads YAML text with libyaml or with the parser written in Python."""
    path = tmp_path_factory.mktemp("yaml") / "file.yaml"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "PyYAML alone":

            class Bounded(yaml.SafeLoader):
                yaml_constructors = yaml_files._BoundedLoader.yaml_constructors

            patch.setattr(yaml_files, "_Loader", yaml.SafeLoader)
            patch.setattr(yaml_files, "_BoundedLoader", Bounded)

        def read(text):
            path.write_text(text, encoding="utf-8")
            return read_yaml(path)

        yield read


def test_a_document_is_read(read):
    document = {"name": "Straße", "sizes": [1, 2.5], "nothing": None, "yes": True}
    assert read(yaml.safe_dump(document)) == document


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_quoted_text_is_bounded_by_the_file_only(read, quote):
    """rosbag2 writes the QoS profiles of all publishers of a topic into one string."""
    assert read(f"{quote}{'1:' * 40_000}{quote}") == "1:" * 40_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2024-13-45", "not YAML (a number or date that does not exist)"),
        ("1" * 5000, "not YAML at line 1, column 1"),
        ("a:\n  0x_", "not YAML (a number or date that does not exist)"),
        ("1:" * 4000 + "1", "not YAML at line 1, column 1"),
        ("[" * 900_000, "nested over 20 levels at line 1, column 21"),
        ("{a: " * 200_000, "nested over 20 levels at line 1, column 81"),
        ("- a\n" * 200_000, "over 20,000 values at line 20000, column 3"),
        ("a" * 900_000, "over 10,000 characters at line 1, column 1"),
        (f"!!int '{900_000 * '1'}'", "over 10,000 characters at line 1, column 1"),
        ("a: &a [lol]\nb: [*a, *a]", "anchor or alias at line 1, column 4: write it out"),
        ("b: *a", "anchor or alias at line 1, column 4: write it out"),
        ("a: b\n\x01", "not YAML (a control character, number 5)"),
        ("!!python/object/apply:os.system [ls]", "not YAML at line 1, column 1"),
        ("a: 1\n--- \nb: 1", "not YAML at line 2, column 1"),
    ],
)
def test_a_hostile_document_is_an_error_of_one_line(read, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{SECRET}: [",
        f"[{SECRET}: {SECRET}: {SECRET}",
        f"!{SECRET} a",
        f"*{SECRET}",
        f"&{SECRET} a",
        f"%{SECRET}",
        f"a: !!int {SECRET}",
        f"a: !!timestamp {SECRET}",
        f"? [{SECRET}]\n: 1",
        f'"\\q{SECRET}',
        f"<<: {SECRET}",
    ],
)
def test_an_error_never_quotes_the_file(read, text):
    with pytest.raises(ValueError, match="not YAML|anchor or alias") as caught:
        read(text)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None, "tracebacks would show the cause"


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_any_text_gives_a_document_or_one_line(read, text):
    try:
        read(text)
    except ValueError as error:
        assert "\n" not in str(error)


def made(kind, folder):
    path = folder / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("fifo", "cannot be read (not a regular file)"),
        ("device", "cannot be read (not a regular file)"),
        ("folder", "cannot be read (Is a directory)"),
        ("large", f"cannot be read (more than {LARGEST_BYTES:,} bytes)"),
        ("missing", "cannot be read (No such file or directory)"),
    ],
)
def test_anything_but_a_small_regular_file_is_refused_at_once(tmp_path, kind, message):
    begin = time.monotonic()
    with pytest.raises(ValueError, match=re.escape(message)):
        read_yaml(made(kind, tmp_path))
    assert time.monotonic() - begin < 1


def test_no_other_module_of_the_package_reads_yaml():
    reading = re.compile(r"yaml\.(safe_|full_|unsafe_)?load")
    package = ROOT / "sfseg_ros"
    readers = {p.name for p in package.rglob("*.py") if reading.search(p.read_text())}
    assert readers == {"yaml_files.py"}
