# SPDX-License-Identifier: Apache-2.0
"""Stress test: overload the real node, mix in malformed messages, and account for every frame.

    make soak MINUTES=30
    python -m benchmarks.soak --minutes 30 --cameras front rear left right --output soak.json

In each cycle a storm precedes a calm. In the storm, cameras send more frames than the node can
segment, of changing sizes and with garbage between them (benchmarks/soak_camera.py), and are killed
and restarted; parameters, lifecycle states, services, models and listeners change at random. In the
calm everything is set back, a few good frames must return masks, and counters, memory, threads and
open files are read. Exit status 1 if a frame is unaccounted for, something leaks, the node stops
answering, a mask has the wrong size, or the node raises or dies. A slow machine does not fail.
"""

import argparse
import fcntl
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from benchmarks.camera import size_from_text
from sfseg_ros.installed_files import DEFAULT_MODEL, find_model
from sfseg_ros.nodes.bag_player import message_class
from sfseg_ros.tools.machine import machine_facts
from sfseg_ros.tools.processes import Process, parameter_options, process, ros_environment

NODE = "/segmentation"
STALL_S = 300.0
"""A node that answers no call for this many seconds is stuck. No other check depends on time."""
ACTION_S = 0.25
CALM_FRAMES, CALM_RATE = 20, 10.0
CALM_SIZE = "480x640"
LEAK_MIB = 64.0
"""More growth than this from the middle third of the run to the last third is a leak. In the first
third the allocator still grows to the needs of all model sizes."""
CYCLES_TO_JUDGE = 9
"""With fewer cycles, a third is too short to tell a leak from the allocator and thread pools."""
MAX_CALLS = 8
"""Maximum number of pending calls of one service. The quality of service keeps ten answers.
Answers that wait for a model to load arrive together, and with more the first would be lost."""
MAX_PENDING = 2
"""Per camera: one frame waits, and one is being processed."""
MIB = 1024 * 1024

# Relative frequency of each action.
ACTIONS = {"parameter": 12, "listener": 3, "up": 4, "lifecycle": 1, "model": 1, "service": 1}
ACTIONS |= {"kill camera": 1}
# Time and the number of threads would make the cycles differ; the soak itself sets the others.
UNTOUCHED = {"use_sim_time", "threads", "autostart", "cameras", "model_dir", "snapshot_dir"}
# If one of these has changed, a mask need not have the size of its image.
GEOMETRY = ("output_size", "region_of_interest", "horizon", "fit")
WORDS: tuple[str, ...] = (
    "",
    "auto",
    "raw",
    "compressed",
    "64x96",
    "image",
    "network",
    "240x320",
    "letterbox",
)
WORDS += ("crop", "stretch", "1e9x1", "no such thing", "ü" * 200)
NUMBERS = (0.0, 0.5, 1.0, -1.0, 1e-9, 1e9, float("nan"), float("inf"))
INTEGERS = (0, 1, 2, 5, -1, 256, 2**40)


# --- functions that need no node ------------------------------------------------------------------


def random_value(source: random.Random, like: ParameterValue) -> ParameterValue:
    """A random value of the type of `like`, in or out of range; one in ten has another type."""
    kind = like.type if source.random() < 0.9 else source.randrange(10)
    several = range(source.choice((0, 1, 4, 7)))
    value = ParameterValue(type=kind)
    if kind == ParameterType.PARAMETER_BOOL:
        value.bool_value = source.random() < 0.5
    elif kind == ParameterType.PARAMETER_INTEGER:
        value.integer_value = source.choice(INTEGERS)
    elif kind == ParameterType.PARAMETER_DOUBLE:
        value.double_value = source.choice(NUMBERS)
    elif kind == ParameterType.PARAMETER_STRING:
        value.string_value = source.choice(WORDS)
    elif kind == ParameterType.PARAMETER_INTEGER_ARRAY:
        value.integer_array_value = [source.choice(INTEGERS) for _ in several]
    elif kind == ParameterType.PARAMETER_DOUBLE_ARRAY:
        value.double_array_value = [source.choice(NUMBERS) for _ in several]
    elif kind == ParameterType.PARAMETER_STRING_ARRAY:
        value.string_array_value = [source.choice(WORDS) for _ in several]
    return value


