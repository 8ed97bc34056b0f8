# SPDX-License-Identifier: Apache-2.0
"""The decisions of the backend, on the imitated driver and library of test/imitations."""

import ctypes
import inspect
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from sfseg_ros.backends.choice import open_backend
from sfseg_ros.backends.protocol import BackendOptions
from sfseg_ros.backends.tensorrt import engine_builder, plugin
from sfseg_ros.backends.tensorrt import pipeline as tensorrt_pipeline
from sfseg_ros.backends.tensorrt.backend import MAX_PIPELINES, TensorRtBackend
from sfseg_ros.backends.tensorrt.engine_builder import BuildResult
from sfseg_ros.backends.tensorrt.engine_store import EngineStore
from sfseg_ros.backends.tensorrt.engines import EngineRequest, built_engine
from sfseg_ros.backends.tensorrt.library import load_tensorrt
from sfseg_ros.errors import BackendError, BackendUnavailableError
from sfseg_ros.geometry import WHOLE_IMAGE, View
from sfseg_ros.imaging import Picture, color_mask, picture_from_buffer
from sfseg_ros.kernels import binaries, overlay
from sfseg_ros.kernels.camera_image import camera_image, camera_image_launch
from sfseg_ros.model.class_groups import LabelMapping
from sfseg_ros.model.manifest import SemanticClass
from sfseg_ros.model.published_labels import NO_RULES, PAINTED_IMAGES, LabelRules
from sfseg_ros.segmenter import Segmenter


def network(image):
    """uint8 (N, H, W, 3) -> labels, confidence: mixed-up bytes change the result."""
    labels = (image[..., 0].astype(int) * 3 + image[..., 1] * 5 + image[..., 2]) % 251
    return labels.astype(np.uint8), (255 - labels).astype(np.uint8)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


@pytest.fixture
def open_tensorrt(open_tensorrt_with):
    return partial(open_tensorrt_with, network)


def check(backend, rgb, confidence=True):
    labels, certainty = backend.infer(rgb, confidence)
    expected = network(rgb)
    np.testing.assert_array_equal(labels, expected[0])
    if confidence:
        np.testing.assert_array_equal(certainty, expected[1])
    else:
        assert certainty is None


def test_every_frame_of_a_shape_after_the_first_is_one_graph(cuda, open_tensorrt):
    backend, module = open_tensorrt()
    for frame in range(4):
        check(backend, pictures(1, 64, 96, seed=frame))
        check(backend, pictures(1, 64, 96, seed=-frame % 7), confidence=False)
    assert len(cuda.execs) == 2  # with and without confidence
    assert len(module.engines[0].ran) == 2 * len(cuda.execs)  # each ran once, then was captured
    assert "CUDA graph" not in backend.description


def test_a_change_of_shape_captures_again_and_the_old_graph_stays_good(cuda, open_tensorrt):
    backend, module = open_tensorrt()
    for _ in range(2):
        for shape in ((1, 64, 96), (2, 64, 96), (1, 32, 32), (4, 96, 64)):
            check(backend, pictures(*shape))
    assert len(cuda.execs) == 4
    assert len(module.engines) == 1
    assert len(module.engines[0].contexts) == 4


def test_shapes_beyond_those_kept_are_freed_and_come_back_with_one_word(cuda, open_tensorrt):
    said = []
    backend, _ = open_tensorrt(warn=said.append)
    sizes = [(32 * row, 32 * column) for row in range(1, 6) for column in range(1, 6)]
    assert len(sizes) > MAX_PIPELINES
    check(backend, pictures(1, *sizes[0]))
    each = tuple(count for count in cuda.pinned_and_device_memory())
    for size in sizes:
        check(backend, pictures(1, *size))
    assert said == []  # no shape has come back yet
    for size in sizes * 2:
        check(backend, pictures(1, *size))
    assert cuda.pinned_and_device_memory() == tuple(MAX_PIPELINES * count for count in each)
    assert len(cuda.execs) == MAX_PIPELINES
    assert len(said) == 1
    assert f"more than {MAX_PIPELINES} shapes of input take turns" in said[0]
    assert "\n" not in said[0]


def test_a_batch_larger_than_the_engine_takes_goes_in_parts(open_tensorrt):
    backend, module = open_tensorrt()
    check(backend, pictures(11, 32, 64))
    shapes = {context.shape for context in module.engines[0].contexts}
    assert shapes == {(8, 32, 64, 3), (3, 32, 64, 3)}


def test_one_engine_serves_the_usual_sizes_and_another_size_gets_its_own(open_tensorrt, engines):
    backend, _ = open_tensorrt()
    # Of the size of a square of as many pixels, at most twice the side; rounded to 32.
    usual = ((1, 32, 32, 3), (1, 64, 96, 3), (8, 160, 160, 3))
    assert [request.shapes for request in engines] == [usual]
    for size in ((64, 64), (160, 32), (96, 160)):
        check(backend, pictures(1, *size))
    assert len(engines) == 1
    for batch in (1, 2):
        check(backend, pictures(batch, 256, 160))
    check(backend, pictures(1, 64, 64))
    assert engines[1].shapes == ((1, 256, 160, 3), (1, 256, 160, 3), (8, 256, 160, 3))
    assert len(engines) == 2


def test_an_engine_is_built_for_a_fixed_network_size(open_tensorrt, engines):
    backend, _ = open_tensorrt(network_size=(96, 160), precision="bf16")
    assert engines[0].shapes == ((1, 96, 160, 3), (1, 96, 160, 3), (8, 96, 160, 3))
    assert backend.precision == "bf16"
    assert "bf16" in backend.description


def test_the_next_start_builds_nothing(open_tensorrt, engines):
    for _ in range(3):
        backend, _ = open_tensorrt()
        check(backend, pictures(1, 64, 96))
        backend.close()
    assert len(engines) == 1


