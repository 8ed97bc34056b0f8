# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CHILD = ROOT / "test" / "picture_files" / "picture_child.py"


def test_every_entry_point_refuses_the_animated_png(tmp_path: Path) -> None:
    """Runs in a child process, because a decoder that reads the file crashes."""
    done = subprocess.run(
        [sys.executable, str(CHILD), "training", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 6
    for name, error in errors.items():
        assert "animated PNG" in error, name
        assert "\n" not in error
