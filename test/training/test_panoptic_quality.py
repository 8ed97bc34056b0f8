# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality against numbers worked out by hand, and against panopticapi's."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from training.panoptic_quality import PanopticQuality, quality_of_files, read_ids, write_ids

CATEGORIES = [
    {"id": 7, "name": "road", "isthing": 0},
    {"id": 26, "name": "car", "isthing": 1},
]
# Result of cocodataset/panopticapi @ 7bb4655 for `seeded_files`: PQ, SQ, RQ.
PANOPTICAPI = {
    "All": (0.5285787641251622, 0.7357121374319001, 0.7170480313337456),
    "Things": (0.623309250984183, 0.74027015418137, 0.8380952380952381),
    "Stuff": (0.4575308989808967, 0.732293624869798, 0.6262626262626263),
}


def picture(*runs: tuple[int, int]) -> np.ndarray:
    """Returns one row of pixels from runs (id, length)."""
    return np.concatenate([np.full(count, value, np.uint32) for value, count in runs])[None]


def segments(*entries: tuple[int, int], crowd: tuple[int, ...] = ()) -> list[dict[str, int]]:
    return [{"id": i, "category_id": c, "iscrowd": int(i in crowd)} for i, c in entries]


def quality(truth, truth_segments, predicted, predicted_segments) -> PanopticQuality:
    result = PanopticQuality(CATEGORIES)
    result.update(truth, truth_segments, predicted, predicted_segments)
    return result


def test_a_perfect_prediction_scores_one_with_any_ids() -> None:
    truth = picture((1, 10), (2, 5), (3, 5))
    predicted = picture((9, 10), (8, 5), (70000, 5))

    q = quality(
        truth,
        segments((1, 7), (2, 26), (3, 26)),
        predicted,
        segments((9, 7), (8, 26), (70000, 26)),
    )

    assert q.mean() == (1.0, 1.0, 1.0)
    assert q.classes[26].matched == 2


def test_pq_is_the_mean_iou_times_the_f1_score() -> None:
    # Cars: 2 with IoU 6 / 10; 3 is missed; 12 is invented. Road: 6 of 10.
    truth = picture((2, 8), (3, 4), (1, 8))
    predicted = picture((11, 6), (12, 3), (0, 3), (13, 6), (11, 2))

    q = quality(
        truth,
        segments((1, 7), (2, 26), (3, 26)),
        predicted,
        segments((11, 26), (12, 26), (13, 7)),
    )

    car = q.classes[26]
    assert (car.matched, car.invented, car.missed) == (1, 1, 1)
    assert car.segmentation == pytest.approx(6 / 10)
    assert car.recognition == pytest.approx(1 / 2)
    assert car.panoptic == pytest.approx(0.3)
    assert q.classes[7].panoptic == pytest.approx(6 / 8)
    assert q.mean()[0] == pytest.approx((0.3 + 0.75) / 2)
    assert q.mean(things=True)[0] == pytest.approx(0.3)
    assert q.mean(things=False)[0] == pytest.approx(0.75)


def test_half_an_iou_is_no_match() -> None:
    q = quality(picture((1, 4)), segments((1, 7)), picture((5, 2), (0, 2)), segments((5, 7)))

    assert (q.classes[7].matched, q.classes[7].invented, q.classes[7].missed) == (0, 1, 1)


def test_void_pixels_do_not_count_against_a_match() -> None:
    q = quality(picture((1, 4), (0, 6)), segments((1, 26)), picture((5, 10)), segments((5, 26)))

    assert q.classes[26].panoptic == 1.0


@pytest.mark.parametrize(("void", "invented"), [(6, 0), (5, 1)])
def test_a_segment_mostly_on_void_is_not_invented(void: int, invented: int) -> None:
    truth = picture((0, void), (1, 10 - void))

    q = quality(truth, segments((1, 7)), picture((5, 10)), segments((5, 26)))

    assert q.classes[26].invented == invented


def test_a_crowd_is_neither_missed_nor_are_its_members_invented() -> None:
    truth = picture((4, 6), (1, 4))

    q = quality(
        truth,
        segments((4, 26), (1, 7), crowd=(4,)),
        picture((5, 3), (6, 3), (7, 4)),
        segments((5, 26), (6, 26), (7, 7)),
    )

    assert not q.classes[26].appears
    assert q.mean() == (1.0, 1.0, 1.0)


def test_the_mean_omits_absent_classes() -> None:
    q = quality(picture((1, 4)), segments((1, 7)), picture((5, 4)), segments((5, 7)))

    assert q.mean() == (1.0, 1.0, 1.0)
    assert q.mean(things=True) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("predicted", "listed", "message"),
    [
        (picture((5, 3)), segments((5, 7)), "expected (1, 4)"),
        (picture((5, 4)), segments((6, 7)), "not both"),
        (picture((5, 4)), segments((5, 99)), "expected one of [7, 26]"),
    ],
)
def test_a_wrong_prediction_is_refused(predicted, listed, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        quality(picture((1, 4)), segments((1, 7)), predicted, listed)


def seeded_files(folder: Path) -> tuple[Path, Path]:
    """Writes a truth and a prediction of blocks with void, crowds and wrong classes."""
    rng = np.random.default_rng(5)
    categories = [{"id": 3 * i + 1, "name": f"c{i}", "isthing": int(i < 3)} for i in range(7)]
    blocks = [np.kron(rng.integers(0, 9, (4, 6)), np.ones((8, 8), int)) for _ in range(6)]
    for name in ("truth", "prediction"):
        (folder / name).mkdir()
        annotations = []
        for k, block in enumerate(blocks):
            ids = block
            if name == "prediction":
                ids = np.where(rng.random(block.shape) < 0.1, 0, np.roll(block, 1, axis=1))
            ids = (ids * 70001).astype(np.uint32)
            write_ids(folder / name / f"{k}.png", ids)
            info = [
                {
                    "id": int(value),
                    "category_id": int(rng.integers(7)) * 3 + 1
                    if rng.random() < 0.1
                    else categories[int(value) // 70001 % 7]["id"],
                    "area": int((ids == value).sum()),
                    "bbox": [0, 0, 1, 1],
                    "iscrowd": int(name == "truth" and rng.random() < 0.15),
                }
                for value in np.unique(ids[ids > 0])
            ]
            annotations.append({"image_id": k, "file_name": f"{k}.png", "segments_info": info})
        listing = {"annotations": annotations, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(listing))
    return folder / "truth.json", folder / "prediction.json"


def test_the_numbers_are_those_of_panopticapi(tmp_path: Path) -> None:
    q = quality_of_files(*seeded_files(tmp_path))

    # Result of cocodataset/panopticapi's pq_compute for these files.
    assert q.mean() == pytest.approx(PANOPTICAPI["All"], abs=1e-12)
    assert q.mean(things=True) == pytest.approx(PANOPTICAPI["Things"], abs=1e-12)
    assert q.mean(things=False) == pytest.approx(PANOPTICAPI["Stuff"], abs=1e-12)


def test_error_names_a_picture_without_prediction(tmp_path: Path) -> None:
    truth, prediction = seeded_files(tmp_path)
    listing = json.loads(prediction.read_text())
    del listing["annotations"][2]
    prediction.write_text(json.dumps(listing))

    with pytest.raises(ValueError, match="no prediction for picture 2"):
        quality_of_files(truth, prediction)


def test_ids_survive_the_png(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255], [256, 65536, 2**24 - 1]], np.uint32)

    write_ids(tmp_path / "ids.png", ids)

    assert (read_ids(tmp_path / "ids.png") == ids).all()