def test_an_engine_that_the_user_built_for_the_size_is_preferred(
    open_tensorrt, engines, tiny_manifest
):
    backend, _ = open_tensorrt()
    backend.close()
    request = EngineRequest(((64, 96),) * 3, (1, 2, 2), "fp16", library="tensorrt")
    built_engine(tiny_manifest, request, EngineStore())
    for other in (
        {"precision": "fp32"},
        {"plugins": False},
        {"batches": (1, 1, 1)},
        {"sizes": ((64, 64), (64, 96), (64, 96))},
    ):
        built_engine(tiny_manifest, replace(request, **other), EngineStore())
    backend, module = open_tensorrt()
    assert module.engines[-1].profile == [[1, 64, 96, 3], [2, 64, 96, 3], [2, 64, 96, 3]]
    check(backend, pictures(3, 64, 96))
    assert len(engines) == 6


def test_an_engine_that_verify_refused_is_not_used(open_tensorrt, engines, tiny_manifest):
    open_tensorrt()
    store = EngineStore()
    ((_, stored),) = store.engines()
    accuracy = {"accepted": False, "pixel_agreement": 0.5, "threshold": 0.99}
    store.remember(stored, {"accuracy": accuracy})
    with pytest.raises(BackendError, match="refused by sfseg engine verify"):
        open_tensorrt()
    assert len(engines) == 1


def test_an_engine_for_one_size_is_taken_also_where_another_is_open(
    open_tensorrt, engines, tiny_manifest
):
    request = EngineRequest(((64, 64),) * 3, (1, 1, 2), "fp16", library="tensorrt")
    backend, module = open_tensorrt()
    built_engine(tiny_manifest, request, EngineStore())
    for size in ((64, 64), (96, 64), (64, 96)):
        check(backend, pictures(3, *size))
    exact = [[1, 64, 64, 3], [1, 64, 64, 3], [2, 64, 64, 3]]
    assert [engine.profile == exact for engine in module.engines] == [False, True]
    assert {context.shape for context in module.engines[1].contexts} == {
        (2, 64, 64, 3),
        (1, 64, 64, 3),
    }
    assert len(engines) == 2


@pytest.mark.parametrize("first", [(64, 96), (64, 64)])
def test_an_engine_for_one_size_that_verify_refused_leaves_the_others(
    open_tensorrt, engines, tiny_manifest, first
):
    """Both for the first size and while another engine is open."""
    backend, _ = open_tensorrt()
    backend.close()
    store = EngineStore()
    request = EngineRequest((first,) * 3, (1, 1, 8), "fp16", library="tensorrt")
    stored, _ = built_engine(tiny_manifest, request, store)
    accuracy = {"accepted": False, "pixel_agreement": 0.5, "threshold": 0.99}
    store.remember(stored, {"accuracy": accuracy})
    backend, module = open_tensorrt()
    check(backend, pictures(1, *first))
    assert module.engines[-1].profile[2] == [8, 160, 160, 3]
    assert len(engines) == 2


def test_an_engine_for_one_size_that_cannot_be_loaded_leaves_the_others(
    open_tensorrt, engines, tiny_manifest
):
    said = []
    backend, module = open_tensorrt(warn=said.append)
    for size in ((64, 64), (256, 160)):  # the one that is open takes the first only
        request = EngineRequest((size,) * 3, (1, 1, 2), "fp16", library="tensorrt")
        stored, _ = built_engine(tiny_manifest, request, EngineStore())
        stored.path.write_bytes(b"")
        check(backend, pictures(1, *size))
    assert [line.split("; ")[-1] for line in said] == ["taking another", "building another"]
    assert len(module.engines) == 2


def test_one_engine_can_be_run_to_judge_it(open_tensorrt, engines, tiny_manifest):
    open_tensorrt()
    store = EngineStore()
    request = EngineRequest(((64, 64),) * 3, (1, 1, 1), "bf16", plugins=False, library="tensorrt")
    stored, _ = built_engine(tiny_manifest, request, store)
    accuracy = {"accepted": False, "pixel_agreement": 0.5, "threshold": 0.99}
    stored = store.remember(stored, {"accuracy": accuracy})
    backend = TensorRtBackend(tiny_manifest, only=stored)
    assert backend.precision == "bf16"
    assert "no plugins" in backend.description
    check(backend, pictures(3, 64, 64))
    with pytest.raises(BackendError, match=r"bf16-64x64.*is not for 64x96 images"):
        backend.infer(pictures(1, 64, 96), confidence=False)
    backend.close()
    assert len(engines) == 2


def test_a_damaged_or_refused_engine_is_built_again_with_a_word(open_tensorrt, engines, tmp_path):
    backend, _ = open_tensorrt()
    backend.close()
    (path,) = tmp_path.rglob("*.engine")
    whole = path.read_bytes()
    said = []
    path.write_bytes(whole[:-1])
    open_tensorrt(warn=said.append)
    assert "truncated" in said[0]
    assert path.read_bytes() == whole
    # Whole, but the library of today does not take it.
    ((_, stored),) = EngineStore().engines()
    EngineStore()._write(path, stored.key, b"of a time long gone", stored.about)
    backend, _ = open_tensorrt(warn=said.append)
    assert "TensorRT 10.3.0 refuses" in said[1]
    assert "serialization failed (magic tag); building another" in said[1]
    check(backend, pictures(1, 64, 96))
    assert len(engines) == 3


def test_progress_is_heard_while_building_and_ends_empty(open_tensorrt):
    said = []
    open_tensorrt(progress=said.append)
    assert said[0].startswith("TensorRT engine: ")
    assert "TensorRT engine: building" in said
    assert said[-1] == ""


