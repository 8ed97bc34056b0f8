# SPDX-License-Identifier: Apache-2.0
"""The report page: well-formed, self-contained, with every number in its place."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sfseg_ros.errors import BagError
from sfseg_ros.evaluation.metrics import ConfusionMatrix
from sfseg_ros.evaluation.replay import ReplayResult, Sample
from sfseg_ros.evaluation.report import (
    PLOT_HEIGHT,
    Report,
    frame_counts,
    latency_plot_svg,
    summary_lines,
    write_report,
)
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.recordings.timeline import Damage

VOID = {"meta", "img", "line", "circle"}


class WellFormed(HTMLParser):
    """Fails on a closing tag without an opening one; collects the attributes that load files."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [value for name, value in attributes if name in ("src", "href")]

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def report(tmp_path: Path, tiny_manifest: Manifest) -> Report:
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))  # blue does not occur
    grey = np.full((8, 12, 3), 90, np.uint8)
    (tmp_path / "overlay.mp4").write_bytes(b"")
    result = ReplayResult(
        frames_played=20,
        image_size=(8, 12),
        seconds=[0.0, 0.1, 0.3],
        latency_ms=[30.0, 40.0, 200.0],
        confusion=confusion,
        samples=[Sample("frame <3>", grey, grey, grey, grey)],
        pictures=3,
        video=tmp_path / "overlay.mp4",
    )
    return Report(
        title="a <drive>",
        source="bag & co",
        manifest=tiny_manifest,
        result=result,
        counts={
            "frames_in": "18",
            "frames_replaced": "9",
            "frames_rejected": "6",
            "frames_lost": "1",
            "backend": "abacus 1.0",
        },
        machine=[("processor", "a <chip>")],
        method=["by counting"],
    )


def test_the_page_is_well_formed_and_loads_only_files_beside_it(tmp_path, report):
    page = write_report(report, tmp_path / "report.html").read_text(encoding="utf-8")
    checked = WellFormed()
    checked.feed(page)
    assert checked.open == []
    local = {"overlay.mp4", "pictures/", "output_bag/"}
    assert all(text in local or text.startswith("data:image/") for text in checked.loaded)
    assert "a &lt;drive&gt;" in page
    assert "bag &amp; co" in page
    assert "<chip>" not in page


def test_the_page_shows_miou_iou_latency_and_counts(tmp_path, report):
    text = re.sub(r"<[^>]+>", " ", write_report(report, tmp_path / "report.html").read_text())
    text = " ".join(text.split())
    assert "mIoU 58.3 %" in text  # (2/3 + 1/2) / 2
    assert "red 66.7 %" in text
    assert "green 50.0 %" in text
    assert "blue not seen" in text
    assert "latency p50 40 ms" in text
    assert "abacus 1.0" in text
    assert "More than a fifth of the frames were replaced" in text


def test_frames_that_were_played_but_did_not_arrive_are_lost(report):
    counts = {name: value for name, value, _ in frame_counts(report)}
    assert counts == {"in": 18, "out": 3, "replaced": 9, "rejected": 6, "lost": 2}


def test_without_ground_truth_no_miou_is_shown(tmp_path, report):
    without = replace(report, result=replace(report.result, confusion=None))
    page = write_report(without, tmp_path / "report.html").read_text()
    assert "mIoU" not in page
    assert "IoU" not in page
    assert not any("mIoU" in line for line in summary_lines(without))


def test_a_replay_without_masks_has_a_page_that_names_the_log(tmp_path, report):
    empty = replace(report, result=ReplayResult(frames_played=5), counts={})
    page = write_report(empty, tmp_path / "report.html").read_text()
    assert "No mask came back" in page
    assert "logs/node.log" in page
    assert "nan" not in page


@pytest.mark.parametrize("latency_ms", [[5.0], [0.2, 0.21], [30.0] * 500, [10.0, 9_000.0]])
def test_every_dot_of_the_plot_lies_inside_it(latency_ms):
    seconds = [0.1 * k for k in range(len(latency_ms))]
    svg = latency_plot_svg(seconds, latency_ms)
    dots = re.findall(r'<circle cx="([\d.]+)%" cy="([\d.]+)"', svg)
    assert len(dots) == len(latency_ms)
    assert all(0 <= float(x) <= 100 and 0 <= float(y) <= PLOT_HEIGHT for x, y in dots)
    assert "viewBox" not in svg  # it would scale the text with the page


def test_text_wraps_anywhere_so_that_no_name_widens_the_page(tmp_path, report):
    page = write_report(report, tmp_path / "report.html").read_text(encoding="utf-8")
    body = re.search(r"\nbody \{(.*?)\}", page, re.S)[1]
    assert "overflow-wrap: anywhere" in body
    assert '<meta name="viewport" content="width=device-width' in page


def test_damage_is_reported_on_the_page_and_in_the_terminal_if_there_is_any(tmp_path, report):
    assert "damage" not in " ".join(summary_lines(report))
    damage = Damage()
    damage.add("/camera", BagError("9 bytes that are not a <Image>"))
    damage.add("/mask", BagError("another"))
    damaged = replace(report, result=replace(report.result, damage=damage))
    line = "2 damaged, the first on /camera: 9 bytes that are not a <Image>"
    assert f"damage    {line}; left out" in summary_lines(damaged)
    page = write_report(damaged, tmp_path / "report.html").read_text(encoding="utf-8")
    assert line.replace("<Image>", "&lt;Image&gt;") in page


def test_a_full_disk_leaves_no_partial_page(tmp_path, report, full_disk):
    with full_disk(1000), pytest.raises(OSError, match="File too large"):
        write_report(report, tmp_path / "report.html")
    assert [p.name for p in tmp_path.glob("*") if p.suffix in (".html", ".part")] == []
