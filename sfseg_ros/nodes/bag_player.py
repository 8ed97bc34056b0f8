# SPDX-License-Identifier: Apache-2.0
"""Plays the images of a bag as if a camera took them now: in real time, with current stamps.

`ros2 bag play` keeps the recorded stamps, so a subscriber that measures the age of a frame finds
years (docs/adr/0006). The player publishes the recorded bytes and changes only the stamp.
"""

import argparse
import importlib
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from sfseg_ros.errors import BagError, SfsegError, one_line
from sfseg_ros.nodes.middleware import start_rclpy
from sfseg_ros.recordings.message_bytes import cdr_with_stamp
from sfseg_ros.recordings.opening import open_recording
from sfseg_ros.recordings.recording import Message, choose_image_topic
from sfseg_ros.recordings.timeline import Damage, Timeline, choose_clock, undamaged, with_times
from sfseg_ros.whole_files import write_whole

# As camera drivers publish: reliable also matches best-effort subscribers.
CAMERA_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE
)
CLOCK_SAMPLE = 100
LEAD_NS = 200_000_000
"""Time from when all subscribers are known to the first image."""


@dataclass(frozen=True)
class Played:
    """What the player published in one pass over the bag."""

    clock: str
    timeline: Timeline
    images: int


def message_class(type_name: str) -> Any:
    """The class of `package/msg/Name`. Raises BagError if the package is not installed."""
    package, _, name = type_name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise BagError(f"message type {type_name} is not installed here ({error})") from error


class BagPlayer:
    """An open bag; each call of `play` is one pass."""

    def __init__(
        self, node: Node, bag: Path, wanted: str | None, others: Sequence[str], rate: float
    ) -> None:
        self._bag, self._rate = bag, rate
        with open_recording(bag) as reader:
            topics = {t.name: t for t in reader.topics()}
            self.image_topic = choose_image_topic(list(topics.values()), wanted)
            self._names = [self.image_topic.name, *others]
            if missing := [name for name in others if name not in topics]:
                raise BagError(f"{bag}: no topic {missing[0]}; it has: {', '.join(topics)}")
            images = undamaged(reader.messages([self.image_topic.name]), Damage())
            self.clock = choose_clock(itertools.islice(images, CLOCK_SAMPLE))
        self._publishers: dict[str, Publisher] = {
            name: node.create_publisher(message_class(topics[name].type), name, CAMERA_QOS)
            for name in self._names
        }

    def wait_for_listeners(self, number: int, timeout_s: float) -> None:
        """Wait until `number` subscriptions match the image topic. Raises BagError."""
        publisher = self._publishers[self.image_topic.name]
        deadline = time.monotonic() + timeout_s
        while publisher.get_subscription_count() < number:
            if time.monotonic() > deadline:
                raise BagError(
                    f"{publisher.get_subscription_count()} of {number} listeners on "
                    f"{self.image_topic.name} after {timeout_s:.0f} s; is the node running, in "
                    "the same ROS_DOMAIN_ID, with its input remapped to this topic?"
                )
            time.sleep(0.05)

    def play(self, max_seconds: float) -> Played:
        """Play at most `max_seconds` of the recording in real time; return after the last message.

        Damaged messages are skipped, as in the report, and counted in a line at the end.
        """
        timeline: Timeline | None = None
        damage = Damage()
        images = 0
        for time_ns, message in self._timed_messages(damage):
            if timeline is None:
                timeline = Timeline(time_ns, time.time_ns() + LEAD_NS, self._rate)
            if time_ns - timeline.first_ns > max_seconds * 1e9:
                break
            due_ns = timeline.played_ns(time_ns)
            time.sleep(max(0, due_ns - time.time_ns()) / 1e9)
            self._publishers[message.topic].publish(cdr_with_stamp(message.cdr, due_ns))
            if message.topic == self.image_topic.name:
                images += 1
                _show_progress(images, self.image_topic.count, (time_ns - timeline.first_ns) / 1e9)
        if images == 0 or timeline is None:
            reason = f"; {damage}" if damage.count else ""
            raise BagError(f"{self._bag}: no image on {self.image_topic.name}{reason}")
        _show_progress(images, images, None)
        if damage.count:
            print(f"bag_player: not played: {damage}", file=sys.stderr, flush=True)
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=2))
        return Played(self.clock, timeline, images)

    def _timed_messages(self, damage: Damage) -> Iterator[tuple[int, Message]]:
        with open_recording(self._bag) as reader:
            yield from with_times(undamaged(reader.messages(self._names), damage), self.clock)


_progress_shown_ns = 0


def _show_progress(images: int, total: int, seconds: float | None) -> None:
    """Print progress at most once a second, on one line of a terminal; None ends the line."""
    global _progress_shown_ns
    now_ns = time.monotonic_ns()
    if seconds is not None and now_ns - _progress_shown_ns < 1_000_000_000:
        return
    _progress_shown_ns = now_ns
    start, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
    if seconds is None:
        rest = " " * 20 if start else ""  # clears the longer line before
        print(f"{start}played {images} images{rest}", file=sys.stderr, flush=True)
    else:
        text = f"playing: {images} of {total} images, {seconds:.0f} s"
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bag_player", description=__doc__)
    parser.add_argument("bag", type=Path, help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag file")
    parser.add_argument("--topic", help="image topic; required if the bag has several")
    parser.add_argument(
        "--also", nargs="*", default=[], metavar="TOPIC", help="topics to play as well"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="speed; 1 is real time")
    parser.add_argument("--loop", action="store_true", help="repeat until interrupted")
    parser.add_argument(
        "--max-seconds", type=float, default=float("inf"), help="play only the beginning"
    )
    parser.add_argument("--listeners", type=int, default=1, help="subscriptions to wait for")
    parser.add_argument("--timeout", type=float, default=60.0, help="maximum wait in seconds")
    parser.add_argument("--result", type=Path, help="JSON file to write: what was played, and when")
    args = parser.parse_args(argv)
    if not args.rate > 0:
        parser.error(f"--rate is {args.rate}, expected more than 0")
    return args


def _write_result(path: Path, played: Played) -> None:
    timeline = played.timeline
    document = {
        "clock": played.clock,
        "first_ns": timeline.first_ns,
        "start_ns": timeline.start_ns,
        "rate": timeline.rate,
        "images": played.images,
    }
    write_whole(path, json.dumps(document).encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    command_line = list(sys.argv if argv is None else ["bag_player", *argv])

    def interrupt(number: int, frame: FrameType | None) -> None:
        for later in (signal.SIGINT, signal.SIGTERM):  # ignore further signals during the end
            signal.signal(later, signal.SIG_IGN)
        raise KeyboardInterrupt

    # Python's handlers, because this process sleeps in Python between two images and rclpy's would
    # not wake it. SIGINT needs one too: a shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        args = _arguments(start_rclpy(command_line, SignalHandlerOptions.NO))
        node = rclpy.create_node("bag_player")
        player = BagPlayer(node, args.bag, args.topic, args.also, args.rate)
        player.wait_for_listeners(args.listeners, args.timeout)
        while True:
            played = player.play(args.max_seconds)
            if args.result:
                _write_result(args.result, played)
            if not args.loop:
                return 0
    except (SfsegError, OSError) as error:  # OSError: the result cannot be written
        print(f"bag_player: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        rclpy.try_shutdown()  # and the node with it


if __name__ == "__main__":
    sys.exit(main())
