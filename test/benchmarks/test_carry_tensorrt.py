# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.carry_tensorrt import CONTENTS, LINK, PACKED, PART_BYTES, pack, unpack

ROOT = Path(__file__).resolve().parents[2]
NOISE = os.urandom(50_000)  # does not shrink


@pytest.fixture
def parts(tmp_path):
    """What `pack` makes of two small wheels, in parts of 20 kB."""
    wheels = []
    contents = {
        "libs": {
            "tensorrt_rtx_libs/libtensorrt_rtx.so.1": NOISE,
            "tensorrt_rtx_libs/__init__.py": b"",
        },
        "bindings": {"tensorrt_rtx_bindings/__init__.py": b"__version__ = '9'\nBuilder = 1\n"},
    }
    for name, files in contents.items():
        wheels.append(tmp_path / f"{name}.whl")
        with zipfile.ZipFile(wheels[-1], "w") as archive:
            for path, data in files.items():
                archive.writestr(path, data)
    return pack(wheels, tmp_path / "carry", part_bytes=20_000)


def test_parts_fit_beside_the_repository_in_one_transfer():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in tracked.stdout.split("\0") if name]
    repository = sum(file.stat().st_size for file in files if file.is_file())
    assert repository + PART_BYTES < 60 * 2**20  # of 64, with what is not tracked


def test_what_was_packed_is_there_again_with_the_link_and_can_be_imported(parts, tmp_path):
    assert [part.name for part in parts] == ["1", "2", "3"]
    target = tmp_path / "site"
    unpack(tmp_path / "carry", target)
    library = target / "tensorrt_rtx_libs" / "libtensorrt_rtx.so.1"
    assert library.read_bytes() == NOISE
    assert (library.parent / LINK).resolve() == library
    code = "import tensorrt_rtx; print(tensorrt_rtx.__version__, tensorrt_rtx.Builder)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "9 1\n"
    unpack(tmp_path / "carry", target)  # again, over itself


def test_parts_that_came_one_by_one_lie_side_by_side(parts, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for part in parts:
        for file in part.iterdir():
            (flat / file.name).write_bytes(file.read_bytes())
    unpack(flat, tmp_path / "site")
    assert (tmp_path / "site" / "tensorrt_rtx" / "__init__.py").is_file()


def test_a_missing_and_a_damaged_part_are_said(parts, tmp_path):
    second = parts[1] / f"{PACKED}.2"
    data = second.read_bytes()
    second.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SystemExit, match="is damaged: pack again"):
        unpack(tmp_path / "carry", tmp_path / "site")
    second.unlink()
    with pytest.raises(SystemExit, match=r"tensorrt_rtx.tar.xz.2 is not below .*3 parts"):
        unpack(tmp_path / "carry", tmp_path / "site")
    with pytest.raises(SystemExit, match=f"no {CONTENTS} below"):
        unpack(tmp_path / "nothing", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_every_part_names_all_of_them(parts):
    lists = [json.loads((part / CONTENTS).read_text()) for part in parts]
    assert all(contents == lists[0] for contents in lists)
    assert len(lists[0]) == 3
