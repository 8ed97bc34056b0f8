# SPDX-License-Identifier: Apache-2.0
"""Stored engines of a model: select them, check that this machine uses them, describe them."""

import argparse
import time
from pathlib import Path

from sfseg_ros.backends.tensorrt.engine_store import EngineStore, StoredEngine
from sfseg_ros.backends.tensorrt.engines import (
    EngineRequest,
    engine_key,
    is_accepted,
    named_capabilities,
)
from sfseg_ros.errors import BackendError
from sfseg_ros.model.manifest import Manifest


def selected(
    args: argparse.Namespace, store: EngineStore, model: str
) -> list[tuple[Path, StoredEngine | BackendError]]:
    """Like `chosen`. Raises BackendError if no engine is left."""
    found = chosen(args, store, model)
    if not found:
        options = f" --precision {args.precision}" if args.precision else ""
        raise BackendError(
            f"no such engine of {model} in {store.folder}: sfseg engine build {args.model}{options}"
        )
    return found


def chosen(
    args: argparse.Namespace, store: EngineStore, model: str
) -> list[tuple[Path, StoredEngine | BackendError]]:
    """The model's engines of the given --precision and form, with the error of each damaged one.

    A damaged engine is selected by its file name.
    """
    found: list[tuple[Path, StoredEngine | BackendError]] = []
    for path, stored in store.engines(model):
        precision, *_, form, _ = path.stem.split("-") if path.stem.count("-") >= 4 else [""] * 3
        if isinstance(stored, StoredEngine):
            precision, form = stored.key.precision, stored.key.form
        if args.form in (None, form) and args.precision in (None, precision):
            found.append((path, stored))
    return found


def why_unused(manifest: Manifest, stored: StoredEngine | BackendError) -> str:
    """Why this machine no longer uses an engine.

    Returns "" if it does, and also if its library or a GPU to compare with is missing.
    """
    if isinstance(stored, BackendError):
        return str(stored)
    try:
        return "; ".join(differences(manifest, stored))
    except BackendError:
        return ""


def differences(manifest: Manifest, stored: StoredEngine) -> list[str]:
    """What has changed since the engine was built: its model, library, GPU, kernels or recipe."""
    key = stored.key
    if key.onnx_sha256 != manifest.onnx_sha256:
        return ["the model file has changed since"]
    sizes = tuple(shape[1:3] for shape in key.shapes)
    batches = tuple(shape[0] for shape in key.shapes)
    request = EngineRequest(
        sizes=sizes,  # type: ignore[arg-type]
        batches=batches,  # type: ignore[arg-type]
        precision=key.precision,
        plugins=key.form != "portable",
        library=key.library_name,
        compute_capabilities=named_capabilities(key),
    )
    here = engine_key(manifest, request, key.calibration)
    words = {
        "library": f"built with {key.library}, here is {here.library}",
        "gpu": f"built for {key.gpu}, here is {here.gpu}",
        "plugins": "the kernels' code has changed since",
        "recipe": "this release writes the network in another way",
    }
    return [text for name, text in words.items() if getattr(key, name) != getattr(here, name)]


def description(stored: StoredEngine) -> list[str]:
    """Name, and size, library, GPU and time of the build."""
    key = stored.key
    return [
        stored.path.stem,
        f"{stored.size / 1e6:.1f} MB, {key.library}, {key.gpu}, built {stored.about.get('built')}",
    ]


def age(path: Path) -> str:
    """Time since the engine's file was written, for people."""
    try:
        hours = max(0.0, time.time() - path.stat().st_mtime) / 3600
    except OSError:  # there is only its JSON
        return "unknown hours"
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def accuracy_text(stored: StoredEngine) -> str:
    """The measured accuracy and the verdict, or a note that it was not measured."""
    accuracy = stored.about.get("accuracy")
    if not accuracy:
        use = "" if is_accepted(stored) else ", not used until sfseg engine verify has"
        return f"accuracy not measured{use}"
    agreement = f"{100 * accuracy['pixel_agreement']:.3f} % of the pixels as fp32"
    what = "engine" if accuracy.get("engine_ran") else "graph, engine not run"
    return f"{agreement} ({what}), {'accepted' if accuracy['accepted'] else 'REFUSED'}"
