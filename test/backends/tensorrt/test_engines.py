# SPDX-License-Identifier: Apache-2.0
"""Which engine a model gets: keys, calibrations, build requests. The library is imitated;
`tools/test_engine.py` builds real engines."""

import dataclasses
import threading

import numpy as np
import pytest

from sfseg_ros.backends.tensorrt import engine_builder, engines
from sfseg_ros.backends.tensorrt.engine_builder import BuildResult, Layer
from sfseg_ros.backends.tensorrt.engine_store import EngineStore
from sfseg_ros.backends.tensorrt.engines import (
    EngineRequest,
    built_engine,
    engine_key,
    find_engine,
    layer_rows,
)
from sfseg_ros.backends.tensorrt.library import TensorRt
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import cuda_memory

SIZES = ((64, 96),) * 3
REQUEST = EngineRequest(SIZES, library="tensorrt_rtx")
ACCEPTED = {"pixel_agreement": 0.99, "threshold": 0.98, "accepted": True}


@pytest.fixture(autouse=True)
def builds(monkeypatch):
    """Return the requests that reached the builder. Each engine is `engine N`."""
    requests = []

    def build(model, request, say, cancelled):
        requests.append(request)
        layers = (Layer("conv", "CONVOLUTION", "fp16"),)
        return f"engine {len(requests)}".encode(), BuildResult("TensorRT-RTX 1.7.1", layers)

    monkeypatch.setattr(engine_builder, "engine_from_onnx", build)
    use_library(monkeypatch, "tensorrt_rtx", (1, 7, 1))
    return requests


def use_library(monkeypatch, name, version):
    monkeypatch.setattr(
        engines, "load_tensorrt", lambda wanted="auto": TensorRt(name, None, version)
    )


def images(count):
    return list(np.random.default_rng(count).integers(0, 256, (count, 64, 96, 3), np.uint8))


def test_each_ingredient_makes_another_key(tiny_manifest, monkeypatch):
    keys = {engine_key(tiny_manifest, REQUEST)}
    for change in (
        {"precision": "bf16"},
        {"plugins": False},
        {"batches": (1, 1, 2)},
        {"sizes": ((32, 32), (64, 96), (64, 96))},
        {"compute_capabilities": (86,)},
    ):
        keys.add(engine_key(tiny_manifest, dataclasses.replace(REQUEST, **change)))
    keys.add(engine_key(tiny_manifest, REQUEST, "calibration"))
    keys.add(engine_key(dataclasses.replace(tiny_manifest, onnx_sha256="f" * 64), REQUEST))
    monkeypatch.setattr(engines, "plugins_digest", lambda: "other code")
    keys.add(engine_key(tiny_manifest, REQUEST))
    monkeypatch.setattr(engines, "RECIPE", 99)
    keys.add(engine_key(tiny_manifest, REQUEST))
    use_library(monkeypatch, "tensorrt_rtx", (1, 7, 2))
    keys.add(engine_key(tiny_manifest, REQUEST))
    assert len(keys) == 11
    assert len({key.digest for key in keys}) == 11


@pytest.fixture
def tensorrt_10_9(monkeypatch):
    class Gpu:
        name, architecture = "NVIDIA Orin", 87

        def close(self):
            pass

    monkeypatch.setattr(cuda_memory, "Gpu", Gpu)
    use_library(monkeypatch, "tensorrt", (10, 9, 0))


def test_an_engine_of_tensorrt_is_of_one_gpu(tiny_manifest, tensorrt_10_9):
    key = engine_key(tiny_manifest, REQUEST)
    assert (key.library, key.gpu) == ("TensorRT 10.9.0", "NVIDIA Orin, 8.7")


def test_the_request_reaches_the_builder(tiny_manifest, tmp_path, builds):
    store = EngineStore(tmp_path)
    request = dataclasses.replace(REQUEST, precision="fp32", batches=(1, 2, 4), plugins=False)
    built_engine(tiny_manifest, request, store)
    (seen,) = builds
    assert seen.shapes == ((1, 64, 96, 3), (2, 64, 96, 3), (4, 64, 96, 3))
    assert (seen.plugins, seen.library, seen.tf32) == (False, "tensorrt_rtx", False)
    assert seen.timing_cache.startswith(str(tmp_path))


def test_an_engine_is_built_once_and_found_with_its_layers(tiny_manifest, tmp_path, builds):
    store, said = EngineStore(tmp_path), []
    assert find_engine(tiny_manifest, REQUEST, store) is None
    stored, data = built_engine(tiny_manifest, REQUEST, store, say=said.append)
    assert data == b"engine 1"
    assert find_engine(tiny_manifest, REQUEST, store) == stored
    assert built_engine(tiny_manifest, REQUEST, store) == (stored, data)
    source, layers = layer_rows(stored.about)
    assert "no GPU to inspect" in source
    assert layers == [Layer("conv", "CONVOLUTION", "fp16")]
    assert built_engine(tiny_manifest, REQUEST, store, rebuild=True)[1] == b"engine 2"
    assert len(builds) == 2


