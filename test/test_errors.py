# SPDX-License-Identifier: Apache-2.0
from sfseg_ros.errors import LONGEST_FOREIGN, ImageError, one_line


def test_an_error_of_this_package_is_its_whole_message():
    assert one_line(ImageError("too  small\n" + 1000 * "x")) == "too small " + 1000 * "x"


def test_an_error_of_a_library_is_its_type_and_one_line():
    assert one_line(RuntimeError("in\n  a.cpp:\n  no")) == "RuntimeError: in a.cpp: no"
    assert len(one_line(RuntimeError(10_000 * "x"))) == LONGEST_FOREIGN
