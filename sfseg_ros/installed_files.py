# SPDX-License-Identifier: Apache-2.0
"""Where files lie: what is installed beside the code (`models/`, `config/`, `launch/`), and what is
made on this machine."""

import contextlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sfseg_ros.errors import ManifestError

DEFAULT_MODEL = "sfnet_lite_r18_camvid"
"""Folder of models/ that the node and the tools use unless told otherwise."""
DEMO_DRIVE = "test/data/town_drive"
"""Recorded drive with ground truth; only the source tree has it."""
CACHE_VARIABLE = "SFSEG_CACHE_DIR"
MIDDLEWARE_PROFILE = "config/fastdds_large_images.xml"
"""Large images arrive if the processes of camera and node have this profile of Fast DDS."""
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Environment variables that name a profile: Fast DDS 3 reads the second, older releases (Humble's
to Jazzy's) the first."""


def share_folders() -> Iterator[Path]:
    """Folders that may hold our files: source tree, colcon or ROS prefixes, Python's prefixes.

    Outside a virtual environment pip installs to ~/.local or, on Debian, to /usr/local, and
    neither is sys.prefix.
    """
    yield Path(__file__).resolve().parent.parent
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in (*prefixes, sys.prefix, sysconfig.get_path("data"), site.getuserbase()):
        yield Path(prefix) / "share" / "sfseg_ros"


def shared_file(relative: str) -> Path | None:
    """The first existing `relative`, such as "config/fastdds_large_images.xml"; None if none."""
    return next((p / relative for p in share_folders() if (p / relative).exists()), None)


def profile_environment() -> dict[str, str]:
    """The environment variables that name our middleware profile; none if it is not installed."""
    profile = shared_file(MIDDLEWARE_PROFILE)
    return dict.fromkeys(PROFILE_VARIABLES, str(profile)) if profile else {}


def cache_directory() -> Path:
    """$SFSEG_CACHE_DIR, else $XDG_CACHE_HOME/sfseg_ros, else ~/.cache/sfseg_ros."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    # The XDG specification: a relative path is to be ignored.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "sfseg_ros"


def find_model(name: str) -> Path:
    """The model directory for a path, or for the bare name of a folder in `models/`.

    Raises ManifestError that lists the known names.
    """
    # Path raises for a name that is too long, a folder that is not ours, a user that is unknown.
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        path = Path(name).expanduser()
        if name and path.is_dir():
            return path
        if (found := _installed_model(name)) is not None:
            return found
    known = {m.parent.name for f in share_folders() for m in f.glob("models/*/manifest.yaml")}
    raise ManifestError(
        f"model {name!r}: no such folder; expected a folder with manifest.yaml or one of these "
        f"names: {', '.join(sorted(known)) or 'none is installed'}"
    )


def _installed_model(name: str) -> Path | None:
    bare = name not in ("", "..") and Path(name).name == name
    return shared_file(f"models/{name}") if bare else None


@dataclass(frozen=True)
class FileRoots:
    """What a parameter may name that other nodes can set: these files and what lies below these
    folders. Paths are compared as they are written, without `..`: a symbolic link below a root may
    lead out of it, because whoever made the link could have copied the file.
    """

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, given: Iterable[str]) -> "FileRoots":
        """The installed models and class groups, and the paths that are `given`."""
        ours = [f / name for f in share_folders() for name in ("models", "config")]
        return cls((*ours, *(_plain(path) for path in given if path)))

    def file(self, name: str) -> Path:
        """The absolute path of `name`. Raises ManifestError if no root allows it."""
        path = _plain(name)
        if not self._allow(path):
            raise ManifestError(
                f"{name}: may not be read, because it lies below none of the node's roots; start "
                "the node with the parameter file_roots:=[FOLDER]"
            )
        return path

    def model(self, name: str) -> Path:
        """As `find_model`, for a model that a root allows. Says nothing of other folders."""
        path = _plain(name)
        with contextlib.suppress(OSError, ValueError):
            if self._allow(path) and path.is_dir():
                return path
            if (found := _installed_model(name)) is not None:
                return found
        self.file(name)
        return find_model(name)

    def _allow(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self.paths)


def _plain(name: str) -> Path:
    """An absolute path without `..`, with links as they are."""
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # ~user of an unknown user stays, as in a shell
        path = path.expanduser()
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.resolve follows links)


def install_command(extra: str) -> str:
    """Return the pip command that installs an extra of setup.py, such as "cpu", into this Python.

    It names the source tree, because sfseg_ros is not on a package index.
    """
    source = Path(__file__).resolve().parent.parent
    here = source if (source / "setup.py").is_file() else "SOURCE_TREE"
    return f"{sys.executable} -m pip install '{here}[{extra}]'"
