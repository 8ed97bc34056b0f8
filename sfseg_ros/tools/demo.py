# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the real node as a process of its own, a recorded drive into its camera topic, and a
folder with what came out: a bag, a video, pictures and a report.

No ROS in this process; it starts `segmentation_node`, `bag_recorder` and `bag_player` and reads
their bag. The drive is the committed one, or any bag, video file or folder of pictures.
"""

import argparse
import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sfseg_ros.errors import BagError, ImageError, SfsegError
from sfseg_ros.evaluation.replay import Playback, last_diagnostics, summarise
from sfseg_ros.evaluation.report import Report, summary_lines, write_report
from sfseg_ros.installed_files import DEFAULT_MODEL, find_model, shared_file
from sfseg_ros.model.manifest import Manifest, load_manifest
from sfseg_ros.recordings.bags import (
    BagReader,
    Message,
    Timeline,
    Topic,
    bag_from_folder,
    bag_from_video,
    choose_image_topic,
    find_bag,
    find_ground_truth_topic,
)
from sfseg_ros.recordings.message_bytes import COMPRESSED_IMAGE, IMAGE, rgb_from_cdr
from sfseg_ros.tools.machine import machine_facts
from sfseg_ros.tools.processes import ProcessError, check_alive, process, ros_environment

DEMO_DRIVE = "test/data/town_drive"
NODE_START_S = 180.0
SIZE_SAMPLE = 20
SETTLE_S = 2.0
"""After the last image: the last mask, and diagnostics that count it (once a second)."""
MASK, CONFIDENCE = "/segmentation/mask", "/segmentation/confidence"
LABEL_MAP, DIAGNOSTICS = "/segmentation/label_map", "/diagnostics"

METHOD = (
    "The node, the player and the recorder are three processes that talk through ROS 2 (rclpy, "
    "Fast DDS with config/fastdds_large_images.xml) on this machine; nothing is called directly.",
    "The player publishes each recorded image in real time with all stamps shifted by one "
    "constant, so that the drive happens now.",
    "Latency: arrival of ~/mask at the recorder minus the stamp in its header, which is the "
    "moment at which the image was due to be published; all masks count, none is left out as "
    "warm-up. Frames without a mask (replaced, lost) have no latency.",
    "In, replaced and rejected are the node's own counters from its last /diagnostics; out is "
    "what the recorder got; lost is the larger of played minus in and what the middleware "
    "reported as lost.",
    "Overlays and colours were drawn afterwards from the recorded masks, not during the run.",
)
METHOD_OF_SIZE = (
    "The node was told the network's size for this camera (parameter network_size), as on a robot "
    "whose camera is known; else the first frame waits until the model is compiled for it."
)
METHOD_OF_MIOU = (
    "mIoU: intersection over union per class from one confusion matrix over all pixels of all "
    "frames that got a mask, mean over the classes that occur; pixels without a true class do "
    "not count."
)


@dataclass(frozen=True)
class Input:
    """A bag to play and what is in it; `image_size` (height, width) is None where its images
    differ, `description` says where it came from."""

    bag: Path
    image_topic: Topic
    image_size: tuple[int, int] | None
    truth_topic: Topic | None
    other_topics: tuple[str, ...]
    description: str


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the last line on stdout is the path of the report."""
    args = _arguments(argv)
    # A closed terminal must not leave the node and the recorder behind, nor must SIGTERM.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        report = run_demo(args)
    except (SfsegError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    print(report)
    return 0


def run_demo(args: argparse.Namespace) -> Path:
    """Play, record, evaluate; returns the report's path. Raises SfsegError."""
    model = load_manifest(find_model(args.model))
    folder = _new_folder(args.output, args.input)
    with tempfile.TemporaryDirectory(prefix="sfseg_demo_") as scratch:
        _say(f"input: {args.input or DEMO_DRIVE}")
        played_input = open_input(args, Path(scratch) / "input")
        _say(f"model {model.name}: starting the node")
        playback = play_through_node(played_input, model, args.backend, args.max_seconds, folder)
        _say("evaluating the recorded masks, drawing overlays")
        result = summarise(playback, model, folder)
    report = Report(
        title="sfseg_ros: a drive through the node",
        source=played_input.description,
        manifest=model,
        result=result,
        counts=last_diagnostics(playback.output_bag),
        machine=machine_facts(),
        method=[
            *METHOD,
            *([METHOD_OF_SIZE] if played_input.image_size else []),
            *([METHOD_OF_MIOU] if result.confusion else []),
        ],
    )
    path = write_report(report, folder / "report.html")
    for line in summary_lines(report):
        _say(line)
    if result.masks == 0:
        raise ProcessError(f"no mask came back; see {folder / 'logs' / 'node.log'} and {path}")
    return path


# --- input --------------------------------------------------------------------------------------


def open_input(args: argparse.Namespace, scratch_bag: Path) -> Input:
    """The bag to play. Videos and folders of pictures are first made into one at `scratch_bag`, so
    that everything goes the same way."""
    if args.input is None:
        bag = shared_file(DEMO_DRIVE)
        if bag is None:
            raise BagError(
                f"{DEMO_DRIVE} is not here: it is part of the source tree; name an --input"
            )
        return _described(bag, args.topic, "the recorded drive of the repository")
    path = args.input.expanduser()
    if not path.exists():
        raise BagError(f"{path}: no such file or folder; INPUT= takes a bag, a video or a folder")
    if find_bag(path) is not None:
        return _described(path, args.topic, str(path))
    if path.is_dir():
        number = bag_from_folder(path, scratch_bag, args.picture_rate, _say)
        _say(f"{number} pictures, played at {args.picture_rate:g} per second")
    else:
        _say("reading the video")
        bag_from_video(path, scratch_bag, args.max_seconds)
    return _described(scratch_bag, None, str(path))


def _described(bag: Path, wanted: str | None, source: str) -> Input:
    with BagReader(bag) as reader:
        topics = reader.topics()
        image = choose_image_topic(topics, wanted)
        size = _common_size(itertools.islice(reader.messages([image.name]), SIZE_SAMPLE))
    truth = find_ground_truth_topic(topics)
    camera_info = [t.name for t in topics if t.type == "sensor_msgs/msg/CameraInfo"]
    others = [*([truth.name] if truth else []), *camera_info]
    description = f"{source}: {image.count} images on {image.name}"
    description += ", with ground truth" if truth else ", no ground truth"
    return Input(bag, image, size, truth, tuple(others), description)


def _common_size(images: Iterable[Message]) -> tuple[int, int] | None:
    """(height, width) of these images where all that can be read have the same."""
    sizes = set()
    for message in images:
        with suppress(BagError, ImageError):
            sizes.add(rgb_from_cdr(message.cdr, message.type).shape[:2])
    return sizes.pop() if len(sizes) == 1 else None


# --- the run ------------------------------------------------------------------------------------


def play_through_node(
    played: Input, model: Manifest, backend: str, max_seconds: float, folder: Path
) -> Playback:
    """Start recorder and node, play, and end both in order. Raises ProcessError."""
    logs = folder / "logs"
    logs.mkdir(parents=True)
    environment = ros_environment()
    compressed = played.image_topic.type == COMPRESSED_IMAGE
    camera = played.image_topic.name
    network_size = "auto"
    if played.image_size is not None:
        network_size = "{}x{}".format(*model.network_size_for(played.image_size))
    result_file = logs / "played.json"
    output_bag = folder / "output_bag"
    with ExitStack() as processes:
        recorded = _recorded_topics(played)
        recorder = processes.enter_context(
            process(
                "bag_recorder",
                [str(output_bag), *recorded, "--wait-for", MASK, LABEL_MAP],
                logs / "recorder.log",
                environment,
            )
        )
        node = processes.enter_context(
            process(
                "segmentation_node",
                [
                    *("--ros-args", "-p", f"model_dir:={model.directory.resolve()}"),
                    *("-p", f"image_transport:={'compressed' if compressed else 'raw'}"),
                    *("-p", f"backend:={backend}", "-p", f"network_size:={network_size}"),
                    *("-r", _remapping(played.image_topic)),
                ],
                logs / "node.log",
                environment,
            )
        )
        # Only when the recorder listens to the masks may the first image go out.
        deadline = time.monotonic() + NODE_START_S
        while "ready" not in recorder.log_lines():
            check_alive(recorder, node)
            if error := node.first_error():
                raise ProcessError(f"the node did not start: {error}")
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"the node did not start in {NODE_START_S:.0f} s; {node.last_words()}"
                )
            time.sleep(0.1)
        time.sleep(0.5)
        listeners = 2 if camera in recorded else 1
        player = processes.enter_context(
            process(
                "bag_player",
                [
                    *(str(played.bag), "--topic", camera, "--also", *played.other_topics),
                    *("--listeners", str(listeners), "--result", str(result_file)),
                    *("--max-seconds", str(max_seconds)),
                ],
                None,
                environment,
            )
        )
        while player.popen.poll() is None:
            check_alive(recorder, node)
            time.sleep(0.1)
        if player.popen.returncode != 0:
            raise ProcessError(f"the player ended with status {player.popen.returncode}")
        time.sleep(SETTLE_S)
        check_alive(recorder, node)
        node.stop()
        recorder.stop()
    if not (output_bag / "metadata.yaml").is_file():
        raise ProcessError(f"the recorder left no bag; {recorder.last_words()}")
    what = json.loads(result_file.read_text(encoding="utf-8"))
    return Playback(
        input_bag=played.bag,
        image_topic=played.image_topic,
        truth_topic=played.truth_topic,
        clock=what["clock"],
        timeline=Timeline(what["first_ns"], what["start_ns"], what["rate"]),
        frames_played=what["images"],
        output_bag=output_bag,
        mask_topic=MASK,
    )


