# SPDX-License-Identifier: Apache-2.0
"""CamVid's eleven classes as the renderer writes them."""

from enum import IntEnum

VOID = 255


class Label(IntEnum):
    """Train id of a class; `VOID` marks what belongs to none.

    What the convention puts where it is not obvious: lane markings are ROAD, kerbs are PAVEMENT,
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


def pass_index(label: int) -> int:
    """Blender's object index for a label. 0 is what a ray that hits nothing leaves: the sky."""
    return label + 1


VALID_LABELS = frozenset(int(label) for label in Label) | {VOID}
