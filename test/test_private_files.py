# SPDX-License-Identifier: Apache-2.0
"""A cached engine or kernel runs as code: only files that no other user could write are used."""

import os
import stat

import pytest

from sfseg_ros.errors import BackendError
from sfseg_ros.private_files import check_folders, make_folders, read_private, write_private

STRANGER = 4711


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def file(cache):
    """The file cache/a/b/file, written by the module under test."""
    folder = cache / "a" / "b"
    make_folders(folder, cache)
    write_private(folder / "file.bin", b"code")
    return folder / "file.bin"


def refused(file, cache, what):
    with pytest.raises(BackendError, match=what) as caught:
        read_private(file, cache)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("umask", [0, 0o002, 0o077])
def test_only_the_owner_can_write_the_files_whatever_the_umask(cache, umask):
    before = os.umask(umask)
    try:
        make_folders(cache / "a", cache)
        write_private(cache / "a" / "file.bin", b"code")
    finally:
        os.umask(before)
    for path in (cache, cache / "a", cache / "a" / "file.bin"):
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    assert read_private(cache / "a" / "file.bin", cache) == b"code"
    assert [path.name for path in (cache / "a").iterdir()] == ["file.bin"]


@pytest.mark.parametrize("mode", [0o020, 0o002])
@pytest.mark.parametrize("place", ["file", "folder", "cache"])
def test_a_file_that_another_user_could_change_is_refused(file, cache, place, mode):
    path = {"file": file, "folder": file.parent, "cache": cache}[place]
    path.chmod(path.stat().st_mode | mode)
    refused(file, cache, f"{path}: can be written by other users.*chmod go-w")
    path.chmod(path.stat().st_mode & ~mode)
    assert read_private(file, cache) == b"code"


@pytest.mark.parametrize("place", ["file", "folder", "cache"])
def test_a_symbolic_link_is_refused(file, cache, place):
    path = {"file": file, "folder": file.parent, "cache": cache}[place]
    real = path.rename(cache.parent / f"real_{place}")
    path.symlink_to(real)
    refused(file, cache, f"{path}: is a symbolic link")
    if place != "file":
        with pytest.raises(BackendError, match="is a symbolic link"):
            make_folders(file.parent / "more", cache)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("place", ["file", "folder", "cache"])
def test_a_file_of_another_user_is_refused(file, cache, place):
    path = {"file": file, "folder": file.parent, "cache": cache}[place]
    os.chown(path, STRANGER, -1)
    refused(file, cache, f"{path}: belongs to user {STRANGER}")


@pytest.mark.skipif(os.geteuid() != 0, reason="the files must be root's")
def test_every_user_may_use_a_file_of_root(file, cache, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    assert read_private(file, cache) == b"code"


def test_a_fifo_is_refused_without_waiting_for_a_writer(file, cache):
    file.unlink()
    os.mkfifo(file, 0o600)
    refused(file, cache, "is not a regular file")


def test_a_missing_file_or_folder_is_an_oserror(cache):
    with pytest.raises(FileNotFoundError):
        check_folders(cache / "a", cache)
    make_folders(cache / "a", cache)
    with pytest.raises(FileNotFoundError):
        read_private(cache / "a" / "file.bin", cache)


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(file, cache, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    file.unlink()
    file.symlink_to(target)
    write_private(file, b"new")
    assert target.read_bytes() == b"precious"
    assert read_private(file, cache) == b"new"


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(file, cache, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(file, b"new")
    assert read_private(file, cache) == b"code"
    assert list(file.parent.iterdir()) == [file]
