# SPDX-License-Identifier: Apache-2.0
"""Nodes of this package as processes of their own: environment, logs, and an orderly end."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sfseg_ros.errors import SfsegError
from sfseg_ros.installed_files import shared_file

PROFILE = "config/fastdds_large_images.xml"


class ProcessError(SfsegError):
    """A node ended early, did not start, or did not do its part."""


def ros_environment() -> dict[str, str]:
    """The environment of the demo's processes: our middleware profile, and a ROS domain of their
    own, so that a robot on the same network neither hears nor disturbs them."""
    environment = dict(os.environ)
    source = str(Path(__file__).resolve().parents[2])
    paths = [source, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["PYTHONUNBUFFERED"] = "1"
    if profile := shared_file(PROFILE):
        environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(profile)
        environment["FASTDDS_DEFAULT_PROFILES_FILE"] = str(profile)
    environment["ROS_DOMAIN_ID"] = str(unused_domain())
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return environment


def unused_domain() -> int:
    """A ROS domain in which no other process of this machine is, for example a second demo."""
    # Domains above 101 can collide with the ports of outgoing connections on Linux.
    domains = random.sample(range(1, 102), 101)
    return next((domain for domain in domains if _is_unused(domain)), domains[0])


def _is_unused(domain: int) -> bool:
    """Whether the port is free that a domain's first participant takes for itself: 7410 and 250 a
    domain (DDSI-RTPS 2.5, section 9.6.2.3)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7410 + 250 * domain))
        except OSError:
            return False
    return True


@dataclass
class Process:
    """A started node: its module's name, the process, and its log, None where that is the
    terminal."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path | None

    def log_lines(self) -> list[str]:
        if self.log is None:
            return []
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def last_words(self) -> str:
        """The end of the log in one line, and where the rest is."""
        lines = [line.strip() for line in self.log_lines() if line.strip()][-3:]
        return f"{self.name} said: {' | '.join(lines) or 'nothing'} (log: {self.log})"

    def first_error(self) -> str | None:
        """The first line that ROS logged as an error, without its time and node name."""
        for line in self.log_lines():
            if line.startswith(("[ERROR]", "[FATAL]")):
                return line.split("]: ", 1)[-1]
        return None

    def stop(self, timeout_s: float = 15.0) -> None:
        """Ctrl-C, then wait; a process that does not end is killed."""
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
    """A node as a process of its own, output to `log` or (None) to this terminal. Ctrl-C reaches
    only the demo, which then ends the processes in order."""
    command = [sys.executable, "-m", f"sfseg_ros.nodes.{module}", *arguments]
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
    """Raise ProcessError, with its last words, where one has ended."""
    for each in processes:
        if (status := each.popen.poll()) is not None:
            raise ProcessError(f"{each.name} ended with status {status}; {each.last_words()}")
