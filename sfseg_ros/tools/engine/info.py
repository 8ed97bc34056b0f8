# SPDX-License-Identifier: Apache-2.0
"""Show all that is known about the engines of a model, including the precision of each layer."""

import argparse
from typing import Any

from sfseg_ros.backends.tensorrt.engine_store import EngineStore
from sfseg_ros.backends.tensorrt.engines import layer_rows
from sfseg_ros.errors import BackendError
from sfseg_ros.installed_files import find_model
from sfseg_ros.model.manifest import load_manifest
from sfseg_ros.tools.engine.arguments import add_model, add_precision_and_form
from sfseg_ros.tools.engine.stored import accuracy_text, selected


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options that select engines."""
    add_model(parser)
    add_precision_and_form(parser, default=None)


def run(args: argparse.Namespace) -> int:
    """Print every fact about the selected engines. Returns 1 if one of them is not usable."""
    store = EngineStore(args.cache)
    manifest = load_manifest(find_model(args.model))
    status = 0
    for path, stored in selected(args, store, manifest.name):
        print(path)
        if isinstance(stored, BackendError):
            print(f"  not usable: {stored}")
            status = 1
            continue
        key, about = stored.key, stored.about
        try:
            stored.read()
            state = "whole"
        except BackendError as error:
            state, status = f"not usable: {error}", 1
        rows: list[tuple[str, Any]] = [
            ("state", state),
            ("built", f"{about.get('built')}, in {about.get('build_seconds')} s"),
            ("size", f"{stored.size} bytes, SHA-256 {stored.sha256}"),
            ("input", ", ".join("x".join(map(str, shape)) for shape in key.shapes)),
            ("precision", key.precision),
            ("library", key.library),
            ("GPU", key.gpu),
            ("model file", key.onnx_sha256),
            ("form", f"{key.form} {key.plugins[:16]}".strip()),
            ("accuracy", accuracy_text(stored)),
        ]
        if calibration := about.get("calibration"):
            rows.append(("calibration", f"{calibration['pictures']} pictures, {key.calibration}"))
        for name, value in rows:
            print(f"  {name:<12}{value}")
        source, layers = layer_rows(about)
        print(f"  {len(layers)} layers, {source}:")
        for layer in layers:
            print(f"    {layer.precision:<8}{layer.type:<16}{layer.name}")
    return status