def test_a_build_can_be_cancelled(cuda, open_tensorrt, engines):
    said = []
    with pytest.raises(BackendError, match="cancelled"):
        open_tensorrt(cancelled=lambda: True, progress=said.append)
    assert said[-1] == ""
    assert cuda.everything_is_freed()


def test_int8_without_calibration_names_the_command(open_tensorrt):
    with pytest.raises(BackendError, match="sfseg engine build .* --precision int8 --calibration"):
        open_tensorrt(precision="int8")


def test_without_a_compiler_the_engine_is_portable_and_says_so(open_tensorrt, engines, monkeypatch):
    def missing(architecture):
        raise BackendError("no compiler for the GPU kernels: pip install cuda-bindings")

    monkeypatch.setattr(binaries, "compiled", missing)
    said = []
    backend, _ = open_tensorrt(warn=said.append)
    assert not engines[0].plugins
    assert "no plugins" in backend.description
    assert len(said) == 1
    assert "without our own kernels: no compiler" in said[0]


@pytest.mark.parametrize("name", ["NO_BINARY_FOR_GPU", "INVALID_IMAGE"])
def test_kernels_that_the_driver_refuses_make_a_portable_engine_with_one_word(
    cuda, open_tensorrt, engines, monkeypatch, tmp_path, name
):
    cubin = tmp_path / "kernels" / "sm_87.cubin"
    monkeypatch.setattr(binaries, "compiled_path", lambda architecture: cubin)
    cuda.fail["cuModuleLoadData"] = cuda.CUresult[f"CUDA_ERROR_{name}"]
    said = []
    backend, _ = open_tensorrt(warn=said.append)
    assert not engines[0].plugins
    assert "no plugins" in backend.description
    check(backend, pictures(1, 64, 96))
    assert len(said) == 1
    assert f"without our own kernels: cuModuleLoadData: CUDA_ERROR_{name}" in said[0]
    assert "delete the cached kernels" in said[0]
    assert str(cubin) in said[0]
    assert "\n" not in said[0]


@pytest.mark.parametrize("name", ["OUT_OF_MEMORY", "ECC_UNCORRECTABLE", "ILLEGAL_ADDRESS"])
def test_a_gpu_that_takes_no_kernels_for_another_reason_is_an_error(
    cuda, engines, tensorrt_library, monkeypatch, tiny_manifest, tmp_path, name
):
    monkeypatch.setattr(binaries, "compiled_path", lambda architecture: tmp_path / "cubin")
    tensorrt_library(network)
    cuda.fail["cuModuleLoadData"] = cuda.CUresult[f"CUDA_ERROR_{name}"]
    with pytest.raises(BackendError, match=name) as caught:
        TensorRtBackend(tiny_manifest)
    assert not isinstance(caught.value, BackendUnavailableError)
    assert caught.value.lost is (name != "OUT_OF_MEMORY")
    assert engines == []
    assert cuda.everything_is_freed()


def test_results_belong_to_the_caller(open_tensorrt):
    backend, _ = open_tensorrt()
    first, _ = backend.infer(pictures(1, 64, 96), confidence=False)
    before = first.copy()
    check(backend, pictures(1, 64, 96, seed=1))
    np.testing.assert_array_equal(first, before)


def test_strided_and_read_only_images_are_uploaded_as_they_look(open_tensorrt):
    backend, _ = open_tensorrt()
    wide = pictures(1, 64, 128)
    check(backend, wide[:, :, 5:101])
    check(backend, wide[:, ::-1, :96, ::-1])
    wide.flags.writeable = False
    check(backend, wide)


def test_threads_of_different_and_equal_shapes_do_not_mix(open_tensorrt):
    backend, _ = open_tensorrt()
    shapes = [(1, 32 * (1 + i % 4), 32 * (1 + i % 3)) for i in range(40)]
    with ThreadPoolExecutor(6) as pool:
        jobs = [
            pool.submit(check, backend, pictures(*shape, seed=i)) for i, shape in enumerate(shapes)
        ]
        for job in jobs:
            job.result()


def test_a_shape_that_another_thread_replaces_is_made_again(open_tensorrt):
    backend, _ = open_tensorrt()
    check(backend, pictures(1, 32, 32))
    (pipeline,) = backend._pipelines.values()
    sizes = [(32 * row, 32 * column) for row in range(1, 6) for column in range(1, 6)]
    others = [pictures(1, *size) for size in sizes[1 : MAX_PIPELINES + 1]]
    with pipeline.lock:  # as if a frame were under way
        frame = threading.Thread(target=check, args=(backend, pictures(1, 32, 32, seed=3)))
        frame.start()
        pushing = threading.Thread(target=lambda: [check(backend, rgb) for rgb in others])
        pushing.start()
        while pipeline in backend._pipelines.values():
            pass
    frame.join(20)
    pushing.join(20)
    assert not frame.is_alive()
    assert not pushing.is_alive()
    assert pipeline.freed


# What goes wrong.


def test_an_engine_that_cannot_be_captured_runs_without_and_says_so_once(cuda, open_tensorrt):
    said = []
    backend, _ = open_tensorrt(
        configure=lambda engine: setattr(engine, "capturable", False), warn=said.append
    )
    for shape in ((1, 64, 96), (1, 64, 96), (2, 32, 32)):
        check(backend, pictures(*shape))
        check(backend, pictures(*shape), confidence=False)
    assert len(said) == 1
    assert said[0].startswith("no CUDA graph, each frame costs some launches more: ")
    assert "\n" not in said[0]
    assert backend.description.endswith(", no CUDA graph")
    assert not cuda.execs


def test_a_refusal_of_tensorrt_is_reported_in_one_line(open_tensorrt):
    def refuse(engine):
        engine.refuses = "enqueueV3: invalid\n  state"

    backend, _ = open_tensorrt(configure=refuse)
    with pytest.raises(BackendError, match="TensorRT 10.3.0 failed: enqueueV3: invalid state"):
        backend.infer(pictures(1, 64, 96), confidence=False)