def test_int8_without_pictures_takes_the_newest_calibration(
    make_random_model, tmp_path, builds, monkeypatch
):
    model, store = make_random_model(0), EngineStore(tmp_path)
    request = dataclasses.replace(REQUEST, precision="int8")
    with pytest.raises(BackendError, match="--precision int8 --calibration FOLDER_OR_BAG"):
        built_engine(model, request, store)
    first, _ = built_engine(model, request, store, lambda: images(1))
    second, _ = built_engine(model, request, store, lambda: images(2))
    assert first.key.calibration != second.key.calibration
    store.remember(second, {"accuracy": ACCEPTED})
    store.remember(first, {"built": "2000-01-01", "accuracy": ACCEPTED})
    assert built_engine(model, request, store)[1] == b"engine 2"
    store.remember(first, {"built": "3000-01-01"})
    assert built_engine(model, request, store)[1] == b"engine 1"
    assert first.about["calibration"]["pictures"] == 1
    assert len(builds) == 2


def test_int8_that_was_never_measured_is_not_used(make_random_model, tmp_path, builds):
    """Its build was interrupted between the engine and the comparison with fp32."""
    model, store = make_random_model(0), EngineStore(tmp_path)
    request = dataclasses.replace(REQUEST, precision="int8")
    measured, _ = built_engine(model, request, store, lambda: images(1))
    with pytest.raises(BackendError, match="not measured.*: sfseg engine verify random_0 --prec"):
        built_engine(model, request, store)
    store.remember(measured, {"accuracy": ACCEPTED, "built": "2000-01-01"})
    assert built_engine(model, request, store)[0].path == measured.path
    newer, _ = built_engine(model, request, store, lambda: images(2))
    assert not engines.is_accepted(newer)
    assert find_engine(model, request, store).path == measured.path
    assert built_engine(model, request, store)[0].path == measured.path
    (best, other) = engines.fitting_engines(model, request, (64, 96), store, 86)
    assert (best.path, other.path) == (measured.path, newer.path)
    plain, _ = built_engine(model, REQUEST, store)
    assert engines.is_accepted(plain)


def test_the_same_pictures_are_the_same_engine(make_random_model, tmp_path, builds):
    model, store = make_random_model(0), EngineStore(tmp_path)
    request = dataclasses.replace(REQUEST, precision="int8")
    for _ in range(2):
        built_engine(model, request, store, lambda: images(2))
    assert len(builds) == 1


def test_a_refused_engine_is_not_given_out(tiny_manifest, tmp_path):
    store = EngineStore(tmp_path)
    stored, _ = built_engine(tiny_manifest, REQUEST, store)
    refused = {"accepted": False, "pixel_agreement": 0.5, "threshold": 0.99}
    store.remember(stored, {"accuracy": refused})
    with pytest.raises(BackendError, match="50.00 % of the pixels, 99 % are required"):
        built_engine(tiny_manifest, REQUEST, store)
    built_engine(tiny_manifest, REQUEST, store, rebuild=True)


def test_a_cancelled_build_leaves_nothing(tiny_manifest, tmp_path, monkeypatch):
    cancelled = threading.Event()

    def build(model, request, say, asked):
        cancelled.set()
        assert asked()
        raise BackendError("the engine's build was cancelled")

    monkeypatch.setattr(engine_builder, "engine_from_onnx", build)
    store = EngineStore(tmp_path)
    with pytest.raises(BackendError, match="cancelled"):
        built_engine(tiny_manifest, REQUEST, store, cancelled=cancelled.is_set)
    assert list(store.engines()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "int4"}, "expected one of fp32, fp16"),
        ({"sizes": ((65, 96),) * 3}, "multiples of 32"),
        ({"sizes": ((64, 96), (32, 96), (64, 96))}, "neither side falling"),
        ({"batches": (2, 1, 3)}, "rising"),
        ({"batches": (0, 1, 3)}, "expected 1 to 64"),
    ],
)
def test_wrong_requests(tiny_manifest, tmp_path, change, words):
    with pytest.raises(BackendError, match=words):
        built_engine(tiny_manifest, dataclasses.replace(REQUEST, **change), EngineStore(tmp_path))


def test_a_refused_engine_is_given_out_with_its_pictures_to_be_measured_again(
    make_random_model, tmp_path, builds
):
    model, store = make_random_model(0), EngineStore(tmp_path)
    request = EngineRequest(((64, 96),) * 3, precision="int8")
    stored, _ = built_engine(model, request, store, lambda: images(2))
    refused = {"pixel_agreement": 0.9, "threshold": 0.98, "accepted": False}
    store.remember(stored, {"accuracy": refused})
    with pytest.raises(BackendError, match="refused by sfseg engine verify"):
        built_engine(model, request, store)
    again, _ = built_engine(model, request, store, lambda: images(2))
    assert again.path == stored.path
    assert len(builds) == 1
