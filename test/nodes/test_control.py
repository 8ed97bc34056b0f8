# SPDX-License-Identifier: Apache-2.0
"""Changes while frames arrive: parameters, services, the model."""

import itertools
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rcl_interfaces.srv import ListParameters
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from sfseg_ros.errors import BackendError
from sfseg_ros.nodes import segmentation_node
from sfseg_ros.nodes.middleware import latched_qos


@pytest.fixture
def other_model(tiny_model, tmp_path):
    """The tiny model under another name, with name and colour of red and blue swapped."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    path = folder / "manifest.yaml"
    document = yaml.safe_load(path.read_text())
    document["name"] = "other"
    document["classes"].reverse()
    path.write_text(yaml.safe_dump(document))
    return folder


@pytest.fixture
def flow(bench):
    """Frames at 50 Hz for the duration of the test, and their masks."""

    class Flow:
        def __init__(self, masks):
            self.masks = masks

        def go_on(self):
            """Wait for at least three more masks."""
            bound = len(self.masks) + 3
            bench.wait_until(lambda: len(self.masks) >= bound, "masks flow")

    ended = threading.Event()
    threads = []

    def start():
        masks = bench.listen("/segmentation/mask")
        camera, image = bench.camera(), bench.rgb_image(bench.three_stripes())

        def publish():
            while not ended.wait(0.02):
                camera.publish(image)

        threads.append(threading.Thread(target=publish))
        threads[-1].start()
        flow = Flow(masks)
        flow.go_on()
        return flow

    yield start
    ended.set()
    for thread in threads:
        thread.join()


def names_in(label_maps):
    return [json.loads(message.data)["model"] for message in label_maps]


def test_the_model_can_be_changed_while_frames_arrive(bench, flow, tiny_model, other_model):
    node = bench.started()
    label_maps = bench.listen("/segmentation/label_map", String, latched_qos())
    flow = flow()
    for directory, name in ((other_model, "other"), (tiny_model, "tiny_rgb")) * 2:
        assert bench.set_parameter("model_dir", str(directory)).successful
        bench.wait_until(lambda n=name: names_in(label_maps)[-1:] == [n], f"{name} is in use")
        assert node._segmenter.manifest.name == name
        flow.go_on()
    assert node.state_label == "active"
    counts = bench.counts(node)
    assert counts["rejected"] == 0


def test_an_invalid_model_is_refused_at_once_and_the_old_one_stays(bench, flow, tmp_path):
    node = bench.started()
    flow = flow()
    (tmp_path / "manifest.yaml").write_text("name: nonsense")
    for directory in (f"{tmp_path}/none", str(tmp_path), "~nobody_here/model", "x" * 300):
        result = bench.set_parameter("model_dir", directory)
        assert not result.successful
        assert directory in result.reason
        flow.go_on()
    assert node._segmenter.manifest.name == "tiny_rgb"


def test_a_model_that_fails_to_load_is_reported_and_the_parameter_is_restored(
    bench, flow, tiny_model, other_model
):
    node = bench.started()
    flow = flow()
    onnx = other_model / "model.onnx"
    onnx.write_bytes(b"no network")
    document = yaml.safe_load((other_model / "manifest.yaml").read_text())
    import hashlib

    document["onnx"]["sha256"] = hashlib.sha256(b"no network").hexdigest()
    (other_model / "manifest.yaml").write_text(yaml.safe_dump(document))
    assert bench.set_parameter("model_dir", str(other_model)).successful
    bench.wait_until(
        lambda: node.get_parameter("model_dir").value == str(tiny_model), "the old name"
    )
    flow.go_on()
    assert "stays in use" in bench.wait_until(
        lambda: "not a valid ONNX file" in bench.log() and bench.log(), "an error"
    )
    bench.wait_until(
        lambda: [s for s in bench.diagnostics if "ONNX" in s["last_error"]], "diagnostics"
    )


@pytest.fixture
def hold(monkeypatch):
    """`hold(folder)`: its model opens only after `go_on` is set, or not at all with `fails`."""

    held_back = []

    class Held:
        def __init__(self, folder, fails=False):
            self.begun, self.go_on = threading.Event(), threading.Event()
            held_back.append(self)
            open_segmenter = segmentation_node.open_segmenter

            def held(directory, *arguments):
                if str(directory) == str(folder):
                    self.begun.set()
                    assert self.go_on.wait(20)
                    if fails:
                        raise BackendError("no network")
                return open_segmenter(directory, *arguments)

            monkeypatch.setattr(segmentation_node, "open_segmenter", held)

    yield Held
    for held in held_back:  # a failed test must not leave its thread to the next one
        held.go_on.set()


def test_a_model_requested_while_the_first_one_loads_is_loaded_next(
    bench, hold, tiny_model, other_model
):
    first = hold(tiny_model)
    node = bench.start()
    assert first.begun.wait(20)
    assert bench.set_parameter("model_dir", str(other_model)).successful
    first.go_on.set()
    bench.wait_until(lambda: (s := node._segmenter) and s.manifest.name == "other", "the other")


def test_a_model_requested_while_a_bad_one_loads_is_loaded_next(
    bench, hold, tiny_model, other_model, tmp_path
):
    node = bench.started()
    bad = shutil.copytree(tiny_model, tmp_path / "bad")
    loading = hold(bad, fails=True)
    assert bench.set_parameter("model_dir", str(bad)).successful
    assert loading.begun.wait(20)
    assert bench.set_parameter("model_dir", str(other_model)).successful
    loading.go_on.set()
    bench.wait_until(lambda: node._segmenter.manifest.name == "other", "the other")
    assert node.get_parameter("model_dir").value == str(other_model)


def test_a_parameter_set_while_topics_are_created_keeps_its_value(bench):
    """rclpy declares `qos_overrides` in the thread that creates the topic, which calls the node."""
    node = bench.started(cameras=["a", "b", "c", "d"])
    ended = threading.Event()

    def declare():
        names = (f"qos_overrides.topic_{i}" for i in itertools.count())
        while not ended.is_set():
            node.declare_parameter(next(names), 1)

    thread = threading.Thread(target=declare)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for alpha in np.linspace(0, 1, 100).tolist():
            node.set_parameters([Parameter("overlay_alpha", value=alpha)])
            time.sleep(0.001)
            assert node._settings.node.overlay_alpha == alpha
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        thread.join()


def test_parameters_can_be_listed_while_topics_declare_theirs(bench):
    node = bench.start(autostart=False)
    ended = threading.Event()

    def declare():
        for name in (f"qos_overrides.topic_{i}" for i in range(3000)):
            node.declare_parameter(name, 1)
        ended.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=declare)
    thread.start()
    try:
        while not ended.is_set():
            assert bench.call(ListParameters, "list_parameters", ListParameters.Request())
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def test_groups_are_checked_against_the_model_that_is_loading(bench, hold, other_model, tmp_path):
    node = bench.started()
    loading = hold(other_model)
    document = yaml.safe_load((other_model / "manifest.yaml").read_text())
    document["classes"][0]["name"] = "violet"
    (other_model / "manifest.yaml").write_text(yaml.safe_dump(document))
    groups = tmp_path / "groups.yaml"
    names = [c["name"] for c in document["classes"]]
    groups.write_text(yaml.safe_dump({"groups": {"all": names}}))
    assert not bench.set_parameter("class_groups", str(groups)).successful
    assert bench.set_parameter("model_dir", str(other_model)).successful
    assert loading.begun.wait(20)
    result = bench.set_parameter("class_groups", str(groups))
    assert result.successful, result.reason
    loading.go_on.set()
    bench.wait_until(lambda: node._segmenter.manifest.name == "other", "the other")
    assert [c.name for c in node._mapping.classes] == ["all"]


def test_a_region_outside_the_image_does_not_block_a_new_model(bench):
    node = bench.started(region_of_interest=[0, 0, 128, 96])
    bench.listen("/segmentation/mask")
    bench.camera().publish(bench.rgb_image(bench.three_stripes(32, 32)))
    bench.wait_until(lambda: bench.counts(node)["rejected"], "the image is refused")
    response = bench.call(Trigger, "reload_model", Trigger.Request())
    assert response.success, response.message


def test_reload_reads_the_folder_again(bench, flow, tiny_model, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder)
    bench.started(model_dir=str(folder))
    label_maps = bench.listen("/segmentation/label_map", String, latched_qos())
    flow = flow()
    document = yaml.safe_load((folder / "manifest.yaml").read_text())
    document["name"] = "exported again"
    (folder / "manifest.yaml").write_text(yaml.safe_dump(document))
    response = bench.call(Trigger, "reload_model", Trigger.Request())
    assert response.success, response.message
    bench.wait_until(lambda: names_in(label_maps)[-1] == "exported again", "the new name")
    (folder / "manifest.yaml").unlink()
    response = bench.call(Trigger, "reload_model", Trigger.Request())
    assert not response.success
    assert "manifest.yaml" in response.message
    flow.go_on()


def test_reload_without_a_model_says_so(bench):
    bench.start(autostart=False)
    response = bench.call(Trigger, "reload_model", Trigger.Request())
    assert (response.success, "unconfigured" in response.message) == (False, True)


def test_classes_can_be_grouped_while_frames_arrive(bench, flow, tmp_path):
    bench.started()
    label_maps = bench.listen("/segmentation/label_map", String, latched_qos())
    flow = flow()
    groups = tmp_path / "groups.yaml"
    groups.write_text(
        "groups:\n  drivable: {classes: [red, blue], color: [1, 2, 3]}\n  ignore: [green]\n"
    )
    assert bench.set_parameter("class_groups", str(groups)).successful
    bench.wait_until(lambda: "drivable" in label_maps[-1].data, "the group's name")
    flow.go_on()
    labels = np.array(flow.masks[-1].data, np.uint8).reshape(96, 128)
    assert [labels[48, column] for column in (10, 64, 120)] == [0, 255, 0]
    groups.write_text("groups:\n  drivable: [red, bleu]\n")
    refused = bench.set_parameter("class_groups", str(groups) + "x")
    assert not refused.successful
    response = bench.call(Trigger, "reload_model", Trigger.Request())
    assert not response.success
    assert "bleu" in response.message
    flow.go_on()


def test_outputs_can_be_switched_off_and_on(bench, flow):
    node = bench.started()
    flow = flow()
    assert bench.set_parameter("outputs", ["overlay"]).successful
    bench.wait_until(lambda: bench.counts(node)["unwatched"] > 2, "frames are not segmented")
    assert not bench.set_parameter("outputs", ["mask", "picture"]).successful
    assert bench.set_parameter("outputs", ["mask"]).successful
    flow.go_on()


def test_a_disabled_node_skips_frames_and_keeps_the_model(bench, flow):
    node = bench.started()
    flow = flow()
    assert bench.call(SetBool, "set_enabled", SetBool.Request(data=False)).success
    bench.wait_until(lambda: bench.counts(node)["skipped"] > 2, "frames are skipped")
    assert node._segmenter is not None
    bench.wait_until(
        lambda: [s for s in bench.diagnostics if "disabled" in s["message"]], "diagnostics"
    )
    assert bench.call(SetBool, "set_enabled", SetBool.Request(data=True)).success
    flow.go_on()


def test_a_snapshot_has_image_mask_overlay_and_metadata(bench, flow, tmp_path):
    bench.started(snapshot_dir=str(tmp_path))
    flow()
    response = bench.call(Trigger, "save_snapshot", Trigger.Request())
    assert response.success, response.message
    folder = Path(response.message)
    assert folder.parent == tmp_path
    rgb = cv2.imread(str(folder / "image.png"))[:, :, ::-1]
    np.testing.assert_array_equal(rgb, bench.three_stripes())
    mask = cv2.imread(str(folder / "mask.png"), cv2.IMREAD_UNCHANGED)
    assert [mask[48, column] for column in (10, 64, 120)] == [0, 1, 2]
    assert (folder / "overlay.png").is_file()
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["model"] == "tiny_rgb"
    assert metadata["frame_id"] == "camera_optical"
    assert metadata["stamp_ns"] == 7_000_000_000


def test_a_snapshot_without_frames_says_so(bench, tmp_path):
    bench.started(snapshot_dir=str(tmp_path))
    response = bench.call(Trigger, "save_snapshot", Trigger.Request())
    assert not response.success
    assert response.message == "no frame of the camera within 2 s"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("folder", "problem"),
    [("file", "cannot be written"), ("~nobody_here/snapshots", "home directory")],
)
def test_a_snapshot_that_cannot_be_written_says_so(
    bench, flow, tmp_path, monkeypatch, folder, problem
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    bench.started(snapshot_dir=folder)
    flow = flow()
    response = bench.call(Trigger, "save_snapshot", Trigger.Request())
    assert not response.success
    assert problem in response.message
    flow.go_on()


def test_a_snapshot_needs_no_subscriber(bench, tmp_path):
    bench.started(snapshot_dir=str(tmp_path))
    camera, image = bench.camera(), bench.rgb_image(bench.three_stripes())
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(bench.call(Trigger, "save_snapshot", Trigger.Request()))
    )
    thread.start()
    bench.wait_until(lambda: camera.publish(image) or answers, "an answer")
    thread.join()
    assert answers[0].success, answers[0].message


@pytest.mark.parametrize("name", ["model_dir", "class_groups"])
def test_a_path_outside_the_roots_is_refused_without_details(bench, flow, tmp_path, name):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "manifest.yaml").write_text("groups: hunter2")
    node = bench.started(file_roots=[str(tmp_path / "models")])
    flow = flow()
    path = secret if name == "model_dir" else secret / "manifest.yaml"
    for place in (str(path), f"{tmp_path}/models/../{path.relative_to(tmp_path)}"):
        result = bench.set_parameter(name, place)
        assert not result.successful
        assert "not below a folder that the node may read" in result.reason
        assert "hunter2" not in result.reason
    node.set_parameters([Parameter(name, value=str(path))])
    bench.call(Trigger, "reload_model", Trigger.Request())
    assert "hunter2" not in bench.log()
    flow.go_on()


def test_a_path_outside_the_roots_is_refused_at_configure(bench, tmp_path):
    node = bench.start(autostart=False, model_dir="sfnet_lite_r18_camvid", file_roots=[""])
    assert bench.set_parameter("model_dir", str(tmp_path)).successful  # no model is loaded yet
    node.trigger_configure()
    assert node.state_label == "unconfigured"
    bench.wait_until(
        lambda: "not below a folder that the node may read" in bench.log(), "the reason"
    )


@pytest.mark.parametrize("name", ["snapshot_dir", "file_roots"])
def test_the_folders_to_read_and_write_are_fixed_at_start(bench, tmp_path, name):
    bench.start(autostart=False)
    value = str(tmp_path) if name == "snapshot_dir" else [str(tmp_path)]
    result = bench.set_parameter(name, value)
    assert not result.successful
    assert "read-only" in result.reason


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "100,000 classes", "aliases"])
def test_hostile_files_are_refused_at_once(bench, flow, tmp_path, kind):
    bench.started()
    flow = flow()
    groups, folder = tmp_path / "groups.yaml", tmp_path / "model"
    if kind == "fifo":
        os.mkfifo(groups)
    elif kind == "/dev/zero":
        groups.symlink_to(kind)
    elif kind == "aliases":
        lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 1}]" for i in range(20)]
        groups.write_text("\n".join(lines))
    else:
        groups.write_text("groups: {a: [" + "c, " * 100_000 + "]}")
    folder.mkdir()
    (folder / "manifest.yaml").symlink_to(groups)
    for name, value in (("class_groups", groups), ("model_dir", folder)):
        begin = time.monotonic()
        result = bench.set_parameter(name, str(value))
        assert time.monotonic() - begin < 3
        assert not result.successful
        assert len(result.reason) < 500
        flow.go_on()


def test_a_model_that_does_not_open_in_time_leaves_the_old_one_in_use(
    bench, hold, flow, tiny_model, tmp_path
):
    node = bench.started(load_timeout_s=0.5)
    flow = flow()
    late = shutil.copytree(tiny_model, tmp_path / "late")
    loading = hold(late)
    assert bench.set_parameter("model_dir", str(late)).successful
    bench.wait_until(lambda: "did not end within 0.5 s" in bench.log(), "the deadline")
    # The node logs the refusal first and then takes the parameter back.
    bench.wait_until(
        lambda: node.get_parameter("model_dir").value == str(tiny_model), "the old model"
    )
    flow.go_on()
    loading.go_on.set()
    bench.wait_until(
        lambda: not [t for t in threading.enumerate() if t.name == "sfseg_work"], "the thread ends"
    )
    assert node._segmenter.manifest.directory == tiny_model
