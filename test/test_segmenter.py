# SPDX-License-Identifier: Apache-2.0
import time

import numpy as np
import pytest

from sfseg_ros.backends.protocol import BackendOptions, DeviceBackend, Inferred
from sfseg_ros.errors import BackendError, ImageError, ManifestError
from sfseg_ros.geometry import View
from sfseg_ros.imaging import ImageFormat, Picture, color_mask, overlay, picture_from_buffer
from sfseg_ros.model.class_groups import LabelMapping
from sfseg_ros.model.manifest import SemanticClass
from sfseg_ros.model.published_labels import NO_RULES, PAINTED_IMAGES, LabelRules
from sfseg_ros.segmenter import Segmenter, open_segmenter

COLOURS = np.eye(3, dtype=np.uint8) * 255  # the tiny model's classes: red, green, blue


class RecordingBackend:
    """Labels pixels by their strongest channel, like the tiny model, and records input sizes."""

    name, description, reason = "recording", "recording", "test"

    def __init__(self):
        self.calls = []

    def infer(self, rgb, confidence):
        self.calls.append((rgb.shape, confidence))
        labels = rgb.argmax(axis=3).astype(np.uint8)
        return labels, rgb.max(axis=3) if confidence else None

    def close(self):
        self.calls.append("closed")


@pytest.fixture
def backend():
    return RecordingBackend()


@pytest.fixture(scope="module")
def segmenter(tiny_model):
    pytest.importorskip("onnxruntime")
    return open_segmenter(tiny_model, "onnxruntime", BackendOptions(threads=1))


