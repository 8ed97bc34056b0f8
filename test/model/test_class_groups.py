# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros.errors import ManifestError
from sfseg_ros.installed_files import DEFAULT_MODEL, find_model, shared_file
from sfseg_ros.model.class_groups import identity, load_class_groups
from sfseg_ros.model.manifest import SemanticClass, load_manifest

NAMES = ("road", "parking", "sky", "car")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, make_manifest):
    return make_manifest(
        tmp_path_factory.mktemp("model"),
        name="town",
        classes=tuple(
            SemanticClass(index, name, (index, 10 * index, 100)) for index, name in enumerate(NAMES)
        ),
    )


@pytest.fixture(scope="module")
def load(tmp_path_factory, manifest):
    path = tmp_path_factory.mktemp("groups") / "groups.yaml"

    def load(text):
        path.write_text(text, encoding="utf-8")
        return load_class_groups(path, manifest)

    return load


GROUPS = """
groups:
  drivable: {classes: [parking, road], color: [0, 160, 0]}
  ignore: [sky]
  obstacle: [car]
"""


def test_groups_get_labels_in_file_order_and_ignore_becomes_255(load):
    mapping = load(GROUPS)
    labels = np.array([[0, 1, 2], [3, 255, 77]], np.uint8)
    mapped = mapping.apply(labels)
    assert mapped.dtype == np.uint8
    assert mapped.tolist() == [[0, 0, 255], [1, 255, 255]]
    assert labels.tolist() == [[0, 1, 2], [3, 255, 77]]


def test_a_group_has_its_own_colour_or_the_colour_of_its_first_class(load):
    mapping = load(GROUPS)
    assert mapping.classes == (
        SemanticClass(0, "drivable", (0, 160, 0)),
        SemanticClass(1, "obstacle", (3, 30, 100)),
    )
    assert mapping.palette_rgb[:3].tolist() == [[0, 160, 0], [3, 30, 100], [0, 0, 0]]


def test_without_groups_the_model_labels_pass_through_without_a_copy(manifest):
    mapping = identity(manifest)
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert mapping.apply(labels) is labels
    assert mapping.classes == manifest.classes
    assert np.array_equal(mapping.palette_rgb, manifest.palette_rgb)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("groups: {all: [road, parking, sky]}", "no group contains car of town"),
        ("groups: {all: [road, parking, sky, car, cat, Road]}", "town has no class cat, Road"),
        ("groups: {a: [road, parking], b: [sky, car, road]}", "road occurs twice"),
        ("groups: {a: [road, parking, sky, car, car]}", "car occurs twice"),
        ("groups: {ignore: [road, parking, sky, car]}", "at least one group besides ignore"),
        ("groups: {}", "no group contains road, parking, sky, car of town"),
        ("groups: {a: [road, parking, sky, car], b: []}", "group b: has no classes"),
        ("groups: {no: [road]}", "group False: its name is not a string"),
        ("groups: {a: [yes]}", "group a: class True is not a string"),
        ("groups: {a: road}", "group a: expected a list of classes"),
        ("groups: {a: {color: [1, 2, 3]}}", "group a: expected a list of classes"),
        (
            "groups: {a: {classes: [road], colour: [1, 2, 3]}}",
            "group a: unknown key 'colour', expected",
        ),
        ("groups: {a: {classes: [road], color: [1, 2, 300]}}", "color is [1, 2, 300]"),
        ("groups: {a: {classes: [road], color: green}}", "color is 'green'"),
        (
            "groups: {ignore: {classes: [sky], color: [0, 0, 0]}}",
            "group ignore: must not have a color",
        ),
        ("groups: [road]", "groups: expected a mapping from names to groups"),
        ("drivable: [road]", "expected one key, `groups`"),
        (GROUPS + "more: 1", "expected one key, `groups`"),
        ("", "expected one key, `groups`"),
        ("groups: {", "not YAML"),
        ("2001-99-99", "not YAML"),
        ("[" * 5000, "nested over 20 levels at line 1, column 21"),
        ("groups: {a: [" + "road, " * 20_000 + "]}", "over 20,000 values"),
        ("groups: {a: [" + "road, " * 9_000 + "]}", "road occurs twice"),
        ("groups: {" + "a" * 101 + ": [road]}", "its name must have at most 100 printable"),
        ('groups: {"a\\nb": [road]}', "its name must have at most 100 printable"),
        ('groups: {a: ["ro\\ead"]}', "its name must have at most 100 printable"),
        ("groups: {a: [" + ", ".join(f"n{i}" for i in range(9000)) + "]}", "and 8990 more; it has"),
        ("groups: &a [*a]", "anchor or alias at line 1, column 9"),
    ],
)
def test_an_error_is_one_line_that_names_the_file(load, text, words):
    with pytest.raises(ManifestError) as error:
        load(text)
    assert words in str(error.value)
    assert "groups.yaml: " in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_missing_file_is_named(tmp_path, manifest):
    with pytest.raises(ManifestError, match=r"no_such\.yaml: cannot be read"):
        load_class_groups(tmp_path / "no_such.yaml", manifest)


def test_a_binary_file_is_refused(tmp_path, manifest):
    path = tmp_path / "groups.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ManifestError, match=r"cannot be read \(byte 0 is not UTF-8\)"):
        load_class_groups(path, manifest)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([*NAMES, "classes", "color", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["ignore", "a", "b", "classes", "color"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(document=st.fixed_dictionaries({"groups": _VALUES}) | _VALUES)
def test_any_document_gives_a_mapping_or_an_error(load, document):
    try:
        mapping = load(yaml.safe_dump(document))
    except ManifestError:
        return
    published = set(mapping.table.tolist()) - {255}
    assert published == {semantic_class.index for semantic_class in mapping.classes}


@given(text=st.text(max_size=60))
def test_any_text_gives_an_error(load, text):
    with pytest.raises(ManifestError):
        load(text)


def test_the_example_in_config_fits_the_model_of_the_repository():
    manifest = load_manifest(find_model(DEFAULT_MODEL), verify_hash=False)
    mapping = load_class_groups(shared_file("config/groups_drivable.yaml"), manifest)
    assert [c.name for c in mapping.classes] == ["drivable", "walkable", "obstacle"]
