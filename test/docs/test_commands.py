# SPDX-License-Identifier: Apache-2.0
"""Every command and every configuration file that README and docs/ show.

A command runs for real where this machine can run it. What needs an installed ROS 2, a GPU or a
robot is held to the declarations that would receive it: arguments of launch files, parameters,
topics, services, options. A command that no rule knows is a failure.
"""

import ast
import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import cv2
import pytest
import yaml

pytest.importorskip("rclpy", reason="the commands of ros2 are held to the ROS message packages")

from std_srvs.srv import SetBool, Trigger

from docs.generate import pages
from sfseg_ros.backends.choice import BACKENDS
from sfseg_ros.installed_files import DEFAULT_MODEL, find_model
from sfseg_ros.model.class_groups import load_class_groups
from sfseg_ros.model.manifest import load_manifest
from sfseg_ros.nodes import interface
from sfseg_ros.nodes.camera_list import load_cameras
from sfseg_ros.nodes.parameter_text import value_from_text
from sfseg_ros.nodes.parameters import NODE_FIELDS, NodeParameters, Settings, changed_settings
from sfseg_ros.recordings.pictures import sampled_pictures
from sfseg_ros.tools import command_line

ROOT = Path(__file__).resolve().parents[2]
SHARE = "$(ros2 pkg prefix --share sfseg_ros)/"
CAMERAS = ("front", "rear")
SERVICES = {"std_srvs/srv/SetBool": SetBool, "std_srvs/srv/Trigger": Trigger}


@dataclass(frozen=True)
class Command:
    """One line of a shell block, and the page that shows it."""

    page: str
    text: str

    @property
    def words(self):
        return shlex.split(self.text, comments=True)

    def __str__(self):
        return f"{Path(self.page).stem}: {self.text[:60]}"


def blocks(page, language):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def commands():
    """The lines of each ```bash block of docs/, and of each indented block of the README."""
    for path in pages():
        page = path.relative_to(ROOT).as_posix()
        texts = blocks(page, "bash")
        if page == "README.md":
            texts = ["\n".join(re.findall(r"^    (\S.*)$", path.read_text(), re.M))]
        for line in filter(None, "\n".join(texts).splitlines()):
            yield Command(page, line)


ALL = list(commands())


def shown(*program):
    """The commands that begin with these words."""
    return [c for c in ALL if c.words[: len(program)] == list(program)]


def test_every_command_is_known_to_a_rule():
    known = [
        ("pip", "install"),
        ("colcon", "build"),
        ("source",),
        ("export",),
        ("rviz2", "-d"),
        *(("ros2", verb) for verb in ("launch", "param", "service", "topic", "lifecycle")),
        ("make",),
        ("sfseg",),
        ("python", "-m"),
    ]
    unknown = [c for c in ALL if not any(c.words[: len(k)] == list(k) for k in known)]
    assert [str(c) for c in unknown] == []
    assert len(ALL) > 50


# --- installation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", shown("pip", "install"), ids=str)
def test_pip_installs_packages_that_the_project_names(command):
    named = (ROOT / "setup.py").read_text() + " ".join(hint for *_, hint in BACKENDS.values())
    named += "".join(path.read_text() for path in (ROOT / "requirements").glob("*.in"))
    named += "".join(path.read_text() for path in (ROOT / "sfseg_ros").rglob("*.py"))
    words = command.words[2:]
    if words[0] == "-r":
        assert (ROOT / words[1]).is_file()
        return
    packages = {re.split(r"[<>=]", word)[0].removesuffix("-cu12") for word in words}
    assert {p for p in packages if not re.search(rf"(?<![\w-]){p}(?![\w-])", named)} == set()


@pytest.mark.parametrize("command", shown("colcon", "build"), ids=str)
def test_colcon_builds_the_package_of_package_xml(command):
    assert command.words[2] == "--packages-select"
    assert f"<name>{command.words[3]}</name>" in (ROOT / "package.xml").read_text()


def test_only_the_setup_file_of_colcon_is_sourced():
    assert {c.words[1] for c in shown("source")} == {"install/setup.bash"}


@pytest.mark.parametrize("command", [*shown("export"), *shown("rviz2", "-d")], ids=str)
def test_installed_files_of_a_command_exist(command):
    paths = re.findall(re.escape(SHARE) + r"(\S+)", command.text)
    assert all((ROOT / path).is_file() for path in paths)
    assert paths or re.search(r"\$FASTRTPS_DEFAULT_PROFILES_FILE|MALLOC_MMAP", command.text)