def test_memory_that_is_not_there_costs_this_frame_and_leaves_nothing(cuda, open_tensorrt):
    backend, _ = open_tensorrt()
    for call in ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate"):
        cuda.fail[call] = cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY
        with pytest.raises(BackendError, match="use a smaller network_size") as caught:
            backend.infer(pictures(1, 64, 96), confidence=False)
        assert not caught.value.lost
        assert cuda.pinned_and_device_memory() == (0, 0)
    check(backend, pictures(1, 64, 96))


@pytest.mark.parametrize("frames_before", [0, 1, 3])
def test_a_lost_context_is_one_clear_error_until_the_backend_is_opened_again(
    cuda, open_tensorrt, frames_before
):
    backend, module = open_tensorrt()
    for _ in range(frames_before):
        check(backend, pictures(1, 64, 96))
    module.engines[0].crash = cuda.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    for _ in range(3):
        with pytest.raises(BackendError, match="ILLEGAL_ADDRESS.*open the backend again") as caught:
            backend.infer(pictures(1, 64, 96), confidence=True)
        assert caught.value.lost
    assert len(caught.traceback) < 8, "a traceback that grows keeps the images of all frames"
    backend.close()
    fresh, _ = open_tensorrt()
    check(fresh, pictures(1, 64, 96))


def test_nothing_of_tensorrt_outlives_a_lost_context(cuda, open_tensorrt):
    backend, module = open_tensorrt()
    for size in (32, 64, 96):
        check(backend, pictures(1, size, 96))
    (engine,) = module.engines
    engine.crash = cuda.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(BackendError, match="ILLEGAL_ADDRESS"):
        backend.infer(pictures(1, 64, 96), confidence=False)
    contexts = [weakref.ref(context) for context in engine.contexts]
    engine.contexts.clear()
    engine.ran.clear()
    left, reset = [], cuda.cuDevicePrimaryCtxReset

    def noting_reset(device):
        left.append((backend._engines, [c() for c in contexts if c() is not None]))
        return reset(device)

    cuda.cuDevicePrimaryCtxReset = noting_reset
    backend.close()
    assert left == [({}, [])]


def test_an_engine_that_is_being_opened_keeps_its_gpu_until_it_is_there(cuda, open_tensorrt):
    opening, go_on = threading.Event(), threading.Event()

    def slow(engine):
        opening.set()
        assert go_on.wait(20)
        assert cuda.retained

    backend, module = open_tensorrt()
    module.configure = slow
    with ThreadPoolExecutor(2) as pool:
        frame = pool.submit(backend.infer, pictures(1, 256, 160), confidence=False)
        assert opening.wait(20)
        closing = pool.submit(backend.close)
        while not backend._closed:
            pass
        assert not closing.done()
        go_on.set()
        closing.result(20)
        with pytest.raises(BackendError, match="backend tensorrt is closed"):
            frame.result(20)
    assert cuda.everything_is_freed()


def test_an_exception_of_a_plugin_fails_the_frame_even_if_tensorrt_goes_on(
    open_tensorrt, monkeypatch
):
    backend, module = open_tensorrt()

    def execute(context, stream):
        plugin._noted.append((threading.get_ident(), "FlowWarp.enqueue: no compiler"))
        return True

    with monkeypatch.context() as patch:
        patch.setattr(module.context_class, "execute_async_v3", execute)
        with pytest.raises(BackendError, match="TensorRT plugin: FlowWarp.enqueue: no compiler"):
            backend.infer(pictures(1, 64, 96), confidence=False)
    check(backend, pictures(1, 64, 96))


def test_a_gpu_that_is_there_and_fails_is_not_passed_over(cuda, engines, tiny_manifest):
    cuda.fail["cuDevicePrimaryCtxRetain"] = cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(BackendError, match=r"OUT_OF_MEMORY.*close other programs") as caught:
        open_backend("auto", tiny_manifest)
    assert not isinstance(caught.value, BackendUnavailableError)
    assert cuda.everything_is_freed()


def test_a_closed_backend_says_so_and_frees_all(cuda, open_tensorrt):
    backend, _ = open_tensorrt()
    check(backend, pictures(1, 64, 96))
    backend.close()
    backend.close()
    assert cuda.everything_is_freed()
    with pytest.raises(BackendError, match="backend tensorrt is closed"):
        backend.infer(pictures(1, 64, 96), confidence=False)


def test_without_gpu_or_library_it_is_unavailable_and_holds_nothing(
    cuda, engines, tiny_manifest, monkeypatch
):
    cuda.devices = 0
    with pytest.raises(BackendUnavailableError, match="tensorrt: .*NO_DEVICE"):
        TensorRtBackend(tiny_manifest)
    cuda.devices = 1

    def missing(name):
        raise BackendError("tensorrt cannot be imported (No module): pip install tensorrt")

    monkeypatch.setattr("sfseg_ros.backends.tensorrt.backend.load_tensorrt", missing)
    with pytest.raises(BackendUnavailableError, match="pip install tensorrt"):
        TensorRtBackend(tiny_manifest)
    assert cuda.everything_is_freed()


def test_an_engine_that_is_refused_after_its_build_leaves_nothing_behind(
    cuda, open_tensorrt, monkeypatch, engines
):
    garbage = b"garbage", BuildResult("TensorRT 10.3.0", ())
    monkeypatch.setattr(engine_builder, "engine_from_onnx", lambda *_: garbage)
    with pytest.raises(BackendError, match=r"refuses .*engine: serialization failed") as caught:
        open_tensorrt()
    assert not isinstance(caught.value, BackendUnavailableError)
    assert "\n" not in str(caught.value)
    assert cuda.everything_is_freed()


