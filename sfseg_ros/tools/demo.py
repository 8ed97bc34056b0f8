# SPDX-License-Identifier: Apache-2.0
"""Play a recording through the ROS 2 node and write a folder with the results.

The folder holds a bag, a video, pictures and report.html. The input is a bag, a video file, a
folder of pictures, or the recorded drive of the source tree. If a topic of the bag ends in
`ground_truth`, the report includes mIoU. The last line on stdout is the path of the report.
"""

import argparse
import math
import re
import signal
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sfseg_ros.evaluation.replay import Playback, last_diagnostics, summarise
from sfseg_ros.evaluation.report import Report, summary_lines, write_report
from sfseg_ros.installed_files import DEFAULT_MODEL, DEMO_DRIVE, expanded, find_model
from sfseg_ros.model.manifest import Manifest, load_manifest
from sfseg_ros.tools.demo_input import Input, open_input
from sfseg_ros.tools.demo_nodes import play_through_node
from sfseg_ros.tools.machine import machine_facts
from sfseg_ros.tools.processes import ProcessError, check_ros
from sfseg_ros.tools.terminal import check_output, say

LONGEST_NAME = 60
"""Characters of the input's name in the name of the folder."""
METHOD = (
    "The node, the player and the recorder are three processes on this machine that communicate "
    "through ROS 2 only (rclpy, Fast DDS with config/fastdds_large_images.xml).",
    "The player publishes the recorded images in real time and shifts all stamps by one constant, "
    "so that the drive happens now.",
    "Latency: arrival of ~/mask at the recorder minus the stamp in its header, which is the time "
    "at which the image was due to be published. All masks count, the first ones included. Frames "
    "without a mask (replaced, lost) have no latency.",
    "In, replaced and rejected are the node's counters from its last /diagnostics. Out is the "
    "number of masks in the recording. Lost is the larger of two numbers: played minus in, and "
    "the frames that the middleware reported as lost.",
    "Overlays and colours were drawn after the run from the recorded masks.",
)
METHOD_OF_SIZE = (
    "The node got the network size for this camera at its start (parameter network_size), as on a "
    "robot with a known camera. Otherwise the first frame waits until the model is compiled."
)
METHOD_OF_MIOU = (
    "mIoU: one confusion matrix counts all pixels of all frames with a mask; mIoU is the mean "
    "intersection over union of the classes that occur. Pixels without a true class do not count."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of demo."""
    parser.add_argument(
        "--input", type=Path, help="bag, video file or folder of pictures; default: recorded drive"
    )
    parser.add_argument("--topic", help="image topic, if the bag has several")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo_output"),
        help="parent of the new folder (default demo_output)",
    )
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="model directory, or the name of one in models/"
    )
    parser.add_argument(
        "--backend", default="auto", help="inference library of the node (default auto)"
    )
    parser.add_argument(
        "--picture-rate",
        type=_positive,
        default=2.0,
        metavar="HZ",
        help="rate at which a folder of pictures is played (default 2)",
    )
    parser.add_argument(
        "--max-seconds",
        type=_positive,
        default=60.0,
        metavar="S",
        help="play only the first seconds (default 60)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; the last line on stdout is the path of the report."""
    # A closed terminal and SIGTERM end the nodes in order, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    print(run_demo(args))
    return 0


def run_demo(args: argparse.Namespace) -> Path:
    """Play, record, evaluate; returns the path of the report. Raises SfsegError or OSError."""
    check_ros()
    model = load_manifest(find_model(args.model))
    # An absolute path: FFmpeg takes `a:b.mp4` for a file of the protocol `a`.
    source = args.input and expanded(args.input).absolute()
    folder = _new_folder(args.output, source)
    try:
        with tempfile.TemporaryDirectory(prefix="sfseg_demo_") as scratch:
            say(f"input: {source or DEMO_DRIVE}")
            played = open_input(
                source, args.topic, args.picture_rate, args.max_seconds, Path(scratch) / "input"
            )
            say(f"model {model.name}: starting the node")
            playback = play_through_node(played, model, args.backend, args.max_seconds, folder)
            say("evaluating the recorded masks, drawing overlays")
            return _evaluate(playback, played, model, folder)
    except BaseException:
        _remove_empty(folder)
        raise


def _evaluate(playback: Playback, played: Input, model: Manifest, folder: Path) -> Path:
    """Write video, pictures and report, print a summary; returns the path of the report."""
    result = summarise(playback, model, folder)
    report = Report(
        title="sfseg_ros: a drive through the node",
        source=played.description,
        manifest=model,
        result=result,
        counts=last_diagnostics(playback.output_bag),
        machine=machine_facts(),
        method=[
            *METHOD,
            *([METHOD_OF_SIZE] if played.image_size else []),
            *([METHOD_OF_MIOU] if result.confusion else []),
        ],
    )
    path = write_report(report, folder / "report.html")
    for line in summary_lines(report):
        say(line)
    if result.masks == 0:
        raise ProcessError(f"no mask came back; see {folder / 'logs' / 'node.log'} and {path}")
    return path


def _remove_empty(folder: Path) -> None:
    """Delete the empty files and folders that an unfinished run leaves."""
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder comes after its files
        with suppress(OSError):
            if path.is_dir():
                path.rmdir()
            elif path.stat().st_size == 0:
                path.unlink()
    with suppress(OSError):
        folder.rmdir()


def _new_folder(output: Path, source: Path | None) -> Path:
    """Make a new folder below `output`, named by the time and the input."""
    output = expanded(output).resolve()
    check_output(output)
    name = (source or Path(DEMO_DRIVE)).stem
    name = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)
    stem = f"{datetime.now():%Y%m%d_%H%M%S}_{name[:LONGEST_NAME]}"
    for attempt in range(100):
        folder = output / (stem if attempt == 0 else f"{stem}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ProcessError(f"{folder}: cannot be made ({error.strerror})") from error
        return folder
    raise ProcessError(f"{output}: a hundred runs in one second; try again")


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return number
