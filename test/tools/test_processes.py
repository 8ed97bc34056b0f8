# SPDX-License-Identifier: Apache-2.0
import random
import subprocess
import sys
from importlib.util import find_spec

import pytest

from sfseg_ros.tools import processes

PARTICIPANT = """
import rclpy
rclpy.init(domain_id=57)
node = rclpy.create_node("occupant")
print("there", flush=True)
input()
"""


@pytest.mark.skipif(find_spec("rclpy") is None, reason="needs rclpy")
def test_a_domain_in_which_somebody_is_is_not_taken(monkeypatch):
    monkeypatch.setattr(random, "sample", lambda domains, number: [57, 58])
    assert processes.unused_domain() == 57
    with subprocess.Popen(
        [sys.executable, "-c", PARTICIPANT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as occupant:
        assert occupant.stdout.readline() == "there\n"
        assert processes.unused_domain() == 58
        occupant.communicate("\n")
    assert processes.unused_domain() == 57
