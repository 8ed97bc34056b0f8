# SPDX-License-Identifier: Apache-2.0
"""The HTML report of a replay: one page that loads nothing but the video beside it.

Every number on it comes from the run that it reports; see `replay.py`.
"""

import base64
import html
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfseg_ros.evaluation.replay import ReplayResult, Sample
from sfseg_ros.imaging import jpeg_from_rgb
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.recordings.video import RgbImage
from sfseg_ros.whole_files import write_whole

PLOT_HEIGHT = 212
"""Pixels."""


@dataclass(frozen=True)
class Report:
    """Content of the page. `counts` are the node's own counters from its last /diagnostics,
    `machine` holds (name, text) rows, `method` one sentence per line."""

    title: str
    source: str
    manifest: Manifest
    result: ReplayResult
    counts: dict[str, str]
    machine: list[tuple[str, str]]
    method: list[str]


def write_report(report: Report, path: Path) -> Path:
    """Write the page as UTF-8, whole or not at all; returns `path`. Raises OSError."""
    sections = [
        _header(report),
        _tiles(report),
        _warnings(report),
        _video(report.result, path.parent),
        _classes(report),
        _latency(report.result),
        _samples(report.result.samples),
        _facts(report),
        _method(report.method),
    ]
    body = "\n".join(section for section in sections if section)
    page = _PAGE.format(title=html.escape(report.title), style=_STYLE, body=body)
    write_whole(path, page.encode("utf-8", "backslashreplace"))
    return path


def summary_lines(report: Report) -> list[str]:
    """The numbers of the page as lines for a terminal."""
    result = report.result
    lines = []
    if result.confusion is not None:
        lines.append(f"mIoU      {_percent(result.confusion.miou())} on {result.masks} frames")
    p50, p95, p99 = (result.latency_percentile(p) for p in (50, 95, 99))
    lines.append(f"latency   p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms")
    counts = ", ".join(f"{name} {value}" for name, value, _ in frame_counts(report))
    lines.append(f"frames    {counts}")
    if result.damage.count:
        lines.append(f"damage    {result.damage}; left out")
    lines.append(f"backend   {report.counts.get('backend', 'unknown')}")
    return lines


def frame_counts(report: Report) -> list[tuple[str, int, str]]:
    """(name, number, meaning) of each possible end of a frame."""
    result = report.result

    def counted(key: str) -> int:
        try:
            return int(float(report.counts.get(key, "0")))
        except ValueError:
            return 0

    received = counted("frames_in")
    lost = max(result.frames_played - received, counted("frames_lost"), 0)
    return [
        ("in", received, f"of {result.frames_played} played, reached the node"),
        ("out", result.masks, "masks arrived at the recorder"),
        ("replaced", counted("frames_replaced"), "a newer image came before their turn"),
        ("rejected", counted("frames_rejected"), "images that the node cannot read"),
        ("lost", lost, "played, but never reached the node"),
    ]


def _header(report: Report) -> str:
    return (
        f"<header><h1>{html.escape(report.title)}</h1><p>{html.escape(report.source)}</p></header>"
    )


def _tiles(report: Report) -> str:
    result = report.result
    tiles = []
    if result.confusion is not None:
        tiles.append(("mIoU", _percent(result.confusion.miou()), "against the ground truth"))
        tiles.append(("correct pixels", _percent(result.confusion.pixel_accuracy()), ""))
    for percent in (50, 95, 99):
        value = result.latency_percentile(percent)
        tiles.append((f"latency p{percent}", _number(value, "ms"), ""))
    cells = "".join(
        f'<div class="tile"><span>{name}</span><b>{value}</b><small>{note}</small></div>'
        for name, value, note in tiles
    )
    counts = "".join(
        f'<div class="tile count"><span>{name}</span><b>{value}</b><small>{note}</small></div>'
        for name, value, note in frame_counts(report)
    )
    return f'<section class="tiles">{cells}</section><section class="tiles">{counts}</section>'


def _warnings(report: Report) -> str:
    result = report.result
    counts = {name: value for name, value, _ in frame_counts(report)}
    lines = []
    if not report.counts:
        lines.append("The node's diagnostics were not recorded, so its counters are shown as zero.")
    if result.masks == 0:
        lines.append("No mask came back. The node's log is in logs/node.log.")
    if counts["replaced"] > 0.2 * max(1, counts["in"]):
        lines.append(
            "More than a fifth of the frames were replaced by newer ones: this machine was slower "
            "than the camera. The node then takes the newest frame and never an old one."
        )
    if counts["lost"]:
        lines.append(
            "Frames were lost on the way to the node: its subscription is best effort, so a busy "
            "machine or a missing middleware profile loses some."
        )
    if result.damage.count:
        lines.append(f"Images, masks or truths were left out: {result.damage}.")
    return "".join(f'<p class="warning">{html.escape(line)}</p>' for line in lines)


