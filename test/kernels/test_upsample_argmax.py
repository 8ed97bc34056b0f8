# SPDX-License-Identifier: Apache-2.0
"""UpsampleArgmax: the numpy reference against the definition in float64, and the kernel's device
code, compiled for the CPU, against the reference. test/training/test_kernels.py compares with
PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import host_emulation
from sfseg_ros.kernels.upsample_argmax import (
    launch_with_label_rules,
    upsample_argmax,
    upsample_argmax_launch,
)

pytestmark = pytest.mark.usefixtures("cxx_compiler")

SHAPES = st.tuples(
    st.integers(1, 2),
    st.sampled_from([1, 2, 3, 4, 5, 8, 10, 11, 12, 19, 24, 30, 40]),
    *[st.integers(1, 14)] * 2,
)
STRIDES = st.sampled_from([1, 2, 3, 4, 5, 8, 16])
LAYOUTS = st.sampled_from(["linear", "hwc"])
DTYPES = st.sampled_from(["float32", "float16"])
# Kinds of scores. Whole numbers tie; their halves tie between pixels. Smooth scores agree over many
# cells. So do masked ones, which make some classes nearly impossible in places, and those around
# the limit of the short sum (upsample_argmax.cu: AGREED_LIMIT).
KINDS = st.sampled_from(
    ["normal", "whole", "constant", "smooth", "special", "huge", "masked", "limit"]
)
SEEDS = st.integers(0, 2**32 - 1)


def scores_of(rng, shape, kind, dtype):
    scores = 3 * rng.standard_normal(shape)
    if kind == "whole":
        scores = rng.integers(0, 3, shape).astype(float)
    elif kind == "constant":
        scores[...] = scores[:, :, :1, :1]
    elif kind == "smooth":
        scores = scores[:, :, :1, :1] + 0.05 * scores
    elif kind in ("masked", "limit"):
        scores = scores[:, :, :1, :1] + 0.1 * scores
        if kind == "limit":
            scores += rng.choice([-128, -127, 126, 127, 130])
        else:
            lowest = float(np.finfo(dtype).min)
            never = rng.choice([lowest, -1e4, -1e3, -np.inf, np.nan])
            scores = np.where(rng.random(shape) < 0.2, never, scores)
    elif kind == "huge":
        scores *= 1e37 if dtype == "float32" else 2e4
    elif kind == "special":
        special = rng.choice([np.nan, np.inf, -np.inf, 0.0], shape)
        scores = np.where(rng.random(shape) < 0.4, special, scores)
    with np.errstate(over="ignore"):
        return scores.astype(dtype)


def upsampled(scores, stride):
    """Corner-aligned bilinear upsampling in float64."""
    for axis in (2, 3):
        size = scores.shape[axis]
        position = np.arange(size * stride) * ((size - 1) / max(size * stride - 1, 1))
        first = np.minimum(position.astype(int), size - 1)
        weight = (position - first).reshape([-1 if i == axis else 1 for i in range(4)])
        following = np.minimum(first + 1, size - 1)
        scores = (1 - weight) * scores.take(first, axis) + weight * scores.take(following, axis)
    return scores


@settings(max_examples=100, deadline=None)
@given(SHAPES, STRIDES, st.sampled_from(["normal", "smooth"]), SEEDS)
def test_reference_is_the_definition(shape, stride, kind, seed):
    scores = scores_of(np.random.default_rng(seed), shape, kind, np.float32)
    full = upsampled(scores.astype(np.float64), stride)
    labels, confidence = upsample_argmax(scores, stride)
    chosen = np.take_along_axis(full, labels[:, None].astype(int), axis=1)[:, 0]
    np.testing.assert_allclose(chosen, full.max(axis=1), atol=1e-5)
    share = 255 / np.exp(full - full.max(axis=1, keepdims=True)).sum(axis=1)
    assert np.abs(confidence - share).max() < 0.501


@settings(max_examples=300, deadline=None)
@given(SHAPES, STRIDES, KINDS, DTYPES, LAYOUTS, SEEDS)
def test_labels_are_the_references_with_and_without_confidence(
    shape, stride, kind, dtype, layout, seed
):
    scores = scores_of(np.random.default_rng(seed), shape, kind, dtype)
    labels, confidence = upsample_argmax(scores, stride)
    alone, none = host_emulation.upsample_argmax(scores, stride, layout=layout, confidence=False)
    assert none is None
    np.testing.assert_array_equal(alone, labels)
    beside, shares = host_emulation.upsample_argmax(scores, stride, layout=layout)
    np.testing.assert_array_equal(beside, labels)
    assert shares is not None
    assert np.abs(shares.astype(int) - confidence).max() <= 1
    assert (shares != confidence).mean() < 0.01 or labels.size < 200


@settings(max_examples=60, deadline=None)
@given(SHAPES, STRIDES, KINDS, DTYPES, LAYOUTS, SEEDS, st.integers(0, 255), st.booleans())
def test_threshold_comes_first_and_remapping_last(
    shape, stride, kind, dtype, layout, seed, threshold, is_remapped
):
    rng = np.random.default_rng(seed)
    scores = scores_of(rng, shape, kind, dtype)
    table = rng.integers(0, 256, 256).astype(np.uint8) if is_remapped else None
    plain, confidence = host_emulation.upsample_argmax(scores, stride, layout=layout)
    assert confidence is not None
    expected = np.where(confidence < threshold, np.uint8(255), plain)
    expected = expected if table is None else table[expected]
    labels, shares = host_emulation.upsample_argmax(scores, stride, threshold, table, layout)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(shares, confidence)
    if table is not None:
        labels, _ = host_emulation.upsample_argmax(
            scores, stride, 0, table, layout, confidence=False
        )
        np.testing.assert_array_equal(labels, table[plain])


@pytest.mark.parametrize("layout", ["linear", "hwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("size", [(9, 33), (17, 65), (8, 32), (1, 40), (40, 1)])
def test_tiles_join_without_a_seam(layout, dtype, size):
    rng = np.random.default_rng(3)
    scores = scores_of(rng, (1, 19, *size), "normal", dtype)
    labels, confidence = upsample_argmax(scores, 4)
    alone, _ = host_emulation.upsample_argmax(scores, 4, layout=layout, confidence=False)
    beside, shares = host_emulation.upsample_argmax(scores, 4, layout=layout)
    np.testing.assert_array_equal(alone, labels)
    np.testing.assert_array_equal(beside, labels)
    assert shares is not None
    assert np.abs(shares.astype(int) - confidence).max() <= 1


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("layout", ["linear", "hwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize(
    ("stored", "stride"), [(5, 4), (6, 4), (8, 4), (10, 4), (12, 2), (16, 3), (5, 16)]
)
def test_every_pixel_is_written_and_nothing_else_at_any_alignment(
    run_guarded, confidence, layout, dtype, offset, stored, stride
):
    """Also padded channels, whose values would win."""
    rng = np.random.default_rng(0)
    scores = scores_of(rng, (2, 5, 9, 12), "normal", dtype)
    labels, shares = upsample_argmax(scores, stride)
    memory = scores
    if layout == "hwc":
        memory = np.full((2, 9, 12, stored), 1000, dtype)
        memory[..., :5] = scores.transpose(0, 2, 3, 1)
    launch = upsample_argmax_launch(
        *(scores.shape, stride, dtype, layout, confidence),
        padded_channels=stored if layout == "hwc" else None,
    )
    outputs = [(labels.shape, "uint8")] * (1 + confidence)
    results = run_guarded(launch, [memory], outputs, offset)
    np.testing.assert_array_equal(results[0], labels)
    if confidence:
        assert np.abs(results[1].astype(int) - shares).max() <= 1


@pytest.mark.parametrize("classes", [1, 2, 7, 254, 255])
def test_the_last_class_can_win_and_equal_classes_share(classes):
    scores = np.zeros((1, classes, 2, 3), np.float32)
    labels, confidence = host_emulation.upsample_argmax(scores, 3)
    assert (labels == 0).all()
    assert confidence is not None
    assert (confidence == np.rint(255 / classes)).all()
    scores[:, -1] = 1
    for layout in ("linear", "hwc"):
        for with_confidence in (False, True):
            labels, _ = host_emulation.upsample_argmax(
                scores, 3, layout=layout, confidence=with_confidence
            )
            assert (labels == classes - 1).all()


@pytest.mark.parametrize("nothing", [np.nan, -np.inf])
def test_a_pixel_where_no_class_can_win_is_unlabelled_without_confidence(nothing):
    scores = np.full((1, 4, 2, 2), nothing, np.float32)
    labels, confidence = host_emulation.upsample_argmax(scores, 4)
    assert confidence is not None
    assert (labels == 255).all()
    assert (confidence == 0).all()
    alone, _ = host_emulation.upsample_argmax(scores, 4, confidence=False)
    assert (alone == 255).all()
    scores[:, 2] = 1
    labels, confidence = host_emulation.upsample_argmax(scores, 4)
    assert confidence is not None
    assert (labels == 2).all()
    assert (confidence == 255).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (((1, 256, 3, 3), 4, "float32", "linear", True), "256 classes, expected 1 to 255"),
        (((1, 19, 3, 3), 0, "float32", "linear", True), "stride 0"),
        (((1, 19, 3, 3), 40000, "float32", "linear", True), "stride 40000"),
        (((1, 1, 1, 2**20), 4, "float32", "linear", True), "sides up to 2097152"),
        (((1, 1, 1, 2**24), 1, "float32", "linear", True), "sides up to 2097152"),
        (((1, 19, 3, 3), 4, "float32", "linear", False, 7), "threshold is 7"),
        (((1, 19, 3, 3), 4, "float32", "linear", True, 256), "threshold is 256"),
        (((1, 19, 3, 3), 4, "float32", "linear", True, 0, False, 24), "24 padded channels"),
        (((1, 19, 3, 3), 4, "float32", "hwc", True, 0, False, 8), "8 padded channels"),
        (((1, 19, 3), 4, "float32", "hwc", True), "scores has shape (1, 19, 3)"),
        (((1, 19, 3, 3), 4, "int8", "hwc", True), "no kernel for int8"),
    ],
)
def test_mismatched_arguments_are_refused_in_one_line(arguments, says):
    with pytest.raises(BackendError) as error:
        upsample_argmax_launch(*arguments)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_are_the_scores_once_and_each_output_once():
    launch = upsample_argmax_launch((1, 19, 256, 512), 4, "float16", "linear", True)
    assert launch.bytes_moved == 2 * 19 * 256 * 512 + 2 * 1024 * 2048


@pytest.mark.parametrize("layout", ["linear", "hwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_launch_with_confidence_can_be_given_threshold_and_table(dtype, layout):
    arguments = ((2, 11, 6, 9), 4, dtype, layout, True)
    plain = upsample_argmax_launch(*arguments)
    for threshold in (0, 128, 255):
        asked = upsample_argmax_launch(*arguments, threshold=threshold, remap=True)
        assert launch_with_label_rules(plain, threshold) == asked
