# SPDX-License-Identifier: Apache-2.0
"""Delete the engines of a model that this machine no longer uses."""

import argparse

from sfseg_ros.backends.tensorrt.engine_store import EngineStore, StoredEngine
from sfseg_ros.errors import BackendError
from sfseg_ros.installed_files import find_model
from sfseg_ros.model.manifest import load_manifest
from sfseg_ros.tools.engine.arguments import add_model, add_precision_and_form
from sfseg_ros.tools.engine.stored import age, chosen, why_unused


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options of remove."""
    add_model(parser)
    add_precision_and_form(parser, default=None)
    parser.add_argument("--all", action="store_true", help="also delete those that are in use")


def run(args: argparse.Namespace) -> int:
    """Delete the selected engines that are no longer used, or with --all every selected one."""
    store = EngineStore(args.cache)
    manifest = load_manifest(find_model(args.model))
    count = freed = 0
    for path, stored in chosen(args, store, manifest.name):
        if isinstance(stored, StoredEngine):
            try:
                stored.read()
            except BackendError as error:
                stored = error
        why = "--all" if args.all else why_unused(manifest, stored)
        if why:
            print(f"removed {path.name}, {age(path)} old: {why}")
            freed += store.remove(path)
            count += 1
    print(f"{count} engines of {manifest.name} removed: {freed / 1e6:.1f} MB")
    return 0
