# SPDX-License-Identifier: Apache-2.0
"""Trains a recipe: python -m training.train sfnet_lite:camvid_r18 --data-root camvid=DIR ...
--output-dir DIR"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training import checkpoint
from training.data.dataset import DataError
from training.data.mixture import Mixture, MixturePart
from training.data_roots import DataRootAction, DataRoots
from training.distillation import distillation_loss, opened_teacher
from training.evaluate import evaluate, report
from training.exported_weights import fit_norms
from training.normalisation import images_from_rgb
from training.recipe import Recipe, built_network, load_recipe, training_data, validation_data
from training.weights import load_matching, read_state, refuse_another_network

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
MOST_EPOCHS = 1_000_000
"""Number of epochs of a run that ends by the clock."""
Tensors = tuple[Tensor, ...] | list[Tensor]
AveragingFunction = Callable[[Tensors, Tensors, Tensor | int], None]


@dataclass
class Run:
    """The state of a run that a checkpoint holds."""

    network: nn.Module
    ema: AveragedModel
    optimiser: torch.optim.Optimizer
    seed: int
    pretrained: tuple[str, ...] = ()  # names of the trunk's tensors that a file filled
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    # Not in the checkpoint:
    precision: torch.dtype = torch.float32  # of the forward pass
    teacher: nn.Module | None = None


@dataclass(frozen=True)
class Length:
    """The end of a run: after `minutes` of training, or after `epochs` if `minutes` is 0.

    The schedule ends with the run. A run by the clock takes fewer steps on a busy machine, and its
    learning rate still follows the whole schedule.
    """

    epochs: int
    minutes: float = 0.0

    def total_steps(self, run: Run, epoch_steps: int, step_in_epoch: int, seconds: float) -> int:
        """Estimates the number of steps of the whole run after `seconds` of training.

        A run by epochs counts from its present step, because a second stage may have epochs of
        another length.
        """
        if self.minutes:
            return max(run.step + 1, round(run.step * 60 * self.minutes / max(seconds, 1.0)))
        return run.step - step_in_epoch + (self.epochs - run.epoch) * epoch_steps

    def is_reached(self, seconds: float) -> bool:
        return self.minutes > 0 and seconds >= 60 * self.minutes


def main() -> None:
    arguments = parse_arguments()
    recipe = load_recipe(arguments.recipe)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = start(recipe, arguments, device)
    run.teacher = opened_teacher(recipe, arguments.teacher, device)
    parts = training_data(recipe, arguments.data_root)
    validation = validation_data(recipe, arguments.data_root)
    run.precision = PRECISIONS.get(arguments.precision) or fastest_precision(run, recipe)
    if arguments.init and arguments.init.is_dir():
        fit_norms_to_data(run, recipe, parts)
    length = Length(arguments.epochs or recipe.epochs, arguments.minutes)
    epochs = MOST_EPOCHS if length.minutes else length.epochs
    writer = SummaryWriter(str(arguments.output_dir))
    for epoch in range(run.epoch, min(epochs, arguments.stop_after or epochs)):
        if length.is_reached(run.seconds):
            break
        try:
            train_epoch(run, recipe, parts, length, device, arguments.workers, writer)
        except DataError as error:  # a loader process puts its traceback before the message
            line = str(error).strip().splitlines()[-1]
            raise SystemExit(line.removeprefix(f"{DataError.__module__}.DataError: ")) from None
        run.epoch = epoch + 1
        save(run, arguments.output_dir / "last.pt", arguments.recipe)
        last = run.epoch == epochs or length.is_reached(run.seconds)
        if validation is not None and (run.epoch % 4 == 0 or last):
            try:
                matrix = evaluate(run.ema.module, validation, len(recipe.classes), device)
            except ValueError as error:  # a DataError, or a size that the network does not take
                raise SystemExit(f"validation: {error}") from None
            writer.add_scalar("miou/held_out", matrix.miou(), run.step)
            print(report(matrix, [name for name, _ in recipe.classes]), flush=True)
    writer.close()
    print(f"{arguments.output_dir / 'last.pt'}: {run.epoch} epochs, {run.seconds / 60:.1f} minutes")


def start(recipe: Recipe, arguments: argparse.Namespace, device: torch.device) -> Run:
    """Starts a run: a new one, with --init from given weights, or with --resume from last.pt."""
    random.seed(arguments.seed)
    np.random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    network = built_network(recipe)
    last = arguments.output_dir / "last.pt"
    if arguments.resume:
        state = checkpoint.load_network(network, last)
        check_resumable(recipe, state, last)
    if arguments.resume and "pretrained" in state:
        pretrained = tuple(state["pretrained"])
    else:  # a new run, or a checkpoint of a version without "pretrained"
        pretrained = load_trunk(recipe, network, arguments.data_root)
    if arguments.init:
        random_layers = checkpoint.load_all_but_classes(
            network, arguments.init, len(recipe.classes)
        )
        if random_layers:
            print(
                f"{arguments.init}: loaded, except {len(random_layers)} tensors that start from "
                f"random values for {len(recipe.classes)} classes: {', '.join(random_layers)}"
            )
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = AveragedModel(network, multi_avg_fn=averaging(recipe.ema_decay), use_buffers=True)
    run = Run(network, ema, optimiser(recipe, network, set(pretrained)), arguments.seed, pretrained)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    if arguments.resume:
        restore(run, state)
    return run


def fit_norms_to_data(run: Run, recipe: Recipe, parts: list[MixturePart]) -> None:
    """Sets the batch norm statistics of a run that starts from a model directory, from the run's
    own pictures."""
    data = Mixture(parts, recipe.augmentation, run.seed, epoch=0)
    device = next(run.network.parameters()).device
    loader = DataLoader(data, recipe.batch_size)
    batches = (images_from_rgb(rgb.to(device), run.network) for rgb, _ in islice(loader, 4))
    count = fit_norms(run.network, batches)
    run.ema.module.load_state_dict(run.network.state_dict())
    print(f"{count} batch norms of the model directory have the statistics of this run's pictures")


def load_trunk(recipe: Recipe, network: nn.Module, roots: dict[str, Path]) -> tuple[str, ...]:
    """Fills the trunk from `backbone_weights`, if the recipe has them; returns the names of the
    tensors that were loaded."""
    if not recipe.backbone_weights:
        return ()
    path = roots["weights"] / recipe.backbone_weights
    matches = load_matching(network.get_submodule("trunk"), read_state(path))
    print(f"{path.name}: {matches}")
    if not matches.loaded:
        raise SystemExit(
            f"{path} fits no layer of the trunk, expected weights of {network.description}; "
            "`python -m training.weights` reports what fits"
        )
    refuse_another_network(path, matches.foreign("trunk"))
    return tuple(matches.loaded)


def averaging(decay: float) -> AveragingFunction:
    """Returns the update of the averaged weights, with a decay that rises to `decay`.

    With a constant decay of 0.998, half of the average after 350 steps would be the random initial
    weights.
    """

    def update(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        share = 1.0 - min(decay, (1 + int(count)) / (10 + int(count)))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:
                mean.copy_(value)

    return update


def optimiser(recipe: Recipe, network: nn.Module, loaded: set[str]) -> torch.optim.Optimizer:
    """Builds the optimiser with four groups: loaded or random, with or without weight decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    trunk = network.get_submodule("trunk").named_parameters() if loaded else ()
    old = {id(parameter) for name, parameter in trunk if name in loaded}
    for parameter in network.parameters():
        pretrained = id(parameter) in old
        groups.setdefault((pretrained, parameter.ndim > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": recipe.learning_rate * (recipe.pretrained_factor if pretrained else 1.0),
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (pretrained, decays), parameters in groups.items()
    ]
    for group in settings:
        group["base_lr"] = group["lr"]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(settings, momentum=0.9)
    return torch.optim.AdamW(settings)


def train_epoch(
    run: Run,
    recipe: Recipe,
    parts: list[MixturePart],
    length: Length,
    device: torch.device,
    workers: int,
    writer: SummaryWriter,
) -> None:
    data = Mixture(parts, recipe.augmentation, run.seed, run.epoch)
    loader = DataLoader(
        data,
        recipe.batch_size,
        num_workers=workers,
        # Drops an incomplete last batch, unless it is the only one.
        drop_last=len(data) >= recipe.batch_size,
        worker_init_fn=_one_thread,
        pin_memory=device.type == "cuda",
    )
    run.network.train()
    before, started = run.seconds, time.monotonic()
    with tqdm(loader, f"epoch {run.epoch + 1}", mininterval=5.0) as bar:
        for index, (rgb, labels) in enumerate(bar):
            run.seconds = before + time.monotonic() - started
            if length.is_reached(run.seconds):
                break
            total = length.total_steps(run, len(loader), index, run.seconds)
            factor = recipe.schedule(run.step, total, warmup=recipe.warmup_steps)
            loss = train_step(run, recipe, rgb.to(device), labels.to(device), factor)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            writer.add_scalar("loss", loss, run.step)
            writer.add_scalar("learning_rate", recipe.learning_rate * factor, run.step)
    run.seconds = before + time.monotonic() - started


def train_step(run: Run, recipe: Recipe, rgb: Tensor, labels: Tensor, factor: float) -> float:
    """Updates the network once; returns the loss.

    Args:
        rgb: uint8 (N, h, w, 3).
        labels: integer (N, h, w).
        factor: multiplies the learning rate.
    """
    for group in run.optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    with _autocast(rgb.device, run.precision):
        output = _output(run.network, rgb)
    loss = recipe.loss(output, labels)
    if run.teacher is not None and recipe.distillation is not None:
        with _autocast(rgb.device, run.precision):
            loss = loss + distillation_loss(recipe.distillation, run.teacher, rgb, output["logits"])
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), recipe.clip_norm)
    # A non-finite step would spoil the weights and their average permanently.
    if torch.isfinite(norm):
        run.optimiser.step()
    else:
        print(f"step {run.step}: gradient is not finite, step skipped", flush=True)
    run.ema.update_parameters(run.network)
    run.step += 1
    return float(loss.detach())


