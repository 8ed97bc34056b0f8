# SPDX-License-Identifier: Apache-2.0
"""Fill the generated blocks of README.md and docs/: `make docs` runs `python -m docs.generate`.

A block lies between two HTML comments, `<!-- generated: NAME -->` and `<!-- end -->`. Its text
comes from the code (topics, parameters, commands) or from a measurement (JSON in benchmarks/,
manifests in models/). Do not edit a block by hand: test/docs/test_generated.py compares it with its
source.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.S)
HELP_COLUMNS = "88"
MODEL = "sfnet_lite_r18_camvid"


def main() -> int:
    """Rewrite the blocks that differ from their source and print the names of those files."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (filled := with_blocks(text)) != text:
            page.write_text(filled, encoding="utf-8")
            print(page.relative_to(ROOT))
    return 0


def pages() -> list[Path]:
    """README.md and every Markdown page below docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def with_blocks(text: str) -> str:
    """`text` with each block filled from its source. Raises KeyError for an unknown block."""
    return BLOCK.sub(lambda match: match[1] + BLOCKS[match["name"]]() + match[3], text)


# --- reference ------------------------------------------------------------------------------------


def interface(title: str) -> str:
    """One table of the node's interface: "Published topics", "Services" and so on."""
    from sfseg_ros.nodes.interface import markdown_tables

    return "\n" + markdown_tables()[title] + "\n"


def commands() -> str:
    """The help pages of `sfseg` and its subcommands, each below a heading."""
    from sfseg_ros.tools.command_line import COMMANDS, ENGINE_COMMANDS

    names = [[], *([name] for name in COMMANDS), *(["engine", name] for name in ENGINE_COMMANDS)]
    return "\n" + "\n".join(f"{_help_section(words)}\n" for words in names)


def _help_section(words: list[str]) -> str:
    name = " ".join(["sfseg", *words])
    command = [sys.executable, "-m", "sfseg_ros.tools", *words, "--help"]
    environment = {**os.environ, "COLUMNS": HELP_COLUMNS}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return f"## {name}\n\n```text\n{done.stdout.strip()}\n```\n"


def manifest_file() -> str:
    """The manifest of the committed model up to its evaluation."""
    text = (ROOT / "models" / MODEL / "manifest.yaml").read_text(encoding="utf-8")
    return f"\n```yaml\n{text.partition('evaluation:')[0]}```\n\n"


