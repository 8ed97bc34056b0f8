# SPDX-License-Identifier: Apache-2.0
"""Built engines on disk: a file and a JSON each, found by what they were built from and for.

An engine is used only if its JSON is intact, has this format and the wanted key, and names the hash
of exactly these bytes. Anything else is refused with a reason of one line and replaced by the next
build. A valid hash rules out accidental corruption; `private_files` rules out tampering.

Below the cache folder: engines/<model>/<precision>-<HxW>-b<batch>-<form>-<key>.{engine,json,lock}
"""

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfseg_ros.errors import BackendError
from sfseg_ros.installed_files import CACHE_VARIABLE, cache_directory
from sfseg_ros.private_files import FILE_MODE, make_folders, read_private, write_private

FORMAT_VERSION = 1
LOCK_POLL_S = 0.2
RUNTIME_CACHE = ".runtime_cache"
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class EngineKey:
    """Everything that distinguishes one engine from another.

    `shapes`: smallest, usual and largest `image` (N, H, W, 3). `library`: name and version. `gpu`:
    name and compute capability, or "portable: <capabilities>" of an engine that is completed where
    it runs. `plugins`: digest of the kernels' code, "" in the portable form. `calibration`:
    digest of pictures and method for int8 and fp8, else "". `recipe`: version of our own rewriting.
    """

    onnx_sha256: str
    precision: str
    shapes: tuple[Shape, Shape, Shape]
    library: str
    gpu: str
    plugins: str
    calibration: str
    recipe: int

    @property
    def digest(self) -> str:
        """SHA-256 of the key: 64 hexadecimal digits."""
        return _digest_of(dataclasses.asdict(self))

    @property
    def library_name(self) -> str:
        """One of library.LIBRARIES."""
        return "tensorrt_rtx" if "RTX" in self.library else "tensorrt"

    @property
    def form(self) -> str:
        """ "plugins" if the engine needs our kernels where it runs, else "portable"."""
        return "plugins" if self.plugins else "portable"

    @property
    def name(self) -> str:
        """File name without suffix: readable, with the start of the digest to make it unique."""
        batch, height, width, _ = self.shapes[1]
        return f"{self.precision}-{height}x{width}-b{batch}-{self.form}-{self.digest[:16]}"


@dataclass(frozen=True)
class StoredEngine:
    """An intact engine. `about` is what the builder recorded for people (JSON values): layers and
    their precision, time, accuracy."""

    path: Path
    key: EngineKey
    sha256: str
    size: int
    about: dict[str, Any]

    def read(self) -> bytes:
        """Return the engine's bytes. Raises BackendError unless they are those that were built."""
        try:
            data = read_private(self.path, _cache_of(self.path))
        except OSError as error:
            raise BackendError(f"{self.path}: cannot be read ({error.strerror})") from error
        if len(data) != self.size:
            raise BackendError(f"{self.path}: truncated, {len(data)} of {self.size} bytes")
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise BackendError(f"{self.path}: damaged, its SHA-256 is not the one in its JSON")
        return data


