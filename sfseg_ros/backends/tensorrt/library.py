# SPDX-License-Identifier: Apache-2.0
"""One way to TensorRT (10.3 of JetPack 6 to 11.x) and to TensorRT for RTX (`tensorrt_rtx`).

The two libraries and their versions differ in names and in what a flag's number is; what differs is
said here and nowhere else. Flags are taken by name: STRONGLY_TYPED is bit 1 in TensorRT 10 and
bit 0 in TensorRT 11 and RTX.

Only `engine_builder` parses and builds, in a process of its own: parser and builder can abort.
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
# TensorRT knows every GPU, RTX needs none to build but runs on few.
LIBRARIES = {
    "tensorrt": ((10, 3), "pip install tensorrt, or JetPack 6 or newer"),
    "tensorrt_rtx": ((1, 4), "pip install tensorrt-rtx-cu13"),
}
# TensorRT-RTX 1.4 to 1.6 parse the portable form only: "Plugins are not supported".
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
        """Library and version for people."""
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {'.'.join(map(str, self.version))}"

    def logger(self, say: Callable[[str], None] | None = None) -> Any:
        """A logger of this library. `errors` are its last three, which the API itself does not
        return; `say` hears warnings and errors, one line each."""
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
        """Raise BackendError unless this library takes IPluginV3 plugins from an ONNX file."""
        if self.is_rtx and self.version < OLDEST_RTX_WITH_PLUGINS:
            raise BackendError(
                f"{self.title} refuses plugins, 1.7 or newer takes them; update it or build "
                "without plugins"
            )

    def check_parser_link(self) -> None:
        """Raise BackendError where parsing a plugin node would abort this process.

        The RTX parser opens "libtensorrt_rtx.so", its wheel has "libtensorrt_rtx.so.1" only, and
        the parser ends the process when that fails. `link_environment` is the cure.
        """
        library = _rtx_library() if self.is_rtx else None
        if library is not None and not _parser_finds(library):
            raise BackendError(
                f"{self.title}: its parser cannot find {PARSER_OPENS}, which its wheel lacks; "
                "start this process with sfseg_ros.backends.tensorrt.library.link_environment, "
                f"or run: ln -s {library.name} {library.parent / PARSER_OPENS}"
            )

    def create_network(self, builder: Any) -> Any:
        """A strongly typed network: the ONNX file alone says each tensor's type."""
        flag = self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return builder.create_network(1 << int(flag))

    def parse(self, network: Any, log: Any, onnx_bytes: bytes) -> None:
        """Fill `network` from an ONNX file. Raises BackendError with what the parser says.

        Call `check_parser_link` first where the file has plugin nodes.
        """
        parser = self.module.OnnxParser(network, log)
        if parser.parse(onnx_bytes):
            return
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BackendError(f"{self.title} refuses the model: {'; '.join(errors) or 'no reason'}")

    def register(self, creators: Iterable[Any]) -> None:
        """Add plugin creators to the library's registry; those that it has stay."""
        registry = self.module.get_plugin_registry()
        for creator in creators:
            key = (creator.name, creator.plugin_version, creator.plugin_namespace)
            if registry.get_creator(*key) is None and not registry.register_creator(
                creator, creator.plugin_namespace
            ):
                raise BackendError(f"{self.title} refuses the plugin creator {'/'.join(key)}")


@functools.cache
def load_tensorrt(name: str = "auto") -> TensorRt:
    """Import "tensorrt", "tensorrt_rtx", or ("auto") the first of them that works.

    Raises BackendError that names what is missing and how to get it.
    """
    if name != "auto" and name not in LIBRARIES:
        raise BackendError(f"library {name!r}: expected one of auto, {', '.join(LIBRARIES)}")
    refused = []
    for candidate in LIBRARIES if name == "auto" else [name]:
        oldest, advice = LIBRARIES[candidate]
        try:
            module = importlib.import_module(candidate)
        except (ImportError, OSError, RuntimeError) as error:  # it loads libraries by hand
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
    """`environment` for a child process in which the RTX parser finds its library.

    Puts the link that the wheel lacks into `folder`, which must exist as long as the child, and
    the folder in front of LD_LIBRARY_PATH: the loader reads that once, at the start of a process.
    Where nothing is missing (TensorRT, no Linux, a repaired wheel), it is a plain copy.
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
    """The wheel's libtensorrt_rtx.so.1; None where there is no such wheel for Linux."""
    spec = importlib.util.find_spec("tensorrt_rtx_libs") if sys.platform == "linux" else None
    for folder in (spec and spec.submodule_search_locations) or []:
        found = sorted(Path(folder).glob(f"{PARSER_OPENS}.*"))
        if found:
            return found[0]
    return None


def _parser_finds(library: Path) -> bool:
    """The parser looks beside itself (RPATH $ORIGIN), then where every dlopen does."""
    if (library.parent / PARSER_OPENS).exists():
        return True
    try:
        ctypes.CDLL(PARSER_OPENS)
    except OSError:
        return False
    return True


def _parser_error(error: Any) -> str:
    """One parser error as one line: what, and at which node."""
    return " ".join(f"{error.desc()} (at {error.node_name() or 'the graph'})".split())
