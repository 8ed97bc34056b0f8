# SPDX-License-Identifier: Apache-2.0
"""`sfseg engine build|list|info|verify|remove MODEL`: TensorRT engines of a model directory.

Engines lie in $SFSEG_CACHE_DIR or ~/.cache/sfseg_ros; the node finds them there. Exit status: 0
done, 1 refused (one line on stderr says why), 2 wrong arguments, 3 `verify` found nothing wrong but
could not run the engine because there is no GPU.
"""

import argparse
import contextlib
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sfseg_ros.backends.cut_graph import model_of
from sfseg_ros.backends.tensorrt.engine_builder import engine_is_wellformed
from sfseg_ros.backends.tensorrt.engine_store import STORED, EngineStore, StoredEngine
from sfseg_ros.backends.tensorrt.engines import (
    EngineRequest,
    built_engine,
    engine_key,
    is_accepted,
    layer_rows,
    named_capabilities,
)
from sfseg_ros.backends.tensorrt.library import LIBRARIES
from sfseg_ros.backends.tensorrt.precision import (
    ENGINE_PRECISIONS,
    QUANTIZED_PRECISIONS,
    typed_model,
)
from sfseg_ros.errors import BackendError, SfsegError, one_line
from sfseg_ros.evaluation.engine_accuracy import MIN_AGREEMENT, Labeller, labeller_of, measure
from sfseg_ros.imaging import Uint8Array, resized_rgb
from sfseg_ros.installed_files import find_model, shared_file
from sfseg_ros.kernels.cuda_memory import gpu_is_there
from sfseg_ros.model.manifest import Manifest, load_manifest
from sfseg_ros.recordings.pictures import LabelledPicture, sampled_pictures

PICTURES = 64
TIMED_RUNS = 50
TEST_DRIVE = "test/data/town_drive"
DRIVE_MODEL = "sfnet_lite_r18_camvid"
NOT_RUN = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `sfseg`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # or the next file that is opened would get its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    args = _arguments(argv)
    try:
        status: int = args.run(args, EngineStore(args.cache))
        sys.stdout.flush()
    except BrokenPipeError:  # stdout's: of a pager or `head` that has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if args.command in ("list", "info") else 1
    except (SfsegError, OSError) as error:
        _complain(f"sfseg engine {args.command}: {one_line(error)}")
        return 1
    except KeyboardInterrupt:
        _complain(f"sfseg engine {args.command}: interrupted")
        return 130
    return status


# --- build --------------------------------------------------------------------------------------


def build(args: argparse.Namespace, store: EngineStore) -> int:
    """Build an engine, or find it built. The last line on stdout is its path."""
    manifest = load_manifest(find_model(args.model))
    request = _request(args, manifest)
    request.check(manifest)
    quantised = request.precision in QUANTIZED_PRECISIONS
    if args.calibration is not None and not quantised:
        raise BackendError(
            f"--calibration is for {' and '.join(QUANTIZED_PRECISIONS)}, not {request.precision}"
        )
    for option in ("pictures", "topic", "truth", "min_agreement"):
        if args.calibration is None and getattr(args, option) is not None:
            raise BackendError(
                f"--{option.replace('_', '-')} goes with --calibration: without pictures nothing "
                f"is measured; sfseg engine verify {args.model} measures any engine"
            )
    calibration: list[Uint8Array] | None = None
    others: list[LabelledPicture] = []
    if args.calibration is not None:
        calibration, others = _calibration_pictures(args, request.sizes[1])
    stored, _ = built_engine(
        manifest,
        request,
        store,
        (lambda: calibration) if calibration is not None else None,
        _say,
        rebuild=args.rebuild,
    )
    for line in (*_description(stored), *_layer_summary(stored)):
        print(line)
    if quantised and others:
        accuracy = _gate(manifest, stored, others, args.min_agreement, store)
        if not accuracy:
            return 1
    elif quantised:
        print("accuracy: as before; sfseg engine verify measures it again")
    old = [
        (path, why)
        for path, other in store.engines(manifest.name)
        if (why := _why_unused(manifest, other))
    ]
    for path, why in old:
        _say(f"not used any more: {path.name}, {_age(path)} old: {why}")
    if old:
        _say(f"sfseg engine remove {args.model} deletes what is not used any more")
    print(stored.path)
    return 0


