# SPDX-License-Identifier: Apache-2.0
"""config/sfseg.rviz and config/foxglove.json show only topics of the node."""

import json
import re
from pathlib import Path

import pytest
import yaml

CONFIG = Path(__file__).resolve().parents[2] / "config"


def rviz_topics():
    document = yaml.safe_load((CONFIG / "sfseg.rviz").read_text())
    displays = document["Visualization Manager"]["Displays"]
    return {d["Topic"]["Value"]: d["Class"] for d in displays if "Topic" in d}


def foxglove_topics():
    """All texts that look like a topic, without the path to a field of its messages."""
    texts = []

    def collect(value):
        if isinstance(value, dict):
            collect(list(value.items()))
        elif isinstance(value, list | tuple):
            for each in value:
                collect(each)
        elif isinstance(value, str) and value.startswith("/"):
            texts.append(value)

    collect(json.loads((CONFIG / "foxglove.json").read_text())["configById"])
    return {re.split(r"[.\[{]", text)[0] for text in texts}


@pytest.mark.parametrize("topics", [rviz_topics, foxglove_topics])
def test_every_topic_is_one_of_the_node(bench, topics):
    node = bench.started()
    published = node.get_publisher_names_and_types_by_node(node.get_name(), "/")
    assert set(topics()) - {name for name, _ in published} - {"/image"} == set()


def test_rviz_shows_images_as_images_and_clouds_as_clouds():
    for topic, display in rviz_topics().items():
        kind = "PointCloud2" if "points" in topic else "Image"
        assert display == f"rviz_default_plugins/{kind}", topic


def test_each_panel_of_foxglove_is_in_its_layout_once():
    document = json.loads((CONFIG / "foxglove.json").read_text())
    placed = []

    def walk(place):
        if isinstance(place, str):
            placed.append(place)
        else:
            walk(place["first"])
            walk(place["second"])

    walk(document["layout"])
    assert sorted(placed) == sorted(document["configById"])
