# SPDX-License-Identifier: Apache-2.0
"""The store returns only the bytes that were built for exactly the wanted key."""

import dataclasses
import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros.backends.tensorrt.engine_store import EngineKey, EngineStore, load_json
from sfseg_ros.errors import BackendError

ROOT = Path(__file__).resolve().parents[3]
KEY = EngineKey(
    onnx_sha256="a" * 64,
    precision="fp16",
    shapes=((1, 64, 96, 3), (1, 64, 96, 3), (1, 64, 96, 3)),
    library="TensorRT-RTX 1.7.1",
    gpu="portable: 8.x, 12.x",
    plugins="b" * 64,
    calibration="",
    recipe=1,
)
ENGINE = bytes(range(256)) * 20


def put(store: EngineStore, key: EngineKey = KEY, engine: bytes = ENGINE) -> Path:
    stored, _ = store.get_or_build("tiny", key, lambda: (engine, {"layers": []}))
    return stored.path


def never() -> tuple[bytes, dict]:
    raise AssertionError("built although the engine is there")


def test_a_built_engine_is_found_with_its_notes_and_not_built_again(tmp_path):
    store = EngineStore(tmp_path)
    assert store.find("tiny", KEY) is None
    path = put(store)
    stored, data = EngineStore(tmp_path).get_or_build("tiny", KEY, never)
    assert (stored.path, data, stored.about) == (path, ENGINE, {"layers": []})
    assert [(p, s.key) for p, s in store.engines("tiny")] == [(path, KEY)]
    assert list(store.engines("other")) == []
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".engine", ".json", ".lock"]


@pytest.mark.parametrize(
    "change",
    [
        {"onnx_sha256": "c" * 64},
        {"precision": "int8"},
        {"shapes": ((1, 64, 96, 3), (1, 64, 96, 3), (2, 64, 96, 3))},
        {"library": "TensorRT-RTX 1.7.2"},
        {"gpu": "NVIDIA H200, 9.0"},
        {"plugins": "d" * 64},
        {"plugins": ""},
        {"calibration": "e" * 64},
        {"recipe": 2},
    ],
)
def test_an_engine_of_another_key_is_not_found(tmp_path, change):
    store = EngineStore(tmp_path)
    put(store)
    assert store.find("tiny", dataclasses.replace(KEY, **change)) is None


def test_every_field_of_the_key_is_in_its_name():
    fields = {field.name for field in dataclasses.fields(EngineKey)}
    assert fields == {
        *("onnx_sha256", "precision", "shapes", "library", "gpu", "plugins", "calibration"),
        "recipe",
    }, "extend the test above too"


def engine_or_reason(store: EngineStore) -> bytes | None:
    """Return what a backend would get: the engine's bytes, or None if refused or missing."""
    try:
        stored = store.find("tiny", KEY)
        return stored.read() if stored else None
    except BackendError as error:
        assert "\n" not in str(error)
        return None


def check_repair(store: EngineStore) -> None:
    """Building again replaces a damaged engine."""
    said = []
    rebuilt, data = store.get_or_build("tiny", KEY, lambda: (b"new", {}), said.append)
    assert data in (b"new", ENGINE)
    assert rebuilt.read() == data
    assert len(said) <= 1
    assert engine_or_reason(store) == data


@given(st.data())
def test_no_damage_to_engine_or_json_gets_through(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("store")
    store = EngineStore(folder)
    path = put(store)
    target = data.draw(st.sampled_from([path, path.with_suffix(".json")]))
    content = bytearray(target.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "truncate", "insert", "zero", "delete", "swap"])):
        case "flip":
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        case "truncate":
            del content[position:]
        case "insert":
            content[position:position] = data.draw(st.binary(min_size=1, max_size=9))
        case "zero":
            content[position : position + 512] = bytes(len(content[position : position + 512]))
        case "delete":
            del content[position : position + data.draw(st.integers(1, 40))]
        case "swap":
            content.reverse()
    target.write_bytes(content)
    assert engine_or_reason(store) in (None, ENGINE)
    if target == path and bytes(content) != ENGINE:
        assert engine_or_reason(store) is None
    check_repair(store)


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "{}", "7", "[" * 9999, "\ufeff{}", "\x00"),
        *(f'{{"format_version": {version}}}' for version in ("1", "true", "NaN", "1e400")),
    ],
)
def test_any_text_in_the_json_is_refused_in_one_line(tmp_path, text):
    store = EngineStore(tmp_path)
    path = put(store)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(BackendError, match="damaged|foreign|format"):
        store.find("tiny", KEY)
    check_repair(store)


def test_removing_an_engine_also_removes_the_files_beside_it(tmp_path):
    store = EngineStore(tmp_path)
    path, other = put(store), put(store, dataclasses.replace(KEY, precision="fp32"))
    path.with_suffix(".runtime_cache").write_bytes(b"x" * 100)
    (path.parent / f".{path.stem}.4711.engine").write_bytes(b"x" * 10)
    size = len(ENGINE) + path.with_suffix(".json").stat().st_size
    assert store.remove(path) == size + 110
    assert [found for found, _ in store.engines()] == [other]
    assert {file.suffix for file in path.parent.iterdir() if path.stem in file.name} == {".lock"}
    assert store.remove(path) == 0

    def build():
        with pytest.raises(BackendError, match="another process"):
            store.remove(path)
        return ENGINE, {}

    assert store.get_or_build("tiny", KEY, build)[1] == ENGINE