def _calibration_pictures(
    args: argparse.Namespace, size: tuple[int, int]
) -> tuple[list[Uint8Array], list[LabelledPicture]]:
    """Every second picture to calibrate with, the others to measure on what is lost."""
    _say(f"reading pictures of {args.calibration}")
    calibration: list[Uint8Array] = []
    others: list[LabelledPicture] = []
    sampled = sampled_pictures(
        args.calibration, 2 * (args.pictures or PICTURES), args.topic, args.truth, _say
    )
    for index, picture in enumerate(sampled):
        rgb = np.ascontiguousarray(resized_rgb(picture.rgb, size))
        if index % 2 == 0:
            calibration.append(rgb)
        else:
            others.append(replace(picture, rgb=rgb))
    if not others:
        _say("only one picture: what is lost is measured on the one that was calibrated with")
        others = [LabelledPicture("the only picture", calibration[0])]
    return calibration, others


# --- the accuracy gate --------------------------------------------------------------------------


def _gate(
    manifest: Manifest,
    stored: StoredEngine,
    pictures: Sequence[LabelledPicture] | Iterator[LabelledPicture],
    threshold: float | None,
    store: EngineStore,
) -> bool:
    """Measure, print and remember; False where the engine is refused."""
    model = model_of(manifest)
    size = stored.key.shapes[1][1:3]
    threshold = MIN_AGREEMENT[stored.key.precision] if threshold is None else threshold
    reference = labeller_of(typed_model(model, "fp32"))
    on_gpu = gpu_is_there()
    if on_gpu:
        what = "the engine on this GPU"
        runner: contextlib.AbstractContextManager[Labeller] = _engine_labeller(manifest, stored)
    else:
        what = "the engine's graph in ONNX Runtime, rounded as its types say"
        ranges = (stored.about.get("calibration") or {}).get("ranges")
        candidate = labeller_of(typed_model(model, stored.key.precision, ranges))
        runner = contextlib.nullcontext(candidate)
    inference_ms = None
    with runner as candidate:
        accuracy = measure(reference, candidate, pictures, manifest, size, _say)
        if on_gpu:
            inference_ms = _inference_ms(candidate, size)
    accepted = accuracy.pixel_agreement >= threshold
    measured = accuracy.as_dict() | {
        "threshold": threshold,
        "accepted": accepted,
        "engine_ran": on_gpu,
        "inference_ms": inference_ms,
    }
    store.remember(stored, {"accuracy": measured})  # first of all: printing can be interrupted
    print(f"accuracy of {what}, against fp32 in ONNX Runtime:")
    for line in accuracy.lines():
        print(f"  {line}")
    if inference_ms is None:
        print("  speed won: not measured: no GPU")
        print("  the engine itself did not run: no GPU")
    else:
        for line in _speed_lines(store, manifest.name, stored, inference_ms):
            print(f"  {line}")
    if not accepted:
        _complain(
            f"sfseg engine: refused: {100 * accuracy.pixel_agreement:.3f} % of the pixels agree "
            f"with fp32, {100 * threshold:g} % are wanted (--min-agreement); use another "
            "precision, or calibrate with more pictures of the camera"
        )
    return accepted


@contextlib.contextmanager
def _engine_labeller(manifest: Manifest, stored: StoredEngine) -> Iterator[Labeller]:
    """The engine itself, in the backend that the node uses. Not run on a GPU."""
    from sfseg_ros.backends.tensorrt.backend import TensorRtBackend

    backend = TensorRtBackend(manifest, only=stored)
    try:
        yield lambda rgb: backend.infer(rgb, confidence=False)[0]
    finally:
        backend.close()


