# SPDX-License-Identifier: Apache-2.0
"""Several cameras, their geometry, and their own parameters."""

import json
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger

from sfseg_ros.nodes.middleware import input_qos, latched_qos
from sfseg_ros.nodes.parameters import CAMERA_FIELDS
from sfseg_ros.nodes.segmentation_node import SegmentationNode
from sfseg_ros.segmenter import Segmenter


def pixels(message):
    return np.array(message.data, np.uint8).reshape(message.height, message.width, -1).squeeze()


def test_cameras_of_different_sizes_keep_their_topics_stamps_and_counts_apart(bench):
    node = bench.started(cameras=["front", "rear", "left"])
    sizes = {"front": (96, 128), "rear": (60, 150), "left": (33, 47)}
    masks = {name: bench.listen(f"/segmentation/{name}/mask") for name in sizes}
    cameras = {name: bench.camera(topic=f"{name}/image") for name in sizes}
    for round_ in range(1, 4):
        for stamp, (name, size) in enumerate(sizes.items(), start=10 * round_):
            cameras[name].publish(bench.rgb_image(bench.three_stripes(*size), stamp))
        bench.wait_until(
            lambda n=round_: all(len(heard) == n for heard in masks.values()), f"round {round_}"
        )
    for index, (name, size) in enumerate(sizes.items()):
        assert [m.header.stamp.sec for m in masks[name]] == [10 + index, 20 + index, 30 + index]
        assert {(m.height, m.width) for m in masks[name]} == {size}
        labels = pixels(masks[name][-1])
        middle = labels[size[0] // 2]
        assert [middle[2], middle[size[1] // 2], middle[-3]] == [0, 1, 2]
        assert bench.counts(node, index)["segmented"] == 3
    names = {f"segmentation: {name}" for name in sizes}
    bench.wait_until(lambda: names <= {s["name"] for s in bench.diagnostics}, "a status for each")


def test_waiting_frames_of_several_cameras_form_one_batch(bench):
    node = bench.started(cameras=["a", "b", "c"])
    for name in "abc":
        bench.listen(f"/segmentation/{name}/mask")
    batches, segment = [], node._segmenter.segment_batch

    def watched(frames, confidence, **options):
        batches.append(len(frames))
        if len(batches) == 1:  # while the first is in work, two more arrive
            for camera in cameras[1:]:
                camera.publish(image)
            bench.wait_until(
                lambda: all(bench.counts(node, i)["received"] == 1 for i in (1, 2)), "both wait"
            )
        return segment(frames, confidence, **options)

    node._segmenter.segment_batch = watched
    cameras = [bench.camera(topic=f"{name}/image") for name in "abc"]
    image = bench.rgb_image(bench.three_stripes())
    cameras[0].publish(image)
    bench.wait_until(lambda: bench.counts(node, 2)["segmented"] == 1, "all three")
    assert batches == [1, 2]


def test_a_new_model_is_warmed_up_for_the_images_of_the_cameras(bench, monkeypatch):
    asked, warm_up = [], Segmenter.warm_up

    def watched(segmenter, images, *arguments, **more):
        asked.append((tuple(images), *arguments, *more.values()))
        return warm_up(segmenter, images, *arguments, **more)

    monkeypatch.setattr(Segmenter, "warm_up", watched)
    parameters = {"cameras": ["a", "b", "c", "d"], "b.horizon": 0.5, "confidence_threshold": 0.25}
    node = bench.started(**parameters)
    rules = node._label_rules(node._mapping)
    assert [row[0] for row in asked] == [(64, 96)]
    assert asked[0][1].threshold == rules.threshold == 0.25
    asked.clear()
    for index, name in enumerate("abc"):  # d has sent nothing
        camera = bench.camera(topic=f"{name}/image")
        camera.publish(bench.rgb_image(bench.three_stripes(60, 80)))
        bench.wait_until(lambda i=index: bench.counts(node, i)["unwatched"] == 1, name)
    assert bench.call(Trigger, "reload_model", Trigger.Request()).success
    like = (60, 80, "rgb8", 240, False)
    views = [(row[0], row[1].horizon, row[-1]) for row in asked[1:]]
    assert views == [(like, 0.0, 2), (like, 0.5, 1)]  # a and c come together
    asked.clear()
    assert node.set_parameters([Parameter("max_batch", value=1)])[0].successful
    assert bench.call(Trigger, "reload_model", Trigger.Request()).success
    assert [row[-1] for row in asked[1:]] == [1, 1]


def test_one_bad_camera_does_not_cost_the_others_their_frames(bench):
    node = bench.started(cameras=["good", "bad"])
    masks = bench.listen("/segmentation/good/mask")
    bench.listen("/segmentation/bad/mask")
    good, bad = bench.camera(topic="good/image"), bench.camera(topic="bad/image")
    for count in range(1, 4):
        bad.publish(Image(encoding="made_up", height=3, width=3))
        good.publish(bench.rgb_image(bench.three_stripes()))
        bench.wait_until(lambda n=count: len(masks) == n, f"mask {count}")
        bench.wait_until(lambda n=count: bench.counts(node, 1)["rejected"] == n, f"reject {count}")


def test_warnings_of_one_camera_do_not_suppress_those_of_another(bench):
    node = bench.started(cameras=["front", "rear"])
    cameras = [bench.camera(topic=f"{name}/image") for name in ("front", "rear")]
    for index, camera in enumerate(cameras):
        for count in (1, 2):
            camera.publish(Image(encoding="made_up", height=3, width=3))
            bench.wait_until(
                lambda i=index, n=count: bench.counts(node, i)["rejected"] == n, "it is rejected"
            )
        node._cameras[index]._on_camera_info(CameraInfo(height=70_000, width=9))
        for _ in range(2):
            node._cameras[index]._on_message_lost(SimpleNamespace(total_count_change=3))

    def said_of_both():
        return "frames of /rear/image lost" in bench.log()

    bench.wait_until(said_of_both, "the last of the lines")
    for name in ("front", "rear"):
        assert bench.log().count(f"frames of camera {name} rejected, 1 so far: ") == 1
        assert bench.log().count(f"{name}/camera_info: calibration of 70000x9") == 1
        assert bench.log().count(f"frames of /{name}/image lost by the middleware so far: 3") == 1
    assert "rejected, 2 so far" not in bench.log()
    assert "so far: 6" not in bench.log()


def test_a_camera_may_override_a_parameter(bench):
    node = bench.started(
        **{"cameras": ["front", "rear"], "output_size": "24x32", "rear.output_size": "image"}
    )
    masks = {name: bench.listen(f"/segmentation/{name}/mask") for name in ("front", "rear")}
    cameras = {name: bench.camera(topic=f"{name}/image") for name in masks}
    image = bench.rgb_image(bench.three_stripes())

    def sizes():
        for name, camera in cameras.items():
            before = len(masks[name])
            camera.publish(image)
            bench.wait_until(lambda n=name, b=before: len(masks[n]) > b, name)
        return [(masks[name][-1].height, masks[name][-1].width) for name in masks]

    assert sizes() == [(24, 32), (96, 128)]
    assert bench.set_parameter("rear.output_size", "48x64").successful
    assert sizes() == [(24, 32), (48, 64)]
    assert bench.set_parameter("output_size", "image").successful
    assert sizes() == [(96, 128), (48, 64)]
    refused = bench.set_parameter("rear.output_size", "huge")
    assert not refused.successful
    assert "rear.output_size is 'huge', expected" in refused.reason
    assert not bench.set_parameter("rear.max_rate", -1.0).successful
    assert node._settings.camera("rear").output_size == "48x64"


def test_it_starts_with_its_own_dumped_parameters(bench, tmp_path):
    """`ros2 param dump` writes null for an unset parameter, and the parser reads it as text."""
    file = tmp_path / "dump.yaml"
    own = dict.fromkeys(CAMERA_FIELDS) | {"max_rate": 5.0}
    document = {"/**": {"ros__parameters": {"cameras": ["front"], "front": own}}}
    file.write_text(yaml.safe_dump(document))
    node = SegmentationNode(
        context=bench.context, cli_args=["--ros-args", "--params-file", str(file)]
    )
    assert node._settings.own == {"front": {"max_rate": 5.0}}
    node.close()
    node.destroy_node()


@pytest.mark.parametrize("names", [["front", "front"], ["front camera"], ["/front"], ["front", ""]])
def test_invalid_camera_names_are_refused(bench, names):
    with pytest.raises(Exception, match="cameras"):
        bench.start(cameras=names)


@pytest.mark.parametrize(
    ("parameters", "size", "corner"),
    [
        ({"region_of_interest": [32, 24, 64, 48]}, (96, 128), 255),
        ({"horizon": 0.5}, (96, 128), 255),
        ({"fit": "crop", "network_size": "64x64"}, (96, 128), 255),
        ({"fit": "letterbox", "network_size": "64x64"}, (96, 128), 0),
        ({"region_of_interest": [32, 24, 64, 48], "output_size": "24x32"}, (24, 32), 0),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_the_mask_lines_up_with_the_image(bench, parameters, size, corner):
    bench.started(**parameters)
    masks = bench.listen("/segmentation/mask")
    infos = bench.listen("/segmentation/camera_info", CameraInfo)
    overlays = bench.listen("/segmentation/overlay")
    info = CameraInfo(height=96, width=128, k=[100.0, 0, 64, 0, 100, 48, 0, 0, 1])
    info.p = [100.0, 0, 64, 0, 0, 100, 48, 0, 0, 0, 1, 0]
    calibration = bench.tester.create_publisher(CameraInfo, "camera_info", input_qos())
    bench.wait_until(calibration.get_subscription_count, "camera_info is heard")
    calibration.publish(info)
    camera = bench.camera()
    rgb = bench.three_stripes()
    image = bench.rgb_image(rgb)

    def answered():
        camera.publish(image)
        return infos and overlays

    bench.wait_until(answered, "mask and camera_info")
    labels = pixels(masks[-1])
    assert labels.shape == size == (infos[-1].height, infos[-1].width) or size == (24, 32)
    assert (overlays[-1].height, overlays[-1].width) == size
    assert labels[0, 0] == corner
    if size == (96, 128):
        # The tiny network's pixels are blocks of 4x4, and the letterbox halves the image.
        away = [c for c in range(128) if min(abs(c - edge) for edge in (43, 86)) > 8]
        seen = labels[:, away] != 255
        truth = rgb.argmax(axis=2)[:, away]
        np.testing.assert_array_equal(labels[:, away][seen], truth[seen])
        assert seen.any()
        assert infos[-1].k[2] == 64
    assert infos[-1].header == masks[-1].header == image.header


@pytest.mark.parametrize(
    ("info", "size"),
    [
        (CameraInfo(height=7, width=9, k=[1.0, 0, 4, 0, 1, 3, 0, 0, 1]), "7x9"),
        (CameraInfo(height=96, width=128, binning_x=1000, binning_y=1000), "0x0"),
    ],
    ids=["other size", "binning to nothing"],
)
def test_a_camera_info_of_another_size_rejects_no_frame(bench, info, size):
    node = bench.started()
    masks = bench.listen("/segmentation/mask")
    bench.listen("/segmentation/camera_info", CameraInfo)
    calibration = bench.tester.create_publisher(CameraInfo, "camera_info", input_qos())
    bench.wait_until(calibration.get_subscription_count, "camera_info is heard")
    camera, image = bench.camera(), bench.rgb_image(bench.three_stripes())
    warning = f"camera_info is for images of {size}"

    def warned():
        calibration.publish(info)  # best effort: the first may be lost
        camera.publish(image)
        return any(warning in text for text in node._cameras[0]._warned)

    bench.wait_until(warned, "a warning")
    bench.wait_until(lambda: masks, "a mask")
    assert bench.counts(node)["rejected"] == 0


def test_a_region_outside_the_image_is_a_warning_that_names_the_parameter(bench):
    node = bench.started(region_of_interest=[500, 500, 64, 48])
    masks = bench.listen("/segmentation/mask")
    camera, image = bench.camera(), bench.rgb_image(bench.three_stripes())
    expected = (
        "image of 96x128 (height x width): region x 500 y 500 width 64 height 48 leaves it; set "
        "region_of_interest to "
    )

    def diagnosed():
        camera.publish(image)
        found = [s for s in bench.diagnostics if expected in s["message"]]
        return found and found[-1]

    status = bench.wait_until(diagnosed, "a status with the warning")
    assert status["level"] == "1"
    assert "frames rejected, last: " in status["message"]
    assert expected in status["last_error"]
    line = f"frames rejected, 1 so far: {expected}"
    bench.wait_until(lambda: line in bench.log(), "a line of the log")
    assert bench.set_parameter("region_of_interest", [32, 24, 64, 48]).successful

    def answered():
        camera.publish(image)
        return masks

    bench.wait_until(answered, "a mask")
    assert bench.counts(node)["segmented"] >= 1


def test_calibrations_may_arrive_while_the_worker_searches_them(bench):
    camera = bench.started()._cameras[0]
    info, ended = CameraInfo(height=96, width=128), threading.Event()

    def receive():
        while not ended.is_set():
            camera._on_camera_info(info)

    thread = threading.Thread(target=receive)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20_000):
            camera.calibration_of(0, (96, 128))
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        thread.join()


def test_subscriptions_share_no_callback_group_with_the_node(bench):
    """Humble's executor leaves a group locked if a transition destroys a subscription of it."""
    node = bench.started()
    for subscription in node._cameras[0]._subscriptions:
        assert subscription.callback_group is not node.default_callback_group


def test_pacing_skips_and_counts(bench):
    node = bench.started(every_nth=3)
    bench.listen("/segmentation/mask")
    camera = bench.camera()
    for stamp in range(9):
        camera.publish(bench.rgb_image(bench.three_stripes(), stamp))
        bench.wait_until(lambda n=stamp: bench.counts(node)["received"] == n + 1, f"frame {stamp}")
        bench.wait_until(lambda: bench.counts(node)["pending"] == 0, "done")
    counts = bench.counts(node)
    assert (counts["segmented"], counts["skipped"]) == (3, 6)


def test_frames_that_are_too_old_are_skipped(bench):
    node = bench.started(max_age_ms=1000.0)
    masks = bench.listen("/segmentation/mask")
    camera = bench.camera()
    camera.publish(bench.rgb_image(bench.three_stripes(), 7))  # 1970
    bench.wait_until(lambda: bench.counts(node)["skipped"] == 1, "it is skipped")
    image = bench.rgb_image(bench.three_stripes())
    image.header.stamp = bench.tester.get_clock().now().to_msg()
    camera.publish(image)
    bench.wait_until(lambda: masks, "a fresh one goes through")


def test_latencies_are_published_once_a_second(bench):
    bench.started()
    bench.listen("/segmentation/mask")
    heard = bench.listen("/segmentation/latency/processing", Float64MultiArray)
    bench.camera().publish(bench.rgb_image(bench.three_stripes()))
    p50, p95, p99 = bench.wait_until(lambda: heard, "a latency")[0].data
    assert 0 < p50 <= p95 <= p99 < 10_000


def test_nav2s_semantic_layer_gets_matching_messages(bench):
    """Same size, same stamp, uint8, latched names, also for a late subscriber."""
    bench.started(class_groups="")
    masks = bench.listen("/segmentation/mask", qos=input_qos())
    confidences = bench.listen("/segmentation/confidence", qos=input_qos())
    camera = bench.camera()
    camera.publish(bench.rgb_image(bench.three_stripes()))
    bench.wait_until(lambda: masks and confidences, "mask and confidence")
    names = bench.listen("/segmentation/label_map", String, latched_qos())
    bench.wait_until(lambda: names, "names, although published before")
    mask, confidence = masks[0], confidences[0]
    assert mask.header == confidence.header
    assert (mask.height, mask.width) == (confidence.height, confidence.width)
    assert (mask.encoding, mask.step) == ("mono8", mask.width)
    assert len(mask.data) == mask.step * mask.height
    known = {c["id"] for c in json.loads(names[0].data)["classes"]} | {255}
    assert set(np.unique(pixels(mask)).tolist()) <= known