def test_an_older_or_newer_format_is_said_and_built_again(tmp_path):
    store = EngineStore(tmp_path)
    path = put(store)
    for version in (0, 2):
        document = json.loads(path.with_suffix(".json").read_text())
        document["format_version"] = version
        path.with_suffix(".json").write_text(json.dumps(document))
        with pytest.raises(BackendError, match=f"of format {version}, this release reads 1"):
            store.find("tiny", KEY)
        said = []
        store.get_or_build("tiny", KEY, lambda: (ENGINE, {}), said.append)
        assert said[0].endswith("building it again")


def test_an_engine_of_another_machine_copied_over_ours_is_not_loaded(tmp_path):
    ours, theirs = EngineStore(tmp_path / "ours"), EngineStore(tmp_path / "theirs")
    mine = put(ours)
    foreign = put(theirs, dataclasses.replace(KEY, gpu="NVIDIA Orin, 8.7"), b"foreign")
    for suffix in (".engine", ".json"):
        mine.with_suffix(suffix).write_bytes(foreign.with_suffix(suffix).read_bytes())
    assert engine_or_reason(ours) is None
    ((_, reason),) = ours.engines()
    assert "renamed or foreign" in str(reason)


@pytest.mark.parametrize("suffix", [".engine", ".json"])
def test_half_an_engine_is_none(tmp_path, suffix):
    store = EngineStore(tmp_path)
    put(store).with_suffix(suffix).unlink()
    assert engine_or_reason(store) is None
    ((_, reason),) = store.engines()
    assert isinstance(reason, BackendError)
    check_repair(store)


@pytest.mark.parametrize("suffix", [".engine", ".json"])
@pytest.mark.parametrize("way", ["writable", "link"])
def test_an_engine_that_another_user_could_have_written_is_built_again(tmp_path, suffix, way):
    store = EngineStore(tmp_path / "cache")
    file = put(store).with_suffix(suffix)
    if way == "writable":
        file.chmod(0o666)
    else:
        file.symlink_to(file.rename(tmp_path / "elsewhere"))
    assert engine_or_reason(store) is None
    said = []
    _, data = store.get_or_build("tiny", KEY, lambda: (b"new", {}), said.append)
    assert data == b"new"
    assert len(said) == 1
    assert "other users" in said[0] or "symbolic link" in said[0]
    assert engine_or_reason(store) == b"new"


@pytest.mark.parametrize("level", ["cache", "engines", "model"])
def test_a_folder_that_another_user_can_write_holds_no_engines(tmp_path, level):
    store = EngineStore(tmp_path / "cache")
    model = put(store).parent
    folder = {"cache": tmp_path / "cache", "engines": store.folder, "model": model}[level]
    folder.chmod(0o777)
    assert engine_or_reason(store) is None
    with pytest.raises(BackendError, match="can be written by other users"):
        store.get_or_build("tiny", KEY, never)


def test_a_failed_build_keeps_the_old_engine(tmp_path):
    store = EngineStore(tmp_path)
    put(store)

    def fails():
        raise BackendError("no")

    with pytest.raises(BackendError, match="no"):
        store.get_or_build("tiny", KEY, fails, rebuild=True)
    assert engine_or_reason(store) == ENGINE


def test_a_folder_that_cannot_be_written_is_said_with_the_variable(tmp_path):
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(BackendError, match="SFSEG_CACHE_DIR"):
        put(EngineStore(tmp_path))


def test_notes_are_added_without_touching_the_engine(tmp_path):
    store = EngineStore(tmp_path)
    path = put(store)
    accuracy = {"pixel_agreement": 0.9, "threshold": 0.5, "accepted": True}
    store.remember(load_json(path), {"accuracy": accuracy})
    assert load_json(path).about == {"layers": [], "accuracy": accuracy}
    stale = load_json(path)
    store.get_or_build("tiny", KEY, lambda: (b"new", {}), rebuild=True)
    with pytest.raises(BackendError, match="built again"):
        store.remember(stale, {"accuracy": accuracy})


@pytest.mark.parametrize("name", ["../../up", "a/b", ".hidden", "", "ä b", "x" * 500])
def test_a_models_name_cannot_leave_the_store(tmp_path, name):
    store = EngineStore(tmp_path)
    path = store.path_of(name, KEY)
    assert path.parent.parent == store.folder
    store.get_or_build(name, KEY, lambda: (ENGINE, {}))
    assert store.find(name, KEY).read() == ENGINE


# --- processes ----------------------------------------------------------------------------------


def build_slowly(folder: Path, barrier, results) -> None:
    def build():
        time.sleep(0.5)
        return os.getpid().to_bytes(4, "little") * 100, {}

    barrier.wait()
    _, data = EngineStore(folder).get_or_build("tiny", KEY, build)
    results.put((os.getpid(), int.from_bytes(data[:4], "little"), len(data)))


