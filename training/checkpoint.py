# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the state that resumes a run, and the facts for the model card."""

from __future__ import annotations

import pickle
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.exported_weights import weights_of_model

# SFNet's authors save the mean IoU as a numpy number. torch refuses it unless its parts are
# declared safe; old versions of numpy have `scalar` in another module.
_SCALAR = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(number)) for number in (np.float32, np.float64, np.int64)),
]


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` so that an interrupted write never replaces a good file."""
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    temporary.replace(path)


def load(path: Path, kind: str = "checkpoint") -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; only tensors, numbers and plain values are accepted.

    Args:
        kind: noun for the file in an error.

    Raises:
        SystemExit: the file is missing or is not a checkpoint.
    """
    if not path.exists():
        raise SystemExit(f"{kind} {path} is missing: expected a file that torch.save wrote")
    try:
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged file
        message = str(error).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):  # torch advises to run the file's code
            message = "it holds objects other than tensors and plain values"
        raise SystemExit(
            f"{kind} {path} cannot be read ({message}); expected a file that torch.save wrote"
        ) from None
    return state


def load_network(network: nn.Module, path: Path) -> dict[str, Any]:
    """Fills `network` with the averaged weights of a checkpoint; returns the checkpoint.

    Raises:
        SystemExit: the file is not a checkpoint of a run, or it belongs to another network.
    """
    state = load(path)
    weights = _averaged_weights(state, path)
    wrong = _misfits(network.state_dict(), weights)
    if wrong:
        raise _another_network(state, path, wrong)
    network.load_state_dict(weights)
    return state


def load_all_but_classes(network: nn.Module, path: Path, num_classes: int) -> list[str]:
    """Fills `network` from a checkpoint's averaged weights or from a model directory.

    The file may have another number of classes than `num_classes`: then the tensors whose first
    axis is the classes keep their values, and their names are returned. After a model directory,
    call `fit_norms` before training.

    Raises:
        SystemExit: the file is not a checkpoint of a run, or it belongs to another network.
    """
    own = network.state_dict()
    if path.is_dir():
        state: dict[str, Any] = {}
        weights = own | weights_of_model(network, path)
    else:
        state = load(path)
        weights = _averaged_weights(state, path)
    wrong = _misfits(own, weights)
    anew = [
        name
        for name in wrong
        if name in own
        and name in weights
        and own[name].shape[:1] == (num_classes,)
        and own[name].shape[1:] == weights[name].shape[1:]
    ]
    others = [name for name in wrong if name not in anew]
    if others or len({weights[name].shape[0] for name in anew}) > 1:
        raise _another_network(state, path, others or anew)
    network.load_state_dict({n: v for n, v in weights.items() if n not in anew}, strict=False)
    return anew


def _averaged_weights(state: Any, path: Path) -> dict[str, Tensor]:
    weights = state.get("ema") if isinstance(state, dict) else None
    if not isinstance(weights, dict):
        raise SystemExit(
            f"{path} is no checkpoint of a run: expected what training.train or "
            "`python -m training.weights RECIPE FILE --output OURS.pt` writes"
        )
    return weights


def _misfits(own: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """Names that only one of them has, or that have another shape."""
    return [
        name
        for name in sorted(own.keys() | weights.keys())
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    ]


def _another_network(state: dict[str, Any], path: Path, wrong: list[str]) -> SystemExit:
    trained = f" (it was trained with {state['recipe']})" if "recipe" in state else ""
    return SystemExit(
        f"{path} holds another network{trained}: {len(wrong)} tensors are missing, left over "
        f"or of another shape, the first is {wrong[0]}; expected a checkpoint of this recipe"
    )


def commit() -> str:
    """The commit of the source tree, with "+changes" when tracked files differ from it."""
    try:
        revision = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+changes" if changed else "")


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    result = subprocess.run(
        ["git", *arguments], cwd=here, check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


def hardware() -> str:
    """One line about the machine: processor or GPU, threads, torch version."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{device}, torch {torch.__version__}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()
