# SPDX-License-Identifier: Apache-2.0
"""Frames through the real node, over real topics."""

import json
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hostile_pictures import animated_png, jpeg_of_scans, jpeg_without_data
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from sfseg_ros.backends.protocol import Inferred
from sfseg_ros.nodes.middleware import latched_qos

OUTPUTS = ("mask", "confidence", "color_mask", "overlay")


def pixels(message):
    array = np.array(message.data, np.uint8)
    shape = (message.height, message.width, 3)[: 2 if message.encoding == "mono8" else 3]
    return array.reshape(shape)


def test_each_output_has_the_size_and_the_header_of_its_image(bench):
    node = bench.started(overlay_alpha=1.0)
    heard = {topic: bench.listen(f"/segmentation/{topic}") for topic in OUTPUTS}
    rgb = bench.three_stripes(90, 150)
    image = bench.rgb_image(rgb)
    bench.camera().publish(image)
    bench.wait_until(lambda: all(heard.values()), "all outputs")
    for topic, (message,) in heard.items():
        assert message.header == image.header
        assert (message.height, message.width) == (90, 150)
        assert message.encoding == ("mono8" if topic in ("mask", "confidence") else "rgb8")
    labels = pixels(heard["mask"][0])
    assert [labels[45, column] for column in (10, 75, 140)] == [0, 1, 2]
    assert pixels(heard["confidence"][0])[45, 75] > 128
    np.testing.assert_array_equal(pixels(heard["color_mask"][0])[45, 75], (0, 255, 0))
    np.testing.assert_array_equal(pixels(heard["overlay"][0]), pixels(heard["color_mask"][0]))
    assert node._cameras[0].times.percentiles("latency") is not None