def test_auto_takes_it(open_tensorrt, tiny_manifest):
    open_tensorrt()
    backend = open_backend("auto", tiny_manifest)
    assert backend.name == "tensorrt"
    assert backend.description == "TensorRT 10.3.0, fp16, Pretend 1000"
    backend.close()


# A camera's bytes.


@pytest.fixture
def camera_kernels(cuda, monkeypatch):
    """The reference in place of the kernel that makes the network's input. Returns its launches."""
    launches = []

    def launch(encoding, step, geometry, is_bigendian=False):
        found = camera_image_launch(encoding, step, geometry, is_bigendian)
        name = f"kernel {len(cuda.kernels)}"

        def kernel(parameters):
            pointers = (ctypes.c_void_p * (len(found.scalars) + 2)).from_address(parameters)
            source, target = (ctypes.c_void_p.from_address(pointers[i]).value for i in (0, -1))
            launches.append(encoding)

            def run():
                data = cuda.device_array(source, step * geometry.image_size[0])
                made = camera_image(data, encoding, step, geometry, is_bigendian)
                cuda.device_array(target, made.size)[:] = made.reshape(-1)

            return run

        cuda.kernels[name] = kernel
        return replace(found, kernel=name)

    monkeypatch.setattr(tensorrt_pipeline, "camera_image_launch", launch)
    return launches


def camera_frame(encoding, height, width, channels, seed, padding=0):
    step = width * channels + padding
    data = np.random.default_rng(seed).integers(0, 256, step * height, np.uint8)
    return picture_from_buffer(data, encoding, height, width, step)


def test_cameras_bytes_are_uploaded_as_they_are_and_become_the_input_there(
    cuda, open_tensorrt, camera_kernels, tiny_manifest
):
    backend, _ = open_tensorrt()
    segmenter = Segmenter(tiny_manifest, backend)
    letterbox = View(fit="letterbox", horizon=0.25)
    for seed in range(3):
        frames = [
            (camera_frame("bgr8", 128, 192, 3, seed, padding=6), WHOLE_IMAGE),
            (camera_frame("bayer_rggb8", 128, 192, 1, seed + 9), WHOLE_IMAGE),
            (camera_frame("bgr8", 128, 192, 3, seed + 7, padding=6), WHOLE_IMAGE),
            (camera_frame("yuv422", 100, 150, 2, seed), letterbox),
            (Picture(pictures(64, 96, seed=seed)), WHOLE_IMAGE),
        ]
        results = segmenter.segment_batch(frames, confidence=True)
        for (picture, view), result in zip(frames, results):
            geometry = segmenter.geometry_of(picture.size, view)
            if picture.camera is None:
                rgb = picture.pixels[None]
            else:
                camera = picture.camera
                rgb = camera_image(camera.data, camera.encoding, camera.step, geometry)
            labels, confidence = network(rgb)
            np.testing.assert_array_equal(result.labels, geometry.output_from(labels[0], 255))
            expected = geometry.output_from(confidence[0], 0)
            np.testing.assert_array_equal(result.confidence, expected)
    # Each kernel runs once directly and once during the capture; a replay does not call our code.
    # One batch has two images of one kind.
    assert sorted(camera_kernels) == sorted(2 * ["bgr8", "bgr8", "bayer_rggb8", "yuv422"])
    assert len(cuda.execs) == 4


def test_eight_different_cameras_are_recorded_once_and_the_warm_up_makes_room(
    open_tensorrt, camera_kernels, tiny_manifest
):
    """With any number of frames at once, with and without confidence."""
    said = []
    backend, module = open_tensorrt(warn=said.append)
    segmenter = Segmenter(tiny_manifest, backend)
    frames = [
        (camera_frame(encoding, 128, 192, channels, seed=channels, padding=padding), WHOLE_IMAGE)
        for encoding, channels in (("bgr8", 3), ("rgb8", 3), ("bgra8", 4), ("mono8", 1))
        for padding in (0, 12)
    ]
    for width in range(1, 6):
        for height in (32, 64):
            segmenter.warm_up((height, 32 * width))
    recorded = []
    for _ in range(3):
        for count in range(1, 9):
            for confidence in (False, True):
                segmenter.segment_batch(frames[8 - count :], confidence)
                segmenter.segment_batch([frames[0]] * count, confidence)  # eight alike
        recorded.append(len(module.engines[0].ran))
    assert recorded[0] == recorded[2]
    assert said == []
    # The warm-up keeps what the eight alike (1 to 8 at once) and the seven others leave.
    assert [camera for camera, *_ in backend._pipelines].count(None) == MAX_PIPELINES - 15


def test_pixels_that_are_not_read_are_never_computed(open_tensorrt, camera_kernels, tiny_manifest):
    backend, _ = open_tensorrt()
    picture = camera_frame("yuv422", 128, 192, 2, seed=1)
    Segmenter(tiny_manifest, backend).segment_batch([(picture, WHOLE_IMAGE)], confidence=False)
    assert "pixels" not in vars(picture)


def test_without_the_kernel_the_processor_makes_the_input(
    open_tensorrt, camera_kernels, monkeypatch, tiny_manifest
):
    frame = camera_frame("bgr8", 128, 192, 3, seed=1)
    backend, _ = open_tensorrt()
    geometry = Segmenter(tiny_manifest, backend).geometry_of(frame.size)
    assert backend.takes_camera(frame.camera, geometry)

    def refuse(*_):
        raise BackendError("image of 128x192: expected sides up to 100 pixels")

    monkeypatch.setattr(tensorrt_pipeline, "camera_image_launch", refuse)
    assert not backend.takes_camera(frame.camera, geometry)
    (result,) = Segmenter(tiny_manifest, backend).segment_batch([(frame, WHOLE_IMAGE)], True)
    labels, _ = network(frame.rgb_of(geometry.network_input(frame.pixels))[None])
    np.testing.assert_array_equal(result.labels, geometry.output_from(labels[0], 255))
    assert not camera_kernels


