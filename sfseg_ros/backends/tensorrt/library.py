# SPDX-License-Identifier: Apache-2.0
"""Load TensorRT (10.3 of JetPack 6 to 11.x) or TensorRT for RTX (`tensorrt_rtx`).

The two libraries and their versions differ in names and in the numbers of flags. This module hides
the differences. It looks flags up by name: STRONGLY_TYPED is bit 1 in TensorRT 10 and bit 0 in
TensorRT 11 and RTX.

Only `engine_builder` parses and builds, in a child process, because parser and builder can abort.
"""

import ctypes
import functools
import importlib
import importlib.util
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfseg_ros.errors import BackendError

# Package -> (oldest version that works, how to install it). "auto" takes the first that works:
# TensorRT supports every GPU; RTX builds without a GPU but runs on few.
LIBRARIES = {
    "tensorrt": ((10, 3), "pip install tensorrt, or JetPack 6 or newer"),
    "tensorrt_rtx": ((1, 4), "pip install tensorrt-rtx-cu13"),
}
# TensorRT-RTX 1.4 to 1.6 only parse the portable form ("Plugins are not supported").
OLDEST_RTX_WITH_PLUGINS = (1, 7)
PARSER_OPENS = "libtensorrt_rtx.so"


@dataclass(frozen=True)
class TensorRt:
    """An imported library: `name` is its package, `version` its first three numbers."""

    name: str
    module: Any
    version: tuple[int, ...]

    @property
    def is_rtx(self) -> bool:
        return self.name == "tensorrt_rtx"

    @property
    def title(self) -> str:
        """Library and version, for messages."""
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {'.'.join(map(str, self.version))}"

    def logger(self, say: Callable[[str], None] | None = None) -> Any:
        """Return a logger for this library. Its `errors` are the last three error messages, which
        the API does not return. `say` is called with each warning and error as one line."""
        module = self.module

        class Log(module.ILogger):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                module.ILogger.__init__(self)
                self.errors: deque[str] = deque(maxlen=3)

            def log(self, severity: Any, message: str) -> None:
                line = " ".join(message.split())
                if int(severity) <= int(module.ILogger.Severity.ERROR):
                    self.errors.append(line)
                if say is not None and int(severity) <= int(module.ILogger.Severity.WARNING):
                    say(f"[{severity.name}] {line}")

        return Log()

    def check_plugins(self) -> None:
        """Raise BackendError unless this library accepts IPluginV3 plugins in an ONNX file."""
        if self.is_rtx and self.version < OLDEST_RTX_WITH_PLUGINS:
            raise BackendError(
                f"{self.title} refuses plugins, 1.7 or newer takes them; update it or build "
                "without plugins"
            )

    def check_parser_link(self) -> None:
        """Raise BackendError if parsing a plugin node would abort this process.

        The RTX parser opens "libtensorrt_rtx.so", but its wheel only has "libtensorrt_rtx.so.1",
        and the parser ends the process if it cannot open the file. `link_environment` solves this.
        """
        library = _rtx_library() if self.is_rtx else None
        if library is not None and not _parser_finds(library):
            raise BackendError(
                f"{self.title}: its parser cannot find {PARSER_OPENS}, which its wheel lacks; "
                "start this process with sfseg_ros.backends.tensorrt.library.link_environment, "
                f"or run: ln -s {library.name} {library.parent / PARSER_OPENS}"
            )

    def create_network(self, builder: Any) -> Any:
        """Return an empty, strongly typed network: the ONNX file determines each tensor's type."""
        flag = self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return builder.create_network(1 << int(flag))

    def parse(self, network: Any, log: Any, onnx_bytes: bytes) -> None:
        """Fill `network` from an ONNX file. Raises BackendError with the parser's messages.

        If the file has plugin nodes, call `check_parser_link` first.
        """
        parser = self.module.OnnxParser(network, log)
        if parser.parse(onnx_bytes):
            return
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BackendError(f"{self.title} refuses the model: {'; '.join(errors) or 'no reason'}")

    def register(self, creators: Iterable[Any]) -> None:
        """Add plugin creators to the library's registry, except those that it already has."""
        registry = self.module.get_plugin_registry()
        for creator in creators:
            key = (creator.name, creator.plugin_version, creator.plugin_namespace)
            if registry.get_creator(*key) is None and not registry.register_creator(
                creator, creator.plugin_namespace
            ):
                raise BackendError(f"{self.title} refuses the plugin creator {'/'.join(key)}")


@functools.cache
def load_tensorrt(name: str = "auto") -> TensorRt:
    """Import "tensorrt", "tensorrt_rtx", or ("auto") the first of the two that works.

    Raises BackendError, which says what is missing and how to install it.
    """
    if name != "auto" and name not in LIBRARIES:
        raise BackendError(f"library {name!r}: expected one of auto, {', '.join(LIBRARIES)}")
    refused = []
    for candidate in LIBRARIES if name == "auto" else [name]:
        oldest, advice = LIBRARIES[candidate]
        try:
            module = importlib.import_module(candidate)
        except (
            ImportError,
            OSError,
            RuntimeError,
        ) as error:  # the package loads shared libraries itself
            reason = " ".join(str(error).split())
            refused.append(f"{candidate} cannot be imported ({reason}): {advice}")
            continue
        version = tuple(int(number) for number in re.findall(r"\d+", module.__version__)[:3])
        if version >= oldest:
            return TensorRt(candidate, module, version)
        wanted = ".".join(map(str, oldest))
        refused.append(f"{candidate} is {module.__version__}, {wanted} or newer works: {advice}")
    raise BackendError("; or ".join(refused))


def link_environment(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return `environment` for a child process in which the RTX parser finds its library.

    Puts the link that the wheel lacks into `folder` and the folder in front of LD_LIBRARY_PATH,
    which the loader reads once, when a process starts. `folder` must exist as long as the child.
    If no link is missing (TensorRT, not Linux, a repaired wheel), returns a plain copy.
    """
    library = _rtx_library()
    if library is None or (library.parent / PARSER_OPENS).exists():
        return dict(environment)
    link = folder / PARSER_OPENS
    if not link.exists():
        link.symlink_to(library)
    paths = [str(folder), environment.get("LD_LIBRARY_PATH", "")]
    return {**environment, "LD_LIBRARY_PATH": ":".join(filter(None, paths))}


def _rtx_library() -> Path | None:
    """Return the wheel's libtensorrt_rtx.so.1, or None if no such wheel for Linux is installed."""
    spec = importlib.util.find_spec("tensorrt_rtx_libs") if sys.platform == "linux" else None
    for folder in (spec and spec.submodule_search_locations) or []:
        found = sorted(Path(folder).glob(f"{PARSER_OPENS}.*"))
        if found:
            return found[0]
    return None


def _parser_finds(library: Path) -> bool:
    """Search as the parser does: beside itself (RPATH $ORIGIN), then as every dlopen does."""
    if (library.parent / PARSER_OPENS).exists():
        return True
    try:
        ctypes.CDLL(PARSER_OPENS)
    except OSError:
        return False
    return True


def _parser_error(error: Any) -> str:
    """Return a parser error as one line, with the name of the node."""
    return " ".join(f"{error.desc()} (at {error.node_name() or 'the graph'})".split())