def test_the_compressed_mask_is_lossless(bench):
    bench.started(outputs=["mask"])
    masks = bench.listen("/segmentation/mask")
    files = bench.listen("/segmentation/mask/compressed", CompressedImage)
    overlays = bench.listen("/segmentation/overlay/compressed", CompressedImage)
    bench.camera().publish(bench.rgb_image(bench.three_stripes(90, 150)))
    bench.wait_until(lambda: masks and files, "a mask and its file")
    decoded = cv2.imdecode(np.array(files[0].data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, pixels(masks[0]))
    assert files[0].header == masks[0].header
    assert not overlays, "the overlay is not among the outputs"


def test_compressed_images_arrive_on_the_topic_below_image(bench):
    bench.started(image_transport="compressed")
    masks = bench.listen("/segmentation/mask")
    message = CompressedImage(format="jpeg")
    message.header.stamp.sec = 5
    jpeg = cv2.imencode(".jpg", bench.three_stripes()[:, :, ::-1])[1]
    message.data.frombytes(jpeg.tobytes())
    bench.compressed_camera().publish(message)
    (mask,) = bench.wait_until(lambda: masks, "a mask")
    assert mask.header == message.header
    assert [pixels(mask)[48, column] for column in (10, 64, 120)] == [0, 1, 2]


def test_the_size_of_the_images_may_change_from_frame_to_frame(bench):
    bench.started()
    masks = bench.listen("/segmentation/mask")
    camera = bench.camera()
    for count, (height, width) in enumerate([(96, 128), (33, 47), (1, 1), (300, 200)], start=1):
        camera.publish(bench.rgb_image(bench.three_stripes(height, width)))
        bench.wait_until(lambda count=count: len(masks) == count, f"mask {count}")
        assert (masks[-1].height, masks[-1].width) == (height, width)


def garbage(bench):
    good = bench.rgb_image(bench.three_stripes())
    wrong_length = bench.rgb_image(bench.three_stripes())
    wrong_length.height += 1
    unknown = bench.rgb_image(bench.three_stripes())
    unknown.encoding = "made_up"
    no_size = bench.rgb_image(bench.three_stripes())
    no_size.width = 0
    small_step = bench.rgb_image(bench.three_stripes())
    small_step.step = 3
    assert good != wrong_length
    return [Image(), wrong_length, unknown, no_size, small_step]


def test_an_invalid_message_is_counted_and_the_next_frame_segmented(bench):
    node = bench.started()
    masks = bench.listen("/segmentation/mask")
    camera = bench.camera()
    for count, message in enumerate(garbage(bench), start=1):
        camera.publish(message)
        bench.wait_until(
            lambda count=count: bench.counts(node)["rejected"] == count, f"reject {count}"
        )
    camera.publish(bench.rgb_image(bench.three_stripes()))
    bench.wait_until(lambda: masks, "a mask after the garbage")
    status = bench.wait_until(
        lambda: [s for s in bench.diagnostics if s["frames_out"] == "1"], "diagnostics"
    )[-1]
    assert status["frames_rejected"] == "5"
    assert status["last_error"]


def test_a_truncated_jpeg_is_counted(bench):
    node = bench.started(image_transport="compressed")
    message = CompressedImage(format="jpeg")
    message.data.frombytes(cv2.imencode(".jpg", bench.three_stripes())[1].tobytes()[:-100])
    bench.compressed_camera().publish(message)
    bench.wait_until(lambda: bench.counts(node)["rejected"] == 1, "the frame is rejected")


def test_a_hostile_picture_is_counted_and_the_next_frame_segmented(bench):
    node = bench.started(image_transport="compressed")
    masks = bench.listen("/segmentation/mask")
    camera = bench.compressed_camera()
    hostile = (animated_png(), jpeg_without_data(), jpeg_of_scans(10_000))
    good = cv2.imencode(".jpg", bench.three_stripes())[1].tobytes()
    for count, data in enumerate((*hostile, good), start=1):
        message = CompressedImage(format="jpeg")
        message.data.frombytes(data)
        camera.publish(message)
        expected = min(count, len(hostile))
        bench.wait_until(
            lambda n=expected: bench.counts(node)["rejected"] == n, f"reject {expected}"
        )
    bench.wait_until(lambda: masks, "a mask after the hostile pictures")


def test_a_failing_network_rejects_frames_but_does_not_end_the_node(bench):
    node = bench.started()
    bench.listen("/segmentation/mask")
    camera = bench.camera()
    node._segmenter.close()
    camera.publish(bench.rgb_image(bench.three_stripes()))
    bench.wait_until(lambda: bench.counts(node)["rejected"] == 1, "the frame is counted")
    status = bench.wait_until(
        lambda: [s for s in bench.diagnostics if "frames failed" in s["message"]], "diagnostics"
    )[-1]
    assert status["level"] == "2"
    assert node.state_label == "active"


def test_surplus_frames_are_replaced_and_the_counts_add_up(bench):
    node = bench.started()
    masks = bench.listen("/segmentation/mask")
    segment = node._segmenter.segment_batch

    def slow_segment(frames, confidence, **options):
        time.sleep(0.05)
        return segment(frames, confidence, **options)

    node._segmenter.segment_batch = slow_segment
    camera = bench.camera()
    image = bench.rgb_image(bench.three_stripes(), stamp_s=0)
    sent = 0
    while bench.counts(node)["replaced"] < 5 or not masks:
        assert sent < 5000
        image.header.stamp.nanosec = sent = sent + 1
        camera.publish(image)
        time.sleep(0.005)
    bench.wait_until(lambda: bench.counts(node)["pending"] == 0, "the last frame is done")
    counts = bench.counts(node)
    assert counts["received"] <= sent
    assert counts["received"] == counts["segmented"] + counts["replaced"]
    bench.wait_until(lambda: len(masks) == counts["segmented"], "a mask for each segmented frame")
    stamps = [mask.header.stamp.nanosec for mask in masks]
    assert stamps == sorted(set(stamps)), "masks in the order of their images, each once"


def test_without_a_subscriber_frames_are_checked_but_not_segmented(bench):
    node = bench.started()
    node._segmenter.segment_batch = pytest.fail
    camera = bench.camera()
    camera.publish(bench.rgb_image(bench.three_stripes()))
    bench.wait_until(lambda: bench.counts(node)["unwatched"] == 1, "the frame is counted")
    camera.publish(Image())
    bench.wait_until(lambda: bench.counts(node)["rejected"] == 1, "the bad frame is counted")


@pytest.mark.parametrize(
    ("topic", "wanted"), [("mask", False), ("overlay", False), ("confidence", True)]
)
def test_confidence_is_computed_only_for_a_subscriber(bench, topic, wanted):
    node = bench.started()
    segment, asked = node._segmenter.segment_batch, []

    def watched_segment(frames, confidence, **options):
        asked.append(confidence)
        return segment(frames, confidence, **options)

    node._segmenter.segment_batch = watched_segment
    heard = bench.listen(f"/segmentation/{topic}")
    bench.camera().publish(bench.rgb_image(bench.three_stripes()))
    bench.wait_until(lambda: heard, topic)
    assert asked == [wanted]


class Painter:
    """A backend that applies the label rules and paints in recognisable colours."""

    COLOURS = {"color_mask": 77, "overlay": 99}  # noqa: RUF012

    def __init__(self, backend):
        self.infer, self.asked = backend.infer, []

    def takes_camera(self, camera, geometry):
        return False

    def applies_label_rules(self, size):
        return True

    def infer_frames(self, frames, confidence, rules, to_paint):
        self.asked.append((confidence, rules.threshold, sorted(to_paint)))
        labels, certainty = self.infer(np.stack(frames), True)
        shape = (*labels.shape, 3)
        painted = {name: np.full(shape, self.COLOURS[name], np.uint8) for name in to_paint}
        return Inferred(labels, certainty if confidence else None, painted)


@pytest.mark.parametrize(
    ("topic", "confidence", "to_paint"),
    [
        ("mask", False, []),
        ("confidence", True, []),
        ("color_mask", False, ["color_mask"]),
        ("overlay", False, ["overlay"]),
        ("overlay/compressed", False, ["overlay"]),
    ],
)
def test_pictures_that_a_backend_painted_are_published(bench, topic, confidence, to_paint):
    node = bench.started(confidence_threshold=0.2)
    painter = node._segmenter._device = Painter(node._segmenter.backend)
    kind = CompressedImage if topic.endswith("compressed") else Image
    heard = bench.listen(f"/segmentation/{topic}", kind)
    camera = bench.camera()
    camera.publish(bench.rgb_image(bench.three_stripes(64, 96)))  # the network's own size
    bench.wait_until(lambda: len(heard) == 1, topic)
    assert painter.asked == [(confidence, 0.2, to_paint)]  # the backend applies the threshold
    colour = Painter.COLOURS.get(to_paint[0] if to_paint else "")
    if colour is not None and kind is Image:
        assert (pixels(heard[0]) == colour).all()
    camera.publish(bench.rgb_image(bench.three_stripes(128, 192)))  # painted on the processor
    bench.wait_until(lambda: len(heard) == 2, topic)
    assert painter.asked[1:] == [(confidence, 0.2, [])]
    if colour is not None and kind is Image:
        assert pixels(heard[1]).shape == (128, 192, 3)
        assert not (pixels(heard[1]) == colour).all()


def test_pixels_below_the_confidence_threshold_become_unlabelled(bench):
    node = bench.started()
    masks = bench.listen("/segmentation/mask")
    camera = bench.camera()
    image = bench.rgb_image(np.full((96, 128, 3), 128, np.uint8))  # grey: far from every colour
    camera.publish(image)
    bench.wait_until(lambda: len(masks) == 1, "a mask")
    assert 255 not in pixels(masks[0])
    assert node.set_parameters([Parameter("confidence_threshold", value=0.9)])[0].successful
    camera.publish(image)
    bench.wait_until(lambda: len(masks) == 2, "a second mask")
    assert (pixels(masks[1]) == 255).all()


def test_the_overlay_can_be_changed_while_frames_arrive(bench):
    node = bench.started(overlay_alpha=1.0)
    overlays = bench.listen("/segmentation/overlay")
    camera = bench.camera()
    rgb = bench.three_stripes() // 2
    camera.publish(bench.rgb_image(rgb))
    bench.wait_until(lambda: len(overlays) == 1, "an overlay")
    assert node.set_parameters([Parameter("overlay_alpha", value=0.0)])[0].successful
    camera.publish(bench.rgb_image(rgb))
    bench.wait_until(lambda: len(overlays) == 2, "a second overlay")
    np.testing.assert_array_equal(pixels(overlays[1]), rgb)
    assert not np.array_equal(pixels(overlays[0]), rgb)


def test_late_subscribers_get_the_label_map(bench):
    bench.started()
    heard = bench.listen("/segmentation/label_map", String, latched_qos())
    bench.wait_until(lambda: heard, "the label map")
    label_map = json.loads(heard[0].data)
    assert label_map["model"] == "tiny_rgb"
    assert label_map["unlabelled"] == 255
    assert label_map["classes"][1] == {"id": 1, "name": "green", "color": [0, 255, 0]}


def test_diagnostics_come_each_second_and_add_up(bench):
    node = bench.started()
    bench.listen("/segmentation/mask")
    camera = bench.camera()
    for count in range(1, 4):
        camera.publish(bench.rgb_image(bench.three_stripes()))
        bench.wait_until(lambda n=count: bench.counts(node)["segmented"] == n, f"frame {count}")
        camera.publish(Image())
        bench.wait_until(lambda n=count: bench.counts(node)["rejected"] == n, f"reject {count}")
    status = bench.wait_until(
        lambda: [s for s in bench.diagnostics if s["frames_rejected"] == "3"], "diagnostics"
    )[-1]
    assert status["frames_in"] == "6"
    assert float(status["latency_p99_ms"]) > float(status["latency_p50_ms"]) > 1e9
    assert float(status["inference_p50_ms"]) > 0
    parts = ("out", "replaced", "rejected", "unwatched", "skipped", "pending")
    assert int(status["frames_in"]) == sum(int(status[f"frames_{part}"]) for part in parts)
    assert (status["model"], status["precision"]) == ("tiny_rgb", "fp32")
    assert status["points_made"] == status["labelled_points_rejected"] == "0"
    assert "ONNX Runtime" in status["backend"]
    assert status["name"] == "segmentation: frames"


def test_ages_are_in_simulated_time(bench):
    node = bench.started(use_sim_time=True)
    bench.listen("/segmentation/mask")
    clock = bench.tester.create_publisher(Clock, "/clock", 1)
    camera = bench.camera()
    now = Clock()
    now.clock.sec = 107

    def simulated_time():
        clock.publish(now)
        return node.get_clock().now().nanoseconds == 107_000_000_000

    bench.wait_until(simulated_time, "the node has the simulated time")
    camera.publish(bench.rgb_image(bench.three_stripes(), stamp_s=100))
    status = bench.wait_until(
        lambda: [s for s in bench.diagnostics if s["frames_out"] == "1"], "diagnostics"
    )[-1]
    assert float(status["latency_p50_ms"]) == 7000


def test_an_impossible_loss_is_not_counted(bench):
    node = bench.start(autostart=False)
    for change in (2, 2**31, -1, 3):
        node._cameras[0]._on_message_lost(SimpleNamespace(total_count_change=change))
    assert node._cameras[0]._lost == 5
