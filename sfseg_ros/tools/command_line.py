# SPDX-License-Identifier: Apache-2.0
"""The command `sfseg`: finds the module of a subcommand, parses its options, runs it.

Each module has `add_arguments(parser)` and `run(args)`, which returns the exit status. Only the
module of the chosen subcommand is imported, so `sfseg --help` answers at once and works without
any library.
"""

import argparse
import codecs
import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from sfseg_ros.errors import SfsegError, one_line
from sfseg_ros.installed_files import install_command
from sfseg_ros.tools.terminal import complain

COMMANDS = {
    "demo": "play a recording through the ROS 2 node and write a report",
    "segment": "label an image, or each image of a folder, without ROS",
    "engine": "build, check and remove TensorRT engines for an NVIDIA GPU",
}
ENGINE_COMMANDS = {
    "build": "build an engine, or find it if it exists",
    "list": "list the stored engines, one line each",
    "info": "show all that is known about a model's engines, layer by layer",
    "verify": "compare an engine's labels with those of fp32, and refuse a bad engine",
    "remove": "delete the engines that this machine no longer uses",
}
PAGE = """\
sfseg labels every pixel of a camera image: road, car, person, sky, ...

usage: sfseg COMMAND [OPTIONS]

commands:
{commands}

examples:
  sfseg demo                                        play the recorded drive of the source tree
  sfseg demo --input drive.mp4                      play your video, bag or folder of pictures
  sfseg segment sfnet_lite_r18_camvid photo.jpg -o results
  sfseg engine build sfnet_lite_r18_camvid --precision fp16

The last line that a command prints on stdout is the path of its result.
`sfseg COMMAND --help` explains a command.
On a robot, start the node with: ros2 launch sfseg_ros segmentation.launch.py"""
ENGINE_PAGE = """\
sfseg engine prepares a model for an NVIDIA GPU: it builds a TensorRT engine and checks its labels.

usage: sfseg engine COMMAND [MODEL] [OPTIONS]

commands:
{commands}

examples:
  sfseg engine build sfnet_lite_r18_camvid
  sfseg engine build sfnet_lite_r18_camvid --precision int8 --calibration my_drive.mcap
  sfseg engine verify sfnet_lite_r18_camvid --images my_pictures/

Engines are stored in $SFSEG_CACHE_DIR or ~/.cache/sfseg_ros, where the node finds them.
Exit status: 0 done, 1 refused, 2 wrong arguments, 3 nothing wrong, but the engine did not run
because there is no GPU (verify only).
`sfseg engine COMMAND --help` explains a command."""
EXTRAS = {"demo": "demo", "segment": "cpu", "engine": "gpu"}
"""The extra of setup.py that installs what a command imports."""
READERS = (["engine", "list"], ["engine", "info"])
"""Commands that only print."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0 done, 1 refused, 2 wrong arguments, 130 interrupted;
    a command may define others."""
    _prepare_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _dispatch(words)
        finally:
            sys.stdout.flush()
    except OSError as error:  # stdout is on a full disk, or its reader has ended
        if not isinstance(error, BrokenPipeError):
            complain(f"sfseg: stdout: {one_line(error)}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if isinstance(error, BrokenPipeError) and _is_page(words) else 1


def _is_page(words: Sequence[str]) -> bool:
    """Whether the output is text for people, which may be cut short, for example by `head`."""
    asks_for_help = not {"-h", "--help", "help"}.isdisjoint(words)
    return not words or asks_for_help or words[:2] in READERS


def _dispatch(words: Sequence[str]) -> int:
    """Print a help page or run a command."""
    package, commands, page = ["sfseg"], COMMANDS, PAGE
    if words[:1] == ["engine"]:
        package, commands, page = ["sfseg", "engine"], ENGINE_COMMANDS, ENGINE_PAGE
        words = words[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        rows = [f"  {name:<10}{text}" for name, text in commands.items()]
        print(page.format(commands="\n".join(rows)))
        return 0
    if words[0] not in commands:
        complain(_unknown(" ".join(package), words[0], commands))
        return 2
    return _run([*package, words[0]], words[1:])


def _run(command: Sequence[str], words: Sequence[str]) -> int:
    """Import the module of `command`, such as ("sfseg", "engine", "build"), and run it."""
    name = " ".join(command)
    try:
        module = importlib.import_module(".".join(("sfseg_ros.tools", *command[1:])))
        args = _parser(name, module).parse_args(words)
        status: int = module.run(args)
    except BrokenPipeError:
        raise
    except ImportError as error:
        # A library in C++ turns the interruption of its import into an ImportError.
        if isinstance(error.__cause__, KeyboardInterrupt):
            complain(f"{name}: interrupted")
            return 130
        if (error.name or "sfseg_ros").startswith("sfseg_ros"):
            raise
        complain(f"{name}: {_missing(error, command[1])}")
        return 1
    except (SfsegError, OSError) as error:
        complain(f"{name}: {one_line(error)}")
        return 1
    except KeyboardInterrupt:
        complain(f"{name}: interrupted")
        return 130
    return status


def _parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def _unknown(name: str, word: str, commands: Mapping[str, str]) -> str:
    """The error for a word that is no command, with the nearest command if there is one."""
    known = [*commands, *(f"engine {each}" for each in ENGINE_COMMANDS if commands is COMMANDS)]
    near = difflib.get_close_matches(word, known, n=1) or [
        each for each in known if each.split()[-1] == word
    ]
    hint = f"did you mean {name} {near[0]}?" if near else f"expected {', '.join(commands)};"
    return f"{name}: no command {word!r}; {hint} {name} --help explains them"


def _missing(error: ImportError, command: str) -> str:
    """The error for a module that is not installed, with the command that installs it."""
    extra = EXTRAS[command]
    if extra == "demo" and importlib.util.find_spec("rclpy") is not None:
        extra = "cpu,recordings"  # ROS is installed
    return f"{one_line(error)}; install the needed libraries: {install_command(extra)}"


def _prepare_streams() -> None:
    """Open closed streams, and let stdout carry the bytes of any path and any other text."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # else the next opened file would get its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    codecs.register_error("sfseg", _bytes_or_escape)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="sfseg")


def _bytes_or_escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """The bytes that a path was decoded from, or an escape for what the encoding lacks."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)