def fastest_precision(run: Run, recipe: Recipe) -> torch.dtype:
    """Measures forward and backward passes in each precision, on a copy of the network and noise;
    prints and returns the fastest precision.

    Processor flags do not predict it: with AVX-512 BF16 but no AMX, bf16 takes 1.5 times as long as
    fp32; without either it takes more than ten times as long, and one pass is enough. On a CPU the
    process's own time counts, which other programs do not lengthen.
    """
    device = next(run.network.parameters()).device
    network = copy.deepcopy(run.network).train()
    size = (recipe.batch_size, *recipe.augmentation.crop_size)
    rgb = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, len(recipe.classes), size, device=device)
    clock = time.process_time if device.type == "cpu" else time.monotonic
    seconds = dict.fromkeys(PRECISIONS, float("inf"))
    for _ in range(4):
        for name, precision in PRECISIONS.items():
            if float("inf") > seconds[name] > 4 * min(seconds.values()):
                continue
            started = clock()
            with _autocast(device, precision):
                output = _output(network, rgb)
            recipe.loss(output, labels).backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name] = min(seconds[name], clock() - started)
    fastest, slowest = sorted(seconds, key=seconds.__getitem__)
    print(
        f"precision: {fastest}, {seconds[fastest]:.2f} s for a forward and backward pass; "
        f"{slowest} takes {seconds[slowest] / seconds[fastest]:.2f} times as long",
        flush=True,
    )
    return PRECISIONS[fastest]