def _inference_ms(runner: Labeller, size: tuple[int, int]) -> float:
    """Median of one image, host memory to host memory."""
    black = np.zeros((1, *size, 3), np.uint8)
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        runner(black)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[TIMED_RUNS // 5 :]))


def _speed_lines(
    store: EngineStore, manifest_name: str, stored: StoredEngine, ms: float
) -> Iterator[str]:
    """This engine's time beside those of the model's others at this size that were verified."""
    yield f"speed: {ms:.2f} ms for one image, from host memory to host memory"
    alone = True
    for _, other in store.engines(manifest_name):
        if isinstance(other, BackendError) or other.path == stored.path:
            continue
        other_ms = (other.about.get("accuracy") or {}).get("inference_ms")
        key = replace(other.key, precision=stored.key.precision, calibration=stored.key.calibration)
        if other_ms and key == stored.key:
            alone = False
            yield f"speed won over {other.key.precision}: {other_ms:.2f} ms, {other_ms / ms:.2f} x"
    if alone:
        yield "speed won: not known, no other precision of this engine was verified here"


# --- verify -------------------------------------------------------------------------------------


def verify(args: argparse.Namespace, store: EngineStore) -> int:
    """Check every stored engine of the model that the arguments leave."""
    manifest = load_manifest(find_model(args.model))
    source = args.images or shared_file(TEST_DRIVE)
    if source is None:
        raise BackendError("--images is missing: a folder of pictures or a recording of the camera")
    statuses = []
    for path, stored in _selected(args, store, manifest.name):
        print(f"{path.name}")
        if isinstance(stored, BackendError):
            statuses.append(_refused(stored))
            continue
        try:
            engine = stored.read()
            if stale := _differences(manifest, stored):
                # The node passes it over, so it is no failure beside one that it takes.
                _refused(BackendError(f"{path}: {'; '.join(stale)}: build it again, remove this"))
                continue
            print(
                "  whole: size and SHA-256 are those in its JSON; of this model and these kernels"
            )
            print(f"  {engine_is_wellformed(engine, stored.key.library_name)}")
            _say(f"comparing on {source}")
            pictures = _pictures(args, manifest, source)
            accepted = _gate(manifest, stored, pictures, args.min_agreement, store)
        except BackendError as error:  # a BagError is the pictures' fault, no engine's
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
    """The recorded drive's truth is for a model of its classes; another has none there."""
    pictures = sampled_pictures(source, args.pictures or PICTURES, args.topic, args.truth, _say)
    if args.images or manifest.class_names == load_manifest(find_model(DRIVE_MODEL)).class_names:
        return pictures
    return (replace(picture, truth=None) for picture in pictures)


def _refused(error: SfsegError) -> int:
    _complain(f"sfseg engine verify: refused: {one_line(error)}")
    return 1


def _why_unused(manifest: Manifest, stored: StoredEngine | BackendError) -> str:
    """Why this machine does not use an engine any more, "" where it does or nobody can tell: its
    library is not installed here, or there is no GPU to compare with."""
    if isinstance(stored, BackendError):
        return str(stored)
    try:
        return "; ".join(_differences(manifest, stored))
    except BackendError:
        return ""


def _differences(manifest: Manifest, stored: StoredEngine) -> list[str]:
    """What the engine was built from or for that has changed since."""
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
        stored_kernels=key.form == "stored",
    )
    here = engine_key(manifest, request, key.calibration)
    words = {
        "library": f"built with {key.library}, here is {here.library}",
        "gpu": f"built for {key.gpu}, here is {here.gpu}",
        "plugins": "the kernels' code has changed since",
        "recipe": "this release writes the network in another way",
    }
    return [text for name, text in words.items() if getattr(key, name) != getattr(here, name)]


# --- remove -------------------------------------------------------------------------------------