def test_the_exported_limits_of_malloc_are_those_of_the_node():
    (line,) = (c.text for c in shown("export") if "MALLOC" in c.text)
    kept = 32 * 1024 * 1024
    source = (ROOT / "sfseg_ros" / "allocator.py").read_text()
    assert "_LARGEST_KEPT_BYTES = 32 * 1024 * 1024" in source
    assert "16 * _LARGEST_KEPT_BYTES" in source
    assert f"MALLOC_MMAP_THRESHOLD_={kept} MALLOC_TRIM_THRESHOLD_={16 * kept}" in line


# --- ros2 -----------------------------------------------------------------------------------------


def launch_arguments(file):
    """Names that a launch file declares: its own, those that all share, the node's parameters."""
    names = set()
    for path in (ROOT / "launch" / file, ROOT / "sfseg_ros" / "nodes" / "launch_actions.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == (
                "DeclareLaunchArgument"
            ):
                names |= {a.value for a in call.args if isinstance(a, ast.Constant)}
    own = set(interface.INPUT_NAMES) if file == "segmentation.launch.py" else set()
    return names | own | (set(NODE_FIELDS) - {"cameras"})


@pytest.mark.parametrize("command", shown("ros2", "launch"), ids=str)
def test_a_launch_file_takes_the_arguments(command):
    package, file, *arguments = command.words[2:]
    assert package == "sfseg_ros"
    given = dict(argument.split(":=") for argument in arguments if argument != "--show-args")
    assert set(given) - launch_arguments(file) == set()
    values = {n: value_from_text(NODE_FIELDS[n], v) for n, v in given.items() if n in NODE_FIELDS}
    NodeParameters(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})


@pytest.mark.parametrize("command", shown("ros2", "param"), ids=str)
def test_a_parameter_takes_the_value_while_the_node_runs(command):
    _, _, verb, node, name, text = command.text.replace(SHARE, "config:").split(maxsplit=5)
    assert (verb, node) == ("set", "/segmentation")
    field = NODE_FIELDS[name.rpartition(".")[2]]
    value = value_from_text(field, text.replace("config:", f"{ROOT}/"))
    if field.name == "class_groups":
        load_class_groups(value, load_manifest(find_model(DEFAULT_MODEL)))
    settings = Settings(NodeParameters(cameras=CAMERAS), {camera: {} for camera in CAMERAS})
    change = type("Change", (), {"name": name, "value": value})()
    changed = changed_settings(settings, [change], configured=True)
    assert changed != settings


@pytest.mark.parametrize("command", shown("ros2", "service"), ids=str)
def test_a_service_exists_and_takes_the_request(command):
    verb, name, kind, *request = command.words[2:]
    assert verb == "call"
    row = next(r for r in interface.SERVICES if r.name == name.replace("/segmentation", "~"))
    assert row.type == kind.replace("/srv/", "/")
    values = yaml.safe_load(request[0]) if request else {}
    SERVICES[kind].Request(**values)
    assert bool(values) == (kind == "std_srvs/srv/SetBool")


@pytest.mark.parametrize("command", shown("ros2", "topic"), ids=str)
def test_a_topic_is_published(command):
    assert command.words[2] in ("echo", "hz")
    published = {r.name for r in (*interface.output_rows(), *interface.LATCHED, *interface.HEALTH)}
    assert command.words[-1].replace("/segmentation", "~") in published


@pytest.mark.parametrize("command", shown("ros2", "lifecycle"), ids=str)
def test_a_lifecycle_command_names_the_node(command):
    assert command.words[2:4] == ["get", "/segmentation"]


# --- make and sfseg -------------------------------------------------------------------------------


def parsed(words):
    """The options of `sfseg`, as its own parser reads them; ends the test where it refuses."""
    depth = 2 if words[0] == "engine" else 1
    name = ".".join(("sfseg_ros.tools", *words[:depth]))
    module = importlib.import_module(name)
    return command_line._parser(f"sfseg {words[0]}", module).parse_args(words[depth:])