def _autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def _output(network: nn.Module, rgb: Tensor) -> dict[str, Any]:
    """Returns the output of the network in training.

    Raises:
        SystemExit: the network does not take this size, or a batch norm sees one value per channel.
    """
    try:
        return network(images_from_rgb(rgb, network))  # type: ignore[no-any-return]
    except ValueError as error:
        count, height, width = rgb.shape[:3]
        raise SystemExit(
            f"the network refuses a batch of {count} pictures {height}x{width} ({error}); change "
            "the recipe's batch_size or its augmentation's crop_size"
        ) from None


def save(run: Run, path: Path, recipe: str) -> None:
    state = {
        "network": run.network.state_dict(),
        "ema": run.ema.module.state_dict(),
        "ema_updates": int(run.ema.n_averaged),
        "optimiser": run.optimiser.state_dict(),
        "pretrained": list(run.pretrained),
        "seed": run.seed,
        "epoch": run.epoch,
        "step": run.step,
        "seconds": run.seconds,
        "recipe": recipe,
        "commit": checkpoint.commit(),
        "hardware": checkpoint.hardware(),
    }
    checkpoint.save(path, state)


def check_resumable(recipe: Recipe, state: dict[str, Any], path: Path) -> None:
    """Ends the program if the checkpoint cannot resume a run of this recipe."""
    if "optimiser" not in state:
        raise SystemExit(
            f"{path} holds weights but no run to resume: start a run from them with --init"
        )
    groups = state["optimiser"]["param_groups"]
    kind = "sgd" if "momentum" in groups[0] else "adamw"
    if kind != recipe.optimiser:
        raise SystemExit(
            f"{path} was trained with the optimiser {kind!r}, expected the recipe's "
            f"{recipe.optimiser!r}: resume with the recipe of the run, or start a new one with "
            "--init"
        )


