# SPDX-License-Identifier: Apache-2.0
"""Build the TensorRT engine of a model for this machine's GPU, or find it if it exists.

With --calibration, every second picture calibrates int8 or fp8 and the others measure the accuracy.
The last line on stdout is the path of the engine.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from sfseg_ros.backends.tensorrt.engine_store import EngineStore, StoredEngine
from sfseg_ros.backends.tensorrt.engines import EngineRequest, built_engine, layer_rows
from sfseg_ros.backends.tensorrt.library import LIBRARIES
from sfseg_ros.backends.tensorrt.precision import QUANTIZED_PRECISIONS
from sfseg_ros.errors import BackendError
from sfseg_ros.imaging import Uint8Array, resized_rgb
from sfseg_ros.installed_files import find_model
from sfseg_ros.model.manifest import Manifest, load_manifest
from sfseg_ros.recordings.pictures import LabelledPicture, sampled_pictures
from sfseg_ros.tools.engine.accuracy_gate import is_accurate
from sfseg_ros.tools.engine.arguments import (
    PICTURES,
    add_model,
    add_picture_arguments,
    add_precision_and_form,
)
from sfseg_ros.tools.engine.stored import age, description, why_unused
from sfseg_ros.tools.terminal import check_output, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options of build."""
    add_model(parser)
    add_precision_and_form(parser, default="fp16")
    parser.add_argument(
        "--size",
        type=_sizes,
        metavar="HxW[,HxW,HxW]",
        help="input size of the network, or its smallest, usual and largest; default: the "
        "manifest's size",
    )
    parser.add_argument(
        "--batch", type=int, default=1, help="maximum number of images per inference (default 1)"
    )
    parser.add_argument("--library", choices=["auto", *LIBRARIES], default="auto")
    parser.add_argument(
        "--compute-capability",
        type=_capability,
        action="append",
        default=[],
        metavar="8.6",
        help="compute capability to build for (tensorrt_rtx only; may be repeated)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER_OR_BAG",
        help="pictures of the camera, required for int8 and fp8",
    )
    parser.add_argument("--rebuild", action="store_true", help="build even if the engine exists")
    add_picture_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Build the engine. The last line on stdout is its path."""
    store = EngineStore(args.cache)
    check_output(store.folder)
    manifest = load_manifest(find_model(args.model))
    request = _request(args, manifest)
    request.check(manifest)
    _check_options(args)
    calibration: list[Uint8Array] | None = None
    others: list[LabelledPicture] = []
    if args.calibration is not None:
        calibration, others = _calibration_pictures(args, request.sizes[1])
    stored, _ = built_engine(
        manifest,
        request,
        store,
        (lambda: calibration) if calibration is not None else None,
        say,
        rebuild=args.rebuild,
    )
    for line in (*description(stored), *_layer_summary(stored)):
        print(line)
    if others and not is_accurate(manifest, stored, others, args.min_agreement, store):
        return 1
    if not others and args.precision in QUANTIZED_PRECISIONS:
        print("accuracy: as before; sfseg engine verify measures it again")
    _say_unused(manifest, store, args.model)
    print(stored.path)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise BackendError for options that do not go together."""
    if args.calibration is not None and args.precision not in QUANTIZED_PRECISIONS:
        raise BackendError(
            f"--calibration is for {' and '.join(QUANTIZED_PRECISIONS)}, not {args.precision}"
        )
    for option in ("pictures", "topic", "truth", "min_agreement"):
        if args.calibration is None and getattr(args, option) is not None:
            raise BackendError(
                f"--{option.replace('_', '-')} goes with --calibration: without pictures nothing "
                f"is measured; sfseg engine verify {args.model} measures any engine"
            )


def _say_unused(manifest: Manifest, store: EngineStore, model: str) -> None:
    """Name the model's engines that this machine no longer uses, and how to delete them."""
    old = [
        (path, why)
        for path, stored in store.engines(manifest.name)
        if (why := why_unused(manifest, stored))
    ]
    for path, why in old:
        say(f"no longer used: {path.name}, {age(path)} old: {why}")
    if old:
        say(f"sfseg engine remove {model} deletes the engines that are no longer used")


def _calibration_pictures(
    args: argparse.Namespace, size: tuple[int, int]
) -> tuple[list[Uint8Array], list[LabelledPicture]]:
    """Resized pictures: every second one to calibrate with, the others to measure accuracy on."""
    say(f"reading pictures of {args.calibration}")
    calibration: list[Uint8Array] = []
    others: list[LabelledPicture] = []
    sampled = sampled_pictures(
        args.calibration, 2 * (args.pictures or PICTURES), args.topic, args.truth, say
    )
    for index, picture in enumerate(sampled):
        rgb = np.ascontiguousarray(resized_rgb(picture.rgb, size))
        if index % 2 == 0:
            calibration.append(rgb)
        else:
            others.append(replace(picture, rgb=rgb))
    if not others:
        say("only one picture: accuracy is measured on the picture that calibrates")
        others = [LabelledPicture("the only picture", calibration[0])]
    return calibration, others


def _layer_summary(stored: StoredEngine) -> Iterator[str]:
    source, layers = layer_rows(stored.about)
    yield f"precision of {len(layers)} layers, {source} (sfseg engine info lists each):"
    counts = Counter((layer.type, layer.precision) for layer in layers)
    for kind in sorted({layer.type for layer in layers}):
        each = [f"{n} {p}" for (k, p), n in sorted(counts.items()) if k == kind]
        yield f"  {kind:<16}{', '.join(each)}"


def _request(args: argparse.Namespace, manifest: Manifest) -> EngineRequest:
    sizes = args.size or [manifest.input_size]
    small, usual, large = sizes if len(sizes) == 3 else sizes * 3
    return EngineRequest(
        sizes=(small, usual, large),
        batches=(1, args.batch, args.batch),
        precision=args.precision,
        plugins=args.form != "portable",
        library=args.library,
        compute_capabilities=tuple(args.compute_capability),
    )


def _sizes(text: str) -> list[tuple[int, int]]:
    parts = [re.fullmatch(r"(\d+)x(\d+)", part) for part in text.split(",")]
    if len(parts) not in (1, 3) or None in parts:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected HEIGHTxWIDTH, or three of them with commas between"
        )
    return [(int(part[1]), int(part[2])) for part in parts if part]


def _capability(text: str) -> int:
    if not re.fullmatch(r"\d+\.\d", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a compute capability such as 8.6")
    return int(text.replace(".", ""))
