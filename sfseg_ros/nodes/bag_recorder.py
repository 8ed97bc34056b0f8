# SPDX-License-Identifier: Apache-2.0
"""Records topics to a rosbag2 mcap, with the time of arrival as the log time.

It does what `ros2 bag record` does, but needs no ROS installation. A mask's log time minus its
header stamp is the latency as a subscriber sees it.
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
"""The line to print when all topics of --wait-for have publishers."""

_Item = tuple[str, int, bytes] | None


class BagRecorder(Node):
    """Receives messages without decoding them. A separate thread compresses and writes, so that the
    next message gets its time of arrival without delay."""

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
        # Last: if a message type is missing, no thread is left that the process would wait for.
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
            except Exception as error:  # such as a full disk; the main thread reports it
                self.error = error
                rclpy.try_shutdown()
                return

    def close(self) -> None:
        """Write the messages that have arrived. Raises BagError if writing failed."""
        self._queue.put(None)
        self._thread.join()
        if self.error is not None:
            raise BagError(f"{self._writer.path}: writing failed ({self.error})") from self.error

    def print_when_ready(self, wait_for: Sequence[str]) -> None:
        """Print READY when every topic of `wait_for` has a publisher."""

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
    parser.add_argument("output", type=Path, help="folder of the new bag; must not exist yet")
    for option, meaning in (
        ("--topic", "record this topic"),
        ("--latched", "record this transient-local topic"),
    ):
        parser.add_argument(
            option, nargs=2, action="append", default=[], metavar=("NAME", "TYPE"), help=meaning
        )
    parser.add_argument(
        "--wait-for",
        nargs="*",
        default=[],
        metavar="NAME",
        help=f"print {READY} when published",
    )
    args = parser.parse_args(argv)
    if not args.topic and not args.latched:
        parser.error("nothing to record: name at least one --topic NAME TYPE")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: record until SIGINT or SIGTERM, then complete the bag; return the status."""
    command_line = list(sys.argv if argv is None else ["bag_recorder", *argv])
    try:
        args = _arguments(start_rclpy(command_line))
        topics = [TopicToWrite(name, kind) for name, kind in args.topic]
        topics += [TopicToWrite(name, kind, latched=True) for name, kind in args.latched]
        with BagWriter(args.output, topics) as writer:
            recorder = BagRecorder(topics, writer)
            try:
                recorder.print_when_ready(args.wait_for)
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
    except KeyboardInterrupt:  # before the recording began
        return 130
    except Exception:
        if rclpy.ok():
            raise
        return 130  # the same: rclpy's handler shut the context down during the start
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
