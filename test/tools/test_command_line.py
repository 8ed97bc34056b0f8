# SPDX-License-Identifier: Apache-2.0
"""`sfseg` itself: its help, unknown commands, and what it says if a library is missing."""

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sfseg_ros.tools.command_line import COMMANDS, ENGINE_COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "cv2", "onnx", "onnxruntime", "openvino", "rosbags", "av", "rclpy")


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_sfseg_alone_and_its_help_list_every_command(words, capsys):
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert all(f"  {name} " in out for name in COMMANDS)
    assert err == ""
    assert main(["engine", *words]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in ENGINE_COMMANDS)


@pytest.mark.parametrize("words", ["['--help']", "['engine', '--help']", "['segmnt']"])
def test_help_imports_no_library(words):
    code = "import sys; from sfseg_ros.tools.command_line import main; main({}); "
    code += "print('loaded', [m for m in {} if sys.modules.get(m)])"
    done = python("-c", code.format(words, HEAVY))
    assert done.stdout.splitlines()[-1] == "loaded []", done.stderr


def test_the_package_runs_as_a_module():
    done = python("-m", "sfseg_ros.tools", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: sfseg COMMAND" in done.stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["segmnt"], "did you mean sfseg segment?"),
        (["dmeo", "--input", "x"], "did you mean sfseg demo?"),
        (["verify", "m"], "did you mean sfseg engine verify?"),
        (["engine", "biuld", "m"], "did you mean sfseg engine build?"),
        (["xyz"], "expected demo, segment, engine;"),
        (["--inptu"], "expected demo, segment, engine;"),
    ],
)
def test_an_unknown_command_names_the_nearest_in_one_line(words, hint, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert hint in err


@pytest.mark.parametrize("name", [*COMMANDS, *(f"engine {name}" for name in ENGINE_COMMANDS)])
def test_every_command_explains_itself(name, capsys):
    words = name.split()
    module = importlib.import_module(".".join(("sfseg_ros.tools", *words)))
    if name == "engine":  # a group
        return
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: sfseg {name}")
    assert module.__doc__.strip() in out


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (["segment", "m", "p", "-o", "o"], "cv2", "cpu"),
        (["demo"], "cv2", "cpu,recordings" if find_spec("rclpy") else "demo"),
        (["engine", "list"], "onnx", "gpu"),
    ],
)
def test_a_missing_library_is_one_line_with_the_command_that_installs_it(words, module, extra):
    code = f"import sys; sys.modules[{module!r}] = None; sys.argv[0] = 'sfseg'\n"
    code += f"from sfseg_ros.tools.command_line import main; sys.exit(main({words}))"
    done = python("-c", code)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"-m pip install '{ROOT}[{extra}]'" in done.stderr
    assert module in done.stderr


def test_the_demo_without_ros_says_how_to_get_it():
    code = "import importlib.util as u, sys; found = u.find_spec\n"
    code += "u.find_spec = lambda name, *a: None if name == 'rclpy' else found(name, *a)\n"
    code += "from sfseg_ros.tools.command_line import main; sys.exit(main(['demo']))"
    done = python("-c", code)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "source /opt/ros/DISTRO/setup.bash" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["engine", "--help"], ["engine", "list"]])
@pytest.mark.parametrize(("target", "status"), [("closed", 0), ("/dev/full", 1)])
def test_help_into_a_closed_pipe_or_a_full_disk_leaves_no_traceback(words, target, status):
    if target == "closed":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(target, os.O_WRONLY)
    command = [sys.executable, "-m", "sfseg_ros.tools", *words]
    done = subprocess.run(
        command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr.count("\n")) == (status, status), done.stderr


@pytest.mark.parametrize("text", ["caf\udce9", "caf\xe9", "\u65e5", "\u65e5\udce9"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_stdout_carries_any_text_in_any_encoding(text, encoding):
    code = "import sfseg_ros.tools.command_line as c\n"
    code += f"c._prepare_streams(); print({text!r})"
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    if text == "caf\udce9" or (text == "caf\xe9" and encoding == "latin-1"):
        assert done.stdout == b"caf\xe9\n"
    assert done.stdout.count(b"\n") == 1
