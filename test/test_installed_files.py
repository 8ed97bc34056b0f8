# SPDX-License-Identifier: Apache-2.0
import site
import sysconfig
from pathlib import Path

import pytest

from sfseg_ros.errors import BackendError, ManifestError
from sfseg_ros.installed_files import FileRoots, cache_directory, find_model, shared_file


@pytest.fixture
def prefix(tmp_path, monkeypatch):
    """An install prefix as colcon creates it, with the model `made_up`."""
    model = tmp_path / "share" / "sfseg_ros" / "models" / "made_up"
    model.mkdir(parents=True)
    (model / "manifest.yaml").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path}")
    return tmp_path


def test_a_model_is_found_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert find_model(str(tmp_path / "mine")) == tmp_path / "mine"
    assert find_model("mine").resolve() == tmp_path / "mine"


def test_a_model_is_found_by_its_name_below_an_install_prefix(prefix):
    assert find_model("made_up") == prefix / "share" / "sfseg_ros" / "models" / "made_up"


@pytest.mark.parametrize("scheme", ["user", "data"])
def test_a_model_is_found_where_pip_installs_it_outside_an_environment(prefix, monkeypatch, scheme):
    monkeypatch.delenv("AMENT_PREFIX_PATH")
    if scheme == "user":
        monkeypatch.setattr(site, "getuserbase", lambda: str(prefix))
    else:
        monkeypatch.setattr(sysconfig, "get_path", {"data": str(prefix)}.__getitem__)
    assert find_model("made_up") == prefix / "share" / "sfseg_ros" / "models" / "made_up"


@pytest.mark.parametrize(
    "name",
    ["no_such_model", "models/made_up", "/made_up", "", "~nobody_here/made", "x" * 300, "a\0b"],
)
def test_an_error_about_an_unknown_model_names_the_known_ones(prefix, name):
    with pytest.raises(ManifestError, match="made_up"):
        find_model(name)


def test_the_middleware_profile_is_found_in_the_source_tree():
    assert shared_file("config/fastdds_large_images.xml").is_file()
    assert shared_file("config/no_such_file.yaml") is None


def test_the_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path / "chosen"))
    assert cache_directory() == tmp_path / "chosen"
    monkeypatch.delenv("SFSEG_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "sfseg_ros"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == Path.home() / ".cache" / "sfseg_ros"


def test_an_unknown_home_folder_is_an_error_of_one_line(monkeypatch, tmp_path):
    for variable in ("HOME", "XDG_CACHE_HOME", "SFSEG_CACHE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 3_000_000_000)  # as `docker run --user` may choose
    with pytest.raises(BackendError, match="set SFSEG_CACHE_DIR to a folder"):
        cache_directory()
    monkeypatch.setenv("SFSEG_CACHE_DIR", "~no_such_user/cache")
    with pytest.raises(BackendError, match="~no_such_user/cache: home folder unknown"):
        cache_directory()
    monkeypatch.setenv("SFSEG_CACHE_DIR", str(tmp_path))
    assert cache_directory() == tmp_path


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Create the folders allowed/model and secret/model, and a link from allowed/away to secret."""
    for name in ("allowed/model", "secret/model", "allowed_too"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "allowed" / "away").symlink_to(tmp_path / "secret")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["{}/allowed/model", "allowed/model", "allowed/../allowed/model", "allowed"]
)
def test_a_model_below_a_root_may_be_read(folders, name):
    roots = FileRoots.of([str(folders / "allowed")])
    assert roots.model(name.format(folders)).is_relative_to(folders / "allowed")


@pytest.mark.parametrize(
    "name",
    [
        "{}/secret/model",
        "secret/model",
        "allowed/../secret/model",
        "allowed/away/../../secret/model",
        "allowed_too",
        "..",
        "/",
        "/proc/self",
        "~nobody_here/model",
        "/etc/no_such_folder",
        "a\0b",
        "x" * 300,
        "",
    ],
)
def test_other_paths_are_refused_without_revealing_whether_they_exist(folders, name):
    roots, name = FileRoots.of(["allowed"]), name.format(folders)
    for ask in (roots.model, roots.file):
        with pytest.raises(ManifestError) as caught:
            ask(name)
        assert str(caught.value) == (
            f"{name}: not below a folder that the node may read; start the node with the "
            "parameter file_roots:=[FOLDER]"
        )


def test_a_symbolic_link_below_a_root_is_followed(folders):
    """Deployments use `current -> releases/7` and change the link while the node runs."""
    assert FileRoots.of(["allowed"]).model("allowed/away/model") == folders / "allowed/away/model"


def test_a_root_may_be_a_file(folders):
    (folders / "groups.yaml").touch()
    roots = FileRoots.of(["groups.yaml", ""])
    assert roots.file(str(folders / "groups.yaml")) == folders / "groups.yaml"
    with pytest.raises(ManifestError):
        roots.file("groups.yaml.old")
    with pytest.raises(ManifestError):
        roots.file("")


def test_installed_models_and_class_groups_are_below_a_root(prefix, monkeypatch):
    monkeypatch.chdir(prefix)
    roots, installed = FileRoots.of(["made_up"]), prefix / "share" / "sfseg_ros"
    assert roots.model("made_up") == installed / "models" / "made_up"
    assert roots.file(str(installed / "config" / "groups.yaml"))
    with pytest.raises(ManifestError, match="no such folder; expected .* made_up"):
        roots.model(str(installed / "models" / "missing"))
