# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from sfseg_ros.tools.command_line import main

pytest.importorskip("onnxruntime")

GREEN_BGR = (0, 255, 0)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("b.png", "a.JPG"):
        green = np.full((48, 80, 3), GREEN_BGR, np.uint8)
        (folder / name).write_bytes(cv2.imencode(name[1:].lower(), green)[1].tobytes())
    (folder / "notes.txt").write_text("not a picture")
    return folder


def errors_in(stderr):
    """The lines of errors, without those of progress."""
    return [line for line in stderr.splitlines() if not line.startswith("---")]


def segment(*arguments):
    return main(["segment", *map(str, arguments), "--backend", "onnxruntime", "--threads", "1"])


def test_a_folder_of_pictures_gives_labels_colours_and_overlays(
    tiny_model, pictures, tmp_path, capsys
):
    output = tmp_path / "out"
    assert segment(tiny_model, pictures, "-o", output) == 0
    assert {p.relative_to(output).as_posix() for p in output.rglob("*.*")} == {
        *("labels/a.png", "color/a.png", "overlay/a.jpg"),
        *("labels/b.png", "color/b.png", "overlay/b.jpg"),
    }
    labels = cv2.imread(str(output / "labels" / "b.png"), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (48, 80)
    assert (labels == 1).all()
    assert (cv2.imread(str(output / "color" / "b.png")) == GREEN_BGR).all()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny_rgb: ONNX Runtime")
    assert lines[1:3] == ["a.JPG: 48x80", "b.png: 48x80"]
    assert lines[-1] == str(output)


def test_one_image_is_segmented_at_a_given_network_size(tiny_model, pictures, tmp_path):
    arguments = (pictures / "b.png", "-o", tmp_path / "out", "--network-size", "32x64")
    assert segment(tiny_model, *arguments) == 0
    assert (tmp_path / "out" / "labels" / "b.png").is_file()


def test_a_damaged_image_is_named_and_the_others_are_segmented(
    tiny_model, pictures, tmp_path, capsys
):
    (pictures / "a.JPG").write_bytes(b"\xff\xd8\xff")
    assert segment(tiny_model, pictures, "-o", tmp_path / "out") == 1
    assert (tmp_path / "out" / "labels" / "b.png").is_file()
    (error,) = errors_in(capsys.readouterr().err)
    assert "a.JPG: JPEG of 3 bytes is truncated" in error


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.png", "missing.png: cannot be read"),
        (lambda folder: folder.parent / "empty", "empty: no image; expected files"),
    ],
)
def test_no_image_is_an_error_of_one_line(tiny_model, pictures, tmp_path, capsys, make, message):
    (tmp_path / "empty").mkdir()
    assert segment(tiny_model, make(pictures), "-o", tmp_path / "out") == 1
    (error,) = errors_in(capsys.readouterr().err)
    assert message in error


def test_two_images_with_the_same_output_are_refused(tiny_model, pictures, tmp_path, capsys):
    (pictures / "b.jpg").write_bytes((pictures / "b.png").read_bytes())
    assert segment(tiny_model, pictures, "-o", tmp_path / "out") == 1
    assert "two images are named b" in capsys.readouterr().err


ODD_NAMES = ("n" * 251 + ".png", "caf\udce9.png", "line\nbreak.png", "2024-01-01T10:20:30.png")


def test_odd_names_are_segmented_and_take_one_line_each(tiny_model, tmp_path, capsys):
    """Names of the greatest length, not in UTF-8, with a line break, and like a URL."""
    (tmp_path / "odd").mkdir()
    green = cv2.imencode(".png", np.full((48, 80, 3), GREEN_BGR, np.uint8))[1].tobytes()
    for name in ODD_NAMES:
        (tmp_path / "odd" / name).write_bytes(green)
    (tmp_path / "odd" / "bad\nname.png").write_bytes(b"no picture")
    output = tmp_path / "out"
    assert segment(tiny_model, tmp_path / "odd", "-o", output) == 1
    assert {p.name for p in (output / "labels").iterdir()} == set(ODD_NAMES)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(ODD_NAMES) + 2
    assert out.splitlines()[-1] == str(output)
    (error,) = errors_in(err)
    assert "bad name.png" in error


def test_an_output_with_a_line_break_is_refused(tiny_model, pictures, tmp_path, capsys):
    assert segment(tiny_model, pictures, "-o", tmp_path / "two\nlines") == 1
    assert "may not have a line break" in capsys.readouterr().err
    assert not (tmp_path / "two\nlines").exists()


def test_an_output_that_is_not_utf_8_is_printed_byte_for_byte(tiny_model, pictures, tmp_path):
    command = [sys.executable, "-m", "sfseg_ros.tools", "segment", str(tiny_model), str(pictures)]
    output = os.fsencode(tmp_path) + b"/caf\xe9"
    done = subprocess.run(
        [*command, "-o", output, "--backend", "onnxruntime"], capture_output=True, check=False
    )
    assert (done.returncode, errors_in(done.stderr.decode())) == (0, [])
    assert done.stdout.splitlines()[-1] == output


def test_an_unknown_model_is_an_error_of_one_line(pictures, tmp_path, capsys):
    assert segment("no_such_model", pictures, "-o", tmp_path / "out") == 1
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["32", "axb", "32x32x32"])
def test_an_invalid_network_size_is_a_usage_error(tiny_model, pictures, size, capsys):
    with pytest.raises(SystemExit):
        segment(tiny_model, pictures, "-o", "out", "--network-size", size)
    assert f"'{size}': expected HEIGHTxWIDTH, such as 352x480" in capsys.readouterr().err
