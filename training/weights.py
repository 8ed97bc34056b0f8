# SPDX-License-Identifier: Apache-2.0
"""Says what a published checkpoint gives to a recipe's network: python -m training.weights RECIPE
FILE; with --output OURS.pt it becomes a checkpoint that train --init, evaluate and export take.

A file of training/networks or training/backbones knows the layouts that its weights are published
in: a function `state_from_SOURCE(state)` in it gives the tensors under our names and leaves out
what it does not know. Layouts that have our names need none: torchvision's and timm's ResNet,
torchvision's ShuffleNet, and the ImageNet weights of STDC and DF as their authors give them away.
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


@dataclass(frozen=True)
class Matches:
    """What became of the tensors of a network and of a file.

    Args:
        loaded: our names of the tensors that were copied.
        left: our names of those that kept their values; batch norm's counters, which training does
            not read, are in neither.
        unused: the file's names of tensors that went nowhere.
        misfits: of those left, the ones that the file has in another shape, and both shapes.
    """

    loaded: list[str]
    left: list[str]
    unused: list[str]
    misfits: list[str]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded, {len(self.left)} left as they were"]
        lines[0] += f", {len(self.unused)} of the file not used"
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
    # A file for the trunk alone fills nothing of the network by name, and the other way round.
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
    if arguments.output and part == "trunk":
        raise SystemExit(
            f"{arguments.output} not written: --output wants a file of a whole network, and "
            f"{arguments.file} is one of a trunk: name it in the recipe's backbone_weights and "
            "give training.train its folder, --data-root weights=FOLDER"
        )
    if arguments.output:
        training_only = names_of_training_only(network)
        random = [name for name in matches["network"].left if name not in training_only]
        if random:
            raise SystemExit(
                f"{arguments.output} not written: {arguments.file} leaves {len(random)} tensors of "
                f"{arguments.recipe} random that its scores come from, such as {random[0]}"
            )
        digest = hashlib.sha256(arguments.file.read_bytes()).hexdigest()
        source = f"none here: published weights {arguments.file.name}, SHA-256 {digest}"
        checkpoint.save(arguments.output, {"ema": network.state_dict(), "published": source})


def read_state(path: Path) -> State:
    """The tensors of a .safetensors file, or of whatever torch.save wrote, by name.

    A "state_dict", "model" or "ema" inside the file is unpacked, and the "module." that distributed
    training puts before each name is dropped.

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
    """Copies every tensor whose name and shape match, under the layout in which most do.

    Nothing is skipped silently: the caller prints the answer, and what was loaded tells the
    optimiser which layers start from random values.
    """
    own = module.state_dict()
    chosen: State = {}
    misfits: list[str] = []
    for layout in _layouts(module):
        known = {name: value for name, value in layout(state).items() if name in own}
        candidate = {n: value for n, value in known.items() if own[n].shape == value.shape}
        if len(candidate) > len(chosen):
            chosen = candidate
            misfits = [
                f"{name} {tuple(value.shape)}, expected {tuple(own[name].shape)}"
                for name, value in known.items()
                if name not in candidate
            ]
    module.load_state_dict(chosen, strict=False)
    # A key map renames tensors, it does not copy them.
    used = {value.data_ptr() for value in chosen.values()}
    return Matches(
        loaded=[name for name in own if name in chosen and not _is_counter(name)],
        left=[name for name in own if name not in chosen and not _is_counter(name)],
        unused=[n for n, v in state.items() if v.data_ptr() not in used and not _is_counter(n)],
        misfits=misfits,
    )


def names_of_training_only(network: nn.Module) -> set[str]:
    """Tensors of the layers that do not run in evaluation: a file for inference need not have them.

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
    """Our own names, those of a network around a trunk, and the key maps in the file that defines
    the module's class."""
    file = vars(sys.modules[type(module).__module__])
    maps = [_tolerant(value) for name, value in file.items() if name.startswith("state_from_")]
    return [dict, _state_from_trunk, *maps]


def _state_from_trunk(state: State) -> State:
    """The trunk of one of our networks, such as a run's checkpoint holds."""
    return renamed(state, (("trunk.", ""),))


def _tolerant(key_map: Callable[[State], State]) -> Callable[[State], State]:
    """`key_map`, giving no tensors for a layout whose names it cannot take apart."""

    def mapped(state: State) -> State:
        try:
            return key_map(state)
        except (KeyError, IndexError, ValueError):
            return {}

    return mapped


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def renamed(state: State, prefixes: tuple[tuple[str, str], ...]) -> State:
    """The tensors whose name begins with one of `prefixes` (theirs, ours), under our names.

    The first that fits counts; "module." before a name is dropped.
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
    parser.add_argument("--output", type=Path, help="checkpoint to write the filled network to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
