# SPDX-License-Identifier: Apache-2.0
"""Every model is finite, has known classes, stands on the ground and has a realistic size."""

import itertools

import numpy as np
import pytest

from training.rendered_town import labels
from training.rendered_town.geometry import Geometry, Model, rotation
from training.rendered_town.layout import plan_town
from training.rendered_town.objects import building, furniture, ground, person, plant, vehicle


def extent(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of all used vertices, m."""
    points = np.concatenate([p.vertices for part in model for p in part.geometry.patches])
    assert np.isfinite(points).all()
    return points.min(0), points.max(0)


def check_labels(model: Model) -> None:
    assert {part.label for part in model} <= labels.VALID_LABELS


@pytest.mark.parametrize("kind", list(vehicle.SHAPES))
def test_a_vehicle_stands_on_its_wheels(kind: str) -> None:
    model = vehicle.vehicle(kind)

    check_labels(model)
    low, high = extent(model)
    assert low[2] == pytest.approx(0.0, abs=0.01)
    length, width, height = high - low
    assert 3.5 < length < 12
    assert 1.6 < width < 3.0
    assert 1.3 < height < 3.5


@pytest.mark.parametrize("seed", range(6))
def test_a_person_has_the_height_of_a_person_in_every_pose(seed: int) -> None:
    for phase in range(person.PHASES):
        model = person.pedestrian(seed, phase)
        low, high = extent(model)
        assert abs(low[2]) < 0.1
        assert 1.45 < high[2] < 2.1
        assert {p.label for p in model} == {labels.Label.PEDESTRIAN}


def test_walking_moves_the_legs() -> None:
    first, second = (person.pedestrian(1, phase) for phase in (0, 2))

    assert extent(first)[1][0] != pytest.approx(extent(second)[1][0], abs=0.05)


def test_bicycle_and_rider_are_one_class() -> None:
    model = person.cyclist(2, 3)

    assert {p.label for p in model} == {labels.Label.BICYCLIST}
    low, high = extent(model)
    assert low[2] == pytest.approx(0.0, abs=0.03)
    assert 1.5 < high[2] < 2.2


def test_signs_and_lights_are_symbols_on_poles() -> None:
    for model in (furniture.sign("stop", 2.3, 1), furniture.traffic_light(0)):
        assert {p.label for p in model} == {labels.Label.POLE, labels.Label.SIGN_SYMBOL}


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("railing", labels.Label.FENCE),
        ("panel", labels.Label.FENCE),
        ("mesh", labels.Label.FENCE),
        ("low_wall", labels.Label.BUILDING),
        ("hedge", labels.Label.TREE),
    ],
)
def test_a_boundary_has_the_class_that_camvid_gives_it(kind: str, label: int) -> None:
    model = furniture.boundary(kind, 6.0, 3)

    assert {p.label for p in model} == {label}
    low, high = extent(model)
    assert high[0] - low[0] == pytest.approx(6.0, abs=0.5)


@pytest.mark.parametrize(
    ("variant", "season"), list(itertools.product(range(5), ["summer", "winter"]))
)
def test_a_tree_is_several_metres_tall(variant: int, season: str) -> None:
    low, high = extent(plant.tree(variant, season, seed=1))

    assert 4 < high[2] < 14
    assert low[2] < 0.1


def test_every_building_of_a_town_can_be_built() -> None:
    town = plan_town(5)
    options = [i.options for i in town.items if i.kind == "building"]

    for o in options[:25]:
        low, high = extent(building.building(**o))
        assert high[2] > 3
        assert high[0] - low[0] == pytest.approx(o["width"], abs=1.2)


def test_the_ground_has_road_pavement_and_grass() -> None:
    model = ground.ground(plan_town(3))

    assert [p.label for p in model] == [
        labels.Label.ROAD,
        labels.Label.PAVEMENT,
        labels.Label.TREE,
    ]
    assert extent(model)[1][2] < 0.2


def test_the_faces_of_a_box_point_outwards() -> None:
    g = Geometry()
    g.box((0, 0, 0), (1, 2, 3), "paint")
    (patch,) = g.patches

    corners = patch.vertices[patch.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outwards = corners.mean(1) - patch.vertices.mean(0)
    assert ((normals * outwards).sum(1) > 0).all()


def test_extending_rotates_before_it_translates() -> None:
    point = Geometry()
    point.add(np.array([[1.0, 0, 0], [2, 0, 0], [2, 1, 0]]), np.array([[0, 1, 2]]), "paint")
    g = Geometry()
    g.extend(point, rotation(yaw=np.pi / 2), (0, 0, 5))

    assert g.patches[0].vertices[0] == pytest.approx([0, 1, 5])
