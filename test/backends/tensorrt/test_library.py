# SPDX-License-Identifier: Apache-2.0
"""The adapter over `tensorrt` and `tensorrt_rtx`.

Versions of TensorRT that cannot run here are fakes whose names and bits are those of the real
bindings (test_library_bindings.py compares). The tests of the RTX
parser's missing link use the real library.
"""

import enum
import importlib.util
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import onnx
import pytest

from sfseg_ros.backends.tensorrt.engine_builder import prepare
from sfseg_ros.backends.tensorrt.library import LIBRARIES, link_environment, load_tensorrt
from sfseg_ros.errors import BackendError

ROOT = Path(__file__).resolve().parents[3]

# Bits of NetworkDefinitionCreationFlag in each version's bindings.
NETWORK_FLAGS = {
    "10.3.0": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "10.9.0.34": {
        "EXPLICIT_BATCH": 0,
        "STRONGLY_TYPED": 1,
        "PREFER_JIT_PYTHON_PLUGINS": 2,
        "PREFER_AOT_PYTHON_PLUGINS": 3,
    },
    "11.4.0.106": {
        "STRONGLY_TYPED": 0,
        "PREFER_JIT_PYTHON_PLUGINS": 1,
        "PREFER_AOT_PYTHON_PLUGINS": 2,
    },
}
NETWORK_FLAGS["10.13.3.9"] = NETWORK_FLAGS["10.9.0.34"]

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (pip install -r requirements/tensorrt.in)",
)


class Builder:
    """Records the flags that create_network receives."""

    def create_network(self, flags: int) -> int:
        return flags


