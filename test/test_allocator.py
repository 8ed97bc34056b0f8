# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest

RESIDENT = """
import re
from pathlib import Path
from sfseg_ros.allocator import give_back_free_memory, keep_large_buffers

def resident_mib():
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]) / 1024

keep_large_buffers()
before = resident_mib()
buffers = [bytearray(b"x") * 2**20 for _ in range(200)]
kept = buffers[-1:]  # a live buffer at the end of the heap keeps everything before it
filled = resident_mib()
del buffers
freed = resident_mib()
give_back_free_memory()
print(filled - before, freed - before, resident_mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_buffers_are_kept_until_they_are_given_back():
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True
    )
    filled, freed, given_back = map(float, done.stdout.split())
    assert filled > 190
    assert freed > 190, "the next frame would have to ask the kernel again"
    assert given_back < 20