def restore(run: Run, state: dict[str, Any]) -> None:
    """Restores the state of the run from its checkpoint."""
    run.ema.module.load_state_dict(state["ema"])
    run.network.load_state_dict(state["network"])
    run.ema.n_averaged.fill_(state["ema_updates"])
    try:
        run.optimiser.load_state_dict(state["optimiser"])
    except ValueError as error:
        raise SystemExit(
            f"last.pt cannot be resumed ({error}): expected the backbone_weights that the run "
            "started with; resume with the recipe of the run, or start a new one with --init"
        ) from None
    run.seed, run.epoch, run.step = state["seed"], state["epoch"], state["step"]
    run.seconds = state["seconds"]


def _one_thread(_: int) -> None:
    """Gives a loader worker one thread: it shares the cores with the training step."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="module:function in training/recipes")
    parser.add_argument(
        "--data-root",
        action=DataRootAction,
        default=DataRoots(),
        help="NAME=FOLDER, once per data set",
    )
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=0, help="0: the recipe's")
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="train for this long, instead of --epochs; the schedule follows the clock",
    )
    parser.add_argument(
        "--precision",
        choices=["auto", *PRECISIONS],
        default="auto",
        help="of the forward pass; auto measures which is faster",
    )
    parser.add_argument(
        "--stop-after", type=int, default=0, help="stop after this epoch; the schedule is unchanged"
    )
    parser.add_argument("--workers", type=int, default=1, help="data loader processes")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument(
        "--teacher",
        type=Path,
        help="checkpoint or model directory of the teacher that the recipe's `distillation` names",
    )
    start_from = parser.add_mutually_exclusive_group()
    start_from.add_argument(
        "--resume", action="store_true", help="continue the run of OUTPUT_DIR/last.pt"
    )
    start_from.add_argument(
        "--init",
        type=Path,
        help="start from the averaged weights of a checkpoint, or from a model directory, of the "
        "same network; with other classes, the layers that score them start from random values",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