def test_a_model_is_warmed_up_for_the_cameras_that_are_known(
    cuda, open_tensorrt, camera_kernels, tiny_manifest
):
    """With one to three equal cameras and another one: even their first frames run as graphs."""
    backend, module = open_tensorrt()
    segmenter = Segmenter(tiny_manifest, backend)
    alike = [camera_frame("bgr8", 128, 192, 3, seed, padding=6) for seed in range(3)]
    other, low = camera_frame("yuv422", 100, 150, 2, 9), View(horizon=0.25)
    segmenter.warm_up(alike[0].format, WHOLE_IMAGE, RULES, count=3)
    segmenter.warm_up(other.format, low, RULES)
    assert len(cuda.execs) == 2 * 4
    ran = len(module.engines[0].ran)
    for count in (1, 2, 3):
        for confidence in (False, True):
            frames = [*((picture, WHOLE_IMAGE) for picture in alike[:count]), (other, low)]
            segmenter.segment_batch(frames, confidence, RULES)
    assert len(module.engines[0].ran) == ran
    changed = camera_frame("bgr8", 128, 192, 3, 0)  # without padding: recorded at its first frame
    for _ in range(2):
        segmenter.segment_batch([(changed, WHOLE_IMAGE)], False, RULES)
    assert len(module.engines[0].ran) == ran + 2  # it ran once and was captured


# Published labels and colours.

TABLE = np.random.default_rng(7).permutation(255).astype(np.uint8)
COLOURED = [SemanticClass(i, f"class {i}", (i, 255 - i, (7 * i) % 256)) for i in range(255)]
RULES = LabelRules(LabelMapping(np.append(TABLE, np.uint8(255)), tuple(COLOURED)), 0.4, 0.3)


def check_label_rules(backend, rgb, rules, confidence=False, to_paint=()):
    found = backend.infer_frames(list(rgb), confidence, rules, to_paint)
    raw, certainty = network(rgb)
    labels = np.stack([rules.labels_from(*pair) for pair in zip(raw, certainty)])
    np.testing.assert_array_equal(found.labels, labels)
    if confidence:
        np.testing.assert_array_equal(found.confidence, certainty)
    else:
        assert found.confidence is None
    palette = rules.mapping.palette_rgb
    expected = {
        "color_mask": overlay.color_mask(labels, palette),
        "overlay": overlay.overlay(rgb, labels, palette, rules.alpha),
    }
    assert set(found.painted) == set(to_paint)
    for name in to_paint:
        np.testing.assert_array_equal(found.painted[name], expected[name])


def test_labels_are_finished_in_the_graph(cuda, open_tensorrt):
    backend, _ = open_tensorrt()
    assert backend.applies_label_rules((64, 96))
    for seed in range(3):
        check_label_rules(backend, pictures(2, 64, 96, seed=seed), RULES)
    assert len(cuda.execs) == 1


def test_images_are_painted_only_on_request(cuda, open_tensorrt):
    backend, _ = open_tensorrt()
    rgb = pictures(2, 64, 96)
    check(backend, rgb)
    plain = cuda.pinned_and_device_memory()
    asked = [(), ("overlay",), ("color_mask",), PAINTED_IMAGES]
    for to_paint in asked * 2:
        for confidence in (False, True):
            check_label_rules(backend, rgb, RULES, confidence, to_paint)
    assert cuda.pinned_and_device_memory() == tuple(count + 3 for count in plain)
    assert len(cuda.execs) == 8
    # A rule that changes no label paints, too.
    check_label_rules(backend, rgb, replace(NO_RULES, alpha=0.9), False, PAINTED_IMAGES)
    check_label_rules(backend, rgb, NO_RULES, False, PAINTED_IMAGES)
    check(backend, rgb)


@pytest.mark.parametrize("rtx", [False, True])
@pytest.mark.parametrize("capturable", [True, False])
def test_changed_rules_are_captured_again_and_the_old_graph_never_runs(
    cuda, open_tensorrt, rtx, capturable
):
    """Also if TensorRT-RTX keeps its own graph, which contains threshold and address."""
    backend, _ = open_tensorrt(
        rtx=rtx, configure=lambda engine: setattr(engine, "capturable", capturable)
    )
    other = replace(RULES.mapping, table=RULES.mapping.table[::-1].copy())
    changes = [
        RULES,
        replace(RULES, threshold=0.8),
        replace(RULES, alpha=0.7),
        replace(RULES, mapping=other),
        LabelRules(threshold=0.4),
        NO_RULES,
        RULES,
    ]
    check(backend, pictures(1, 64, 96))
    for rules in changes:
        for seed in range(3):
            check_label_rules(backend, pictures(1, 64, 96, seed=seed), rules, True, PAINTED_IMAGES)
            check_label_rules(backend, pictures(1, 64, 96, seed=seed), rules)
    assert (len(cuda.execs) > 0) is capturable
    check(backend, pictures(1, 64, 96))


def test_each_shape_takes_up_a_change_when_it_runs(open_tensorrt):
    backend, _ = open_tensorrt()
    shapes = [(1, 64, 96), (2, 64, 96), (1, 32, 32)]
    for rules in (RULES, replace(RULES, threshold=0.9), NO_RULES):
        for shape in shapes * 2:
            check_label_rules(backend, pictures(*shape), rules)