def _video(result: ReplayResult, folder: Path) -> str:
    if result.video is None:
        return ""
    source = html.escape(result.video.relative_to(folder).as_posix())
    return (
        "<section><h2>Camera and overlay</h2>"
        f'<video src="{source}" controls autoplay muted loop playsinline></video>'
        f"<p>Left: the camera. Right: the mask over it. File: "
        f'<a href="{source}">{source}</a>; the same as {result.pictures} pictures: '
        '<a href="pictures/">pictures/</a>; masks, confidence and label names: '
        '<a href="output_bag/">output_bag/</a>.</p></section>'
    )


def _classes(report: Report) -> str:
    """The legend; with ground truth also each class's IoU and its share of the truth."""
    confusion = report.result.confusion
    rows = []
    if confusion is not None:
        iou, pixels = confusion.iou(), confusion.truth_pixels
        share = pixels / max(1, int(pixels.sum()))
    for c in report.manifest.classes:
        color = "#{:02x}{:02x}{:02x}".format(*c.color_rgb)
        row = f'<td><i style="background:{color}"></i></td>'
        row += f'<td class="name">{html.escape(c.name)}</td>'
        if confusion is not None:
            value = float(iou[c.index])
            shown = "not seen" if math.isnan(value) else _percent(value)
            width = 0.0 if math.isnan(value) else value * 100
            row += (
                f'<td class="bar"><div style="width:{width:.1f}%;background:{color}"></div></td>'
                f'<td class="number">{shown}</td>'
                f'<td class="number">{_percent(float(share[c.index]))}</td>'
            )
        rows.append(f"<tr>{row}</tr>")
    if confusion is None:
        return f'<section><h2>Classes</h2><table class="legend">{"".join(rows)}</table></section>'
    head = (
        "<tr><th></th><th>class</th><th>IoU</th><th></th>"
        '<th class="number">share of the truth</th></tr>'
    )
    mean = (
        '<tr class="mean"><td></td><td>mean</td><td></td>'
        f'<td class="number">{_percent(confusion.miou())}</td><td></td></tr>'
    )
    return f"<section><h2>Classes</h2><table>{head}{''.join(rows)}{mean}</table></section>"


def _latency(result: ReplayResult) -> str:
    if not result.latency_ms:
        return ""
    return (
        "<section><h2>Latency of each mask</h2>"
        f"{latency_plot_svg(result.seconds, result.latency_ms)}"
        "<p>From the image's stamp to the mask at the recorder: transport, decoding, "
        "network, transport back.</p></section>"
    )


def latency_plot_svg(seconds: list[float], latency_ms: list[float]) -> str:
    """Return an inline SVG: one dot per mask, seconds to the right, milliseconds upwards, and lines
    at the median and the 95th percentile.

    Horizontal positions are percentages and vertical ones pixels, so the plot fills any width and
    its text keeps its size. Labels lie outside the SVG, in the padding of `.plot`.
    """
    p50, p95 = (float(np.percentile(latency_ms, percent)) for percent in (50, 95))
    step_ms = _nice_step(max(latency_ms) / 4)
    top_ms = step_ms * math.ceil(max(latency_ms) * 1.02 / step_ms)
    end_s = max(seconds[-1], 1e-3)

    def y(ms: float) -> float:
        return PLOT_HEIGHT * (1 - ms / top_ms)

    parts = []
    for k in range(round(top_ms / step_ms) + 1):
        ms = k * step_ms
        parts.append(_plot_line("grid", y(ms)))
        parts.append(f'<text x="-6" y="{y(ms) + 4:.1f}" text-anchor="end">{ms:g}</text>')
    step_s = _nice_step(end_s / 5)
    for k in range(int(end_s / step_s) + 1):
        parts.append(
            f'<text x="{100 * k * step_s / end_s:.2f}%" y="{PLOT_HEIGHT + 18}" '
            f'text-anchor="middle">{k * step_s:g}</text>'
        )
    for second, ms in zip(seconds, latency_ms, strict=True):
        parts.append(f'<circle cx="{100 * second / end_s:.2f}%" cy="{y(ms):.1f}" r="2.4"/>')
    # The label of p95 stays at its line; the label of p50 moves down if the two would overlap.
    label_95 = y(p95) + 4
    label_50 = max(y(p50) + 4, label_95 + 14)
    for name, ms, label in (("p95", p95, label_95), ("p50", p50, label_50)):
        parts.append(_plot_line(name, y(ms)))
        parts.append(
            f'<text class="{name}" x="100%" dx="6" y="{label:.1f}">{name} {ms:.0f} ms</text>'
        )
    parts.append(
        f'<text x="100%" y="{PLOT_HEIGHT + 34}" text-anchor="end">seconds</text>'
        f'<text x="0" y="{PLOT_HEIGHT + 34}">milliseconds, upwards</text>'
    )
    return f'<div class="plot"><svg height="{PLOT_HEIGHT}" role="img">{"".join(parts)}</svg></div>'


