# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
import yaml

from sfseg_ros.errors import ManifestError
from sfseg_ros.model.manifest import (
    MANIFEST_FILE,
    SemanticClass,
    load_manifest,
    save_manifest,
    sha256_of_file,
)


@pytest.fixture
def manifest(tmp_path, make_manifest):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    return make_manifest(
        tmp_path,
        name="tiny",
        classes=(
            SemanticClass(0, "road", (128, 64, 128)),
            SemanticClass(1, "sky", (70, 130, 180)),
        ),
        onnx_sha256=sha256_of_file(tmp_path / "model.onnx"),
        input_size=(352, 480),
        min_size=(64, 64),
        max_size=(1024, 2048),
        evaluation={"miou": 0.7},
        provenance={"commit": "abc"},
    )


def edited(manifest, section, key, value):
    """Write the manifest with one value replaced, or removed if `value` is None."""
    path = save_manifest(manifest)
    document = yaml.safe_load(path.read_text())
    target = document[section] if section else document
    if value is None:
        del target[key]
    else:
        target[key] = value
    path.write_text(yaml.safe_dump(document))


def test_a_saved_manifest_loads_as_an_equal_one(manifest):
    assert save_manifest(manifest) == manifest.directory / MANIFEST_FILE
    assert load_manifest(manifest.directory) == manifest


def test_a_list_that_occurs_twice_is_written_out_twice(manifest):
    """By default PyYAML writes an anchor, which `read_yaml` refuses."""
    sizes = [1, 2]
    twice = replace(manifest, evaluation={"a": sizes, "b": sizes})
    save_manifest(twice)
    assert load_manifest(manifest.directory) == twice


def test_the_palette_has_the_class_colours_and_black_elsewhere(manifest):
    palette = manifest.palette_rgb
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    np.testing.assert_array_equal(palette[:2], [[128, 64, 128], [70, 130, 180]])
    assert not palette[2:].any()


def test_class_names_are_in_label_order(manifest):
    assert manifest.class_names == ("road", "sky")


@pytest.mark.parametrize(
    ("image_size", "network_size"),
    [
        ((360, 480), (352, 480)),
        ((720, 960), (352, 480)),
        ((1080, 1920), (320, 544)),
        ((480, 360), (480, 352)),
        ((1, 1), (416, 416)),
        ((10, 100000), (64, 2048)),
    ],
)
def test_the_network_size_keeps_pixel_count_and_aspect_ratio(manifest, image_size, network_size):
    assert manifest.network_size_for(image_size) == network_size
    manifest.check_network_size(network_size)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((352, 470), "multiples of 32 only, such as 352x480"),
        ((32, 480), "takes 64x64 to 1024x2048"),
        ((2048, 2048), "takes 64x64 to 1024x2048"),
    ],
)
def test_a_network_size_outside_the_manifest_is_refused(manifest, size, message):
    with pytest.raises(ManifestError, match=message):
        manifest.check_network_size(size)


def test_a_replaced_model_file_is_refused(manifest):
    save_manifest(manifest)
    manifest.onnx_path.write_bytes(b"other weights")
    with pytest.raises(ManifestError, match="SHA-256 begins"):
        load_manifest(manifest.directory)
    assert load_manifest(manifest.directory, verify_hash=False) == manifest


