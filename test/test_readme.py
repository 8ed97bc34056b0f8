# SPDX-License-Identifier: Apache-2.0
"""The README against the code: tables, links and make targets that it names exist as it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_are_those_that_the_code_prints():
    command = [sys.executable, "-m", "sfseg_ros.nodes.interface"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shown = re.search(
        r"<!-- python -m sfseg_ros.nodes.interface -->\n(.*?)<!-- end -->", README, re.S
    )
    assert shown, "the README has lost the markers of the tables"
    assert shown[1] == printed, "run `make readme`"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_somewhere(target):
    assert target.startswith("https://") or (ROOT / target).exists()


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^    |`)make ([a-z-]+)", README, re.M))
    assert targets >= {"demo", "test", "test-runtime"}
    assert [t for t in sorted(targets) if not re.search(rf"^{t}:", makefile, re.M)] == []
