# SPDX-License-Identifier: Apache-2.0
"""README and docs/ against their sources: generated blocks, links, decisions, documented fields."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="the tables of topics need the ROS message packages")

from docs.generate import BLOCK, BLOCKS, pages, with_blocks
from sfseg_ros.model.manifest import load_manifest, save_manifest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [page.relative_to(ROOT).as_posix() for page in pages()]


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_block_is_what_its_source_gives(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == with_blocks(text), f"{page} is out of date: run `make docs`"


def test_every_kind_of_block_is_on_a_page():
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in PAGES]
    assert {match["name"] for text in texts for match in BLOCK.finditer(text)} == set(BLOCKS)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    broken = [
        link
        for link in links
        if not link.startswith("https://") and not ((ROOT / page).parent / link).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.rst").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   ([\w/]+)$", index, re.M))
    decisions = set(DOCS.glob("adr/0*.md"))
    written = set(DOCS.rglob("*.md")) - decisions
    assert listed == {path.relative_to(DOCS).with_suffix("").as_posix() for path in written}


def test_decisions_are_numbered_without_gaps_and_have_one_form():
    paths = sorted(DOCS.glob("adr/0*.md"))
    for number, path in enumerate(paths, start=1):
        text = path.read_text(encoding="utf-8")
        assert path.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.M) == [
            "Status",
            "Context",
            "Decision",
            "Consequences",
        ], path.name


def test_a_decision_that_the_code_cites_exists():
    cited = {
        number
        for folder in ("sfseg_ros", "training", "test", "launch", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*.py")
        for number in re.findall(r"docs/adr/(\d{4})", path.read_text(encoding="utf-8"))
    }
    assert cited
    assert [number for number in sorted(cited) if not list(DOCS.glob(f"adr/{number}-*.md"))] == []


def test_the_page_of_the_model_directory_names_each_field_of_a_manifest(tmp_path):
    committed = load_manifest(ROOT / "models" / "sfnet_lite_r18_camvid")
    copy = save_manifest(replace(committed, directory=tmp_path))
    document = yaml.safe_load(copy.read_text(encoding="utf-8"))
    fields = set()
    for key, value in document.items():
        sections = key in ("onnx", "input", "output")
        fields |= {f"{key}.{name}" for name in value} if sections else {key}
    page = (DOCS / "reference" / "model_directory.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \|", page.partition("## manifest.yaml")[2], re.M)
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == fields


def test_troubleshooting_quotes_messages_of_the_code():
    source = " ".join(path.read_text() for path in (ROOT / "sfseg_ros").rglob("*.py"))
    source = re.sub(r'"\s*f?"', "", source)  # texts that continue on the next line
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    sections = [page.partition(f"## {title}\n")[2] for title in ("No masks", "A model is refused")]
    quotes = [
        quote
        for section in sections
        for row in re.findall(r"^\| (`.*?) \|", section.partition("\n## ")[0], re.M)
        for quote in re.findall(r"`([^`]+)`", row)
    ]
    parts = [part.strip(" :") for quote in quotes for part in quote.split("...")]
    assert len(quotes) > 10
    assert [part for part in parts if part not in source] == []
