# SPDX-License-Identifier: Apache-2.0
"""The installed package: consistent metadata, and every file that the node needs."""

import ast
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parent.parent
PACKAGE_XML = ElementTree.parse(ROOT / "package.xml").getroot()
# ROS package of a Python module, if the names differ.
STANDARD = {*sys.stdlib_module_names, "sfseg_ros"}
DEPENDENCY_OF_MODULE = {
    **{"cv2": "python3-opencv", "numpy": "python3-numpy", "yaml": "python3-yaml"},
    **{name: f"python3-{name}" for name in ("hypothesis", "pytest", "setuptools")},
}
# Modules without a rosdep key, or used only if installed; docs/ says how to install them.
OPTIONAL = {
    *("ament_index_python", "av", "backports", "cuda", "cv_bridge", "lz4", "onnx", "onnxruntime"),
    *("openvino", "rosbags", "tensorrt"),
}


@pytest.fixture
def declared(monkeypatch):
    """The arguments that setup.py passes to setuptools."""
    calls = []
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: calls.append(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return calls[0]


def python_files(*folders: str) -> list[Path]:
    """Python files below these folders of the repository; by default below all folders."""
    names = folders or ("sfseg_ros", "launch", "training", "test", "benchmarks")
    return [ROOT / "setup.py", *(f for name in names for f in sorted((ROOT / name).rglob("*.py")))]


def test_name_version_and_licence_are_the_same_everywhere(declared):
    version = PACKAGE_XML.findtext("version")
    assert declared["version"] == version
    assert declared["name"] == PACKAGE_XML.findtext("name") == "sfseg_ros"
    assert declared["license"] == PACKAGE_XML.findtext("license") == "Apache-2.0"
    newest = re.search(r"^(\d+\.\d+\.\d+) \(", (ROOT / "CHANGELOG.rst").read_text(), re.M)
    assert newest
    assert newest[1] == version
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_it_is_an_ament_python_package_of_format_3():
    assert PACKAGE_XML.get("format") == "3"
    assert PACKAGE_XML.findtext("export/build_type") == "ament_python"
    assert (ROOT / "resource" / "sfseg_ros").is_file()
    assert "install_scripts=$base/lib/sfseg_ros" in (ROOT / "setup.cfg").read_text()


def dependencies_of(files: list[Path]) -> set[str]:
    """The rosdep keys of the modules that these files import."""
    imported = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    return {DEPENDENCY_OF_MODULE.get(m, m) for m in imported - STANDARD - OPTIONAL}


def declared_in_package_xml(kind: str) -> set[str]:
    return {element.text or "" for element in PACKAGE_XML.findall(kind)}


def test_package_xml_declares_the_imports_of_the_tests():
    training = ROOT / "test" / "training"
    files = [f for f in python_files("test")[1:] if training not in f.parents]
    declared = declared_in_package_xml("exec_depend") | declared_in_package_xml("test_depend")
    own = {"benchmarks", "docs", "training", *(f.stem for f in (ROOT / "test").rglob("*.py"))}
    assert dependencies_of(files) - declared - own == set(), "missing in package.xml"


def test_package_xml_declares_the_imports_of_the_code():
    declared = declared_in_package_xml("exec_depend")
    needed = dependencies_of(python_files("sfseg_ros", "launch")[1:])
    assert needed - declared == set(), "missing in package.xml"
    by_name = {"ros2launch", "tf2_ros"}  # a command, and a module that is imported only when needed
    assert declared - needed - by_name == set(), "in package.xml, but never imported"


def test_every_file_of_launch_config_and_models_is_installed(declared):
    installed = {
        f"{folder}/{Path(file).name}": file
        for folder, files in declared["data_files"]
        for file in files
    }
    assert "share/ament_index/resource_index/packages/sfseg_ros" in installed
    assert "share/sfseg_ros/package.xml" in installed
    assert "share/sfseg_ros/launch/segmentation.launch.py" in installed
    assert "share/sfseg_ros/config/fastdds_large_images.xml" in installed
    for manifest in ROOT.glob("models/*/manifest.yaml"):
        for file in manifest.parent.iterdir():
            assert f"share/sfseg_ros/models/{manifest.parent.name}/{file.name}" in installed
    assert all((ROOT / file).is_file() for file in installed.values())


def test_every_console_script_names_a_function_that_exists(declared):
    scripts = declared["entry_points"]["console_scripts"]
    names = [script.split(" = ")[0] for script in scripts]
    assert len(names) == len(set(names))
    assert set(names) == {"segmentation_node", "bag_player", "bag_recorder", "sfseg"}
    for script in scripts:
        module, function = script.split(" = ")[1].split(":")
        tree = ast.parse((ROOT / Path(*module.split("."))).with_suffix(".py").read_text())
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, script


@pytest.mark.parametrize("node", ["segmentation_node", "bag_player", "bag_recorder"])
@pytest.mark.parametrize("missing", ["rclpy", "cv2", "yaml"])
def test_a_node_without_its_libraries_names_the_command_that_installs_them(node, missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import sfseg_ros.nodes.{node}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        pytest.skip(f"{node} needs no {missing}")
    assert done.stderr.count("\n") == 1, done.stderr
    assert missing in done.stderr
    assert f"-m pip install '{ROOT}[demo]'" in done.stderr


def test_every_subpackage_is_installed(declared):
    folders = {f.parent.relative_to(ROOT) for f in python_files("sfseg_ros")[1:]}
    assert {".".join(folder.parts) for folder in folders} == set(declared["packages"])


def test_pip_requirements_have_no_upper_bound_and_make_installs_exact_versions(declared):
    assert not [r for r in declared["install_requires"] if "<" in r or "==" in r]
    for path in (ROOT / "requirements").glob("*.in"):
        for line in path.read_text().splitlines():
            assert re.match(r"^(#.*|-r .*|[\w.-]+==[\w.]+(;.*)?|)$", line), f"{path.name}: {line}"


@pytest.mark.parametrize("chosen", sorted((ROOT / "requirements").glob("*.in")), ids=str)
def test_a_lock_holds_every_chosen_version_and_a_hash_of_every_file(chosen):
    def pins(path):
        for line in path.read_text().splitlines():
            if line.startswith("-r "):
                yield from pins(path.parent / line[3:])
            elif line and not line.startswith("#"):
                yield line.split(";")[0].strip().lower()

    lock = chosen.with_suffix(".txt").read_text()
    entries = re.findall(
        r"^([\w.-]+==[^\s;]+)[^\n]*((?:\n    --hash=sha256:[0-9a-f]{64}.*)+)", lock, re.M
    )
    assert len(entries) == len(re.findall(r"^[\w.-]+==", lock, re.M))
    missing = set(pins(chosen)) - {name for name, _ in entries}
    # The wheel of torch that pip chooses depends on the machine.
    assert all(name.startswith("torch==") for name in missing)


def test_every_python_file_carries_its_licence():
    bare = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if path.read_text()
        and not path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0")
    ]
    assert bare == []