class EngineStore:
    """The engines of one cache folder. Processes and threads may share it."""

    def __init__(self, cache: Path | None = None) -> None:
        """`cache` is the cache folder, by default `cache_directory()`."""
        self.folder = (cache or cache_directory()) / "engines"

    def path_of(self, model: str, key: EngineKey) -> Path:
        """Return the path of an engine of `model` (its manifest's name); it need not exist."""
        return self.folder / _folder_name(model) / f"{key.name}.engine"

    def find(self, model: str, key: EngineKey) -> StoredEngine | None:
        """Return the engine with exactly this key, or None if there is none.

        Raises BackendError with the reason if there is one that must not be used.
        """
        path = self.path_of(model, key)
        if not path.exists() and not path.with_suffix(".json").exists():
            return None
        stored = load_json(path)
        if stored.key != key:
            raise BackendError(f"{path}: foreign, it was made for something else")
        return stored

    def engines(
        self, model: str | None = None
    ) -> Iterator[tuple[Path, StoredEngine | BackendError]]:
        """Yield (path, engine or reason why it is unusable) for each engine of `model`, or of all.

        Only the JSON is read; `StoredEngine.read` checks the bytes.
        """
        pattern = "*" if model is None else _folder_name(model)
        stems = {
            path.with_suffix(".engine")
            for suffix in ("engine", "json")
            for path in self.folder.glob(f"{pattern}/*.{suffix}")
            if not path.name.startswith(".")  # being written, or left by a builder that was killed
        }
        for path in sorted(stems):
            try:
                yield path, load_json(path)
            except BackendError as error:
                yield path, error

    def get_or_build(
        self,
        model: str,
        key: EngineKey,
        build: Callable[[], tuple[bytes, dict[str, Any]]],
        say: Callable[[str], None] = lambda _: None,
        rebuild: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> tuple[StoredEngine, bytes]:
        """Return the engine of this key and its bytes, from the store or from `build`.

        `build` returns (engine, about). A stored engine is used even if its folder is read-only. If
        several processes want the same engine, one builds it and the others wait. The lock is a
        flock, which the kernel releases when its process ends, for whatever reason. An unusable
        engine is replaced, and `say` is called with the reason; `rebuild` replaces any engine.
        Raises BackendError if the build fails or is cancelled.
        """
        path = self.path_of(model, key)
        if not rebuild:
            with contextlib.suppress(BackendError, OSError):
                stored = self.find(model, key)
                if stored is not None:
                    return stored, stored.read()
        with _locked(path.with_suffix(".lock"), say, cancelled):
            if not rebuild:
                try:
                    stored = self.find(model, key)
                    if stored is not None:
                        return stored, stored.read()
                except BackendError as error:
                    say(f"{error}; building it again")
            engine, about = build()
            return self._write(path, key, engine, about), engine

    def remember(self, stored: StoredEngine, about: dict[str, Any]) -> StoredEngine:
        """Add to what is recorded about an engine, such as its measured accuracy."""
        with _locked(stored.path.with_suffix(".lock")):
            current = load_json(stored.path)
            if current.sha256 != stored.sha256:
                raise BackendError(f"{stored.path}: was built again in the meantime")
            new = dataclasses.replace(current, about=current.about | about)
            with _explained(stored.path):
                write_private(stored.path.with_suffix(".json"), _json_of(new))
            return new

    def remove(self, path: Path) -> int:
        """Delete an engine, intact or not, with its JSON and everything beside it.

        Returns the number of bytes freed. Raises BackendError while a process builds the engine.
        """
        with _locked(path.with_suffix(".lock"), cancelled=lambda: True), _explained(path):
            beside = [path.with_suffix(suffix) for suffix in (".json", ".engine", RUNTIME_CACHE)]
            freed = 0
            for file in (*beside, *path.parent.glob(f".{glob.escape(path.stem)}.*")):
                with contextlib.suppress(FileNotFoundError):
                    freed += file.stat().st_size
                    file.unlink()
        return freed

    def _write(
        self, path: Path, key: EngineKey, engine: bytes, about: dict[str, Any]
    ) -> StoredEngine:
        """Write the engine, then the JSON that makes it valid. The caller holds the lock."""
        stored = StoredEngine(path, key, hashlib.sha256(engine).hexdigest(), len(engine), about)
        with _explained(path):
            for left in path.parent.glob(f".{path.stem}.*"):
                left.unlink()  # left by a builder that was killed while it wrote
            path.with_suffix(".json").unlink(missing_ok=True)
            write_private(path, engine)
            write_private(path.with_suffix(".json"), _json_of(stored))
        return stored


def load_json(path: Path) -> StoredEngine:
    """Read the JSON beside the engine file `path`, but not the engine's bytes.

    Raises BackendError if the JSON is missing, damaged or of another format.
    """
    json_path = path.with_suffix(".json")
    if not path.is_file():
        raise BackendError(f"{path}: missing, only its JSON is there")
    try:
        document = json.loads(read_private(json_path, _cache_of(path)))
    except FileNotFoundError:
        raise BackendError(f"{path}: half written or foreign, it has no JSON beside it") from None
    except OSError as error:
        raise BackendError(f"{json_path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError):
        raise BackendError(f"{json_path}: damaged, not JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("format_version"), int):
        raise BackendError(f"{json_path}: damaged or foreign, it has no format version")
    if document["format_version"] != FORMAT_VERSION:
        raise BackendError(
            f"{json_path}: of format {document['format_version']}, this release reads "
            f"{FORMAT_VERSION}"
        )
    if document.pop("json_sha256", None) != _digest_of(document):
        raise BackendError(f"{json_path}: damaged, its own SHA-256 does not fit")
    fields = document["key"] | {"shapes": tuple(map(tuple, document["key"]["shapes"]))}
    stored = StoredEngine(
        path, EngineKey(**fields), document["sha256"], document["size"], document["about"]
    )
    if stored.key.name != path.stem:
        raise BackendError(f"{path}: renamed or foreign, its JSON is of {stored.key.name}")
    return stored


def _json_of(stored: StoredEngine) -> bytes:
    document = {
        "format_version": FORMAT_VERSION,
        "key": dataclasses.asdict(stored.key),
        "sha256": stored.sha256,
        "size": stored.size,
        "about": stored.about,
    }
    document["json_sha256"] = _digest_of(document)
    return (json.dumps(document, indent=1) + "\n").encode()


def _digest_of(document: dict[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _cache_of(path: Path) -> Path:
    """Return the cache folder of a file at engines/<model>/<file>."""
    return path.parents[2]


def _folder_name(model: str) -> str:
    """Return the model's name as a valid folder name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", model).lstrip(".")[:100] or "_"


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into a BackendError."""
    try:
        yield
    except OSError as error:
        raise BackendError(
            f"{path}: cannot be written ({error.strerror}); free space there or set "
            f"{CACHE_VARIABLE}"
        ) from error


@contextlib.contextmanager
def _locked(
    path: Path,
    say: Callable[[str], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold the lock file. It is never removed: otherwise two processes could each hold one."""
    try:
        make_folders(path.parent, _cache_of(path))
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise BackendError(
            f"{path}: cannot be written ({error.strerror}); set {CACHE_VARIABLE} to a folder that "
            "you can write"
        ) from error
    try:
        waiting = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say("another process is building this engine: waiting for it")
                waiting = True
            if cancelled():
                raise BackendError("cancelled while waiting for another process's build")
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(lock)
