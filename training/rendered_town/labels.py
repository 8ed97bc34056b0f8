# SPDX-License-Identifier: Apache-2.0
"""CamVid's eleven classes as the renderer writes them, and the instances of countable classes."""

from enum import IntEnum

import numpy as np

VOID = 255


class Label(IntEnum):
    """Train id of a class; `VOID` marks pixels without a class.

    The convention in unclear cases: lane markings are ROAD, kerbs are PAVEMENT,
    grass and hedges are TREE, walls are BUILDING, bollards and lamp posts are POLE, traffic lights
    are SIGN_SYMBOL on a POLE, a rider and the bicycle under them are BICYCLIST.
    """

    SKY = 0
    BUILDING = 1
    POLE = 2
    ROAD = 3
    PAVEMENT = 4
    TREE = 5
    SIGN_SYMBOL = 6
    FENCE = 7
    CAR = 8
    PEDESTRIAN = 9
    BICYCLIST = 10


VALID_LABELS = frozenset(int(label) for label in Label) | {VOID}
# Classes whose instances panoptic segmentation counts.
THINGS = frozenset({Label.CAR, Label.PEDESTRIAN, Label.BICYCLIST})

_CODES = 16  # bits of a label in Blender's object index; the bits above hold the instance
_VOID_CODE = _CODES - 1
MAX_INSTANCE = 32767 // _CODES  # Blender keeps the index in 15 bits


def pass_index(label: int, instance: int = 0) -> int:
    """Packs a label and an instance into Blender's object index.

    The index is never 0, the value of rays that hit nothing (the sky).

    Args:
        label: a Label or VOID.
        instance: 1 to MAX_INSTANCE, equal for all parts of one object; 0 for objects that are not
            counted.
    """
    if not 0 <= instance <= MAX_INSTANCE:
        raise ValueError(f"instance {instance}: expected 0 to {MAX_INSTANCE}")
    return _CODES * instance + (_VOID_CODE if label == VOID else label + 1)


def labels_and_instances(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unpacks `pass_index`: labels uint8 and instances uint16, both in the shape of `index`."""
    code, instance = index % _CODES, index // _CODES
    labels = np.where(code == _VOID_CODE, VOID, np.maximum(code, 1) - 1)
    return labels.astype(np.uint8), instance.astype(np.uint16)
