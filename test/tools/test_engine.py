# SPDX-License-Identifier: Apache-2.0
"""`sfseg engine` with the real TensorRT-RTX, on random models."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from sfseg_ros.backends.tensorrt import engines
from sfseg_ros.backends.tensorrt.engine_store import EngineKey, EngineStore
from sfseg_ros.backends.tensorrt.engines import EngineRequest, built_engine, find_engine
from sfseg_ros.backends.tensorrt.library import LIBRARIES, load_tensorrt
from sfseg_ros.backends.tensorrt.precision import ENGINE_PRECISIONS, QUANTIZED_PRECISIONS
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels.cuda_memory import gpu_is_there
from sfseg_ros.model.manifest import Manifest, load_manifest, save_manifest, sha256_of_file
from sfseg_ros.tools.command_line import main
from sfseg_ros.tools.engine import accuracy_gate

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (pip install -r requirements/tensorrt.in)",
)
no_gpu = pytest.mark.skipif(gpu_is_there(), reason="says what happens without a GPU")
SIZE = "64x96"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(6):
        coarse = rng.integers(0, 256, (8, 12, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(coarse, (96, 64)))
    return folder


@pytest.fixture
def sfseg(capsys):
    """(arguments of `sfseg engine`) -> (status, stdout, stderr)."""

    def call(*arguments) -> tuple[int, str, str]:
        status = main(["engine", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def build(sfseg, model: Manifest, *arguments):
    return sfseg("build", model.directory, "--library", "tensorrt_rtx", *arguments)


def only_line(text: str) -> str:
    """The one line of an error, after the lines of progress."""
    lines = [line for line in text.splitlines() if not line.startswith("---")]
    assert len(lines) == 1, text
    return lines[0]


# --- building -----------------------------------------------------------------------------------


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "form"),
    [
        ("fp16", "--plugins"),
        ("int8", "--plugins"),
        ("bf16", "--portable"),
        ("fp8", "--portable"),
        *(
            pytest.param(*choice, marks=pytest.mark.slow)
            for choice in (
                *(("fp32", "--plugins"), ("fp32", "--portable"), ("fp16", "--portable")),
                *(("bf16", "--plugins"), ("int8", "--portable"), ("fp8", "--plugins")),
            )
        ),
    ],
)
def test_every_precision_and_form_builds(sfseg, make_random_model, pictures, precision, form):
    model = make_random_model(4)
    arguments = ["--precision", precision, form, "--size", SIZE, "--batch", 2]
    if precision in QUANTIZED_PRECISIONS:
        arguments += ["--calibration", pictures, "--min-agreement", "0.8"]
    status, out, err = build(sfseg, model, *arguments)
    assert status == 0, err
    path = Path(out.splitlines()[-1])
    assert path.stat().st_size > 10_000
    assert "reading the network" in err
    about = json.loads(path.with_suffix(".json").read_text())["about"]
    kinds = {kind: set() for _, kind, _ in about["layers"]}
    for _, kind, of in about["layers"]:
        kinds[kind].add(of)
    assert precision in kinds["CONVOLUTION"]
    assert ("PLUGIN_V3" in kinds) == (form == "--plugins")
    if precision in QUANTIZED_PRECISIONS:
        assert "pixel agreement with fp32" in out
        assert "speed won: " in out


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 16))
def test_unseen_networks_build_in_every_precision(sfseg, make_random_model, pictures, seed):
    model = make_random_model(seed)
    for precision in ENGINE_PRECISIONS:
        for form in ("--plugins", "--portable"):
            arguments = ["--precision", precision, form, "--size", "32x32,64x96,96x128"]
            if precision in QUANTIZED_PRECISIONS:
                arguments += ["--calibration", pictures, "--min-agreement", "0.8"]
            status, _, err = build(sfseg, model, *arguments)
            assert status == 0 or "no convolution of this model can be fp8" in err, err


@needs_rtx
@pytest.mark.parametrize(
    "seed", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in range(20) if n != 3)]
)
def test_wild_networks_build_in_every_precision_and_form(
    sfseg, make_random_model, pictures, seed, request
):
    """Warps and fusions anywhere, 2 to 255 classes, strides 4 to 16, sizes and batches dynamic."""
    model = make_random_model(seed, wild=True)
    nodes = [node for node in onnx.load(model.onnx_path).graph.node if node.domain == "sfseg"]
    is_quick = request.node.get_closest_marker("slow") is None
    for precision in ("fp16", "fp8") if is_quick else ENGINE_PRECISIONS:
        for form, plugins in (("--plugins", len(nodes)), ("--portable", 0)):
            arguments = ["--precision", precision, form, "--size", "32x32,64x96,96x128"]
            arguments += ["--batch", 3]
            if precision in QUANTIZED_PRECISIONS:
                arguments += ["--calibration", pictures, "--min-agreement", "0.8"]
            status, out, err = build(sfseg, model, *arguments)
            if precision in QUANTIZED_PRECISIONS and "no convolution of this model can be" in err:
                continue
            assert status == 0, err
            about = json.loads(Path(out.splitlines()[-1]).with_suffix(".json").read_text())["about"]
            assert [kind for _, kind, _ in about["layers"]].count("PLUGIN_V3") == plugins


@needs_rtx
def test_a_second_build_finds_the_engine(sfseg, make_random_model):
    model = make_random_model(0)
    _, first, _ = build(sfseg, model, "--size", SIZE)
    status, second, err = build(sfseg, model, "--size", SIZE)
    assert (status, second) == (0, first)
    assert "building" not in err
    _, _, err = build(sfseg, model, "--size", SIZE, "--rebuild")
    assert "building" in err


@needs_rtx
@pytest.mark.slow
def test_each_combination_of_options_is_its_own_engine(sfseg, make_random_model):
    model = make_random_model(0)
    paths = set()
    for choice in (
        [],
        ["--portable"],
        ["--precision", "fp32"],
        ["--batch", "4"],
        ["--size", "32x64"],
        ["--size", "32x64,64x96,96x128"],
        ["--compute-capability", "8.6"],
    ):
        status, out, err = build(sfseg, model, *choice)
        assert status == 0, err
        paths.add(out.splitlines()[-1])
    assert len(paths) == 7
    status, out, _ = sfseg("list", model.directory)
    assert len(out.splitlines()) == 7
    assert "portable: 8.6" in out


@needs_rtx
def test_changed_kernels_or_a_changed_model_need_a_new_engine(
    sfseg, make_random_model, monkeypatch
):
    model = make_random_model(0)
    request = EngineRequest(((64, 96),) * 3, library="tensorrt_rtx")
    store = EngineStore()
    build(sfseg, model, "--size", SIZE)
    assert find_engine(model, request, store) is not None
    with monkeypatch.context() as patch:
        patch.setattr(engines, "plugins_digest", lambda: "f" * 64)
        assert find_engine(model, request, store) is None
        status, _, err = sfseg("verify", model.directory, "--images", "anything")
        assert status == 1
        assert "the kernels' code has changed since: build it again" in err
        build(sfseg, model, "--size", SIZE)
        status, _, err = sfseg("verify", model.directory, "--pictures", "1")
        assert status == (0 if gpu_is_there() else 3), err
        assert len(only_line(err)) > 0  # the old one is still told of
    changed = onnx.load(model.onnx_path)
    changed.doc_string = "changed"
    onnx.save(changed, model.onnx_path)
    save_manifest(replace(model, onnx_sha256=sha256_of_file(model.onnx_path)))
    assert find_engine(load_manifest(model.directory), request, store) is None
    _, _, err = sfseg("verify", model.directory, "--images", "anything")
    assert "the model file has changed since" in err


@needs_rtx
def test_two_processes_build_an_engine_once(make_random_model, cache):
    model = make_random_model(2)
    command = [sys.executable, "-m", "sfseg_ros.tools", "engine", "build", str(model.directory)]
    command += ["--library", "tensorrt_rtx", "--size", SIZE]
    environment = {**os.environ, "SFSEG_CACHE_DIR": str(cache)}
    processes = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert results[0][0] == results[1][0]
    assert sum("built in" in err for _, err in results) == 1


# --- damage -------------------------------------------------------------------------------------


@needs_rtx
@pytest.mark.parametrize("suffix", [".engine", ".json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_engine_is_reported_and_built_again(sfseg, make_random_model, suffix, damage):
    model = make_random_model(0)
    _, out, _ = build(sfseg, model, "--size", SIZE)
    path = Path(out.splitlines()[-1]).with_suffix(suffix)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes({"flip": content, "truncate": content[:-9], "empty": b""}[damage])
    _, listed, _ = sfseg("list", model.directory)
    assert "not usable: " in listed
    assert len(listed.splitlines()) == 1
    status, _, err = sfseg("info", model.directory)
    assert status == 1
    status, _, err = sfseg("verify", model.directory, "--images", "anything")
    assert status == 1
    assert "verify: refused: " in only_line(err)
    status, _, err = build(sfseg, model, "--size", SIZE)
    assert status == 0
    assert sum("building it again" in line for line in err.splitlines()) == 1
    _, listed, _ = sfseg("list", model.directory)
    assert "not usable" not in listed


@needs_rtx
def test_garbage_with_a_valid_hash_is_a_malformed_engine(sfseg, make_random_model, pictures):
    """The library detects what the hash cannot, such as a bug of the builder."""
    model = make_random_model(0)
    request = EngineRequest(((64, 96),) * 3, library="tensorrt_rtx")
    key = engines.engine_key(model, request)
    EngineStore().get_or_build(model.name, key, lambda: (b"garbage" * 9999, {"built": "now"}))
    status, _, err = sfseg("verify", model.directory, "--images", pictures)
    assert status == 1
    assert "finds the engine malformed" in only_line(err)


def test_a_damaged_model_directory_is_an_error_of_one_line(sfseg, make_random_model, tmp_path):
    model = make_random_model(1)
    model.onnx_path.write_bytes(model.onnx_path.read_bytes()[:-100])
    for command in ("build", "info", "verify"):
        status, _, err = sfseg(command, model.directory)
        assert status == 1
        assert "SHA-256 begins" in only_line(err)
    save_manifest(load_manifest(model.directory, verify_hash=False))
    status, _, err = sfseg("build", tmp_path / "none")
    assert status == 1
    assert "no such folder" in only_line(err)


@needs_rtx
def test_an_invalid_onnx_file_is_an_error_of_one_line(sfseg, make_random_model):
    model = make_random_model(3)
    model.onnx_path.write_bytes(b"\x08\x07" + b"no onnx" * 100)
    save_manifest(replace(model, onnx_sha256=sha256_of_file(model.onnx_path)))
    status, _, err = build(sfseg, model)
    assert status == 1
    assert "not a valid ONNX file" in only_line(err)


@needs_rtx
def test_a_model_without_function_bodies_builds_with_plugins_only(
    sfseg, make_random_model, pictures
):
    model = make_random_model(5)
    file = onnx.load(model.onnx_path)
    del file.functions[:]
    onnx.save(file, model.onnx_path)
    save_manifest(replace(model, onnx_sha256=sha256_of_file(model.onnx_path)))
    status, _, err = build(sfseg, model, "--size", SIZE, "--portable")
    assert status == 1
    assert "lacks the standard-ONNX body" in only_line(err)
    status, _, err = build(sfseg, model, "--size", SIZE)
    assert status == 0, err
    status, _, err = sfseg("verify", model.directory, "--images", pictures)
    assert status == 1
    assert "ONNX Runtime" in only_line(err)


# --- accuracy -----------------------------------------------------------------------------------


@needs_rtx
@no_gpu
def test_verify_says_what_it_did_not_check(sfseg, make_random_model, pictures):
    model = make_random_model(0)
    build(sfseg, model, "--size", SIZE)
    status, out, _ = sfseg("verify", model.directory, "--images", pictures)
    assert status == 3
    assert "the engine itself did not run: no GPU" in out
    assert "speed won: not measured: no GPU" in out
    assert "mIoU lost: not measured, these pictures have no true labels" in out
    _, out, _ = sfseg("list", model.directory)
    assert "engine not run), accepted" in out


@needs_rtx
@no_gpu
def test_below_the_threshold_an_engine_is_refused_and_stays_so(sfseg, make_random_model, pictures):
    model = make_random_model(0)
    request = EngineRequest(((64, 96),) * 3, library="tensorrt_rtx")
    build(sfseg, model, "--size", SIZE)
    status, _, err = sfseg(
        "verify", model.directory, "--images", pictures, "--min-agreement", "1.0"
    )
    assert status == 1
    assert "100 % are required" in err
    with pytest.raises(BackendError, match="refused by sfseg engine verify"):
        built_engine(model, request, EngineStore())
    status, _, _ = sfseg("verify", model.directory, "--images", pictures)
    assert status == 3
    built_engine(model, request, EngineStore())


@needs_rtx
def test_with_ground_truth_the_lost_miou_is_reported(sfseg, make_random_model, pictures, tmp_path):
    model = make_random_model(0)
    truth = tmp_path / "truth"
    truth.mkdir()
    for picture in pictures.iterdir():
        labels = np.random.default_rng(1).integers(0, 2, (64, 96), np.uint8)
        cv2.imwrite(str(truth / picture.name), labels)
    build(sfseg, model, "--size", SIZE)
    _, out, _ = sfseg("verify", model.directory, "--images", pictures, "--truth", truth)
    assert "mIoU with true labels: fp32 " in out
    assert "points lost" in out


@needs_rtx
@no_gpu
def test_the_drives_truth_is_used_only_for_a_model_with_its_classes(sfseg, make_random_model):
    model = make_random_model(0)
    build(sfseg, model, "--size", SIZE)
    status, out, err = sfseg("verify", model.directory, "--pictures", "1", "--min-agreement", "0")
    assert status == 3, err
    assert "these pictures have no true labels" in out


@needs_rtx
@no_gpu
def test_invalid_pictures_do_not_refuse_an_engine(sfseg, make_random_model, pictures, tmp_path):
    model = make_random_model(0)
    for form in ("--plugins", "--portable"):
        build(sfseg, model, "--size", SIZE, form)
    for arguments in (["--images", "/none"], ["--images", pictures, "--truth", tmp_path]):
        status, _, err = sfseg("verify", model.directory, *arguments)
        assert status == 1
        assert "refused" not in only_line(err)


@needs_rtx
@no_gpu
def test_a_lower_threshold_accepts_what_was_refused(sfseg, make_random_model, pictures):
    model = make_random_model(0)
    arguments = ["--size", SIZE, "--precision", "int8", "--calibration", pictures]
    status, _, err = build(sfseg, model, *arguments, "--min-agreement", "1.0")
    assert status == 1
    assert "--min-agreement" in only_line(err)
    status, _, err = build(sfseg, model, *arguments, "--min-agreement", "0.5")
    assert status == 0, err
    assert "building" not in err


@needs_rtx
@no_gpu
def test_int8_whose_measurement_was_interrupted_is_not_used(
    sfseg, make_random_model, pictures, monkeypatch
):
    model = make_random_model(0)
    request = EngineRequest(((64, 96),) * 3, precision="int8", library="tensorrt_rtx")
    arguments = ["--size", SIZE, "--precision", "int8", "--calibration", pictures]
    arguments += ["--min-agreement", "0.5"]

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(accuracy_gate, "measure", interrupt)
        status, _, err = build(sfseg, model, *arguments)
    assert (status, only_line(err)) == (130, "sfseg engine build: interrupted")
    _, listed, _ = sfseg("list", model.directory)
    assert "accuracy not measured, not used until sfseg engine verify has" in listed
    with pytest.raises(BackendError, match="the accuracy in int8 was not measured"):
        built_engine(model, request, EngineStore())
    status, _, err = build(sfseg, model, *arguments)
    assert status == 0, err
    assert "building" not in err
    built_engine(model, request, EngineStore())


# --- old engines --------------------------------------------------------------------------------


@needs_rtx
def test_engines_that_are_no_longer_used_are_named_and_removed(
    sfseg, make_random_model, monkeypatch
):
    model = make_random_model(0)
    with monkeypatch.context() as patch:
        patch.setattr(engines, "RECIPE", 0)
        for form in ("--plugins", "--portable"):
            _, out, err = build(sfseg, model, "--size", SIZE, form)
            assert "no longer used" not in err
    old = Path(out.splitlines()[-1])
    status, out, err = build(sfseg, model, "--size", SIZE)
    used = Path(out.splitlines()[-1])
    assert f"{old.name}, 0 hours old: this release writes the network in another way" in err
    assert f"sfseg engine remove {model.directory}" in err
    broken = used.with_name(f"fp16-64x96-b1-plugins-{'0' * 16}.json")
    broken.write_text("{}")

    status, out, _ = sfseg("remove", model.directory, "--portable")
    assert (status, out.count("removed ")) == (0, 1)
    assert not old.exists()
    status, out, _ = sfseg("remove", model.directory)
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()][-1] == "2 engines of random_0 removed"
    assert f"removed {broken.stem}.engine, unknown hours old: " in out
    assert [path for path, _ in EngineStore().engines()] == [used]
    status, out, _ = sfseg("remove", model.directory)
    assert (status, out) == (0, "0 engines of random_0 removed: 0.0 MB\n")
    status, out, _ = sfseg("remove", model.directory, "--all")
    assert (status, used.exists()) == (0, False)


def test_an_engine_of_a_missing_library_stays(sfseg, make_random_model, monkeypatch):
    """Without the library, the command cannot tell whether the engine is used. --all removes it."""
    model = make_random_model(0)
    key = EngineKey(
        *(model.onnx_sha256, "fp16", ((1, 64, 96, 3),) * 3, "TensorRT 10.3.0", "NVIDIA Orin, 8.7"),
        *("", "", 1),
    )
    stored, _ = EngineStore().get_or_build(model.name, key, lambda: (b"engine", {}))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    load_tensorrt.cache_clear()
    try:
        status, _, _ = sfseg("remove", model.directory)
    finally:
        load_tensorrt.cache_clear()
    assert (status, stored.path.exists()) == (0, True)
    sfseg("remove", model.directory, "--all")
    assert not stored.path.exists()


# --- messages ---------------------------------------------------------------------------------


def test_ctrl_c_during_the_start_prints_no_traceback(tmp_path):
    (tmp_path / "numpy.py").write_text("import signal; signal.raise_signal(signal.SIGINT)\n")
    for command, status, said in (
        (["-m", "sfseg_ros.tools", "engine", "list"], 130, "sfseg engine list: interrupted\n"),
        (["-c", "import sfseg_ros.tools.engine.list"], -signal.SIGINT, ""),
    ):
        done = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


@needs_rtx
@pytest.mark.parametrize("stderr", ["a closed pipe", "closed", "full"])
def test_a_build_continues_if_its_progress_cannot_be_written(make_random_model, cache, stderr):
    """The exit status tells only whether the engine was built."""
    model = make_random_model(0)
    command = [sys.executable, "-m", "sfseg_ros.tools", "engine", "build", str(model.directory)]
    command += ["--library", "tensorrt_rtx", "--size", SIZE]
    reader, writer = os.pipe()
    os.close(reader)
    if stderr == "closed":
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    elif stderr == "full":
        writer = os.open("/dev/full", os.O_WRONLY)
    for arguments, status in (([], 0), (["--batch", "0"], 1)):
        done = subprocess.run(
            [*command, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "SFSEG_CACHE_DIR": str(cache)},
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
            check=False,
        )
        assert done.returncode == status
        assert bool(done.stdout) == (status == 0)
        if status == 0:
            assert Path(done.stdout.splitlines()[-1]).is_file()
            assert "---" not in done.stdout
    os.close(writer)


@needs_rtx
def test_a_build_whose_result_cannot_be_printed_fails(make_random_model, cache):
    model = make_random_model(0)
    reader, writer = os.pipe()
    os.close(reader)
    base = [sys.executable, "-m", "sfseg_ros.tools", "engine"]
    build = ["build", str(model.directory), "--library", "tensorrt_rtx", "--size", SIZE]
    for command, status in ((build, 1), (["list"], 0)):
        done = subprocess.run(
            [*base, *command],
            env={**os.environ, "PYTHONPATH": str(ROOT), "SFSEG_CACHE_DIR": str(cache)},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == status
        assert all(line.startswith("---") for line in done.stderr.splitlines()), done.stderr
    os.close(writer)


def test_without_a_library_the_error_names_both_ways_to_install_one(
    sfseg, make_random_model, monkeypatch
):
    model = make_random_model(0)
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    load_tensorrt.cache_clear()
    try:
        status, _, err = sfseg("build", model.directory)
    finally:
        load_tensorrt.cache_clear()
    assert status == 1
    assert "pip install tensorrt" in only_line(err)
    assert "pip install tensorrt-rtx-cu13" in err


def test_without_onnx_runtime_only_comparisons_fail(make_random_model, pictures):
    """A robot does not need ONNX Runtime, so no module of the tool may import it at the top."""
    model = make_random_model(0)
    script = "import sys; sys.modules['onnxruntime'] = None\n"
    script += "from sfseg_ros.tools.command_line import main\nsys.exit(main(sys.argv[1:]))"
    arguments = ["build", model.directory, "--precision", "int8", "--calibration", pictures]
    for given, status, words in (
        (["list"], 0, "no engines in "),
        (arguments, 1, "pip install onnxruntime"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, "engine", *map(str, given)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert words in (only_line(done.stderr) if status else done.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "65x96"], "takes multiples of 32 only"),
        (["--size", "512x512"], "takes 32x32 to 256x256"),
        (["--size", "64x96,32x32,128x128"], "expected the smallest, the usual and the largest"),
        (["--batch", "0"], "expected 1 to 64"),
        (["--batch", "65"], "expected 1 to 64"),
        (["--precision", "int8"], "--calibration FOLDER_OR_BAG"),
        (["--calibration", "x"], "--calibration is for int8 and fp8, not fp16"),
        (["--precision", "int8", "--calibration", "/none"], "no such folder or recording"),
        (["--min-agreement", "0.9"], "--min-agreement goes with --calibration"),
        (["--precision", "int8", "--pictures", "4"], "--pictures goes with --calibration"),
    ],
)
@needs_rtx
def test_impossible_options_are_an_error_of_one_line(sfseg, make_random_model, arguments, words):
    status, _, err = build(sfseg, make_random_model(0), *arguments)
    assert status == 1
    assert words in only_line(err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "64"],
        ["--size", "64x96,64x96"],
        ["--size", "-1x5"],
        ["--precision", "int4"],
        ["--plugins", "--portable"],
        ["--compute-capability", "86"],
        ["--pictures", "0"],
        ["--min-agreement", "2"],
        ["--library", "x"],
    ],
)
def test_invalid_arguments_show_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["engine", "build", "m", *arguments])
    assert caught.value.code == 2
    assert "usage: sfseg engine build" in capsys.readouterr().err


def test_without_an_engine_the_error_names_the_next_command(sfseg, make_random_model):
    model = make_random_model(0)
    for command in ("info", "verify"):
        status, _, err = sfseg(command, model.directory)
        assert status == 1
        assert f"sfseg engine build {model.directory}" in only_line(err)
    status, out, _ = sfseg("list")
    assert (status, out.startswith("no engines in ")) == (0, True)
