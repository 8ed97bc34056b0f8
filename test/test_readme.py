# SPDX-License-Identifier: Apache-2.0
"""README.md is short and has a picture, two commands and a statement about the network.

test/docs/ compares its links, tables and commands with the code, together with those of docs/."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_fits_two_screens():
    assert 350 <= len(README.split()) <= 600


def test_the_picture_comes_first_and_loads_quickly():
    title, picture = README.splitlines()[0:3:2]
    assert title == "# sfseg_ros"
    path = ROOT / re.fullmatch(r"!\[.{20,}\]\((\S+)\)", picture)[1]
    assert 100_000 < path.stat().st_size < 2_000_000


def test_the_two_commands_that_ci_runs_come_first():
    first = re.findall(r"^    (\S.*)$", README, re.M)[:2]
    assert first == ["make demo", "make test"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert all(re.search(rf"^step .* {command}$", ci, re.M) for command in first)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)", README))))
def test_every_named_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


def test_the_readme_states_what_is_sent_over_the_network():
    assert "Nothing is sent over the network except ROS messages" in README
