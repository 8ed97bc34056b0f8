# SPDX-License-Identifier: Apache-2.0
"""Opening files that may be anything."""

import os

import pytest

from sfseg_ros.regular_files import open_regular


def test_a_regular_file_is_opened_also_through_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"


@pytest.mark.timeout(10)
def test_a_fifo_without_a_writer_and_a_device_are_none_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert open_regular(tmp_path / "fifo") is None
    assert open_regular("/dev/zero") is None


def test_a_file_that_cannot_be_opened_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