def decisions() -> str:
    """A table of docs/adr/: number, title and status of each decision."""
    rows = []
    for path in sorted((ROOT / "docs" / "adr").glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        number, title = re.findall(r"^# (\d+)\. (.+)$", text, re.M)[0]
        status = re.findall(r"^\*\*Status\.\*\* (.+)$", text, re.M)[0].rstrip(".")
        rows.append((number, f"[{title}]({path.name})", status))
    return table(("", "Decision", "Status"), rows)


def recipe() -> str:
    """The example recipe of training/README.md, which a test trains."""
    text = (ROOT / "training" / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    return f"\n```python\n{textwrap.dedent(example).strip()}\n```\n\n"


# --- measurements ---------------------------------------------------------------------------------


def accuracy() -> str:
    """IoU of each class of the committed model, one column per evaluation in its manifest."""
    evaluations = manifest()["evaluation"]
    classes = [row["name"] for row in manifest()["classes"]]
    rows = [
        (name, *(_percent(evaluation["iou"][name]) for evaluation in evaluations.values()))
        for name in classes
    ]
    for title, key in (("**mIoU**", "miou"), ("pixel accuracy", "pixel_accuracy")):
        rows.append((title, *(_percent(evaluation[key]) for evaluation in evaluations.values())))
    notes = (
        f"- {name}: {evaluation['pictures']} pictures, {evaluation['protocol']}; "
        f"{evaluation['measured']}; commit {evaluation['commit']}"
        for name, evaluation in evaluations.items()
    )
    return table(("IoU, %", *evaluations), rows) + "\n".join(notes) + "\n"


def backends() -> str:
    """Processor time of each backend and precision, one table per measured processor."""
    return "\n".join(_backend_table(path) for path in BACKEND_FILES)


BACKEND_FILES = ("backends.json", "backends_avx2.json")


def _backend_table(name: str) -> str:
    document = measured(name)
    whole = [row for row in document["rows"] if not row["what"].startswith("tail")]
    wall = any("wall_ms_p50" in row for row in whole)
    rows = [
        (
            row["what"],
            f"{row['cpu_ms']:.0f}",
            *([f"{row['wall_ms_p50']:.0f}"] if wall else []),
            f"{100 * row['agreement']:.2f} %",
        )
        for row in whole
    ]
    head = ("Backend, precision, input, output", "processor time, ms", *(["wall time, ms"] * wall))
    return table((*head, "labels as ONNX Runtime"), rows) + source(name, document)


def batches() -> str:
    """Processor time per frame of four images, together and one by one."""
    document = measured("batches.json")
    rows = [(row["what"], f"{row['cpu_ms']:.0f}") for row in document["rows"]]
    return table(("Images", "processor time, ms per frame"), rows) + source(
        "batches.json", document
    )


def node_overhead() -> str:
    """What the node adds to inference, and how much of a processor it takes."""
    document = measured("node_overhead.json")
    rows = []
    for row in document["results"]:
        added = row.get("added_ms", {})
        times = [f"{added[name]:.1f}" if added else "" for name in ("p50", "p99")]
        rows.append((row["case"], *times, f"{row['cpu_percent']:.1f} %"))
    head = (f"Camera: {document['image']}", "p50, ms", "p99, ms", "of one processor")
    return table(head, rows) + source("node_overhead.json", document)


def transport() -> str:
    """Share of images that arrive and their age, by size, rate and transport."""
    document = measured("transport.json")
    columns = list(dict.fromkeys(_way(row) for row in document["results"]))
    cells = {(row["size"], row["rate_hz"], _way(row)): _arrival(row) for row in document["results"]}
    images = dict.fromkeys((size, rate) for size, rate, _ in cells)
    rows = [
        (size, f"{rate:g} Hz", *(cells[size, rate, column] for column in columns))
        for size, rate in images
    ]
    return table(("bgr8 image", "rate", *columns), rows) + source("transport.json", document)


def _way(row: dict[str, Any]) -> str:
    profile = "our profile" if row["profile"] else "defaults"
    return f"{row['transport']}, {profile}, {row['reliability'].replace('_', ' ')}"


def _arrival(row: dict[str, Any]) -> str:
    share = f"{100 * row['arrived'] / row['sent']:.0f} %"
    return (
        f"{share}, {row['age_p50_ms']:.1f} / {row['age_p99_ms']:.1f}" if row["arrived"] else share
    )


def conversions() -> str:
    """Taking and publishing images, beside what cv_bridge does."""
    document = measured("imaging.json")
    rows = [
        (row["what"], f"{row['ours'][1]:.3f}", f"{row['cv_bridge'][1]:.3f}")
        for row in document["rows"]
    ]
    head = ("Median, ms", "sfseg_ros", "cv_bridge's calls")
    return table(head, rows) + source("imaging.json", document)


def soak() -> str:
    """Frames and resources of the long stress test."""
    document = measured("soak.json")
    counts = document["cycles"][-1]["counts"].values()
    total = {key: sum(count[key] for count in counts) for key in next(iter(counts))}
    explained = sum(total[key] for key in total if key not in ("in", "pending", "lost"))
    rows: list[tuple[object, ...]] = [
        ("cameras", len(document["cameras"])),
        ("minutes", document["minutes"]),
        ("random actions", f"{sum(document['actions'].values()):,}"),
        ("frames received", f"{total['in']:,}"),
        *((f"frames {key}", f"{total[key]:,}") for key in ("out", *_LOST_BY_NODE)),
        ("frames unaccounted for", f"{total['in'] - explained:,}"),
        ("tracebacks in the log", document["log"]["tracebacks"]),
        ("threads more at the end", f"{document['growth']['threads']:g}"),
        ("open files more at the end", f"{document['growth']['files']:g}"),
    ]
    return table(("", "Measured"), rows) + source("soak.json", document)


_LOST_BY_NODE = ("replaced", "rejected", "unwatched", "skipped")


def results() -> str:
    """The README's table: how good the committed model is, and how fast everything is."""
    evaluation = next(iter(manifest()["evaluation"].items()))
    overhead = next(
        row for row in measured("node_overhead.json")["results"] if row["case"] == "mask at 10 Hz"
    )
    pictures = f"{evaluation[1]['pictures']} pictures"
    rows: list[tuple[object, ...]] = [
        (f"mIoU, {evaluation[0]}, {pictures}", f"{100 * evaluation[1]['miou']:.1f} %"),
        *_fastest_rows(),
        (
            "added by the node to each 1024x2048 frame",
            f"{overhead['added_ms']['p50']:.1f} ms (p99 {overhead['added_ms']['p99']:.1f} ms)",
        ),
        ("on an NVIDIA GPU", _gpu()),
    ]
    return table(("", "Measured"), rows)


def _fastest_rows() -> Iterator[tuple[object, ...]]:
    """The fastest backend on each measured processor, labels only."""
    for name in BACKEND_FILES:
        document = measured(name)
        rows = [row for row in document["rows"] if row["what"].endswith(" labels")]
        best = min(
            (row for row in rows if not row["what"].startswith("tail")),
            key=lambda row: row["cpu_ms"],
        )
        library = ", ".join(best["backend"].split(", ")[:2])
        processor = re.sub(r"\(\w+\)", "", document["machine"]["processor"])
        size = best["what"].split()[2]
        yield f"{size} frame on {' '.join(processor.split())}; {library}", _time_text(best)


def _time_text(row: dict[str, Any]) -> str:
    if "wall_ms_p50" in row:
        return f"{row['wall_ms_p50']:.0f} ms"
    return f"{row['cpu_ms']:.0f} ms of processor time"


def _gpu() -> str:
    return "not measured yet" if not (ROOT / "benchmarks" / "gpu.json").exists() else "measured"


# --- tools ----------------------------------------------------------------------------------------


def manifest() -> dict[str, Any]:
    """The manifest of the committed model."""
    path = ROOT / "models" / MODEL / "manifest.yaml"
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def measured(name: str) -> dict[str, Any]:
    """A JSON file of benchmarks/."""
    path = ROOT / "benchmarks" / name
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def source(name: str, document: dict[str, Any]) -> str:
    """The line below a table: command, processor, versions, commit and load."""
    machine = document["machine"]
    load = document.get("load_average", document.get("load_average_at_start", 0.0))
    return (
        f"`{document['command']}`; {machine['processor']}; {machine['software']}; "
        f"commit {machine['commit']}; load {load:.1f} at the start; `benchmarks/{name}`\n"
    )


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table between empty lines."""
    names = [str(name) for name in head]
    lines = [names, ["---"] * len(names), *([str(cell) for cell in row] for row in rows)]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


BLOCKS: dict[str, Callable[[], str]] = {
    "subscribed-topics": lambda: interface("Subscribed topics"),
    "published-topics": lambda: interface("Published topics"),
    "services": lambda: interface("Services"),
    "parameters": lambda: interface("Parameters"),
    "commands": commands,
    "manifest": manifest_file,
    "decisions": decisions,
    "recipe": recipe,
    "results": results,
    "accuracy": accuracy,
    "backends": backends,
    "batches": batches,
    "node-overhead": node_overhead,
    "transport": transport,
    "conversions": conversions,
    "soak": soak,
}

if __name__ == "__main__":
    sys.exit(main())
