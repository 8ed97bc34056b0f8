# SPDX-License-Identifier: Apache-2.0
"""Adapter and plugins with the real Python bindings of TensorRT versions that cannot run here.

Bindings come from the installed tensorrt-cu13-bindings (requirements/tensorrt.in) and from wheels
in the folder $SFSEG_TENSORRT_BINDINGS (`pip download --no-deps tensorrt-cu12-bindings==10.3.0`).
The native libraries that they want are replaced by stubs.
"""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# Every function that the bindings link to.
STUBS = "".join(
    f"void *{name}(void) {{ return 0; }}\n"
    for name in (
        *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "getPluginRegistry"),
        *("createInferRuntime_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion"),
        *("createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry"),
        "initLibNvInferPlugins",
    )
)


def bindings() -> list[Path]:
    """Wheels, and the folder of the installed package."""
    folder = os.environ.get("SFSEG_TENSORRT_BINDINGS")
    found = sorted(Path(folder).glob("tensorrt_cu*_bindings-*.whl")) if folder else []
    spec = importlib.util.find_spec("tensorrt_bindings")
    return [*found, *(Path(path) for path in (spec and spec.submodule_search_locations) or [])]


@pytest.mark.skipif(
    not bindings(),
    reason="no TensorRT bindings: pip install -r requirements/tensorrt.in, or set "
    "SFSEG_TENSORRT_BINDINGS",
)
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the stubs")
@pytest.mark.parametrize("source", bindings(), ids=lambda path: path.name)
def test_the_real_bindings_take_adapter_and_plugins(source, tmp_path):
    site = tmp_path / "site"
    if source.suffix == ".whl":
        if f"cp{sys.version_info[0]}{sys.version_info[1]}-" not in source.name:
            pytest.skip(f"{source.name} is for another Python")
        zipfile.ZipFile(source).extractall(tmp_path / "wheel")
        source = tmp_path / "wheel" / "tensorrt_bindings"
    site.mkdir()
    (site / "tensorrt").symlink_to(source)
    (tmp_path / "stubs.c").write_text(STUBS)
    for major in (10, 11):
        for name in LIBRARIES:
            file = f"lib{name}.so.{major}"
            subprocess.run(
                ["cc", "-shared", "-fPIC", "-o", file, f"-Wl,-soname,{file}", "stubs.c"],
                cwd=tmp_path,
                check=True,
            )
    child = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("bindings_child.py"))],
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(tmp_path),
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT), *sys.path]),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    version, flags = child.stdout.splitlines()[-1].split(maxsplit=1)
    assert ast.literal_eval(flags) == network_flags()[version]


def network_flags() -> dict[str, dict[str, int]]:
    """What the fakes of test_library.py say."""
    spec = importlib.util.spec_from_file_location(
        "test_library", Path(__file__).with_name("test_library.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    flags: dict[str, dict[str, int]] = module.NETWORK_FLAGS
    return flags