def remove(args: argparse.Namespace, store: EngineStore) -> int:
    """Delete the model's engines that this machine does not use any more, or (--all) every one that
    the arguments leave."""
    manifest = load_manifest(find_model(args.model))
    count = freed = 0
    for path, stored in _chosen(args, store, manifest.name):
        if isinstance(stored, StoredEngine):
            try:
                stored.read()
            except BackendError as error:
                stored = error
        why = "--all" if args.all else _why_unused(manifest, stored)
        if why:
            print(f"removed {path.name}, {_age(path)} old: {why}")
            freed += store.remove(path)
            count += 1
    print(f"{count} engines of {manifest.name} removed: {freed / 1e6:.1f} MB")
    return 0


# --- list and info ------------------------------------------------------------------------------


def list_engines(args: argparse.Namespace, store: EngineStore) -> int:
    """One line for each stored engine, of one model or of all."""
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
            name_, what = _description(stored)
            print(f"{path.parent.name}/{name_}; {_age(path)} old, {what}; {_accuracy(stored)}")
    if count == 0:
        print(f"no engines{f' of {name}' if name else ''} in {store.folder}")
    return 0


def info(args: argparse.Namespace, store: EngineStore) -> int:
    """All that is known about the engines of a model, each layer's precision included."""
    manifest = load_manifest(find_model(args.model))
    status = 0
    for path, stored in _selected(args, store, manifest.name):
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
            ("form", f"{key.form} {key.plugins.removeprefix(STORED)[:16]}".strip()),
            ("accuracy", _accuracy(stored)),
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


def _selected(
    args: argparse.Namespace, store: EngineStore, model: str
) -> list[tuple[Path, StoredEngine | BackendError]]:
    """`_chosen`. Raises BackendError where there is none."""
    chosen = _chosen(args, store, model)
    if not chosen:
        options = f" --precision {args.precision}" if args.precision else ""
        raise BackendError(
            f"no such engine of {model} in {store.folder}: sfseg engine build {args.model}{options}"
        )
    return chosen


def _chosen(
    args: argparse.Namespace, store: EngineStore, model: str
) -> list[tuple[Path, StoredEngine | BackendError]]:
    """The model's engines that --precision and the form leave. What is damaged has only its name to
    go by."""
    chosen = []
    for path, stored in store.engines(model):
        precision, *_, form, _ = path.stem.split("-") if path.stem.count("-") >= 4 else [""] * 3
        if isinstance(stored, StoredEngine):
            precision, form = stored.key.precision, stored.key.form
        if args.form in (None, form) and args.precision in (None, precision):
            chosen.append((path, stored))
    return chosen


def _description(stored: StoredEngine) -> list[str]:
    key = stored.key
    return [
        stored.path.stem,
        f"{stored.size / 1e6:.1f} MB, {key.library}, {key.gpu}, built {stored.about.get('built')}",
    ]


def _age(path: Path) -> str:
    """Since the engine's file was written."""
    try:
        hours = max(0.0, time.time() - path.stat().st_mtime) / 3600
    except OSError:  # only its JSON is there
        return "unknown hours"
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def _layer_summary(stored: StoredEngine) -> Iterator[str]:
    source, layers = layer_rows(stored.about)
    yield f"precision of {len(layers)} layers, {source} (sfseg engine info lists each):"
    counts = Counter((layer.type, layer.precision) for layer in layers)
    for kind in sorted({layer.type for layer in layers}):
        each = [f"{n} {p}" for (k, p), n in sorted(counts.items()) if k == kind]
        yield f"  {kind:<16}{', '.join(each)}"


def _accuracy(stored: StoredEngine) -> str:
    accuracy = stored.about.get("accuracy")
    if not accuracy:
        use = "" if is_accepted(stored) else ", not used until sfseg engine verify has"
        return f"accuracy not measured{use}"
    agreement = f"{100 * accuracy['pixel_agreement']:.3f} % of the pixels as fp32"
    what = "engine" if accuracy.get("engine_ran") else "graph, engine not run"
    return f"{agreement} ({what}), {'accepted' if accuracy['accepted'] else 'REFUSED'}"


