# SPDX-License-Identifier: Apache-2.0
"""Records topics into a rosbag2 mcap, with the moment of arrival as the log time.

What `ros2 bag record` does, where there is no ROS installation. The difference of a mask's log time
and its header stamp is the latency as a subscriber sees it.
"""

import argparse
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from sfseg_ros.errors import BagError, SfsegError, one_line
from sfseg_ros.nodes.bag_player import message_class
from sfseg_ros.nodes.middleware import start_rclpy
from sfseg_ros.recordings.bag_writer import BagWriter, TopicToWrite

READY = "ready"
"""Printed on a line of its own once the topics of --wait-for have publishers."""

_Item = tuple[str, int, bytes] | None


class BagRecorder(Node):
    """Subscribes without decoding; a thread of its own compresses and writes, so that the arrival
    of the next message is not noted late."""

    def __init__(self, topics: Sequence[TopicToWrite], writer: BagWriter) -> None:
        super().__init__("bag_recorder")
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._writer = writer
        self.error: Exception | None = None
        for topic in topics:
            self.create_subscription(
                message_class(topic.type),
                topic.name,
                self._callback_for(topic.name),
                _qos(topic.latched),
                raw=True,
            )
        # Last, so that a message type that is missing leaves no thread that the process waits for.
        self._thread = threading.Thread(target=self._write_all, name="bag writer")
        self._thread.start()

    def _callback_for(self, name: str) -> Callable[[bytes], None]:
        def on_message(cdr: bytes) -> None:
            self._queue.put((name, time.time_ns(), cdr))

        return on_message

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._writer.write(*item)
            except Exception as error:  # a full disk: the main thread reports it
                self.error = error
                rclpy.try_shutdown()
                return

    def close(self) -> None:
        """Write what has arrived; raises BagError where writing failed."""
        self._queue.put(None)
        self._thread.join()
        if self.error is not None:
            raise BagError(f"{self._writer.path}: writing failed ({self.error})") from self.error

    def say_when_ready(self, wait_for: Sequence[str]) -> None:
        """Print READY as soon as every topic of `wait_for` has a publisher."""

        def check() -> None:
            if all(self.count_publishers(name) for name in wait_for):
                print(READY, flush=True)
                timer.cancel()

        timer = self.create_timer(0.1, check)


def _qos(latched: bool) -> QoSProfile:
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=20,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=durability,
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bag_recorder", description=__doc__)
    parser.add_argument("output", type=Path, help="folder of the new bag; must not exist")
    for option, meaning in (
        ("--topic", "record this topic"),
        ("--latched", "record this transient-local topic"),
    ):
        parser.add_argument(
            option, nargs=2, action="append", default=[], metavar=("NAME", "TYPE"), help=meaning
        )
    parser.add_argument(
        "--wait-for", nargs="*", default=[], metavar="NAME", help=f"print {READY} when published"
    )
    args = parser.parse_args(argv)
    if not args.topic and not args.latched:
        parser.error("nothing to record: name at least one --topic NAME TYPE")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; records until SIGINT or SIGTERM, then completes the bag. Returns the status."""
    command_line = list(sys.argv if argv is None else ["bag_recorder", *argv])
    try:
        args = _arguments(start_rclpy(command_line))
        topics = [TopicToWrite(name, kind) for name, kind in args.topic]
        topics += [TopicToWrite(name, kind, latched=True) for name, kind in args.latched]
        with BagWriter(args.output, topics) as writer:
            recorder = BagRecorder(topics, writer)
            try:
                recorder.say_when_ready(args.wait_for)
                rclpy.spin(recorder)
            except (KeyboardInterrupt, ExternalShutdownException):
                pass
            finally:
                # A second Ctrl-C must not leave a bag without metadata.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                recorder.close()
                recorder.destroy_node()
    except (SfsegError, OSError) as error:  # OSError: the end of the bag does not fit on the disk
        print(f"bag_recorder: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before there was anything to record
        return 130
    except Exception:
        if rclpy.ok():
            raise
        return 130  # the same: rclpy's handler shut the context down below what was being made
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