def _remapping(topic: Topic) -> str:
    """The node's input onto the topic: `image`, and for compressed images usually also `image`,
    to whose new name the node adds /compressed."""
    if topic.type == IMAGE:
        return f"image:={topic.name}"
    if topic.name.endswith("/compressed"):
        return f"image:={topic.name.removesuffix('/compressed')}"
    return f"/image/compressed:={topic.name}"


def _recorded_topics(played: Input) -> list[str]:
    """Recorder options. Compressed input is recorded too: the output bag then shows images and
    masks by itself. Raw images are not, their volume would slow down what is being measured."""
    options = ["--topic", MASK, IMAGE, "--topic", CONFIDENCE, IMAGE]
    options += ["--topic", DIAGNOSTICS, "diagnostic_msgs/msg/DiagnosticArray"]
    options += ["--latched", LABEL_MAP, "std_msgs/msg/String"]
    for topic in (played.image_topic, played.truth_topic):
        if topic is not None and topic.type == COMPRESSED_IMAGE:
            options += ["--topic", topic.name, topic.type]
    return options


def _new_folder(output: Path, source: Path | None) -> Path:
    """A folder of its own for each run, below `output`."""
    name = source.expanduser().resolve().stem if source else "town_drive"
    stem = f"{datetime.now():%Y%m%d_%H%M%S}_{name}"
    for attempt in range(100):
        folder = output.expanduser() / (stem if attempt == 0 else f"{stem}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ProcessError(f"{folder}: cannot be made ({error.strerror})") from error
        return folder.resolve()
    raise ProcessError(f"{output}: a hundred runs in one second; try again")


def _say(text: str) -> None:
    print(f"--- {text}", file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sfseg_demo", description=__doc__)
    parser.add_argument("--input", type=Path, help="bag, video file or folder of pictures")
    parser.add_argument("--topic", help="image topic of a bag with several")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="parent folder")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model folder, or name in models/")
    parser.add_argument("--backend", default="auto", help="auto, openvino or onnxruntime")
    parser.add_argument(
        "--picture-rate", type=float, default=2.0, help="pictures of a folder per second"
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=60.0,
        help="play only the beginning",
    )
    args = parser.parse_args(argv)
    for name in ("picture_rate", "max_seconds"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be more than 0")
    return args


if __name__ == "__main__":
    sys.exit(main())
