# SPDX-License-Identifier: Apache-2.0
"""Options that several subcommands of `sfseg engine` share."""

import argparse
from pathlib import Path

from sfseg_ros.backends.tensorrt.precision import ENGINE_PRECISIONS
from sfseg_ros.evaluation.engine_accuracy import MIN_AGREEMENT

PICTURES = 64


def add_model(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """MODEL and --cache."""
    parser.add_argument(
        "model",
        nargs="?" if optional else None,
        help="model directory, or the name of one in models/",
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="instead of the cache folder")


def add_precision_and_form(parser: argparse.ArgumentParser, default: str | None) -> None:
    """--precision, and one of the forms; None as default selects all."""
    parser.add_argument(
        "--precision",
        choices=ENGINE_PRECISIONS,
        default=default,
        help=f"default: {default or 'all'}",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--plugins",
        action="store_const",
        dest="form",
        const="plugins",
        help="with the CUDA kernels of sfseg_ros (default of build)",
    )
    form.add_argument(
        "--portable",
        action="store_const",
        dest="form",
        const="portable",
        help="standard operators only: runs wherever TensorRT does, without sfseg_ros",
    )


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for the pictures on which accuracy is measured."""
    parser.add_argument(
        "--pictures", type=_count, help=f"maximum number of pictures (default {PICTURES})"
    )
    parser.add_argument("--topic", help="image topic, if the recording has several")
    parser.add_argument(
        "--truth", type=Path, metavar="FOLDER", help="PNGs of class indices, named as the pictures"
    )
    thresholds = ", ".join(f"{name} {share:g}" for name, share in MIN_AGREEMENT.items())
    parser.add_argument(
        "--min-agreement",
        type=_share,
        metavar="SHARE",
        help=f"minimum share of pixels with the label of fp32, 0 to 1; default: {thresholds}",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 to 1")
    return share
