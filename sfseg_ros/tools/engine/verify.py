# SPDX-License-Identifier: Apache-2.0
"""Compare the labels of a model's engines with those of the fp32 network on pictures.

An engine below --min-agreement is refused: the node does not use it. Without a GPU the engine's
graph is compared instead, and the exit status is 3 if nothing is wrong.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sfseg_ros.backends.tensorrt.engine_builder import engine_is_wellformed
from sfseg_ros.backends.tensorrt.engine_store import EngineStore
from sfseg_ros.errors import BackendError, SfsegError, one_line
from sfseg_ros.installed_files import DEFAULT_MODEL, DEMO_DRIVE, find_model, shared_file
from sfseg_ros.kernels.cuda_memory import gpu_is_there
from sfseg_ros.model.manifest import Manifest, load_manifest
from sfseg_ros.recordings.pictures import LabelledPicture, sampled_pictures
from sfseg_ros.tools.engine.accuracy_gate import is_accurate
from sfseg_ros.tools.engine.arguments import (
    PICTURES,
    add_model,
    add_picture_arguments,
    add_precision_and_form,
)
from sfseg_ros.tools.engine.stored import differences, selected
from sfseg_ros.tools.terminal import complain, say

NOT_RUN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options of verify."""
    add_model(parser)
    add_precision_and_form(parser, default=None)
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER_OR_BAG",
        help="pictures of the camera; default: the recorded drive of the source tree",
    )
    add_picture_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check every selected engine of the model. Returns 0 good, 1 refused, 3 not run."""
    store = EngineStore(args.cache)
    manifest = load_manifest(find_model(args.model))
    source = args.images or shared_file(DEMO_DRIVE)
    if source is None:
        raise BackendError("--images is missing: a folder of pictures or a recording of the camera")
    statuses = []
    for path, stored in selected(args, store, manifest.name):
        print(f"{path.name}")
        if isinstance(stored, BackendError):
            statuses.append(_refused(stored))
            continue
        try:
            engine = stored.read()
            if stale := differences(manifest, stored):
                # The node ignores this engine, so it is no failure.
                _refused(BackendError(f"{path}: {'; '.join(stale)}: build it again, remove this"))
                continue
            print(
                "  whole: size and SHA-256 are those in its JSON; of this model and these kernels"
            )
            print(f"  {engine_is_wellformed(engine, stored.key.library_name)}")
            say(f"comparing on {source}")
            pictures = _pictures(args, manifest, source)
            accepted = is_accurate(manifest, stored, pictures, args.min_agreement, store)
        except BackendError as error:  # not BagError: the pictures' fault
            statuses.append(_refused(error))
        else:
            statuses.append(1 if not accepted else 0 if gpu_is_there() else NOT_RUN)
    if not statuses or 1 in statuses:
        return 1
    if NOT_RUN in statuses:
        print("nothing that can be checked without a GPU is wrong; verify again on the robot")
    return max(statuses)


def _pictures(
    args: argparse.Namespace, manifest: Manifest, source: Path
) -> Iterator[LabelledPicture]:
    """The pictures to compare on; the recorded drive has ground truth only for a model of its
    classes."""
    pictures = sampled_pictures(source, args.pictures or PICTURES, args.topic, args.truth, say)
    if args.images or manifest.class_names == load_manifest(find_model(DEFAULT_MODEL)).class_names:
        return pictures
    return (replace(picture, truth=None) for picture in pictures)


def _refused(error: SfsegError) -> int:
    complain(f"sfseg engine verify: refused: {one_line(error)}")
    return 1
