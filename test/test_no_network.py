# SPDX-License-Identifier: Apache-2.0
"""Neither this package nor a library that it loads uses the network unasked.

An audit hook in every Python process records connections, name lookups and started programs. It
does not see native code. The tests therefore also use strace, if it is installed and allowed, and
check the home folder, in which a telemetry client leaves its id.
"""

import ast
import ipaddress
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

HOOK = """
import os, sys

def record(event, arguments):
    if event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
        write("lookup", arguments[0])
    elif event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        address = arguments[1]
        if isinstance(address, tuple):
            write("connection", address[0])
    elif event in {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"}:
        write("program", os.path.basename(os.fsdecode(arguments[0])))

def write(kind, what):
    os.write(log, f"{kind} {what}\\n".encode())

log = os.open(os.environ["NETWORK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
write("python", " ".join(sys.orig_argv[1:])[:200].replace("\\n", ";"))
sys.addaudithook(record)
"""

EVERYTHING = """
import importlib, pkgutil, sys
from pathlib import Path

import sfseg_ros
from sfseg_ros.backends.choice import open_backend
from sfseg_ros.model.manifest import load_manifest

for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ImportError as error:  # its native libraries are not installed
        print("not imported:", error)
import numpy as np
manifest = load_manifest(Path(sys.argv[1]))
for name in ("openvino", "onnxruntime"):
    labels, _ = open_backend(name, manifest).infer(np.zeros((1, 64, 96, 3), np.uint8), True)
    print(name, labels.shape)
"""

FIRST = """
import {first}
import openvino, onnxruntime
print("imported")
"""


class Watch:
    """Runs a program in an empty home folder and reports its use of the network."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.temporary = folder / "tmp"
        self._log = folder / "network.log"
        self._trace = folder / "strace.log"
        for made in (self.home, self.temporary, folder / "hook"):
            made.mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        # A new environment: variables of build servers turn some telemetry off, and so does our own
        # block, which the test's process has already executed.
        kept = ("PATH", "LD_LIBRARY_PATH", "AMENT_PREFIX_PATH", "ROS_DISTRO", "PYTHONPATH")
        self._environment = {name: os.environ[name] for name in kept if name in os.environ}
        paths = [str(folder / "hook"), str(ROOT), self._environment.get("PYTHONPATH", "")]
        self._environment |= {
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "NETWORK_LOG": str(self._log),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "ROS_LOG_DIR": str(folder / "ros_log"),
        }

    def run(self, *arguments: object) -> str:
        """Run `python *arguments`, which must succeed, and return its output."""
        command = [*self._strace(), sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def recorded(self, kind: str) -> list[str]:
        """The records of this kind from the audit hooks of all processes."""
        rows = (line.partition(" ") for line in self._log.read_text().splitlines())
        return [what for name, _, what in rows if name == kind]

    def outside(self) -> set[str]:
        """Every address and host outside this machine that a process accessed or looked up."""
        asked = {*self.recorded("connection"), *self.recorded("lookup")}
        if self._trace.exists():
            trace = self._trace.read_text()
            found = r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"'
            asked |= {a or b for a, b in re.findall(found, trace)}
            # A name server may run on this machine and ask others.
            asked |= {"name server"} if "port=htons(53)" in trace else set()
        return {name for name in asked if not is_local(name)}

    def left_at_home(self) -> list[str]:
        """Files that a program left in the home folder and the folder for temporary files."""
        return sorted(
            str(path.relative_to(self.home.parent))
            for folder in (self.home, self.temporary)
            for path in folder.rglob("*")
            if path.is_file()
        )

    def _strace(self) -> list[str]:
        calls = "trace=connect,sendto,sendmsg,sendmmsg"
        command = ["strace", "-f", "-qq", "-e", calls, "-e", "signal=none", "-o"]
        if not shutil.which("strace"):
            return []
        try_out = subprocess.run([*command, "/dev/null", "true"], capture_output=True, check=False)
        return [*command, str(self._trace)] if try_out.returncode == 0 else []


def is_local(name: str) -> bool:
    """True if this address or host is this machine."""
    if name in ("", "None", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def libraries() -> list[str]:
    """Every installed library that our files import, also inside functions."""
    names = set()
    for folder in ("sfseg_ros", "training", "benchmarks", "test"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module)
    tops = {name.split(".")[0] for name in names}
    ours = {"sfseg_ros", "training", "benchmarks", "test", "bpy", *sys.stdlib_module_names}
    installed = {top for top in tops - ours if find_spec(top)}
    return sorted(name for name in names if name.split(".")[0] in installed)


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_libraries_and_backends_do_not_use_the_network(watch, tiny_model):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    output = watch.run("-c", EVERYTHING, tiny_model, *libraries())
    assert "openvino (1, 64, 96)" in output
    assert "onnxruntime (1, 64, 96)" in output
    assert watch.outside() == set()
    assert watch.left_at_home() == []
    assert len(watch.recorded("python")) == 1, "a library started a Python process"
    assert set(watch.recorded("program")) <= {"ldconfig"}


@pytest.mark.parametrize("first", ["sfseg_ros", "training", "benchmarks"])
def test_importing_either_package_first_turns_telemetry_off(watch, first):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    assert "imported" in watch.run("-c", FIRST.format(first=first))
    assert watch.outside() == set()
    assert watch.left_at_home() == []
    assert len(watch.recorded("python")) == 1


def test_the_demo_and_its_processes_do_not_use_the_network(watch, tiny_model, tmp_path):
    pytest.importorskip("rclpy")
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "pictures").mkdir()
    for index in range(4):
        picture = np.full((64, 96, 3), 60 * index, np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{index}.png"), picture)
    folders = ("--output", tmp_path / "out", "--input", tmp_path / "pictures")
    watch.run("-m", "sfseg_ros.tools", "demo", *folders, "--model", tiny_model)
    started = " ".join(watch.recorded("python"))
    assert "segmentation_node" in started
    assert "bag_recorder" in started
    assert watch.outside() == set()
    assert watch.left_at_home() == []


@pytest.mark.parametrize(
    "call",
    [
        "socket.create_connection(('192.0.2.1', 9), 0.1)",
        "socket.getaddrinfo('host.invalid', 80, flags=socket.AI_NUMERICHOST)",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 9))",
    ],
)
def test_the_watch_records_network_use_of_a_child_process(watch, call):
    child = f"import socket, contextlib\\nwith contextlib.suppress(OSError): {call}"
    watch.run(
        "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{child}'''])"
    )
    assert watch.outside() & {"192.0.2.1", "host.invalid"}
    assert len(watch.recorded("python")) == 2