class Registry:
    """The plugin registry; with `refuses`, it refuses every new creator."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.creators = refuses, {}

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators.get((name, version, namespace))

    def register_creator(self, creator: Any, namespace: str) -> bool:
        if not self.refuses:
            self.creators[creator.name, creator.plugin_version, namespace] = creator
        return not self.refuses


def fake(version: str, package: str = "tensorrt") -> types.ModuleType:
    module = types.ModuleType(package)
    flags = {"STRONGLY_TYPED": 0} if package == "tensorrt_rtx" else NETWORK_FLAGS.get(version, {})
    module.__version__ = version
    module.NetworkDefinitionCreationFlag = enum.IntEnum("Flag", flags)
    registry = Registry()
    module.get_plugin_registry = lambda: registry
    return module


@pytest.fixture
def installed(monkeypatch):
    """Returns a function that makes the given fakes the only installed libraries."""

    def install(*modules: types.ModuleType) -> None:
        for name in LIBRARIES:
            found = next((module for module in modules if module.__name__ == name), None)
            monkeypatch.setitem(sys.modules, name, found)  # None: the import fails
        load_tensorrt.cache_clear()

    yield install
    load_tensorrt.cache_clear()


def test_auto_prefers_tensorrt_to_rtx(installed):
    installed(fake("10.9.0.34"), fake("1.7.1.116", "tensorrt_rtx"))
    assert load_tensorrt().title == "TensorRT 10.9.0"
    assert not load_tensorrt().is_rtx
    assert load_tensorrt("tensorrt_rtx").title == "TensorRT-RTX 1.7.1"
    assert load_tensorrt("tensorrt_rtx").is_rtx


def test_auto_skips_missing_and_old_libraries(installed):
    rtx = fake("1.7.1.116", "tensorrt_rtx")
    for others in ([], [fake("8.6.1")], [fake("10.2.0")]):
        installed(rtx, *others)
        assert load_tensorrt().module is rtx


def test_an_error_names_problem_and_remedy_for_each_library(installed):
    installed(fake("8.6.1"))
    with pytest.raises(BackendError) as caught:
        load_tensorrt()
    message = str(caught.value)
    assert "tensorrt is 8.6.1, 10.3 or newer works" in message
    assert "tensorrt_rtx cannot be imported" in message
    assert "pip install tensorrt-rtx-cu13" in message
    assert "\n" not in message


def test_a_library_with_missing_dependencies_is_skipped(installed, tmp_path, monkeypatch):
    rtx = fake("1.7.1", "tensorrt_rtx")
    installed(rtx)
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt.py").write_text("import ctypes\nctypes.CDLL('libnvinfer.so.none')")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_tensorrt().module is rtx
    with pytest.raises(BackendError, match="tensorrt cannot be imported .libnvinfer.so.none"):
        load_tensorrt("tensorrt")


def test_a_requested_library_is_not_replaced_by_another(installed):
    installed(fake("1.7.1", "tensorrt_rtx"))
    with pytest.raises(BackendError, match="tensorrt cannot be imported"):
        load_tensorrt("tensorrt")
    with pytest.raises(BackendError, match="library 'trtexec': expected one of auto, tensorrt"):
        load_tensorrt("trtexec")


@pytest.mark.parametrize(
    ("version", "bits"), [("10.3.0", 2), ("10.9.0.34", 2), ("10.13.3.9", 2), ("11.4.0.106", 1)]
)
def test_networks_are_strongly_typed_by_the_versions_own_bit(installed, version, bits):
    installed(fake(version))
    assert load_tensorrt().create_network(Builder()) == bits


def test_networks_of_rtx_are_strongly_typed(installed):
    installed(fake("1.7.1", "tensorrt_rtx"))
    assert load_tensorrt().create_network(Builder()) == 1


def test_rtx_accepts_plugins_since_1_7_and_tensorrt_always(installed):
    installed(fake("1.6.0", "tensorrt_rtx"), fake("10.3.0"))
    with pytest.raises(BackendError, match=r"TensorRT-RTX 1\.6\.0 refuses plugins, 1\.7 or newer"):
        load_tensorrt("tensorrt_rtx").check_plugins()
    load_tensorrt("tensorrt").check_plugins()
    installed(fake("1.7.1", "tensorrt_rtx"))
    load_tensorrt("tensorrt_rtx").check_plugins()


def creator(name: str) -> types.SimpleNamespace:
    return types.SimpleNamespace(name=name, plugin_version="1", plugin_namespace="sfseg")


def test_creators_are_registered_once(installed):
    installed(fake("10.3.0"))
    library, first, second = load_tensorrt(), creator("FlowWarp"), creator("FlowWarp")
    library.register([first, creator("UpsampleArgmax")])
    library.register([second])
    creators = library.module.get_plugin_registry().creators
    assert creators["FlowWarp", "1", "sfseg"] is first
    assert len(creators) == 2


def test_a_refused_plugin_creator_is_an_error(installed):
    module = fake("10.3.0")
    refusing = Registry(refuses=True)
    module.get_plugin_registry = lambda: refusing
    installed(module)
    with pytest.raises(BackendError, match="refuses the plugin creator FlowWarp/1/sfseg"):
        load_tensorrt().register([creator("FlowWarp")])


def test_parser_errors_become_one_line(installed):
    class Parser:
        num_errors = 2

        def __init__(self, network: Any, log: Any) -> None:
            assert (network, log) == ("network", "log")

        def parse(self, onnx_bytes: bytes) -> bool:
            return onnx_bytes == b"good"

        def get_error(self, index: int) -> Any:
            name = ("warp", "")[index]
            return types.SimpleNamespace(desc=lambda: "no\n plugin", node_name=lambda: name)

    module = fake("11.4.0.106")
    module.OnnxParser = Parser
    installed(module)
    load_tensorrt().parse("network", "log", b"good")
    with pytest.raises(
        BackendError, match=r"^TensorRT 11\.4\.0 refuses the model: no plugin \(at warp\); "
    ) as caught:
        load_tensorrt().parse("network", "log", b"bad")
    assert str(caught.value).endswith("no plugin (at the graph)")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The folder of a wheel `tensorrt_rtx_libs` without the link."""
    folder = tmp_path / "site" / "tensorrt_rtx_libs"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "libtensorrt_rtx.so.1").touch()
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx_libs", raising=False)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="the link is missing on Linux only")
class TestLink:
    def test_a_missing_link_is_found_before_the_parser_ends_the_process(self, installed, wheel):
        installed(fake("1.7.1", "tensorrt_rtx"), fake("10.3.0"))
        with pytest.raises(BackendError, match=r"run: ln -s libtensorrt_rtx.so.1 .*rtx_libs/lib"):
            load_tensorrt("tensorrt_rtx").check_parser_link()
        load_tensorrt("tensorrt").check_parser_link()

    def test_a_wheel_with_the_link_needs_no_repair(self, installed, wheel, tmp_path):
        installed(fake("1.7.1", "tensorrt_rtx"))
        (wheel / "libtensorrt_rtx.so").symlink_to("libtensorrt_rtx.so.1")
        load_tensorrt("tensorrt_rtx").check_parser_link()
        assert link_environment({"A": "b"}, tmp_path) == {"A": "b"}

    def test_the_environment_of_the_child_has_the_link_first(self, wheel, tmp_path):
        given = {"A": "b", "LD_LIBRARY_PATH": "/opt/lib"}
        environment = link_environment(given, tmp_path)
        assert environment == {"A": "b", "LD_LIBRARY_PATH": f"{tmp_path}:/opt/lib"}
        assert (tmp_path / "libtensorrt_rtx.so").samefile(wheel / "libtensorrt_rtx.so.1")
        # Again, as for the second engine of one process; and without a path of the user's own,
        # where an empty part would mean the working directory.
        assert link_environment({}, tmp_path) == {"LD_LIBRARY_PATH": str(tmp_path)}
        assert given["LD_LIBRARY_PATH"] == "/opt/lib"

    def test_the_environment_is_unchanged_without_the_wheel(self, monkeypatch, tmp_path):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        assert link_environment({"A": "b"}, tmp_path) == {"A": "b"}
        assert list(tmp_path.iterdir()) == []


PARSE = """
import sys
from sfseg_ros.backends.tensorrt.library import link_environment, load_tensorrt
from sfseg_ros.errors import BackendError
from sfseg_ros.backends.tensorrt import plugin
library = load_tensorrt("tensorrt_rtx")
try:
    library.check_parser_link()
    print("link found", flush=True)
except BackendError as error:
    print(error, flush=True)
library.register(plugin.creators(library.module))
log = library.module.Logger(library.module.Logger.ERROR)
network = library.create_network(library.module.Builder(log))
library.parse(network, log, open(sys.argv[1], "rb").read())
print("parsed")
"""


@needs_rtx
@pytest.mark.parametrize("cured", [False, True])
def test_the_check_agrees_with_the_real_parser(tiny_model, tmp_path, cured):
    model = prepare(onnx.load(tiny_model / "model.onnx"), plugins=True)
    onnx.save(model, tmp_path / "model.onnx")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    if cured:
        environment = link_environment(environment, tmp_path)
    parse = subprocess.run(
        [sys.executable, "-c", PARSE, str(tmp_path / "model.onnx")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = parse.stdout.splitlines()
    if lines[0] == "link found":
        assert (parse.returncode, lines[1:]) == (0, ["parsed"]), parse.stderr
    else:
        assert "cannot find libtensorrt_rtx.so" in lines[0]
        assert (parse.returncode, lines[1:]) == (-signal.SIGABRT, []), parse.stderr
    assert lines[0] == "link found" or not cured
