# SPDX-License-Identifier: Apache-2.0
"""The node as a process: start, end, and errors at start."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import rclpy
from onnx import TensorProto, helper, numpy_helper
from sensor_msgs.msg import Image

from sfseg_ros.model.manifest import load_manifest, save_manifest, sha256_of_file
from sfseg_ros.tools.processes import parameter_options, unused_domain

WAIT_S = 60


class Process:
    """A running node and its output so far."""

    def __init__(self, *arguments, program=("-m", "sfseg_ros.nodes.segmentation_node")):
        self.domain = unused_domain()
        environment = os.environ | {
            "ROS_DOMAIN_ID": str(self.domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "PYTHONUNBUFFERED": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, *program, "--ros-args", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self.output += line

    def wait_for(self, words):
        end = time.monotonic() + WAIT_S
        while words not in self.output:
            assert time.monotonic() < end, self.output
            assert self._process.poll() is None, self.output
            time.sleep(0.02)

    def send(self, number):
        self._process.send_signal(number)

    def returncode(self):
        try:
            return self._process.wait(WAIT_S)
        finally:
            self._process.kill()
            self._reader.join()


@pytest.fixture
def start(tiny_model):
    processes = []

    def start(*arguments, **more):
        defaults = ("-p", f"model_dir:={tiny_model}", "-p", "backend:=onnxruntime")
        processes.append(Process(*defaults, *arguments, **more))
        return processes[-1]

    yield start
    for process in processes:
        process.send(signal.SIGKILL)
        process.returncode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0_and_without_a_traceback(start, number):
    process = start()
    process.wait_for("waiting for images on /image")
    process.send(number)
    assert process.returncode() == 0
    assert "Traceback" not in process.output
    assert "Error" not in process.output


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("then", [signal.SIGINT, signal.SIGTERM])
def test_signals_during_the_clean_up_are_ignored(start, first, then):
    """A terminal or systemd sends one signal to the node, and ros2 launch sends another."""
    process = start()
    process.wait_for("waiting for images on /image")
    begin = time.monotonic()
    process.send(first)
    for _ in range(10):
        time.sleep(0.03)
        process.send(then)
    assert process.returncode() == 0
    assert time.monotonic() - begin < 10
    assert "rror" not in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    "line",
    [
        "segmentation",  # the first line of the node, long before the model
        "/segmentation/mask",  # the node is being configured
    ],
)
def test_a_signal_before_the_model_is_loaded_ends_it_with_0(start, line):
    process = start("--log-level", "rcl:=debug")
    process.wait_for(line)
    process.send(signal.SIGINT)
    assert process.returncode() == 0
    assert "Traceback" not in process.output
    assert "cannot load the model" not in process.output


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("KeyboardInterrupt", ""),
        ("ImportError from KeyboardInterrupt()", ""),
        ("RuntimeError", "RuntimeError"),
    ],
)
def test_only_ctrl_c_during_the_imports_has_no_traceback(error, said):
    command = f"import sfseg_ros.nodes; raise {error}"
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert ended.returncode != 0
    assert ended.stderr.strip().rpartition("\n")[2] == said


def test_namespace_name_and_topic_come_from_the_command_line(start):
    process = start("-r", "__ns:=/left", "-r", "__node:=eye", "-r", "image:=/camera/image_raw")
    process.wait_for("[left.eye]: waiting for images on /camera/image_raw")


def test_compressed_images_follow_the_remapped_topic(start):
    process = start("-r", "image:=/camera/image_raw", "-p", "image_transport:=compressed")
    process.wait_for("waiting for images on /camera/image_raw/compressed")


def test_a_remapped_topic_may_end_in_compressed(start):
    process = start("-r", "image:=/camera/compressed", "-p", "image_transport:=compressed")
    process.wait_for("waiting for images on /camera/compressed\n")


def test_a_missing_model_is_one_line_and_the_node_continues(start):
    process = start("-p", "model_dir:=/no/such/model")
    process.wait_for("cannot load the model: model '/no/such/model'")
    process.send(signal.SIGINT)
    assert process.returncode() == 0
    assert "Traceback" not in process.output


@pytest.mark.parametrize("setting", ["overlay_alpha:=3.0", "threads:=many", "backend:=cuda"])
def test_a_bad_parameter_at_start_is_one_line_and_exit_code_1(start, setting):
    process = start("-p", setting)
    assert process.returncode() == 1
    assert "Traceback" not in process.output
    assert setting.split(":")[0] in process.output.strip().splitlines()[-1]


def test_a_parameter_file_that_cannot_be_read_is_one_line_and_exit_code_1(start, tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("segmentation: [")
    process = start("--params-file", str(file))
    assert process.returncode() == 1
    assert "Traceback" not in process.output
    assert str(file) in process.output


@pytest.mark.parametrize(
    "name",
    ["x #2", "x: y", "it's", '"', "[a, b]", "1.0", "~", "*a", "back\\slash", "Straße 😀", "a\n b"],
)
def test_a_model_folder_with_any_name_is_found(start, tiny_model, tmp_path, name):
    (tmp_path / "x").symlink_to("/")  # YAML reads "x #2" as "x"
    folder = shutil.copytree(tiny_model, tmp_path / name)
    wanted = parameter_options({"model_dir": str(folder), "file_roots": [str(tmp_path)]})
    process = start(*wanted)
    process.wait_for("model tiny_rgb, 3 classes")


@pytest.fixture
def endless_model(tiny_model, tmp_path):
    """Makes a copy of the tiny model with a loop over its scores that runs 2**62 times.

    With `bright`, the loop runs only for an image that is not black, so the warm-up succeeds.
    """

    def make(bright=False):
        folder = shutil.copytree(tiny_model, tmp_path / "endless")
        model = onnx.load(folder / "model.onnx")
        nodes = list(model.graph.node)
        tail = next(node for node in nodes if node.op_type == "UpsampleArgmax")
        trips = [numpy_helper.from_array(np.array(2**62, np.int64), "trips")]
        before = []
        if bright:
            trips = [numpy_helper.from_array(np.array(2**54, np.int64), "trips_per_level")]
            before = [
                helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.INT64),
                helper.make_node("ReduceMax", ["levels"], ["level"], keepdims=0),
                helper.make_node("Mul", ["level", "trips_per_level"], ["trips"]),
            ]
        before.append(_loop(tail.input[0]))
        tail.input[0] = "looped"
        nodes[nodes.index(tail) : nodes.index(tail)] = before
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend([*trips, numpy_helper.from_array(np.array(True), "go")])
        onnx.checker.check_model(model)
        onnx.save(model, folder / "model.onnx")
        sha256 = sha256_of_file(folder / "model.onnx")
        save_manifest(replace(load_manifest(folder, verify_hash=False), onnx_sha256=sha256))
        return folder

    return make


def _loop(scores):
    values = [("step", TensorProto.INT64, []), ("go_on", TensorProto.BOOL, [])]
    values.append(("scores_in", TensorProto.FLOAT, None))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("Identity", ["scores_in"], ["scores_out"]),
        ],
        "body",
        [helper.make_tensor_value_info(*value) for value in values],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("scores_out", TensorProto.FLOAT, None),
        ],
    )
    return helper.make_node("Loop", ["trips", "go", scores], ["looped"], body=body)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_endless_load_is_one_line_and_does_not_delay_the_end(start, endless_model, backend):
    pytest.importorskip(backend)
    options = ("-p", f"model_dir:={endless_model()}", "-p", f"backend:={backend}")
    process = start(*options, "-p", "load_timeout_s:=3.0")
    process.wait_for("did not end within 3 s; its thread runs until the process ends")
    begin = time.monotonic()
    process.send(signal.SIGINT)
    assert process.returncode() == 0
    assert time.monotonic() - begin < 10
    assert "Traceback" not in process.output
    assert process.output.count("[ERROR]") == 1


def test_a_signal_during_an_endless_warm_up_ends_the_process(start, endless_model):
    process = start("-p", f"model_dir:={endless_model()}", "--log-level", "rcl:=debug")
    process.wait_for("/segmentation/mask")
    time.sleep(2)
    process.send(signal.SIGTERM)
    assert process.returncode() == 0
    assert "Traceback" not in process.output


def test_an_endless_frame_does_not_delay_the_end(start, endless_model, monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    code = "from sfseg_ros.nodes import segmentation_node as n; n.END_S = 2.0; n.main()"
    folder = endless_model(bright=True)
    process = start("-p", f"model_dir:={folder}", program=("-c", code))
    process.wait_for("waiting for images on /image")
    context = rclpy.Context()
    context.init(args=None, domain_id=process.domain)
    camera = rclpy.create_node("camera", context=context)
    masks = camera.create_subscription(Image, "/segmentation/mask", lambda mask: None, 1)
    publisher = camera.create_publisher(Image, "/image", 1)
    until_s = time.monotonic() + 60
    while not (
        publisher.get_subscription_count() and camera.count_publishers("/segmentation/mask")
    ):
        assert time.monotonic() < until_s, "the node does not see camera and subscriber"
        time.sleep(0.1)
    for _ in range(50):
        publisher.publish(Image(height=2, width=2, step=6, encoding="rgb8", data=[9] * 12))
        time.sleep(0.1)
    assert masks.handle
    process.send(signal.SIGINT)
    assert process.returncode() == 1
    assert process.output.endswith("segmentation_node: an inference did not end within 2 s\n")
    camera.destroy_node()
    context.try_shutdown()
