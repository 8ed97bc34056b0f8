# SPDX-License-Identifier: Apache-2.0
"""List the stored engines, of one model or of all, one line each."""

import argparse

from sfseg_ros.backends.tensorrt.engine_store import EngineStore, StoredEngine
from sfseg_ros.errors import BackendError
from sfseg_ros.installed_files import find_model
from sfseg_ros.model.manifest import load_manifest
from sfseg_ros.tools.engine.arguments import add_model
from sfseg_ros.tools.engine.stored import accuracy_text, age, description


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, which may be left out."""
    add_model(parser, optional=True)


def run(args: argparse.Namespace) -> int:
    """Print one line for each stored engine."""
    store = EngineStore(args.cache)
    name = load_manifest(find_model(args.model)).name if args.model else None
    count = 0
    for path, stored in store.engines(name):
        count += 1
        if isinstance(stored, StoredEngine):
            try:
                stored.read()
            except BackendError as error:
                stored = error
        if isinstance(stored, BackendError):
            print(f"{path.parent.name}/{path.stem}: not usable: {stored}")
        else:
            engine, what = description(stored)
            print(f"{path.parent.name}/{engine}; {age(path)} old, {what}; {accuracy_text(stored)}")
    if count == 0:
        print(f"no engines{f' of {name}' if name else ''} in {store.folder}")
    return 0
