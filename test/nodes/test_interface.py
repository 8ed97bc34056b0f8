# SPDX-License-Identifier: Apache-2.0
"""The tables of the documentation and a running node have the same topics and services."""

from importlib.util import find_spec

import cv2
import pytest
from sensor_msgs.msg import CompressedImage, PointCloud2

from sfseg_ros.nodes import interface

# Topics of every lifecycle node.
OF_RCLPY = ("/parameter_events", "/rosout", "/clock", "/segmentation/transition_event")


def shown(rows):
    """Types by resolved name, as in `ros2 topic list -t`."""
    table = {}
    for row in rows:
        kind = row.type.split(",")[0]
        name = row.name.replace("~/", "/segmentation/")
        package, type_name = kind.split("/")
        table[f"/{name.lstrip('/')}"] = (
            f"{package}/{'srv' if package == 'std_srvs' else 'msg'}/{type_name}"
        )
    return table


@pytest.fixture
def on_the_graph(bench):
    """`on_the_graph("publisher")`: types of the publishers of the node under test, by topic."""

    def on_the_graph(what):
        found = getattr(bench.tester, f"get_{what}_names_and_types_by_node")("segmentation", "/")
        return {n: types[0] for n, types in found if n not in OF_RCLPY}

    return on_the_graph


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_node_subscribes_to_the_topics_of_the_table(bench, on_the_graph, transport):
    bench.started(image_transport=transport)
    for topic in ("points", "labelled_points"):
        bench.listen(f"/segmentation/{topic}", PointCloud2)
    expected = shown(interface.INPUTS)
    unused = expected.pop("/image" if transport == "compressed" else "/image/compressed")
    assert unused
    if transport == "compressed":
        camera, image = bench.compressed_camera(), CompressedImage(format="png")
        image.data = cv2.imencode(".png", bench.three_stripes())[1].tobytes()
    else:
        camera, image = bench.camera(), bench.rgb_image(bench.three_stripes())

    def same():
        camera.publish(image)  # each frame makes it look for subscribers of clouds
        return on_the_graph("subscriber") == expected

    bench.wait_until(same, "the same topics")


def test_the_node_publishes_the_topics_of_the_table(bench, on_the_graph):
    bench.started()
    expected = shown([*interface.output_rows(), *interface.LATCHED, *interface.HEALTH])
    if find_spec("vision_msgs") is None:
        expected.pop("/segmentation/label_info")
    bench.wait_until(lambda: on_the_graph("publisher").items() >= expected.items(), "all of them")
    assert on_the_graph("publisher") == expected


def test_the_node_has_the_services_of_the_table(bench, on_the_graph):
    bench.started()
    expected = shown(interface.SERVICES)

    def own():
        packages = ("rcl_interfaces", "lifecycle_msgs", "type_description_interfaces")
        return {n: t for n, t in on_the_graph("service").items() if not t.startswith(packages)}

    bench.wait_until(lambda: own() == expected, "the same services")
