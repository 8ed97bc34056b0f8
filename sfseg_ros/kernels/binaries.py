# SPDX-License-Identifier: Apache-2.0
"""Compile the kernels for a GPU at first use, and keep them in the user's cache.

NVRTC compiles them, which the Python package cuda-bindings needs anyway, or else nvcc. Neither
needs a GPU.
"""

import functools
import glob
import hashlib
import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sfseg_ros.errors import BackendError
from sfseg_ros.installed_files import CACHE_VARIABLE, cache_directory
from sfseg_ros.private_files import make_folders, read_private, write_private

SOURCES = Path(__file__).parent
# Turing, Ampere, Orin, Ada, Hopper, Blackwell: compute capability without its dot.
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
OPTIONS: tuple[str, ...] = ("-std=c++17",)


def compiled(architecture: int) -> bytes:
    """Return a cubin with every kernel, for GPUs of compute capability `architecture` (90 is 9.0).

    Raises BackendError if there is no compiler or if it fails.
    """
    return _cached_cubin(architecture)[1]


def compiled_path(architecture: int) -> Path:
    """Return the cached file that holds the cubin; see `compiled`."""
    return _cached_cubin(architecture)[0]


def _cached_cubin(architecture: int) -> tuple[Path, bytes]:
    _check(architecture)
    name = f"sm_{architecture}.cubin"
    return cached(name, OPTIONS, lambda: compiled_with_log(architecture)[0])


def _check(architecture: int) -> None:
    if architecture not in ARCHITECTURES:
        raise BackendError(
            f"compute capability {architecture / 10:.1f}: the kernels are made for "
            f"{', '.join(f'{known / 10:.1f}' for known in ARCHITECTURES)}"
        )


def compiled_with_log(architecture: int) -> tuple[bytes, str]:
    """Return the cubin and the assembler's lines about registers and spills, without the cache."""
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        nvrtc.nvrtcVersion()
    except Exception as error:  # the module or the library that it loads is missing
        compiler = shutil.which("nvcc")
        if compiler is None:
            raise BackendError(
                "no compiler for the GPU kernels: pip install cuda-bindings nvidia-cuda-nvrtc, "
                f"or put nvcc on PATH ({type(error).__name__}: {error})"
            ) from error
        return compiled_by_nvcc(compiler, architecture)
    return compiled_by_nvrtc(nvrtc, architecture)


@functools.lru_cache(maxsize=1)
def source_digest() -> str:
    """Return the SHA-256 of the kernels' sources, in hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(_source_files()):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def cached(name: str, arguments: Sequence[str], make: Callable[[], bytes]) -> tuple[Path, bytes]:
    """Return the path and content of the cached file `name`, which `make` compiles from the sources
    with these arguments.

    The file's name contains the SHA-256 of its content. A file whose content differs is compiled
    again. Several processes may compile it at once. Raises BackendError if the cache cannot be
    written, or if another user could have written the file.
    """
    key = hashlib.sha256("\0".join((source_digest(), *arguments)).encode()).hexdigest()[:24]
    cache = cache_directory()
    folder, stem, suffix = cache / "kernels" / key, Path(name).stem, Path(name).suffix
    try:
        make_folders(folder, cache)
        for path in sorted(folder.glob(f"{glob.escape(stem)}-*{suffix}")):
            content = read_private(path, cache)
            if path.name == _hashed_name(stem, suffix, content):
                return path, content
            path.unlink(missing_ok=True)
        content = make()
        path = folder / _hashed_name(stem, suffix, content)
        write_private(path, content)
        return path, content
    except OSError as error:
        raise BackendError(
            f"compiled kernels cannot be kept ({error}); set {CACHE_VARIABLE} to a folder that "
            "you can write"
        ) from error


def _hashed_name(stem: str, suffix: str, content: bytes) -> str:
    return f"{stem}-{hashlib.sha256(content).hexdigest()}{suffix}"


def _source_files() -> list[Path]:
    return [path for path in SOURCES.iterdir() if path.suffix in (".cu", ".cuh", ".h")]


def compiled_by_nvrtc(nvrtc: Any, architecture: int) -> tuple[bytes, str]:
    """See `compiled_with_log`. `nvrtc` is the module `cuda.bindings.nvrtc`."""
    headers = {path.name: path.read_bytes() for path in _source_files() if path.name != "all.cu"}
    source = (SOURCES / "all.cu").read_bytes()
    success = nvrtc.nvrtcResult.NVRTC_SUCCESS
    status, program = nvrtc.nvrtcCreateProgram(
        source, b"all.cu", len(headers), list(headers.values()), [n.encode() for n in headers]
    )
    if status != success:
        raise BackendError(f"NVRTC: {status.name} for the kernels' sources")
    try:
        options = [*OPTIONS, f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v"]
        (status,) = nvrtc.nvrtcCompileProgram(
            program, len(options), [option.encode() for option in options]
        )
        _, log_size = nvrtc.nvrtcGetProgramLogSize(program)
        log = bytearray(log_size)
        nvrtc.nvrtcGetProgramLog(program, log)
        text = log.decode(errors="replace").strip("\0\n ")
        if status != success:
            lines = [line for line in text.splitlines() if "error" in line] or text.splitlines()
            reason = lines[0] if lines else status.name
            raise BackendError(f"NVRTC cannot compile the kernels for sm_{architecture}: {reason}")
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        binary = bytearray(size)
        nvrtc.nvrtcGetCUBIN(program, binary)
        return bytes(binary), text
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def compiled_by_nvcc(compiler: str, architecture: int) -> tuple[bytes, str]:
    """See `compiled_with_log`. `compiler` is the path of nvcc."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernels"
        kind = [f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v"]
        command = [compiler, *OPTIONS, *kind, str(SOURCES / "all.cu"), "-o", str(binary)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            lines = result.stderr.strip().splitlines()
            reason = next((line for line in lines if "error" in line), "no message")
            raise BackendError(f"nvcc cannot compile the kernels for sm_{architecture}: {reason}")
        return binary.read_bytes(), result.stderr
