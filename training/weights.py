# SPDX-License-Identifier: Apache-2.0
"""Reports which tensors of a published file fit a recipe: python -m training.weights RECIPE FILE.
With --output OURS.pt it writes a checkpoint for train --init, evaluate and export.

Each file of training/networks or training/backbones knows the layouts of its published weights: its
function `state_from_SOURCE(state)` renames the tensors and drops unknown ones; `DEAD_LAYERS` are
prefixes of tensors that a published file has but the network does not run. Layouts with our names
need no function: torchvision's and timm's ResNet, torchvision's ShuffleNet, and the authors'
ImageNet weights of STDC and DF.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training import checkpoint
from training.recipe import built_network, load_recipe

State = dict[str, Tensor]
SHOWN = 8  # names per line of a report
IN_PLACE_EPSILON = 1e-5  # in-place batch norm's default, which STDC-Seg keeps


@dataclass(frozen=True)
class Matches:
    """Result of load_matching: which tensors of a network and of a file matched.

    Args:
        loaded: our names of the tensors that were copied.
        left: our names of tensors that kept their values. Counters of batch norms are in neither
            list, because training does not read them.
        unused: the file's names of tensors that were not copied.
        misfits: tensors in `left` that the file has in another shape, with both shapes.
        unknown: tensors in `unused` that are neither misfits nor `DEAD_LAYERS`; the file may hold
            another network.
        surplus: our names of the file's tensors inside a layer of the module that the module does
            not have, such as an additional block of a ResNet.
        in_place_norms: number of batch norms whose weights were converted, see plain_norms.
    """

    loaded: list[str]
    left: list[str]
    unused: list[str]
    misfits: list[str]
    unknown: list[str]
    surplus: list[str]
    in_place_norms: int = 0

    def foreign(self, part: str) -> list[str]:
        """Returns the tensors that belong to another network.

        A file for the "trunk" may hold any heads; a file for the "network" only dead layers.
        """
        return self.surplus if part == "trunk" else self.unknown

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded, {len(self.left)} left as they were"]
        lines[0] += f", {len(self.unused)} of the file not used"
        if self.in_place_norms:
            lines.append(f"  {self.in_place_norms} in-place batch norms converted to plain ones")
        for title, names in (
            ("left", self.left),
            ("not used", self.unused),
            ("of another shape", self.misfits),
        ):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                lines.append(f"  {title}: {', '.join(names[:SHOWN])}{more}")
        return "\n".join(lines)


def main() -> None:
    arguments = parse_arguments()
    network = built_network(load_recipe(arguments.recipe))
    state = read_state(arguments.file)
    # The names in a file for the trunk match no names of the network, and vice versa.
    matches = {"network": load_matching(network, state)}
    if hasattr(network, "trunk"):
        matches["trunk"] = load_matching(network.get_submodule("trunk"), state)
    part = max(matches, key=lambda name: len(matches[name].loaded))
    print(f"{arguments.file.name}, as weights of the {part}: {matches[part]}")
    if not matches[part].loaded:
        raise SystemExit(
            f"{arguments.file} has no tensor of {arguments.recipe}: expected weights of the same "
            "network or of its trunk"
        )
    refuse_another_network(arguments.file, matches[part].foreign(part))
    if arguments.output and part == "trunk":
        raise SystemExit(
            f"{arguments.output} not written: --output takes a file of a whole network, and "
            f"{arguments.file} is one of a trunk: name it in the recipe's backbone_weights and "
            "pass its folder to training.train, --data-root weights=FOLDER"
        )
    if arguments.output:
        training_only = names_of_training_only(network)
        random = [name for name in matches["network"].left if name not in training_only]
        if random:
            raise SystemExit(
                f"{arguments.output} not written: {arguments.file} leaves {len(random)} tensors of "
                f"{arguments.recipe} random that compute its scores, such as {random[0]}"
            )
        digest = hashlib.sha256(arguments.file.read_bytes()).hexdigest()
        source = f"none here: published weights {arguments.file.name}, SHA-256 {digest}"
        checkpoint.save(arguments.output, {"ema": network.state_dict(), "published": source})


def refuse_another_network(path: Path, foreign: list[str]) -> None:
    """Ends the program if the file at `path` holds tensors of another network, `foreign`."""
    if foreign:
        raise SystemExit(
            f"{path} holds {len(foreign)} tensors of another network, such as {foreign[0]}: "
            "expected weights of the recipe's network; choose the recipe with its depth and stem"
        )


def read_state(path: Path) -> State:
    """Reads the tensors of a .safetensors file, or of a file that torch.save wrote, by name.

    Unpacks "state_dict", "model" or "ema", and drops the prefix "module." that distributed training
    adds.

    Raises:
        SystemExit: the file is missing or holds no tensors.
    """
    if not path.exists():
        raise SystemExit(
            f"weights {path} are missing: expected a published file, .safetensors, .pth, .pt or "
            '.tar; training/README.md, "Published weights", says which files fit'
        )
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            content: dict[str, Any] = load_file(path)
        except Exception as error:  # the library raises its own type for a damaged file
            raise SystemExit(f"weights {path} cannot be read ({error})") from None
    else:
        content = checkpoint.load(path, "weights")
    for key in ("state_dict", "model", "ema"):
        if isinstance(content.get(key), dict):
            content = content[key]
    state = {n.removeprefix("module."): v for n, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise SystemExit(f"{path} holds no tensors by name, expected a state dict")
    return state


def load_matching(module: nn.Module, state: State) -> Matches:
    """Copies the tensors whose name and shape match, in the layout that matches most of them.

    Callers print the result, so that no tensor is skipped silently. It tells the optimiser which
    layers start from random values.
    """
    own = module.state_dict()
    state, in_place_norms = plain_norms(state)
    chosen: State = {}
    placed: State = {}
    for layout in _layouts(module):
        names = layout(state)
        candidate = {n: v for n, v in names.items() if n in own and own[n].shape == v.shape}
        if len(candidate) > len(chosen):
            chosen, placed = candidate, names
    module.load_state_dict(chosen, strict=False)
    misfits = {name: v for name, v in placed.items() if name in own and name not in chosen}
    # Key maps rename tensors without copying them, so addresses identify the tensors.
    used = {value.data_ptr() for value in chosen.values()}
    unused = {n: v for n, v in state.items() if v.data_ptr() not in used and not _is_counter(n)}
    expected = {value.data_ptr() for value in misfits.values()}
    dead = vars(sys.modules[type(module).__module__]).get("DEAD_LAYERS", ())
    children = {name for name, _ in module.named_children()}
    return Matches(
        loaded=[name for name in own if name in chosen and not _is_counter(name)],
        left=[name for name in own if name not in chosen and not _is_counter(name)],
        unused=list(unused),
        misfits=[
            f"{name} {tuple(value.shape)}, expected {tuple(own[name].shape)}"
            for name, value in misfits.items()
        ],
        unknown=[
            n for n, v in unused.items() if v.data_ptr() not in expected and not n.startswith(dead)
        ],
        surplus=[
            name
            for name in placed
            if name not in own and not _is_counter(name) and name.partition(".")[0] in children
        ],
        in_place_norms=in_place_norms,
    )


def plain_norms(state: State) -> tuple[State, int]:
    """The state with the weights of in-place batch norms as torch's batch norm needs them, and the
    number of these norms.

    In-place batch norm scales by |weight| + eps where torch scales by weight. It keeps no counter
    `num_batches_tracked`: a norm without counter is one of these if other norms of the file have
    counters. A file without any counter was saved by an old version of torch and stays as it is.

    Paper: Rota Bulo et al., "In-Place Activated BatchNorm", and its authors' code, which STDC-Seg
    builds its heads with.
    """
    norms = [n.removesuffix("running_mean") for n in state if n.endswith(".running_mean")]
    counted = {name for name in norms if f"{name}num_batches_tracked" in state}
    in_place = [n for n in norms if n not in counted and f"{n}weight" in state] if counted else []
    converted = {f"{n}weight": state[f"{n}weight"].abs() + IN_PLACE_EPSILON for n in in_place}
    return state | converted, len(in_place)


def names_of_training_only(network: nn.Module) -> set[str]:
    """Returns the names of tensors that evaluation does not need.

    The network must take an image of twice its `size_multiple`.
    """
    twin = copy.deepcopy(network).to("meta").eval()
    ran: set[str] = set()
    for name, module in twin.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
    side = 2 * int(network.size_multiple)  # type: ignore[arg-type]
    with torch.no_grad():
        twin(torch.empty(1, 3, side, side, device="meta"))
    return {name for name in network.state_dict() if name.rpartition(".")[0] not in ran}


def _layouts(module: nn.Module) -> list[Callable[[State], State]]:
    """Returns the known layouts: our names, a network around a trunk, and the key maps in the file
    of the module's class."""
    file = vars(sys.modules[type(module).__module__])
    maps = [_tolerant(value) for name, value in file.items() if name.startswith("state_from_")]
    return [dict, _state_from_trunk, *maps]


def _state_from_trunk(state: State) -> State:
    """Extracts the trunk from one of our networks, such as the checkpoint of a run."""
    return renamed(state, (("trunk.", ""),))


def _tolerant(key_map: Callable[[State], State]) -> Callable[[State], State]:
    """Wraps `key_map` so that it returns no tensors for names that it cannot parse."""

    def mapped(state: State) -> State:
        try:
            return key_map(state)
        except (KeyError, IndexError, ValueError):
            return {}

    return mapped


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def renamed(state: State, prefixes: tuple[tuple[str, str], ...]) -> State:
    """Returns the tensors whose names begin with one of `prefixes` (theirs, ours), renamed.

    The first matching prefix counts; a prefix "module." is dropped.
    """
    ours: State = {}
    for full_name, value in state.items():
        name = full_name.removeprefix("module.")
        for theirs, own in prefixes:
            if name.startswith(theirs):
                ours[own + name.removeprefix(theirs)] = value
                break
    return ours


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="module:function in training/recipes")
    parser.add_argument("file", type=Path, help=".safetensors, .pth, .pt or .tar")
    parser.add_argument("--output", type=Path, help="checkpoint to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
