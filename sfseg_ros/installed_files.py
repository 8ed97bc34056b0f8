# SPDX-License-Identifier: Apache-2.0
"""Installed files (`models/`, `config/`, `launch/`), the cache, and which paths peers may name."""

import contextlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sfseg_ros.errors import BackendError, ManifestError

DEFAULT_MODEL = "sfnet_lite_r18_camvid"
"""Folder of models/ that the node and the tools use unless told otherwise."""
DEMO_DRIVE = "test/data/town_drive"
"""Recorded drive with ground truth; only the source tree has it."""
CACHE_VARIABLE = "SFSEG_CACHE_DIR"
MIDDLEWARE_PROFILE = "config/fastdds_large_images.xml"
"""Fast DDS profile that camera and node both need so that large images arrive."""
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Environment variables that name a profile. Fast DDS 3 reads the second; older releases (Humble to
Jazzy) read the first."""


def share_folders() -> Iterator[Path]:
    """Yield the folders that may hold our files: source tree, ROS prefixes, Python prefixes.

    Outside a virtual environment, pip installs to ~/.local or, on Debian, to /usr/local. Neither
    of them is sys.prefix.
    """
    yield Path(__file__).resolve().parent.parent
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in (*prefixes, sys.prefix, sysconfig.get_path("data"), site.getuserbase()):
        yield Path(prefix) / "share" / "sfseg_ros"


def shared_file(relative: str) -> Path | None:
    """Return the first path of `relative`, such as "config/sfseg.rviz", that exists, or None."""
    return next((p / relative for p in share_folders() if (p / relative).exists()), None)


def profile_environment() -> dict[str, str]:
    """Return the variables that select our middleware profile; empty if it is not installed."""
    profile = shared_file(MIDDLEWARE_PROFILE)
    return dict.fromkeys(PROFILE_VARIABLES, str(profile)) if profile else {}


def cache_directory() -> Path:
    """Return $SFSEG_CACHE_DIR, else $XDG_CACHE_HOME/sfseg_ros, else ~/.cache/sfseg_ros.

    Raises BackendError if the home folder is needed and unknown, as in a container that runs under
    a user number without an account.
    """
    # The XDG specification says to ignore a relative path.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    standard = (xdg if xdg.is_absolute() else Path("~/.cache")) / "sfseg_ros"
    folder = Path(os.environ.get(CACHE_VARIABLE) or standard)
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise BackendError(
            f"the cache folder {folder}: home folder unknown; set {CACHE_VARIABLE} to a folder"
        ) from error


def find_model(name: str) -> Path:
    """Return the model directory for a path, or for the name of a folder in `models/`.

    Raises ManifestError that lists the known names.
    """
    # Path raises for a name that is too long, an unreadable folder and an unknown ~user.
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
    """Files and folders that peers may name in a parameter, with everything below the folders.

    `..` is removed from a path before the comparison. Symbolic links are not followed: a link below
    a root may lead elsewhere, because its author could have copied the file there as well.
    """

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, given: Iterable[str]) -> "FileRoots":
        """Return roots for the installed models and class groups and for the paths `given`."""
        ours = [f / name for f in share_folders() for name in ("models", "config")]
        return cls((*ours, *(_plain(path) for path in given if path)))

    def file(self, name: str) -> Path:
        """Return the absolute path of `name`. Raises ManifestError if no root allows it."""
        path = _plain(name)
        if not self._allow(path):
            raise ManifestError(
                f"{name}: not below a folder that the node may read; start the node with the "
                "parameter file_roots:=[FOLDER]"
            )
        return path

    def model(self, name: str) -> Path:
        """Return what `find_model` does, for a model that a root allows.

        The error for any other path does not reveal whether the path exists.
        """
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
    """Return an absolute path without `..`; symbolic links stay."""
    path = expanded(Path(name))
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.resolve follows links)


def expanded(path: Path) -> Path:
    """Return `path` with ~ replaced by the home folder; an unknown ~user stays, as in a shell."""
    with contextlib.suppress(RuntimeError):
        return path.expanduser()
    return path


def install_command(extra: str) -> str:
    """Return the pip command that installs an extra of setup.py, such as "cpu", into this Python.

    It names the source tree, because sfseg_ros is not on a package index.
    """
    source = Path(__file__).resolve().parent.parent
    here = source if (source / "setup.py").is_file() else "SOURCE_TREE"
    return f"{sys.executable} -m pip install '{here}[{extra}]'"