def test_of_four_processes_one_builds_and_all_get_its_engine(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=build_slowly, args=(tmp_path, barrier, results)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert len({pid for pid, _, _ in found}) == 4
    assert len({builder for _, builder, _ in found}) == 1
    assert {size for _, _, size in found} == {400}


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from test_engine_store_key import KEY
from sfseg_ros.backends.tensorrt import engine_store

def slow(path, data):
    path.with_name("." + path.stem + ".1.engine").write_bytes(data[:50])
    path.write_bytes(data[:100]) if {half} else None
    print("writing", flush=True)
    time.sleep(60)

engine_store.write_private = slow
engine_store.EngineStore(Path({folder!r})).get_or_build("tiny", KEY, lambda: (b"x" * 5000, {{}}))
"""


@pytest.mark.parametrize("half", [False, True])
def test_a_builder_that_is_killed_while_writing_leaves_no_lock_and_no_half_engine(tmp_path, half):
    """`half`: even if the file system reorders writes."""
    (tmp_path / "test_engine_store_key.py").write_text(
        f"from sfseg_ros.backends.tensorrt.engine_store import EngineKey\nKEY = {KEY!r}\n"
    )
    script = KILLED.format(root=str(tmp_path), folder=str(tmp_path / "cache"), half=half)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    builder = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE
    )
    try:
        assert builder.stdout.readline() == b"writing\n"
        store = EngineStore(tmp_path / "cache")
        said, waited = [], {}

        def wait():
            waited["data"] = store.get_or_build("tiny", KEY, lambda: (ENGINE, {}), said.append)[1]

        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.4)
        assert waiter.is_alive()
        assert said == ["another process is building this engine: waiting for it"]
    finally:
        builder.send_signal(signal.SIGKILL)
        builder.wait()
    waiter.join(timeout=10)
    assert waited["data"] == ENGINE
    assert engine_or_reason(store) == ENGINE
    assert not list(store.folder.glob("*/.*")), "the killed builder's temporary file is gone"


def test_waiting_for_another_builder_can_be_cancelled(tmp_path):
    store = EngineStore(tmp_path)
    cancelled = threading.Event()
    errors = []

    def build():
        def wait():
            try:
                store.get_or_build("tiny", KEY, never, cancelled=cancelled.is_set)
            except BackendError as error:
                errors.append(str(error))

        waiter = threading.Thread(target=wait)
        waiter.start()
        cancelled.set()
        waiter.join(timeout=10)
        return ENGINE, {}

    store.get_or_build("tiny", KEY, build)
    assert errors == ["cancelled while waiting for another process's build"]


def test_readers_during_many_rebuilds_see_a_whole_engine_or_a_refusal(tmp_path):
    """Each engine consists of one repeated byte, so a mixture would be seen."""
    store = EngineStore(tmp_path)
    put(store)
    stop = threading.Event()
    wrong: list[bytes] = []
    seen = set()

    def read():
        while not stop.is_set():
            data = engine_or_reason(store)
            if data is not None:
                seen.add(data[:1])
                if len(set(data)) != 1 and data != ENGINE:
                    wrong.append(data)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    rng = random.Random(0)
    for i in range(60):
        engine = bytes([i]) * rng.randrange(1, 200_000)
        store.get_or_build("tiny", KEY, lambda engine=engine: (engine, {}), rebuild=True)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert seen


def test_an_engine_that_is_there_needs_no_lock(tmp_path):
    """Such as one in a container image or in a folder that only root can write."""
    store = EngineStore(tmp_path)
    path = put(store)
    lock = path.with_suffix(".lock")
    lock.unlink()
    lock.mkdir()  # cannot be opened to write, by root neither
    stored, data = store.get_or_build("tiny", KEY, never)
    assert (stored.path, data) == (path, ENGINE)
    with pytest.raises(BackendError, match=r"\.lock: cannot be written"):
        store.get_or_build("tiny", KEY, never, rebuild=True)


def test_an_engine_that_is_being_written_is_not_listed(tmp_path):
    store = EngineStore(tmp_path)
    path = put(store)
    (path.parent / f".{path.stem}.4711.engine").write_bytes(ENGINE[:99])
    (path.parent / f".{path.stem}.4711.json").write_bytes(b"{")
    assert [found for found, _ in store.engines()] == [path]


def test_a_failed_write_leaves_nothing_and_is_reported(tmp_path, monkeypatch):
    store = EngineStore(tmp_path)
    stored = load_json(put(store))
    before = sorted(stored.path.parent.iterdir())

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BackendError, match=r"No space left on device.*SFSEG_CACHE_DIR"):
            store.remember(stored, {"accuracy": None})
        assert sorted(stored.path.parent.iterdir()) == before
        with pytest.raises(BackendError, match=r"No space left on device.*SFSEG_CACHE_DIR"):
            store.get_or_build("tiny", KEY, lambda: (ENGINE, {}), rebuild=True)
    assert {path.name[0] for path in stored.path.parent.iterdir()} == {"f"}