def _plot_line(name: str, y: float) -> str:
    """A horizontal line over the whole width."""
    return f'<line class="{name}" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'


def _nice_step(rough: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(max(rough, 1e-9)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _samples(samples: list[Sample]) -> str:
    if not samples:
        return ""
    figures = []
    for sample in samples:
        panels = [("image", sample.rgb)]
        if sample.truth is not None:
            panels += [("ground truth", sample.truth), ("prediction", sample.prediction)]
        else:
            panels += [("prediction", sample.prediction), ("overlay", sample.overlay)]
        cells = "".join(
            f'<figure><img src="{_data_url(rgb)}" alt="{name}"><figcaption>{name}</figcaption>'
            "</figure>"
            for name, rgb in panels
        )
        figures.append(f'<h3>{html.escape(sample.title)}</h3><div class="panels">{cells}</div>')
    return f"<section><h2>Frames</h2>{''.join(figures)}</section>"


def _data_url(rgb: RgbImage) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_from_rgb(rgb, quality=85)).decode()


def _facts(report: Report) -> str:
    height, width = report.result.image_size
    manifest = report.manifest
    rows = [
        ("model", f"{manifest.name}, {len(manifest.classes)} classes"),
        ("model file", f"{manifest.onnx_file}, SHA-256 {manifest.onnx_sha256[:16]}…"),
        ("image", f"{width}x{height}"),
        *([("backend", report.counts["backend"])] if "backend" in report.counts else []),
        *report.machine,
    ]
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows
    )
    return f'<section><h2>What ran</h2><table class="facts">{cells}</table></section>'


def _method(lines: list[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<footer><h2>How it was measured</h2><ul>{items}</ul></footer>"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def _number(value: float, unit: str) -> str:
    return "–" if math.isnan(value) else f"{value:.0f} {unit}"


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body>{body}</body></html>
"""

_STYLE = """
:root { color-scheme: light; --ink: #1b2430; --soft: #64748b; --line: #e2e8f0; --blue: #2563eb; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 28px 24px 48px; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; background: #fff;
  overflow-wrap: anywhere; }
h1 { font-size: 28px; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 36px 0 10px; }
h3 { font-size: 14px; margin: 18px 0 6px; font-weight: 600; color: var(--soft); }
header p { margin: 4px 0 20px; color: var(--soft); }
p { margin: 8px 0; }
a { color: var(--blue); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 10px 0; }
.tile { flex: 1 1 150px; border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tile span { color: var(--soft); font-size: 13px; display: block; }
.tile b { font-size: 26px; font-weight: 650; letter-spacing: -.01em; }
.tile small { display: block; color: var(--soft); font-size: 12px; line-height: 1.35; }
.tile.count b { font-size: 20px; }
.warning { background: #fff7ed; border-left: 4px solid #f97316; padding: 8px 12px; }
video { width: 100%; border-radius: 8px; background: #000; display: block; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 13px; }
td, th { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
td i { display: inline-block; width: 22px; height: 14px; border-radius: 3px;
  border: 1px solid rgba(0,0,0,.2); vertical-align: -2px; }
td.name { min-width: 7em; } td.bar { width: 50%; }
td.bar div { height: 12px; border-radius: 2px; border: 1px solid rgba(0,0,0,.15); min-width: 1px; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.mean td { font-weight: 650; border-bottom: 0; }
table.legend { width: auto; }
table.legend tr { display: inline-block; margin-right: 18px; max-width: 100%; }
table.legend td { border: 0; padding-right: 6px; }
table.facts th { width: 130px; vertical-align: top; }
.plot { padding: 8px 84px 40px 40px; }
svg { width: 100%; display: block; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); }
svg .grid { stroke: var(--line); } svg circle { fill: var(--blue); fill-opacity: .55; }
svg line.p50 { stroke: #0f766e; stroke-dasharray: 6 4; } svg text.p50 { fill: #0f766e; }
svg line.p95 { stroke: #b45309; stroke-dasharray: 6 4; } svg text.p95 { fill: #b45309; }
.panels { display: flex; gap: 8px; } figure { margin: 0; flex: 1 1 0; min-width: 0; }
figure img { width: 100%; display: block; border-radius: 6px; }
figcaption { font-size: 12px; color: var(--soft); padding-top: 2px; }
@media (max-width: 640px) {
  body { padding: 16px 16px 32px; } h1 { font-size: 22px; }
  .tile { flex-basis: 130px; } .panels { flex-direction: column; }
  td.bar { width: 20%; } td, th { padding-right: 6px; } table.facts th { width: 84px; }
}
footer { margin-top: 40px; border-top: 1px solid var(--line); color: var(--soft); font-size: 13px; }
footer h2 { font-size: 14px; margin: 14px 0 4px; } footer ul { margin: 0; padding-left: 18px; }
"""