def test_cameras_of_several_kinds_get_their_published_labels_and_paintings(
    open_tensorrt, camera_kernels, tiny_manifest
):
    backend, _ = open_tensorrt()
    segmenter = Segmenter(tiny_manifest, backend)
    view = View(output_size="network")
    frames = [
        (camera_frame(encoding, 128, 192, channels, seed), view)
        for seed, (encoding, channels) in enumerate([("bgr8", 3), ("mono8", 1), ("bgr8", 3)])
    ]
    for _ in range(3):
        results = segmenter.segment_batch(frames, True, RULES, PAINTED_IMAGES)
        for (picture, _), result in zip(frames, results):
            camera = picture.camera
            rgb = camera_image(camera.data, camera.encoding, camera.step, result.geometry)
            raw, certainty = network(rgb)
            labels = RULES.labels_from(raw[0], certainty[0])
            np.testing.assert_array_equal(result.labels, labels)
            np.testing.assert_array_equal(result.confidence, certainty[0])
            palette = RULES.mapping.palette_rgb
            np.testing.assert_array_equal(result.painted["color_mask"], color_mask(labels, palette))
            painted = overlay.overlay(rgb, labels[None], palette, RULES.alpha)
            np.testing.assert_array_equal(result.painted["overlay"], painted[0])