def test_a_missing_model_file_is_named(manifest):
    save_manifest(manifest)
    manifest.onnx_path.unlink()
    with pytest.raises(ManifestError, match=r"model\.onnx: missing"):
        load_manifest(manifest.directory, verify_hash=False)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="expected a model directory"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "document is empty, not a mapping"),
        ("- 1", "document is list, not a mapping"),
        ("a: [", "not YAML"),
        ("\x00", "not YAML"),
        ("created: 2024-13-45", "not YAML"),
        ("format_version: " + "1" * 5000, "not YAML at line 1, column 17"),
        ("format_version: 0x_", "not YAML"),
        ("[" * 100_000, "nested over 20 levels at line 1, column 21"),
        ("a: &a [lol]\nname: [*a, *a]", "anchor or alias at line 1, column 4"),
        ("name: tiny", "format_version is missing"),
    ],
)
def test_a_damaged_document_is_an_error_of_one_line(tmp_path, text, message):
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(ManifestError, match=message) as caught:
        load_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_binary_document_is_refused(tmp_path):
    (tmp_path / MANIFEST_FILE).write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ManifestError, match="cannot be read"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("", "format_version", 2, "format_version is 2, this release reads 1"),
        ("", "name", " ", "name is ' ', expected a non-empty string"),
        ("", "name", "n" * 101, r"n\.\.\.n+', expected at most 100"),
        ("", "name", "a\nb", r"name is 'a\\nb', expected at most 100 printable"),
        ("", "name", "\x1b[2J", "expected at most 100 printable"),
        ("", "classes", [{"name": "a\u202eb", "color": [0, 0, 0]}], r"classes\[0\].name is"),
        ("", "classes", [{"name": "x" * 10_000, "color": [0, 0, 0]}], r"classes\[0\].name is"),
        ("onnx", "opset", 10**30, "onnx.opset is 1000"),
        ("output", "stride", 0xFFFF_FFFF, "output.stride is 4294967295"),
        ("", "classes", [], "classes has 0 entries"),
        ("", "classes", [{"name": "a", "color": [0, 0, 256]}], r"classes\[0\].color is"),
        (
            "",
            "classes",
            [{"name": "a", "color": [0, 0, 0]} for _ in "ab"],
            "classes contains a twice",
        ),
        ("", "classes", "road", "classes is str, expected a list"),
        ("", "evaluation", 3, "evaluation is int, expected a mapping"),
        ("onnx", "sha256", "ABC", "expected 64 hexadecimal digits"),
        ("onnx", "file", "../model.onnx", "expected a file name without a folder"),
        ("onnx", "opset", True, "onnx.opset is True, expected an integer from 1 to 65536"),
        ("onnx", "file", None, "onnx.file is missing"),
        ("input", "size", [352], "input.size is .*, expected 2 integers"),
        ("input", "size", [350, 480], "expected multiples of 32"),
        ("input", "size", [352, 4096], "takes 64x64 to 1024x2048"),
        ("input", "min_size", [65, 64], "expected multiples of 32"),
        ("input", "multiple_of", 0, "multiple_of is 0, expected an integer from 1 to"),
        ("output", "stride", "4", "output.stride is '4'"),
    ],
)
def test_the_error_for_a_wrong_value_says_what_was_expected(manifest, section, key, value, message):
    edited(manifest, section, key, value)
    with pytest.raises(ManifestError, match=message) as caught:
        load_manifest(manifest.directory)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("where", ["name", "class"])
def test_a_lone_surrogate_is_refused(manifest, where):
    """DDS cannot encode a lone surrogate, so every publication of the name would fail."""
    save_manifest(manifest)
    path = manifest.directory / MANIFEST_FILE
    old = "tiny" if where == "name" else "road"
    path.write_text(path.read_text().replace(f"name: {old}", 'name: "\\ud800"'))
    with pytest.raises(ManifestError, match="not YAML at line"):
        load_manifest(manifest.directory)
    with pytest.raises(ManifestError, match=r"name is '\\ud800', expected at most 100 printable"):
        save_manifest(replace(manifest, name="\ud800"))


def test_a_model_file_beyond_the_limit_of_onnx_is_refused_unread(manifest):
    save_manifest(manifest)
    with manifest.onnx_path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse: hashing it would take an hour
    with pytest.raises(ManifestError, match=r"1,099,511,627,776 bytes, expected at most"):
        load_manifest(manifest.directory)


def test_an_invalid_manifest_is_not_written(manifest):
    with pytest.raises(ManifestError, match=r"onnx\.sha256"):
        save_manifest(replace(manifest, onnx_sha256="none"))
    assert not (manifest.directory / MANIFEST_FILE).exists()
