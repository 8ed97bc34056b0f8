# SPDX-License-Identifier: Apache-2.0
"""Brings TensorRT-RTX to a machine that nothing can be downloaded to, in parts of 22 MiB or less.

    python -m benchmarks.carry_tensorrt pack               # here: build/carry/1, build/carry/2, ...
    python -m benchmarks.carry_tensorrt unpack FOLDER TO   # there: PYTHONPATH=TO has tensorrt_rtx

benchmarks/README.md has the commands for a lent GPU. `unpack` needs nothing but Python. It also
adds the link `libtensorrt_rtx.so`, without which the parser ends the process.
"""

import argparse
import hashlib
import io
import json
import lzma
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

VERSION = "1.7.1.116"
WHEELS = ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings")
# What `import tensorrt_rtx` is: the package itself has only these lines, and comes as source.
IMPORT_PACKAGE = "tensorrt_rtx/__init__.py"
IMPORT_LINES = (
    "from tensorrt_rtx_bindings import *\nfrom tensorrt_rtx_bindings import __version__\n"
)
LIBRARY, LINK = "libtensorrt_rtx.so.1", "libtensorrt_rtx.so"
PART_BYTES = 22 * 2**20
"""Beside the repository, of some 33 MiB, in the 64 MiB that travel in one call."""
# A filter for x86 machine code makes the library 8 % smaller.
FILTERS = [
    {"id": lzma.FILTER_X86},
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME},
]
PACKED, CONTENTS = "tensorrt_rtx.tar.xz", "contents.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="download, compress, split")
    packing.add_argument("--folder", type=Path, default=Path("build/carry"))
    packing.add_argument("--python", default="3.12", help="the Python of the other machine")
    unpacking = commands.add_parser("unpack", help="join, verify, extract, add the missing link")
    unpacking.add_argument("folder", type=Path, help="holds the parts, in folders or side by side")
    unpacking.add_argument("target", type=Path, help="what PYTHONPATH shall name")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        with tempfile.TemporaryDirectory(prefix="sfseg_carry_") as name:
            download(Path(name), arguments.python)
            parts = pack(sorted(Path(name).glob("*.whl")), arguments.folder)
        for part in parts:
            size = sum(file.stat().st_size for file in part.iterdir())
            print(f"{part}: {size / 2**20:.1f} MiB")
    else:
        unpack(arguments.folder, arguments.target)
        print(f"PYTHONPATH={arguments.target} has tensorrt_rtx {VERSION}")


def download(folder: Path, python: str) -> None:
    """The wheels of VERSION for an x86-64 Linux with this Python."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (17, 27, 28, 31, 34, 35)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [f"--platform={platform}" for platform in [*platforms, "manylinux2014_x86_64"]]
    command += ["--dest", str(folder), *(f"{wheel}=={VERSION}" for wheel in WHEELS)]
    subprocess.run(command, check=True)


def pack(wheels: list[Path], folder: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Compress what the wheels hold into folders 1, 2, ... of `folder`; returns them.

    Each has one part, and a list of all parts with their SHA-256.
    """
    packed = lzma.compress(_archive(wheels), format=lzma.FORMAT_XZ, filters=FILTERS)
    pieces = [packed[i : i + part_bytes] for i in range(0, len(packed), part_bytes)]
    names = [f"{PACKED}.{number}" for number in range(1, len(pieces) + 1)]
    contents = {
        name: hashlib.sha256(piece).hexdigest() for name, piece in zip(names, pieces, strict=True)
    }
    folders = [folder / str(number) for number in range(1, len(pieces) + 1)]
    for part, name, piece in zip(folders, names, pieces, strict=True):
        part.mkdir(parents=True, exist_ok=True)
        (part / name).write_bytes(piece)
        (part / CONTENTS).write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    return folders


def unpack(folder: Path, target: Path) -> None:
    """Extract the parts below `folder` into `target`. Exits with a word where one is missing or
    damaged."""
    lists = sorted(folder.rglob(CONTENTS))
    if not lists:
        raise SystemExit(f"no {CONTENTS} below {folder}: copy the folders that `pack` made there")
    contents: dict[str, str] = json.loads(lists[0].read_text(encoding="utf-8"))
    pieces = []
    for name, digest in contents.items():
        found = sorted(folder.rglob(name))
        if not found:
            raise SystemExit(f"{name} is not below {folder}: {len(contents)} parts are needed")
        pieces.append(found[0].read_bytes())
        if hashlib.sha256(pieces[-1]).hexdigest() != digest:
            raise SystemExit(f"{found[0]} is damaged: pack again, and carry all parts of one pack")
    target.mkdir(parents=True, exist_ok=True)
    with lzma.open(io.BytesIO(b"".join(pieces))) as stream, tarfile.open(fileobj=stream) as archive:
        archive.extractall(target, filter="data")
    for library in target.rglob(LIBRARY):
        link = library.parent / LINK
        if not link.exists():
            link.symlink_to(library.name)


def _archive(wheels: list[Path]) -> bytes:
    """A tar of the files of the wheels, executable bits kept, and of the package `tensorrt_rtx`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as files:
                for entry in files.infolist():
                    if not entry.is_dir():
                        _add(archive, entry.filename, files.read(entry))
        _add(archive, IMPORT_PACKAGE, IMPORT_LINES.encode())
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o755
    archive.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    main()