def test_the_kernels_apply_label_rules_as_the_processor_does(
    cuda, host_kernels, open_tensorrt_with, tiny_manifest
):
    """Scores pass through the compiled UpsampleArgmax, ColorMask and Overlay, in a graph."""

    def scores(image):
        n, height, width, _ = image.shape
        blocks = image.reshape(n, height // 4, 4, width // 4, 4, 3).mean(axis=(2, 4))
        return np.ascontiguousarray(blocks.transpose(0, 3, 1, 2) / 40, np.float32)

    backend, _ = open_tensorrt_with(scores)
    segmenter = Segmenter(tiny_manifest, backend)
    groups = np.full(256, 255, np.uint8)
    groups[:3] = 1, 0, 1
    mapping = LabelMapping(groups, tuple(COLOURED[200:202]))
    mapping = LabelMapping(
        groups, tuple(replace(c, index=i) for i, c in enumerate(mapping.classes))
    )
    for threshold in (0.0, 0.45, 0.6):
        rules = LabelRules(mapping, threshold, 0.35)
        for seed in range(3):
            rgb = pictures(64, 96, seed=seed)
            raw = segmenter.segment(rgb)
            (result,) = segmenter.segment_batch(
                [(Picture(rgb), View())], False, rules, PAINTED_IMAGES
            )
            expected = rules.labels_from(raw.labels, raw.confidence)
            np.testing.assert_array_equal(result.labels, expected)
            assert len(np.unique(expected)) == 2 + (threshold > 0)
            painted = color_mask(expected, mapping.palette_rgb)
            np.testing.assert_array_equal(result.painted["color_mask"], painted)
            made = overlay.overlay(rgb[None], expected[None], mapping.palette_rgb, rules.alpha)
            np.testing.assert_array_equal(result.painted["overlay"], made[0])


def test_an_engine_without_our_plugins_leaves_it_to_the_processor(
    open_tensorrt, monkeypatch, tiny_manifest
):
    def missing(architecture):
        raise BackendError("no compiler for the GPU kernels: pip install cuda-bindings")

    monkeypatch.setattr(binaries, "compiled", missing)
    backend, _ = open_tensorrt(warn=lambda text: None)
    assert not backend.applies_label_rules((64, 96))
    rgb = pictures(64, 96)
    (result,) = Segmenter(tiny_manifest, backend).segment_batch(
        [(Picture(rgb), WHOLE_IMAGE)], False, RULES, PAINTED_IMAGES
    )
    raw, certainty = network(rgb[None])
    np.testing.assert_array_equal(result.labels, RULES.labels_from(raw[0], certainty[0]))
    assert result.confidence is None
    assert not result.painted


def test_labels_without_their_rules_are_an_error_and_not_published(open_tensorrt):
    """As if the library ran our plugins in its own thread."""

    def in_a_thread(enqueue, *arguments):
        result = []

        def run():
            with backend._gpu.current():
                result.append(enqueue(*arguments))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(20)
        return result[0]

    backend, module = open_tensorrt()
    check(backend, pictures(1, 64, 96))
    for context in module.engines[0].contexts:
        context._enqueue_plugin = partial(in_a_thread, context._enqueue_plugin)
    with pytest.raises(BackendError, match="threshold and class groups had no effect"):
        backend.infer_frames(list(pictures(1, 64, 96)), False, RULES)
    plugin.raise_noted(all_threads=True)  # nothing else went wrong


@pytest.mark.parametrize("call", ["cuMemAlloc", "cuMemHostAlloc"])
@pytest.mark.parametrize("rtx", [False, True])
def test_memory_for_paints_that_is_not_there_costs_this_frame_and_leaves_nothing(
    cuda, open_tensorrt, call, rtx
):
    backend, _ = open_tensorrt(rtx=rtx)
    check(backend, pictures(1, 64, 96))
    cuda.fail[call] = cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(BackendError, match="use a smaller network_size"):
        check_label_rules(backend, pictures(1, 64, 96), RULES, True, PAINTED_IMAGES)
    assert cuda.pinned_and_device_memory() == (0, 0)
    for seed in range(2):
        check_label_rules(backend, pictures(1, 64, 96, seed=seed), RULES, True, PAINTED_IMAGES)


# TensorRT-RTX.


def test_rtx_specialises_at_once_and_captures_with_us(cuda, open_tensorrt):
    backend, module = open_tensorrt(rtx=True)
    for seed in range(3):
        check(backend, pictures(1, 64, 96, seed=seed))
    (context,) = module.engines[0].contexts
    assert context.config.cuda_graph_strategy == module.CudaGraphStrategy.DISABLED
    eager = module.DynamicShapesKernelSpecializationStrategy.EAGER
    assert context.config.dynamic_shapes_kernel_specialization_strategy == eager
    assert len(cuda.execs) == 1


@pytest.mark.parametrize(("capabilities", "found"), [((75, 87), True), ((75, 89), False)])
def test_rtx_takes_an_engine_that_was_built_for_this_gpu_among_others(
    open_tensorrt, engines, tiny_manifest, capabilities, found
):
    backend, _ = open_tensorrt(rtx=True)
    backend.close()
    request = EngineRequest(
        ((64, 96),) * 3, library="tensorrt_rtx", compute_capabilities=capabilities
    )
    built_engine(tiny_manifest, request, EngineStore())
    backend, module = open_tensorrt(rtx=True)
    assert (module.engines[-1].profile == [[1, 64, 96, 3]] * 3) is found
    check(backend, pictures(1, 64, 96))
    assert len(engines) == 2


def test_rtx_that_cannot_be_captured_captures_its_own_part(cuda, open_tensorrt):
    said = []
    backend, module = open_tensorrt(rtx=True)
    check(backend, pictures(1, 64, 96))
    usual = cuda.pinned_and_device_memory()
    backend.close()
    backend, module = open_tensorrt(
        rtx=True,
        configure=lambda engine: setattr(engine, "capturable", False),
        warn=said.append,
    )
    for seed in range(3):
        for confidence in (True, False):
            check(backend, pictures(1, 64, 96, seed=seed), confidence)
    assert cuda.pinned_and_device_memory() == usual  # not that of two contexts
    contexts = module.engines[0].contexts
    assert len(contexts) == 2
    whole = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert contexts[1].config.cuda_graph_strategy == whole
    assert len(said) == 1
    assert not cuda.execs


def test_rtx_that_has_captured_one_graph_and_not_the_other_keeps_none(cuda, open_tensorrt):
    backend, module = open_tensorrt(rtx=True)
    check(backend, pictures(1, 64, 96), confidence=False)
    memory = cuda.pinned_and_device_memory()
    module.engines[0].capturable = False
    for confidence in (True, False, True):
        check(backend, pictures(1, 64, 96), confidence)
    assert not cuda.execs
    assert cuda.pinned_and_device_memory() == memory
    assert len(module.engines[0].contexts) == 2


def test_rtx_finds_the_kernels_that_it_compiled_the_last_time(open_tensorrt, tmp_path):
    backend, module = open_tensorrt(rtx=True)
    (engine,) = tmp_path.rglob("*.engine")
    path = engine.with_suffix(".runtime_cache")
    path.write_bytes(b"of another GPU")
    check(backend, pictures(1, 64, 96))
    assert module.engines[0].contexts[0].config.cache.accepted is False
    assert path.read_bytes().startswith(b"cache")
    backend.close()
    path.chmod(0o666)
    said = []
    backend, module = open_tensorrt(rtx=True, warn=said.append)
    check(backend, pictures(1, 64, 96))
    assert module.engines[0].contexts[0].config.cache.accepted is None
    assert len(said) == 1
    assert "can be written by other users" in said[0]
    backend.close()
    backend, module = open_tensorrt(rtx=True)
    check(backend, pictures(1, 64, 96))
    assert module.engines[0].contexts[0].config.cache.accepted is True
    assert not list(tmp_path.rglob("*.new"))


def test_the_pretended_library_has_no_name_that_the_real_one_lacks(tensorrt_library):
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    module = tensorrt_library(network, rtx=True)
    assert hasattr(real.Runtime, "deserialize_cuda_engine")
    config = module.engine_class(module, None, None, None, None).create_runtime_config()
    own = {"allocation", "cache"}  # what the pretended object remembers
    for real_class, names in (
        (real.IExecutionContext, public_methods(module.context_class)),
        (real.ICudaEngine, public_methods(module.engine_class)),
        (real.IRuntimeConfig, set(vars(config)) - own),
        (real.IRuntimeCache, set(vars(config.create_runtime_cache())) - {"blob", "accepted"}),
    ):
        assert not {name for name in names if not hasattr(real_class, name)}, real_class
    for setting in ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"):
        assert hasattr(real.IRuntimeConfig, setting)
    for pretended, enumeration in (
        (module.ILogger.Severity, real.ILogger.Severity),
        (module.ExecutionContextAllocationStrategy, real.ExecutionContextAllocationStrategy),
        (module.CudaGraphStrategy, real.CudaGraphStrategy),
        (
            module.DynamicShapesKernelSpecializationStrategy,
            real.DynamicShapesKernelSpecializationStrategy,
        ),
    ):
        for member in pretended:
            assert int(getattr(enumeration, member.name)) == int(member), member
    assert {"INT8", "UINT8"} <= set(real.DataType.__members__)


def public_methods(kind):
    return {
        name
        for base in kind.__mro__[:-1]
        for name, value in vars(base).items()
        if not name.startswith("_") and inspect.isfunction(value)
    }


@pytest.mark.slow
def test_the_real_rtx_builds_the_requested_engine_and_says_why_it_cannot_load_it(
    cuda, tiny_manifest, monkeypatch, tmp_path
):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    real = load_tensorrt("tensorrt_rtx")
    for user in ("backend", "engines"):
        monkeypatch.setattr(
            f"sfseg_ros.backends.tensorrt.{user}.load_tensorrt", lambda name="auto": real
        )
    monkeypatch.setattr(binaries, "compiled", lambda architecture: b"cubin")
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path))
    said = []
    # The driver is a pretended one, so the library finds none.
    with pytest.raises(BackendError, match=r"TensorRT-RTX .* refuses .*plugins.*cudaError"):
        TensorRtBackend(tiny_manifest, BackendOptions(progress=said.append))
    ((path, stored),) = EngineStore().engines()
    assert stored.key.shapes == ((1, 32, 32, 3), (1, 64, 96, 3), (8, 160, 160, 3))
    assert path.stat().st_size > 1000
    assert any("building an engine" in line for line in said)
    assert cuda.everything_is_freed()
