# SPDX-License-Identifier: Apache-2.0
"""Files and folders are written completely or not at all, even on a full disk."""

import os

import pytest

from sfseg_ros.whole_files import whole_folder, write_whole


def test_a_file_is_written_with_its_folder_and_by_the_umask(tmp_path):
    path = tmp_path / "new" / "folder" / ("n" * 255)
    before = os.umask(0o027)
    try:
        write_whole(path, b"content")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path, full_disk):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with full_disk(9999):
        with pytest.raises(OSError, match="File too large"):
            write_whole(path, bytes(10_000))
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
        write_whole(path, bytes(9999))
    assert path.stat().st_size == 9999


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    with whole_folder(tmp_path / "folder") as unfinished:
        (unfinished / "a").write_text("a")
        assert not (tmp_path / "folder").exists()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["a"]


def test_a_folder_that_does_not_fit_leaves_nothing(tmp_path, full_disk):
    def write() -> None:
        with whole_folder(tmp_path / "folder") as unfinished:
            (unfinished / "a").write_text("a")
            (unfinished / "b").write_bytes(bytes(10_000))

    with full_disk(9999), pytest.raises(OSError, match="File too large"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "folder"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