# --- arguments ----------------------------------------------------------------------------------


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
        stored_kernels=args.form == "stored",
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sfseg", description=__doc__.splitlines()[0])
    groups = parser.add_subparsers(required=True, metavar="engine")
    engine = groups.add_parser(
        "engine",
        help="TensorRT engines of a model directory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = engine.add_subparsers(dest="command", required=True)
    for name, run, text in (
        ("build", build, "build an engine, or find it built"),
        ("list", list_engines, "one line for each stored engine"),
        ("info", info, "all about a model's engines, each layer's precision included"),
        ("verify", verify, "compare an engine's labels with fp32 on pictures, and refuse bad ones"),
        ("remove", remove, "delete the engines that this machine does not use any more"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text}.")
        command.set_defaults(run=run)
        command.add_argument(
            "model",
            nargs="?" if name == "list" else None,
            help="model directory, or the name of one in models/",
        )
        command.add_argument(
            "--cache", type=Path, metavar="DIR", help="instead of the cache folder"
        )
        if name != "list":
            _add_choice(command, default="fp16" if name == "build" else None)
        if name == "build":
            _add_build_arguments(command)
        if name == "verify":
            command.add_argument(
                "--images",
                type=Path,
                metavar="FOLDER_OR_BAG",
                help="pictures of the camera; without it the recorded drive of the source tree",
            )
        if name in ("build", "verify"):
            _add_picture_arguments(command)
        if name == "remove":
            command.add_argument("--all", action="store_true", help="also those that it uses")
    return parser.parse_args(argv)


def _add_choice(command: argparse.ArgumentParser, default: str | None) -> None:
    command.add_argument(
        "--precision",
        choices=ENGINE_PRECISIONS,
        default=default,
        help=f"default: {default or 'all'}",
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--plugins",
        action="store_const",
        dest="form",
        const="plugins",
        help="with our CUDA kernels (build: default)",
    )
    form.add_argument(
        "--portable",
        action="store_const",
        dest="form",
        const="portable",
        help="standard operators only: runs wherever the library does, without sfseg_ros",
    )
    form.add_argument(
        "--stored-kernels",
        action="store_const",
        dest="form",
        const="stored",
        help="our CUDA kernels inside the engine: runs without sfseg_ros, one image of one size "
        "(TensorRT 10.9 and newer, on a GPU; not built yet)",
    )


def _add_build_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--size",
        type=_sizes,
        metavar="HxW[,HxW,HxW]",
        help="network input, or the smallest, usual and largest; default: the manifest's size",
    )
    command.add_argument("--batch", type=int, default=1, help="most images at once (default 1)")
    command.add_argument("--library", choices=["auto", *LIBRARIES], default="auto")
    command.add_argument(
        "--compute-capability",
        type=_capability,
        action="append",
        default=[],
        metavar="8.6",
        help="GPU to build for (tensorrt_rtx only; may be repeated)",
    )
    command.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER_OR_BAG",
        help="pictures of the camera, for int8 and fp8",
    )
    command.add_argument("--rebuild", action="store_true", help="also where it is built already")


def _add_picture_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--pictures", type=_count, help=f"most pictures used (default {PICTURES})")
    command.add_argument("--topic", help="image topic of a recording with several")
    command.add_argument(
        "--truth", type=Path, metavar="FOLDER", help="PNGs of class indices, named as the pictures"
    )
    command.add_argument(
        "--min-agreement",
        type=_share,
        metavar="SHARE",
        help="least share of pixels with the label of fp32, 0 to 1; default: "
        + ", ".join(f"{name} {share:g}" for name, share in MIN_AGREEMENT.items()),
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


def _say(text: str) -> None:
    _complain(f"--- {text}")


def _complain(text: str) -> None:
    """A line on stderr. That nobody reads it is no reason to stop a build."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


if __name__ == "__main__":
    sys.exit(main(["engine", *sys.argv[1:]]))