def frame_counts(values: dict[str, str]) -> dict[str, int]:
    """The frame counters of one status of /diagnostics, without their prefix `frames_`."""
    return {
        key.removeprefix("frames_"): int(value)
        for key, value in values.items()
        if re.fullmatch(r"frames_[a-z]+", key)
    }


def unaccounted(counts: dict[str, int]) -> int:
    """Number of received frames that no counter explains. `lost` counts frames that the node never
    received; `pending` is a difference of the others and so explains nothing."""
    return counts["in"] - sum(counts[k] for k in counts if k not in ("in", "pending", "lost"))


def is_stalled(now: float, sent: float, last_answer: float) -> bool:
    """True if a call sent at `sent` has waited for STALL_S since the last answer to any call.

    A slow node still answers other calls; a stuck node answers none.
    """
    return now - max(sent, last_answer) > STALL_S


def resources(pid: int) -> dict[str, float]:
    """Private and shared memory in MiB, threads and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    figures = dict(re.findall(r"^(RssAnon|RssShmem|Threads):\s+(\d+)", status, re.M))
    return {
        "memory_mib": round(int(figures["RssAnon"]) / 1024, 1),
        "shared_mib": round(int(figures["RssShmem"]) / 1024, 1),
        "threads": int(figures["Threads"]),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


def growth(values: Sequence[float]) -> float:
    """Difference between the smallest value of the last third and that of the middle third.

    A node's memory depends on the sizes of its last images; a leak raises even the smallest value.
    """
    third = max(1, len(values) // 3)
    last, middle = values[-third:], values[-2 * third : -third] or values
    return min(last) - min(middle)


def log_summary(lines: Iterable[str]) -> dict[str, Any]:
    """Count tracebacks, warnings and errors in the node's output; errors by their first words."""
    summary: dict[str, Any] = {"lines": 0, "tracebacks": 0, "warnings": 0, "errors": Counter()}
    for line in lines:
        summary["lines"] += 1
        # The second line is rclpy's for a coroutine, the third that of the C++ runtime.
        if re.match(r"Traceback|The following exception was never|terminate called", line):
            summary["tracebacks"] += 1
        summary["warnings"] += line.startswith("[WARN]")
        if line.startswith(("[ERROR]", "[FATAL]")):
            summary["errors"][" ".join(line.split("]: ", 1)[-1].split()[:6])] += 1
    summary["errors"] = dict(summary["errors"].most_common(20))
    return summary


def failures(report: dict[str, Any]) -> list[str]:
    """Return one line for each violation in the run."""
    found = [str(text) for text in report["broken"]]
    cycles = report["cycles"]
    for camera, counts in cycles[-1]["counts"].items():
        if missing := unaccounted(counts):
            found.append(f"camera {camera!r}: {missing} of {counts['in']} frames unaccounted for")
        if not counts["out"]:
            found.append(f"camera {camera!r}: nothing came out")
    if len(cycles) >= CYCLES_TO_JUDGE:
        limits = {"memory_mib": LEAK_MIB, "threads": 0, "files": 0}
        for name, limit in limits.items():
            if (grown := report["growth"][name]) > limit:
                found.append(f"{name} grew by {grown:g} from the middle third to the last")
    if report["masks"]["wrong_size"]:
        found.append(f"{report['masks']['wrong_size']} masks of another size than their image")
    if report["log"]["tracebacks"]:
        found.append(f"{report['log']['tracebacks']} exceptions in the node's log")
    if report["exit_code"] != 0:
        found.append(f"exit code {report['exit_code']} after SIGINT, expected 0")
    return found