def halves(height, width):
    """Return (image, labels) with a green left half and a blue right half."""
    labels = np.ones((height, width), np.uint8)
    labels[:, width // 2 :] = 2
    return COLOURS[labels], labels


@pytest.mark.parametrize("size", [(64, 96), (480, 640), (37, 91), (1080, 1920), (300, 40)])
def test_results_have_the_size_of_the_image(segmenter, size):
    rgb, expected = halves(*size)
    result = segmenter.segment(rgb)
    assert result.labels.shape == result.confidence.shape == size
    assert result.labels.dtype == result.confidence.dtype == np.uint8
    # One network pixel may cover many image pixels; farther from the edge, labels must be exact.
    border = np.abs(np.arange(size[1]) - size[1] / 2) < 8 * max(1, size[1] / 64)
    np.testing.assert_array_equal(result.labels[:, ~border], expected[:, ~border])


def test_an_image_of_network_size_is_passed_on_untouched(tiny_manifest, backend):
    rgb, expected = halves(64, 96)
    result = Segmenter(tiny_manifest, backend).segment(rgb)
    assert backend.calls == [((1, 64, 96, 3), True)]
    np.testing.assert_array_equal(result.labels, expected)


def test_the_network_size_follows_the_image_or_is_fixed(tiny_manifest, backend):
    rgb, _ = halves(200, 100)
    Segmenter(tiny_manifest, backend).segment(rgb)
    Segmenter(tiny_manifest, backend, network_size=(32, 128)).segment(rgb)
    assert [shape for shape, _ in backend.calls] == [(1, 96, 64, 3), (1, 32, 128, 3)]


def test_labels_keep_their_place_when_resized_both_ways(tiny_manifest, backend):
    rgb, expected = halves(128, 192)  # twice the network's 64x96, edge between two pixels
    result = Segmenter(tiny_manifest, backend).segment(rgb)
    np.testing.assert_array_equal(result.labels, expected)


def test_confidence_is_computed_only_when_asked_for(tiny_manifest, backend):
    result = Segmenter(tiny_manifest, backend).segment(halves(64, 96)[0], confidence=False)
    assert result.confidence is None
    assert backend.calls == [((1, 64, 96, 3), False)]


def test_the_result_reports_the_time_of_each_step(segmenter):
    start = time.perf_counter()
    result = segmenter.segment(halves(480, 640)[0])
    total_ms = (time.perf_counter() - start) * 1e3
    steps = (result.preprocess_ms, result.inference_ms, result.postprocess_ms)
    assert all(step > 0 for step in steps)
    assert sum(steps) <= total_ms


# Frames that wait when the worker becomes free.


def test_frames_of_one_network_size_are_inferred_together(tiny_manifest, backend):
    sizes = [(64, 96), (128, 192), (96, 64), (37, 91), (480, 720)]
    frames = [halves(*size) for size in sizes]
    batch = [(Picture(rgb), View()) for rgb, _ in frames]
    outcomes = Segmenter(tiny_manifest, backend).segment_batch(batch, confidence=True)
    assert backend.calls == [
        ((3, 64, 96, 3), True),
        ((1, 96, 64, 3), True),
        ((1, 64, 128, 3), True),
    ]
    for (picture, view), outcome in zip(batch, outcomes):
        alone = Segmenter(tiny_manifest, backend).segment(picture.rgb, view=view)
        np.testing.assert_array_equal(outcome.labels, alone.labels)
        np.testing.assert_array_equal(outcome.confidence, alone.confidence)


def test_each_frame_of_a_batch_has_its_own_view(tiny_manifest, backend):
    rgb, labels = halves(128, 192)
    views = [View(), View(horizon=0.5), View(output_size=(32, 48)), View(region=(0, 0, 96, 64))]
    outcomes = Segmenter(tiny_manifest, backend).segment_batch(
        [(Picture(rgb), v) for v in views], True
    )
    whole, below, small, corner = outcomes
    np.testing.assert_array_equal(whole.labels, labels)
    assert (below.labels[:64] == 255).all()
    assert not below.confidence[:64].any()
    np.testing.assert_array_equal(below.labels[64:], labels[64:])
    np.testing.assert_array_equal(small.labels, labels[::4, ::4])
    assert small.confidence.shape == small.geometry.output_size == (32, 48)
    np.testing.assert_array_equal(corner.labels[:64, :96], labels[:64, :96])
    assert (corner.labels[:, 96:] == 255).all()


def test_a_bad_frame_fails_without_the_rest_of_its_batch(tiny_manifest, backend):
    rgb, labels = halves(64, 96)
    outcomes = Segmenter(tiny_manifest, backend).segment_batch(
        [
            (Picture(rgb), View()),
            (Picture(rgb[:, :, 0]), View()),
            (Picture(rgb), View(region=(90, 0, 10, 10))),
            (Picture(rgb), View()),
        ],
        confidence=False,
    )
    assert [type(outcome).__name__ for outcome in outcomes] == [
        *("Segmentation", "ImageError", "ImageError", "Segmentation")
    ]
    assert "expected uint8" in str(outcomes[1])
    assert "leaves it" in str(outcomes[2])
    np.testing.assert_array_equal(outcomes[3].labels, labels)
    assert backend.calls == [((2, 64, 96, 3), False)]


def test_failing_inference_at_one_size_fails_the_frames_of_that_size_only(tiny_manifest, backend):
    infer = backend.infer

    def refusing(rgb, confidence):
        if rgb.shape[1] == 96:
            raise BackendError("out of memory")
        return infer(rgb, confidence)

    backend.infer = refusing
    segmenter = Segmenter(tiny_manifest, backend)
    wide, tall = halves(64, 96)[0], halves(96, 64)[0]
    frames = [(Picture(rgb), View()) for rgb in (tall, wide, tall)]
    outcomes = segmenter.segment_batch(frames, False)
    assert [str(outcome) for outcome in outcomes[::2]] == ["out of memory"] * 2
    assert outcomes[1].labels.shape == (64, 96)
    with pytest.raises(BackendError, match="out of memory"):
        segmenter.segment(tall)


def test_an_empty_batch_infers_nothing(tiny_manifest, backend):
    assert Segmenter(tiny_manifest, backend).segment_batch([], confidence=True) == []
    assert backend.calls == []


def test_nothing_is_copied_if_image_and_network_have_the_same_size(tiny_manifest, backend):
    given = []

    def infer(rgb, confidence):
        given.append(rgb)
        return labels, labels

    backend.infer = infer
    labels = np.zeros((1, 64, 96), np.uint8)
    rgb, _ = halves(64, 96)
    result = Segmenter(tiny_manifest, backend).segment(rgb)
    assert np.shares_memory(given[0], rgb)
    assert np.shares_memory(result.labels, labels)
    assert np.shares_memory(result.confidence, labels)


@pytest.mark.parametrize("size", [(1, 1), (1, 40000), (40000, 1), (3, 2)])
def test_images_of_odd_shapes_are_segmented(tiny_manifest, backend, size):
    for fit in ("stretch", "letterbox", "crop"):
        rgb = np.full((*size, 3), COLOURS[2])
        result = Segmenter(tiny_manifest, backend).segment(rgb, view=View(fit=fit))
        assert result.labels.shape == size
        assert set(np.unique(result.labels)) <= {2, 255}
        assert (result.labels == 2).any()


def test_warm_up_prepares_both_variants_at_the_size_of_the_camera(tiny_manifest, backend):
    Segmenter(tiny_manifest, backend).warm_up((480, 640))
    assert [confidence for _, confidence in backend.calls] == [False, True]
    assert len({shape for shape, _ in backend.calls}) == 1


# Label rules, applied by the backend or by the processor.

SWAPPED = np.full(256, 255, np.uint8)
SWAPPED[:2] = 1, 0  # swaps red and green, removes blue
CLASSES = (SemanticClass(0, "green", (20, 200, 40)), SemanticClass(1, "red", (250, 10, 30)))
RULES = LabelRules(LabelMapping(SWAPPED, CLASSES), 0.75, 0.3)
VIEWS = [
    View(),
    View(output_size="network"),
    View(output_size=(100, 33)),
    View(horizon=0.5),
    View(region=(8, 4, 64, 48), fit="letterbox"),
    View(region=(8, 4, 64, 48), fit="letterbox", output_size="network"),
]


class DeviceDouble(RecordingBackend):
    """A DeviceBackend that applies rules and paints in Python."""

    precision, precisions = "fp32", ("fp32",)
    applies_rules, cameras = True, False

    def takes_camera(self, camera, geometry):
        return self.cameras

    def applies_label_rules(self, size):
        return self.applies_rules

    def infer_frames(self, frames, confidence, rules, to_paint):
        self.calls.append((len(frames), confidence, rules, sorted(to_paint)))
        images = [frame if isinstance(frame, np.ndarray) else frame[0].data for frame in frames]
        if any(image.ndim == 1 for image in images):
            images = [np.zeros((*geometry.network_size, 3), np.uint8) for _, geometry in frames]
        rgb = np.stack(images)
        labels, certainty = RecordingBackend().infer(rgb, True)
        labels = np.stack([rules.labels_from(*pair) for pair in zip(labels, certainty)])
        palette = rules.mapping.palette_rgb
        painted = {
            "color_mask": np.stack([color_mask(image, palette) for image in labels]),
            "overlay": np.stack(
                [overlay(*pair, palette, rules.alpha) for pair in zip(rgb, labels)]
            ),
        }
        return Inferred(
            labels, certainty if confidence else None, {name: painted[name] for name in to_paint}
        )


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("view", VIEWS)
def test_label_rules_at_the_network_size_equal_label_rules_at_the_output_size(
    tiny_manifest, backend, view, confidence
):
    """The result equals threshold and groups applied to the output's pixels."""
    rgb = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
    raw = Segmenter(tiny_manifest, backend).segment(rgb, view=view)
    expected = np.where(raw.confidence < RULES.threshold * 255, np.uint8(255), raw.labels)
    expected = SWAPPED[expected]
    device = DeviceDouble()
    for used in (RecordingBackend(), device):
        (result,) = Segmenter(tiny_manifest, used).segment_batch(
            [(Picture(rgb), view)], confidence, RULES, PAINTED_IMAGES
        )
        np.testing.assert_array_equal(result.labels, expected)
        if confidence:
            np.testing.assert_array_equal(result.confidence, raw.confidence)
        else:
            assert result.confidence is None
    assert isinstance(device, DeviceBackend)
    assert [call[1:3] for call in device.calls] == [(confidence, RULES)]


@pytest.mark.parametrize("view", VIEWS)
def test_the_painted_images_of_the_backend_are_used_if_its_pixels_are_the_outputs(
    tiny_manifest, view
):
    device = DeviceDouble()
    segmenter = Segmenter(tiny_manifest, device)
    for size in ((128, 160), (64, 96)):
        rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        (result,) = segmenter.segment_batch([(Picture(rgb), view)], False, RULES, PAINTED_IMAGES)
        same = result.geometry.output_has_network_pixels
        assert set(result.painted) == (set(PAINTED_IMAGES) if same else set())
        assert device.calls[-1][3] == (sorted(PAINTED_IMAGES) if same else [])
        palette = RULES.mapping.palette_rgb
        for name, painted in result.painted.items():
            image = result.geometry.rgb_at_output(rgb)
            expected = color_mask(result.labels, palette)
            if name == "overlay":
                expected = overlay(image, result.labels, palette, RULES.alpha)
            np.testing.assert_array_equal(painted, expected)
            assert painted.flags.c_contiguous


def test_a_mixed_batch_gives_each_frame_the_results_of_its_kind(tiny_manifest):
    device = DeviceDouble()
    pictures = [Picture(halves(*size)[0]) for size in ((64, 96), (128, 192))]
    one, two = Segmenter(tiny_manifest, device).segment_batch(
        [(picture, View()) for picture in pictures], False, RULES, ["overlay"]
    )
    assert device.calls == [(2, False, RULES, ["overlay"])]
    assert (set(one.painted), set(two.painted)) == ({"overlay"}, set())


def test_a_backend_that_cannot_apply_label_rules_returns_unchanged_labels(tiny_manifest):
    device = DeviceDouble()
    device.applies_rules = False
    (result,) = Segmenter(tiny_manifest, device).segment_batch(
        [(Picture(halves(64, 96)[0]), View())], False, RULES, PAINTED_IMAGES
    )
    # Only the threshold needs the confidence, so the result has none.
    assert device.calls == [(1, True, NO_RULES, [])]
    assert result.confidence is None
    assert not result.painted


@pytest.mark.parametrize(("threshold", "needed"), [(0.0, False), (0.001, True)])
def test_confidence_is_computed_if_a_threshold_needs_it(tiny_manifest, backend, threshold, needed):
    rules = LabelRules(RULES.mapping, threshold)
    frames = [(Picture(halves(64, 96)[0]), View())]
    (result,) = Segmenter(tiny_manifest, backend).segment_batch(frames, False, rules)
    assert backend.calls == [((1, 64, 96, 3), needed)]
    assert result.confidence is None


def test_warm_up_takes_the_same_path_as_camera_frames(tiny_manifest, backend):
    device, data = DeviceDouble(), bytes(200 * 128)
    like = picture_from_buffer(data, "bayer_rggb8", 128, 192, 200).format
    assert like == ImageFormat(128, 192, "bayer_rggb8", 200, False)
    given = []
    infer_frames = device.infer_frames

    def watched(frames, *arguments):
        given.append(frames)
        return infer_frames(frames, *arguments)

    device.infer_frames = watched
    segmenter = Segmenter(tiny_manifest, device)
    segmenter.warm_up(like, rules=RULES, count=2)  # the processor converts these bytes
    device.cameras = True
    segmenter.warm_up(like, View(horizon=0.5), RULES, 3)
    assert device.calls == [
        (count, confidence, RULES, [])
        for counts in ((1, 2), (1, 2, 3))
        for count in counts
        for confidence in (False, True)
    ]
    assert all(frame.shape == (64, 96, 3) for frames in given[:4] for frame in frames)
    for frames in given[4:]:
        for camera, geometry in frames:
            assert (camera.data.size, camera.encoding, camera.step) == (
                200 * 128,
                like.encoding,
                200,
            )
            assert geometry == segmenter.geometry_of((128, 192), View(horizon=0.5))
    Segmenter(tiny_manifest, backend).warm_up(like, count=3)  # this backend needs only one image
    assert [shape[0] for shape, _ in backend.calls] == [1, 1]


def test_a_padded_view_equals_its_copy(segmenter):
    rgb, _ = halves(64, 96)
    padded = np.pad(rgb, ((0, 0), (0, 3), (0, 0)))[:, :96]
    assert not padded.flags.c_contiguous
    np.testing.assert_array_equal(segmenter.segment(padded).labels, segmenter.segment(rgb).labels)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_an_array_that_is_not_an_rgb_image_is_refused(segmenter, image):
    with pytest.raises(ImageError, match=r"expected uint8 \(height, width, 3\)"):
        segmenter.segment(image)


def test_a_network_size_that_the_model_does_not_accept_is_refused(tiny_model):
    with pytest.raises(ManifestError, match="multiples of 32"):
        open_segmenter(tiny_model, options=BackendOptions(network_size=(50, 50)))


def test_closing_closes_the_backend(tiny_manifest, backend):
    Segmenter(tiny_manifest, backend).close()
    assert backend.calls == ["closed"]


@pytest.mark.parametrize("view", [View(), View(region=(8, 4, 64, 48), fit="letterbox")])
def test_bgr_and_rgb_of_the_same_picture_give_the_same_labels(tiny_model, view):
    rgb = np.random.default_rng(0).integers(0, 256, (150, 230, 3), np.uint8)
    segmenter = open_segmenter(tiny_model, "onnxruntime")
    pictures = [Picture(rgb), Picture(np.ascontiguousarray(rgb[:, :, ::-1]), is_bgr=True)]
    in_rgb, in_bgr = segmenter.segment_batch([(p, view) for p in pictures], True)
    np.testing.assert_array_equal(in_rgb.labels, in_bgr.labels)
    np.testing.assert_array_equal(in_rgb.confidence, in_bgr.confidence)
