# SPDX-License-Identifier: Apache-2.0
"""Play a bag through the real nodes: recorder, segmentation node and player, each a process."""

import json
import time
from contextlib import ExitStack
from pathlib import Path

from sfseg_ros.evaluation.replay import Playback
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.recordings.message_bytes import COMPRESSED_IMAGE, IMAGE
from sfseg_ros.recordings.recording import Topic
from sfseg_ros.recordings.timeline import Timeline
from sfseg_ros.tools.demo_input import Input
from sfseg_ros.tools.processes import (
    Process,
    ProcessError,
    check_alive,
    parameter_options,
    process,
    ros_environment,
)

NODE_START_S = 180.0
SETTLE_S = 2.0
"""Time after the last image for its mask and for the diagnostics, which come once a second."""
MASK, CONFIDENCE = "/segmentation/mask", "/segmentation/confidence"
LABEL_MAP, DIAGNOSTICS = "/segmentation/label_map", "/diagnostics"


def play_through_node(
    played: Input, model: Manifest, backend: str, max_seconds: float, folder: Path
) -> Playback:
    """Start recorder and node, play the bag, and end all three in order. Raises ProcessError."""
    logs = folder / "logs"
    logs.mkdir(parents=True)
    environment = ros_environment()
    result_file = logs / "played.json"
    output_bag = folder / "output_bag"
    recorded = _recorded_topics(played)
    recorder_options = [str(output_bag), *recorded, "--wait-for", MASK, LABEL_MAP]
    listeners = 2 if played.image_topic.name in recorded else 1
    player_options = _player_options(played, listeners, max_seconds, result_file)
    node_options = _node_options(played, model, backend)
    with ExitStack() as processes:
        recorder = processes.enter_context(
            process("bag_recorder", recorder_options, logs / "recorder.log", environment)
        )
        node = processes.enter_context(
            process("segmentation_node", node_options, logs / "node.log", environment)
        )
        _wait_until_ready(recorder, node)
        player = processes.enter_context(process("bag_player", player_options, None, environment))
        _wait_for_end(player, recorder, node)
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


def _node_options(played: Input, model: Manifest, backend: str) -> list[str]:
    network_size = "auto"
    if played.image_size is not None:
        network_size = "{}x{}".format(*model.network_size_for(played.image_size))
    compressed = played.image_topic.type == COMPRESSED_IMAGE
    parameters = {
        "model_dir": str(model.directory.resolve()),
        "image_transport": "compressed" if compressed else "raw",
        "backend": backend,
        "network_size": network_size,
    }
    return ["--ros-args", "-r", _remapping(played.image_topic), *parameter_options(parameters)]


def _player_options(
    played: Input, listeners: int, max_seconds: float, result_file: Path
) -> list[str]:
    options = [str(played.bag), "--topic", played.image_topic.name]
    options += ["--also", *played.other_topics]
    options += ["--listeners", str(listeners), "--result", str(result_file)]
    return [*options, "--max-seconds", str(max_seconds)]


def _wait_until_ready(recorder: Process, node: Process) -> None:
    """Wait until the recorder has found the node's topics; earlier masks would not be recorded."""
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


def _wait_for_end(player: Process, recorder: Process, node: Process) -> None:
    """Wait for the player's end and the last mask. Raises ProcessError if a process fails."""
    while player.popen.poll() is None:
        check_alive(recorder, node)
        time.sleep(0.1)
    if player.popen.returncode != 0:
        raise ProcessError(f"the player ended with status {player.popen.returncode}")
    time.sleep(SETTLE_S)
    check_alive(recorder, node)


def _remapping(topic: Topic) -> str:
    """The rule that maps the node's input to the topic. The node itself adds /compressed to the
    new name of `image`."""
    if topic.type == IMAGE:
        return f"image:={topic.name}"
    if topic.name.endswith("/compressed"):
        return f"image:={topic.name.removesuffix('/compressed')}"
    return f"/image/compressed:={topic.name}"


def _recorded_topics(played: Input) -> list[str]:
    """Options of the recorder. Compressed images are recorded too, so that the output bag shows
    them with their masks. Raw images are not: their volume would slow the measured node."""
    options = ["--topic", MASK, IMAGE, "--topic", CONFIDENCE, IMAGE]
    options += ["--topic", DIAGNOSTICS, "diagnostic_msgs/msg/DiagnosticArray"]
    options += ["--latched", LABEL_MAP, "std_msgs/msg/String"]
    for topic in (played.image_topic, played.truth_topic):
        if topic is not None and topic.type == COMPRESSED_IMAGE:
            options += ["--topic", topic.name, topic.type]
    return options