# --- processes ------------------------------------------------------------------------------------


class CameraProcess:
    """A process of benchmarks/soak_camera.py for one prefix, to be killed and started again."""

    def __init__(self, prefix: str, options: Sequence[str], log: Path, environment: dict[str, str]):
        self.prefix = prefix
        self._options, self._log, self._environment = options, log, environment
        self._popen: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self, *more: str) -> None:
        """Start the camera with a new seed."""
        self._starts += 1
        command = [sys.executable, "-m", "benchmarks.soak_camera", "--prefix", self.prefix]
        command += [*self._options, "--seed", str(self._starts), *more]
        with self._log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def kill(self) -> None:
        """Kill the camera without notice to the middleware, like a pulled cable."""
        if self._popen is None:
            return
        segments = list(shared_segments(self._popen.pid))
        self._popen.kill()
        self._popen.wait()
        self._popen = None
        for segment in segments:
            remove_if_orphaned(segment)

    def ended_badly(self) -> bool:
        return self._popen is not None and self._popen.poll() not in (None, 0)


def shared_segments(pid: int) -> Iterator[Path]:
    """Segments of Fast DDS's shared memory that a process has mapped, its own and others'."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    except OSError:
        return
    yield from {Path(p) for p in re.findall(r"/dev/shm/fast(?:rtps|dds)_[0-9a-f]+$", maps, re.M)}


def remove_if_orphaned(segment: Path) -> None:
    """Delete a segment whose owner is dead, as `fastdds shm clean` does; otherwise each killed
    camera would leave its images in memory. A living owner locks the file beside the segment."""
    beside = segment.with_name(segment.name + "_el")
    try:
        with beside.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment.unlink(missing_ok=True)
            beside.unlink(missing_ok=True)
    except OSError:
        return  # locked, so alive; or gone already


class Node:
    """The node under test, as other programs on the robot see it."""

    def __init__(
        self, popen: "subprocess.Popen[bytes]", prefixes: Sequence[str], seed: int
    ) -> None:
        self.broken: set[str] = set()
        self.masks = Counter[str]()
        self.answers = Counter[str]()
        self.counts: dict[str, dict[str, int]] = {}
        self.geometry_changed = False
        self._popen = popen
        self._random = random.Random(seed)
        self._ros = rclpy.create_node("soak")
        self._waiting: list[tuple[str, float, Any]] = []
        self._last_answer = time.monotonic()
        self.statuses = Counter[str]()
        self._clients: dict[str, Any] = {}
        self._listeners: dict[str, Any] = {}
        self._mask_topics = [f"{NODE}/{prefix}mask" for prefix in prefixes]
        self._ros.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._initial: dict[str, ParameterValue] = {}

    # Calls.

    def send(self, kind: type, service: str, request: Any) -> Any:
        """Call a service of the node without waiting; returns the future."""
        if service not in self._clients:
            self._clients[service] = self._ros.create_client(kind, f"{NODE}/{service}")
            if not self._clients[service].wait_for_service(STALL_S):
                raise SystemExit(f"soak: {NODE}/{service} does not exist after {STALL_S:.0f} s")
        self.spin(lambda: self._calls_of(service) < MAX_CALLS)
        future = self._clients[service].call_async(request)
        self._waiting.append((service, time.monotonic(), future))
        return future

    def ask(self, kind: type, service: str, request: Any) -> Any:
        """Call a service and wait; returns the response, or None if the node is stuck."""
        future = self.send(kind, service, request)
        self.spin(lambda: all(waiting is not future for *_, waiting in self._waiting))
        return future.result() if future.done() else None

    def spin(self, until: Any = None, seconds: float = math.inf) -> bool:
        """Handle what arrives until `until()` is true, at most `seconds`; returns whether it is."""
        end = time.monotonic() + seconds
        while not (until and until()):
            if time.monotonic() >= end:
                return False
            if self._popen.poll() is not None:
                raise SystemExit(f"soak: the node ended with status {self._popen.returncode}")
            rclpy.spin_once(self._ros, timeout_sec=0.02)
            self._look_at_answers()
        return True

    def _calls_of(self, service: str) -> int:
        return sum(waiting == service for waiting, _, _ in self._waiting)

    def settle(self) -> None:
        """Wait for all answers."""
        self.spin(lambda: not self._waiting)

    def _look_at_answers(self) -> None:
        now = time.monotonic()
        still = []
        for service, sent, future in self._waiting:
            if future.done():
                self._last_answer = now
                self._count_answer(service, future.result())
            elif is_stalled(now, sent, self._last_answer):
                self.broken.add(f"{service}: no answer to any call for {STALL_S:.0f} s")
            else:
                still.append((service, sent, future))
        self._waiting = still

    def _count_answer(self, service: str, response: Any) -> None:
        results = getattr(response, "results", [response])
        for result in results:
            good = getattr(result, "successful", getattr(result, "success", True))
            self.answers[f"{service} {'done' if good else 'refused'}"] += 1

    # Topics.

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            counts = frame_counts({pair.key: pair.value for pair in status.values})
            if "in" not in counts:
                continue
            camera = status.name.rsplit(": ", 1)[-1]
            self.statuses[camera] += 1
            before = self.counts.get(camera, {})
            if any(before.get(k, 0) > n for k, n in counts.items() if k != "pending"):
                self.broken.add(f"camera {camera!r}: a counter went back")
            if not 0 <= counts["pending"] <= MAX_PENDING:
                self.broken.add(f"camera {camera!r}: {counts['pending']} frames pending")
            self.counts[camera] = counts

    def listen(self, topic: str) -> None:
        """Subscribe. Masks are checked; other messages only make the node publish them."""
        if topic in self._listeners:
            return
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        if topic in self._mask_topics:
            listener = self._ros.create_subscription(Image, topic, self._on_mask(topic), qos)
        else:
            kinds = dict(self._ros.get_topic_names_and_types()).get(topic, [])
            if not kinds:
                return
            kind = message_class(kinds[0])
            listener = self._ros.create_subscription(kind, topic, lambda _: None, qos, raw=True)
        self._listeners[topic] = listener

    def stop_listening(self, topic: str) -> None:
        if topic in self._listeners:
            self._ros.destroy_subscription(self._listeners.pop(topic))

    def _on_mask(self, topic: str) -> Any:
        def on_mask(mask: Image) -> None:
            self.masks[topic] += 1
            size = re.fullmatch(r"(\d+)x(\d+)", mask.header.frame_id)
            expected = (int(size[1]), int(size[2])) if size else (mask.height, mask.width)
            if not self.geometry_changed and (mask.height, mask.width) != expected:
                self.masks["wrong_size"] += 1
            if len(mask.data) != mask.step * mask.height or mask.step != mask.width:
                self.masks["wrong_size"] += 1

        return on_mask

    def hear_statuses(self) -> None:
        """Wait for two more statuses of every camera, the second made after this call."""
        before = Counter(self.statuses)
        cameras = len(self._mask_topics)
        if not self.spin(
            lambda: sum(n >= 2 for n in (self.statuses - before).values()) >= cameras, STALL_S
        ):
            self.broken.add(f"no diagnostics for {STALL_S:.0f} s")

    def has_finished(self) -> bool:
        """True if no frame is pending, by a status that was made after this call."""
        self.hear_statuses()
        return all(counts["pending"] == 0 for counts in self.counts.values())

    # Storms.

    def remember_parameters(self) -> None:
        names = self.ask(ListParameters, "list_parameters", ListParameters.Request()).result.names
        values = self._values(names)
        self._initial = {
            name: value for name, value in values.items() if not name.startswith("qos_overrides")
        }

    def _values(self, names: Sequence[str]) -> dict[str, ParameterValue]:
        request = GetParameters.Request(names=list(names))
        response = self.ask(GetParameters, "get_parameters", request)
        return dict(zip(names, response.values, strict=True))

    def set_parameters(self, values: dict[str, ParameterValue]) -> Any:
        request = SetParameters.Request(
            parameters=[Parameter(name=name, value=value) for name, value in values.items()]
        )
        return self.send(SetParameters, "set_parameters", request)

    def change_state(self, transition: int) -> Any:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.send(ChangeState, "change_state", request)

    def parameter_storm(self, with_geometry: bool) -> None:
        """Set a parameter to a random value or, half of the time, to its initial one, so that
        frames still pass."""
        names = [name for name in self._initial if name not in UNTOUCHED]
        name = self._random.choice(names)
        if name.endswith(GEOMETRY):
            if not with_geometry:
                return
            self.geometry_changed = True
        value = self._initial_value(name)
        if self._random.random() < 0.5:
            value = random_value(self._random, value)
        self.set_parameters({name: value})

    def _initial_value(self, name: str) -> ParameterValue:
        """The value at the start; a camera's unset parameter takes the node's value."""
        value = self._initial[name]
        unset = value.type == ParameterType.PARAMETER_NOT_SET
        return self._initial[name.rpartition(".")[2]] if unset else value

    def listener_storm(self) -> None:
        """Subscribe to random topics, or unsubscribe from them."""
        topics = [t for t, _ in self._ros.get_topic_names_and_types() if t.startswith(f"{NODE}/")]
        for topic in self._random.sample(topics, min(2, len(topics))):
            if topic.endswith("transition_event"):
                continue
            (self.stop_listening if topic in self._listeners else self.listen)(topic)

    def service_storm(self) -> None:
        """Call one of the node's SetBool or Trigger services."""
        pairs = self._ros.get_service_names_and_types_by_node(NODE.lstrip("/"), "/")
        name, kind = self._random.choice(self._switches(pairs) or [("", None)])
        if kind is SetBool:
            self.send(kind, name, SetBool.Request(data=self._random.random() < 0.8))
        elif kind is Trigger:
            self.send(kind, name, Trigger.Request())

    @staticmethod
    def _switches(pairs: Iterable[tuple[str, list[str]]]) -> list[tuple[str, Any]]:
        kinds = {"std_srvs/srv/SetBool": SetBool, "std_srvs/srv/Trigger": Trigger}
        return [
            (service.removeprefix(f"{NODE}/"), kinds[types[0]])
            for service, types in pairs
            if types[0] in kinds
        ]

    # Calm.

    def restore(self) -> None:
        """Set everything back: parameters, switches, the active state, subscriptions to masks."""
        self.settle()
        self._transitions(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
        now = self._values(list(self._initial))
        changed = {n: self._initial_value(n) for n, v in self._initial.items() if now[n] != v}
        if changed:
            future = self.set_parameters(changed)
            self.settle()
            for name, result in zip(changed, future.result().results, strict=True):
                if not result.successful:
                    self.broken.add(f"{name} cannot be set back: {result.reason}")
        self._transitions(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
        pairs = self._ros.get_service_names_and_types_by_node(NODE.lstrip("/"), "/")
        for name, kind in self._switches(pairs):
            if kind is SetBool:
                self.ask(kind, name, SetBool.Request(data=True))
        self.geometry_changed = False
        for topic in list(self._listeners):
            self.stop_listening(topic)
        for topic in self._mask_topics:
            self.listen(topic)
        state = self.ask(GetState, "get_state", GetState.Request())
        if state is None or state.current_state.label != "active":
            label = state.current_state.label if state else "unknown"
            self.broken.add(f"{label} after configure and activate, expected active")

    def reload(self) -> None:
        """Clean the node up and activate it, so that it keeps nothing of earlier image sizes."""
        self._transitions(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
        self._transitions(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)

    def _transitions(self, *transitions: int) -> None:
        for transition in transitions:
            self.change_state(transition)
            self.settle()

    def close(self) -> None:
        self._ros.destroy_node()


class Soak:
    """The run: storms and calms in turn."""

    def __init__(
        self, node: Node, pid: int, cameras: list[CameraProcess], models: list[str], seed: int
    ) -> None:
        self._node, self._pid, self._cameras, self._models = node, pid, cameras, models
        self._random = random.Random(seed)
        self._begin = time.monotonic()
        self.done = Counter[str]()
        self.cycles: list[dict[str, Any]] = []

    def storm(self, seconds: float) -> None:
        """Do random actions while the cameras send."""
        with_geometry = len(self.cycles) % 2 == 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for camera in self._cameras:
                if camera.ended_badly():
                    raise SystemExit("soak: a camera of the soak itself has failed, see its log")
                if not camera.running and self._random.random() < 0.3:
                    camera.start()
            action = self._random.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            self.done[action] += 1
            self._do(action, with_geometry)
            self._node.spin(seconds=ACTION_S)

    def _do(self, action: str, with_geometry: bool) -> None:
        node = self._node
        if action == "parameter":
            node.parameter_storm(with_geometry)
        elif action == "listener":
            node.listener_storm()
        elif action == "up":
            node.change_state(Transition.TRANSITION_CONFIGURE)
            node.change_state(Transition.TRANSITION_ACTIVATE)
        elif action == "lifecycle":
            node.change_state(self._random.randrange(1, 5))  # configure ... deactivate
        elif action == "model":
            value = ParameterValue(type=ParameterType.PARAMETER_STRING)
            value.string_value = self._random.choice([*self._models, "/no/such/model"])
            node.set_parameters({"model_dir": value})
        elif action == "service":
            node.service_storm()
        else:
            self._random.choice(self._cameras).kill()

    def calm(self) -> None:
        """Set everything back, send a few good frames, and record the figures."""
        node = self._node
        for camera in self._cameras:
            camera.kill()
        node.restore()
        masks = Counter(node.masks)
        good = ["--garbage", "0", "--sizes", CALM_SIZE, "--rate", str(CALM_RATE)]
        for camera in self._cameras:
            camera.start(*good, "--frames", str(CALM_FRAMES))
        if not node.spin(lambda: not any(c.running for c in self._cameras), STALL_S):
            node.broken.add("the cameras of the calm did not end: does the node listen?")
        if not node.spin(node.has_finished, STALL_S):
            node.broken.add(f"frames of the calm are still pending after {STALL_S:.0f} s")
        for topic in set(node._mask_topics) - set(node.masks - masks):
            node.broken.add(f"{topic}: no mask of {CALM_FRAMES} images in the calm")
        node.reload()
        node.hear_statuses()
        self.cycles.append(
            {
                "minutes": round((time.monotonic() - self._begin) / 60, 2),
                "resources": resources(self._pid),
                "counts": {camera: dict(counts) for camera, counts in node.counts.items()},
            }
        )
        print(cycle_text(self.cycles[-1]), flush=True)


def cycle_text(cycle: dict[str, Any]) -> str:
    """The cycle as one line for the terminal."""
    frames = Counter[str]()
    for counts in cycle["counts"].values():
        frames.update(counts)
    counted = "  ".join(f"{name} {number}" for name, number in frames.items())
    figures = "  ".join(f"{name} {number}" for name, number in cycle["resources"].items())
    return f"{cycle['minutes']:6.1f} min  {figures}  frames: {counted}"


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the whole soak; returns the report."""
    environment = ros_environment() | {"HOME": str(folder), "ROS_LOG_DIR": str(folder / "log")}
    os.environ.update(environment)
    models = args.models or two_models(folder)
    prefixes = [f"{name}/" for name in args.cameras] or [""]
    sizes = [f"{h}x{w}" for h, w in args.sizes] if args.sizes else []
    options = ["--rate", str(args.rate), *(["--sizes", *sizes] if sizes else [])]
    args.log.mkdir(parents=True, exist_ok=True)
    cameras = [CameraProcess(p, options, args.log / "cameras.log", environment) for p in prefixes]
    parameters: dict[str, Any] = {
        "model_dir": str(models[0]),
        "file_roots": [str(Path(model).parent) for model in models],
        "snapshot_dir": str(folder / "snapshots"),
        "backend": args.backend,
    }
    if args.cameras:
        parameters["cameras"] = list(args.cameras)
    words = ["--ros-args", *parameter_options(parameters)]
    report: dict[str, Any] = {"cameras": args.cameras or ["image"], "seed": args.seed}
    rclpy.init(args=[])
    with process("segmentation_node", words, args.log / "node.log", environment) as started:
        node = Node(started.popen, prefixes, args.seed)
        try:
            soak = Soak(node, started.popen.pid, cameras, models, args.seed)
            node.remember_parameters()
            soak.calm()
            end = time.monotonic() + args.minutes * 60
            while time.monotonic() < end:
                soak.storm(min(args.cycle_seconds, max(1.0, end - time.monotonic())))
                soak.calm()
            report["exit_code"] = end_of(started)
        finally:
            for camera in cameras:
                camera.kill()
            node.close()
            rclpy.shutdown()
    figures = [cycle["resources"] for cycle in soak.cycles]
    report |= {
        "minutes": soak.cycles[-1]["minutes"],
        "cycles": soak.cycles,
        "growth": {name: round(growth([f[name] for f in figures]), 1) for name in figures[0]},
        "actions": dict(soak.done),
        "answers": dict(sorted(node.answers.items())),
        "masks": {
            "received": node.masks.total() - node.masks["wrong_size"],
            "wrong_size": node.masks["wrong_size"],
        },
        "broken": sorted(node.broken),
        "log": log_summary(started.log_lines()),
    }
    report["failures"] = failures(report)
    return report


def two_models(folder: Path) -> list[str]:
    """The default model and a copy of it, so that a switch reloads everything."""
    original = find_model(DEFAULT_MODEL)
    shutil.copytree(original, folder / "copy")
    return [str(original), str(folder / "copy")]


def end_of(node: Process) -> int | None:
    """Exit code after Ctrl-C, or None if the node does not end."""
    node.popen.send_signal(signal.SIGINT)
    try:
        return node.popen.wait(STALL_S)
    except subprocess.TimeoutExpired:
        return None


def summary_text(report: dict[str, Any]) -> str:
    """The result of the run as text."""
    lines = [f"{report['minutes']} minutes"]
    for camera, counts in report["cycles"][-1]["counts"].items():
        counted = "  ".join(f"{name} {number}" for name, number in counts.items())
        lines.append(f"  {camera}: {counted}; unaccounted for: {unaccounted(counts)}")
    lines.append(f"  actions: {report['actions']}")
    lines.append(f"  answers: {report['answers']}")
    lines.append(f"  masks: {report['masks']}   log: {report['log']}")
    lines.append(f"  growth from the middle third of the run to the last: {report['growth']}")
    lines += [f"FAILED: {text}" for text in report["failures"]] or ["passed"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--cycle-seconds", type=float, default=45.0, help="of storm between calms")
    parser.add_argument("--cameras", nargs="*", default=[], help="names; none: one, on `image`")
    parser.add_argument("--rate", type=float, default=20.0, help="of each camera, in Hz")
    parser.add_argument("--sizes", type=size_from_text, nargs="+", help="of good frames")
    parser.add_argument("--models", nargs="+", help="folders; default: ours and a copy of it")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("build/soak"), help="folder for logs")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        report = run(args, Path(folder))
    print(summary_text(report))
    if args.output:
        document = {
            "command": "python -m benchmarks.soak " + " ".join(sys.argv[1:]),
            "machine": dict(machine_facts()),
            "load_average_at_start": round(load, 1),
            **report,
        }
        args.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
