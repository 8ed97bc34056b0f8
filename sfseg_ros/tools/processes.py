# SPDX-License-Identifier: Apache-2.0
"""Run the nodes of this package as child processes: environment, logs, and an orderly end."""

import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sfseg_ros.errors import SfsegError
from sfseg_ros.installed_files import install_command, profile_environment

LITTLE_SPACE = 256 * 1024
"""Free bytes of a disk on which a log or a bag can no longer be written."""


class ProcessError(SfsegError):
    """A node did not start, ended early, or left no result."""


def check_ros() -> None:
    """Raise ProcessError if this Python has no rclpy."""
    if importlib.util.find_spec("rclpy") is None:
        raise ProcessError(
            "ROS 2 is missing (no Python module rclpy): source /opt/ros/DISTRO/setup.bash, or "
            f"install it from wheels: {install_command('demo')}"
        )


def ros_environment() -> dict[str, str]:
    """The environment of the child processes: the package's middleware profile, and an unused ROS
    domain on this machine only, so that they and a robot on the network do not hear each other."""
    environment = dict(os.environ)
    source = str(Path(__file__).resolve().parents[2])
    paths = [source, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["PYTHONUNBUFFERED"] = "1"
    environment |= profile_environment()
    environment["ROS_DOMAIN_ID"] = str(unused_domain())
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return environment


def unused_domain() -> int:
    """A ROS domain that no other process of this machine uses, such as a second demo."""
    # Domains above 101 can collide with the ports of outgoing connections on Linux.
    domains = random.sample(range(1, 102), 101)
    return next((domain for domain in domains if _is_unused(domain)), domains[0])


def _is_unused(domain: int) -> bool:
    """True if the port of the domain's first participant is free: 7410 + 250 x domain (DDSI-RTPS
    2.5, section 9.6.2.3)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7410 + 250 * domain))
        except OSError:
            return False
    return True


def parameter_options(parameters: Mapping[str, object]) -> list[str]:
    """Options of a ROS command line that set `parameters`: strings, numbers, bools and lists.

    ROS reads a value as YAML, in which `x #2` is `x` and `1.0` a number; JSON is YAML with quotes.
    Raises ProcessError for a string, such as a path, that is not UTF-8.
    """
    options = []
    for name, value in parameters.items():
        text = json.dumps(value, ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ProcessError(f"{name} {value!r}: not UTF-8, as ROS needs; rename it") from error
        options += ["-p", f"{name}:={text}"]
    return options


@dataclass
class Process:
    """A started node: the name of its module, the process, and its log, or None if the node writes
    to the terminal."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path | None

    def log_lines(self) -> list[str]:
        """The lines of the log so far."""
        if self.log is None:
            return []
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def last_words(self) -> str:
        """The end of the log in one line, and the path of the log."""
        lines = [line.strip() for line in self.log_lines() if line.strip()][-3:]
        said = f"{self.name} said: {' | '.join(lines) or 'nothing'} (log: {self.log})"
        if self.log is not None and shutil.disk_usage(self.log.parent).free < LITTLE_SPACE:
            return f"the disk of {self.log.parent} is full; {said}"
        return said

    def first_error(self) -> str | None:
        """The first error in the log, without its time and node name; None if there is none."""
        for line in self.log_lines():
            if line.startswith(("[ERROR]", "[FATAL]")):
                return line.split("]: ", 1)[-1]
        return None

    def stop(self, timeout_s: float = 15.0) -> None:
        """Interrupt the process and wait; kill it if it does not end within `timeout_s`."""
        if self.popen.poll() is not None:
            return
        self.popen.send_signal(signal.SIGINT)
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@contextmanager
def process(
    module: str, arguments: Sequence[str], log: Path | None, environment: dict[str, str]
) -> Iterator[Process]:
    """Run a node as a child process, with its output in `log`, or on stderr if `log` is None.

    The child has its own session, so Ctrl-C reaches only this process, which ends the children in
    order. If this process is killed, the child ends too.
    """
    guard = ["-m", "sfseg_ros.tools.end_with_parent", str(os.getpid())]
    command = [sys.executable, *guard, f"sfseg_ros.nodes.{module}", *arguments]
    with (log or Path(os.devnull)).open("wb") as output:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output if log else sys.stderr,
            stderr=subprocess.STDOUT if log else None,
            env=environment,
            start_new_session=True,
        )
    started = Process(module, popen, log)
    try:
        yield started
    finally:
        started.stop()


def check_alive(*processes: Process) -> None:
    """Raise ProcessError with the end of its log if one of the processes has ended."""
    for each in processes:
        if (status := each.popen.poll()) is not None:
            raise ProcessError(f"{each.name} ended with status {status}; {each.last_words()}")