@pytest.mark.parametrize("command", shown("make"), ids=str)
def test_make_has_the_target_and_passes_its_variables_on(command):
    done = subprocess.run(
        ["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout
    assert re.search(rf"^{command.words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    for assignment in command.words[2:]:
        assert f"${{{assignment.partition('=')[0]}:+" in done.stdout


@pytest.mark.parametrize("command", shown("sfseg"), ids=str)
def test_sfseg_takes_the_options(command):
    assert parsed(command.words[1:])


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    """A folder with the files that the commands name: photo, pictures, video, bag."""
    folder = tmp_path_factory.mktemp("materials")
    drive = ROOT / "test" / "data" / "town_drive"
    (folder / "pictures").mkdir()
    for index, picture in enumerate(sampled_pictures(drive, 3)):
        bgr = cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / "pictures" / f"{index}.png"), bgr)
        cv2.imwrite(str(folder / "photo.jpg"), bgr)
    (folder / "rosbag2_folder").symlink_to(drive)
    (folder / "drive.mcap").symlink_to(drive / "town_drive.mcap")
    return folder


def run(words, folder):
    command = [sys.executable, "-m", "sfseg_ros.tools", *words]
    ours = {"PYTHONPATH": str(ROOT), "SFSEG_CACHE_DIR": str(folder / "cache")}
    environment = os.environ | ours
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", shown("sfseg", "segment"), ids=str)
def test_sfseg_segment_runs(command, materials):
    run(command.words[1:], materials)
    for folder in ("labels", "color", "overlay"):
        assert list((materials / "out" / folder).glob("photo.*"))


@pytest.mark.parametrize(
    "command", [*shown("sfseg", "engine", "list"), *shown("sfseg", "engine", "remove")], ids=str
)
def test_sfseg_engine_runs_where_it_needs_no_gpu(command, materials):
    run(command.words[1:], materials)


@pytest.mark.slow
@pytest.mark.parametrize("command", shown("sfseg", "demo"), ids=str)
def test_sfseg_demo_runs(command, materials):
    source = Path(command.words[command.words.index("--input") + 1])
    words = command.words[1:]
    if source.suffix == ".mp4":
        video(materials / source)
    if "--topic" in words:  # the recorded drive's own
        words[words.index("--topic") + 1] = "/camera/image_raw/compressed"
    words += ["--max-seconds", "2"]
    report = Path(run(words, materials).splitlines()[-1])
    assert (materials / report).is_file()


def video(path):
    from sfseg_ros.recordings.video import VideoWriter

    with VideoWriter(path.with_suffix("")) as writer:
        for index, picture in enumerate(sampled_pictures(path.parent / "pictures", 3)):
            writer.add(picture.rgb, index * 500_000_000)


# --- training and benchmarks ----------------------------------------------------------------------


@functools.cache
def help_of(module):
    command = [sys.executable, "-m", module, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", shown("python", "-m"), ids=str)
def test_a_module_has_the_options(command):
    module, *words = command.words[2:]
    if module.startswith("training"):
        pytest.importorskip("torch", reason="the options of training are imported with PyTorch")
    options = {word for word in words if word.startswith("--")}
    assert options
    assert {option for option in options if option not in help_of(module)} == set()


@pytest.mark.slow
def test_the_tutorial_of_own_classes_trains_evaluates_and_exports(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="training needs PyTorch")
    page = "docs/tutorials/own_classes.md"
    (recipe,) = blocks(page, "python")
    module = ModuleType("training.recipes.field")
    exec(recipe, module.__dict__)
    monkeypatch.setitem(sys.modules, "training.recipes.field", module)
    field_pictures(tmp_path / "FOLDER")
    monkeypatch.chdir(tmp_path)
    for command in (c for c in shown("python", "-m") if c.page == page):
        name, *words = command.words[2:]
        words = [word.replace("FOLDER", str(tmp_path / "FOLDER")) for word in words]
        words += ["--epochs", "1"] if name == "training.train" else []
        monkeypatch.setattr(sys, "argv", [name, *words])
        assert not importlib.import_module(name).main()
    assert load_manifest(tmp_path / "models" / "sfnet_lite_r18_field").class_names[0] == "sky"


def field_pictures(folder):
    """Eight pictures of the recorded drive with label maps of four classes, and their lists."""
    folder.mkdir()
    names = []
    for index, picture in enumerate(sampled_pictures(ROOT / "test" / "data" / "town_drive", 8)):
        bgr = cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{index}.png"), bgr)
        cv2.imwrite(str(folder / f"{index}_labels.png"), picture.truth % 4)
        names.append(f"{index}.png {index}_labels.png")
    (folder / "train.txt").write_text("\n".join(names[:6]) + "\n")
    (folder / "val.txt").write_text("\n".join(names[6:]) + "\n")


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in pages()])
def test_every_yaml_file_of_a_page_is_taken(page, tmp_path):
    for text in blocks(page, "yaml"):
        path = tmp_path / "shown.yaml"
        path.write_text(text)
        key = next(iter(yaml.safe_load(text)))
        if key == "format_version":
            continue  # the committed model's, which other tests load
        if key == "cameras":
            assert load_cameras(path).parameters
        else:
            assert key == "groups"
            assert load_class_groups(path, load_manifest(find_model(DEFAULT_MODEL)))


def test_the_python_of_the_api_page_runs(tmp_path, monkeypatch, materials, capsys):
    monkeypatch.chdir(materials)
    (code,) = blocks("docs/reference/python.md", "python")
    exec(code, {})
    assert "Road" in capsys.readouterr().out


def test_a_launch_command_names_a_field_of_the_node():
    used = {
        argument.partition(":=")[0] for c in shown("ros2", "launch") for argument in c.words[4:]
    }
    assert {field.name for field in fields(NodeParameters)} & used
