# SPDX-License-Identifier: Apache-2.0
"""Draws the semantic flow of a network:
python -m training.papers.flow_figures RECIPE --checkpoint FILE --image PICTURE --output-dir DIR
[--labels PNG]

Writes flow.png, with one row per warp of the network: the flow as arrows and as colours, and the
warped map before and after. Writes prediction.png; with --labels also the errors and classes.md,
the IoU of each class in this picture.
Paper: SFNet, IJCV figures 6 (flow), 7 (maps before and after alignment) and 8 (errors).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfseg_ros.errors import ImageError
from sfseg_ros.evaluation.metrics import ConfusionMatrix
from sfseg_ros.imaging import color_mask, overlay, resized_labels, resized_rgb, rgb_from_file
from sfseg_ros.model.manifest import SemanticClass, palette_rgb_of
from training import checkpoint
from training.data.dataset import DataError
from training.data.reading import read_label_ids
from training.networks.flow_alignment import FlowAlignment
from training.networks.sfnet_lite import GatedDualFlowAlignment
from training.normalisation import images_from_rgb
from training.operators import flow_warp, resize
from training.recipe import built_network, load_recipe

Rgb = NDArray[np.uint8]

CAPTION_PX = 22
ARROW_SPACING_PX = 20
UNLABELLED_RGB = (70, 70, 70)


@dataclass(frozen=True)
class Warp:
    """One map before and after its flow.

    Args:
        what: name of the map, such as "coarse map 11x15".
        flow_px: float32 (H, W, 2), x first: displacement from each pixel to the source of its
            features, in pixels of the (H, W) grid.
        before: float32 (H, W), channel mean of the map, resized to the grid without flow.
        after: float32 (H, W), channel mean of the warped map.
    """

    what: str
    flow_px: NDArray[np.float32]
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def main() -> None:
    arguments = parse_arguments()
    recipe = load_recipe(arguments.recipe)
    network = built_network(recipe).eval()
    checkpoint.load_network(network, arguments.checkpoint)
    size = tuple(arguments.size or recipe.input_size)
    if min(size) < int(network.size_multiple):  # type: ignore[arg-type]
        raise SystemExit(f"--size is {size}, expected sides of {network.size_multiple} or more")
    picture = resized_rgb(read_rgb(arguments.image), size)
    labels, warps = see(network, picture)
    classes = [SemanticClass(i, name, rgb) for i, (name, rgb) in enumerate(recipe.classes)]
    truth = table = None
    if arguments.labels:
        truth = resized_labels(read_labels(arguments.labels), labels.shape)
        try:
            table = class_table(labels, truth, [name for name, _ in recipe.classes])
        except ValueError as error:
            raise SystemExit(f"{arguments.labels}: {error}") from None
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    write_rgb(arguments.output_dir / "flow.png", flow_figure(picture, warps))
    figure = prediction_figure(picture, labels, classes, truth)
    write_rgb(arguments.output_dir / "prediction.png", figure)
    if table is not None:
        (arguments.output_dir / "classes.md").write_text(table, encoding="utf-8")
        print(table)
    print(arguments.output_dir)


def see(network: nn.Module, rgb: Rgb) -> tuple[NDArray[np.uint8], list[Warp]]:
    """Segments uint8 (H, W, 3) RGB; returns labels uint8 (H, W) and all warps in order.

    Raises:
        SystemExit: the network warps nothing.
    """
    warps: list[Warp] = []
    flows: dict[nn.Module, Tensor] = {}
    hooks = []
    for module in network.modules():
        if isinstance(module, FlowAlignment | GatedDualFlowAlignment):

            def keep_flow(
                _: nn.Module, __: object, flow: Tensor, owner: nn.Module = module
            ) -> None:
                flows[owner] = flow

            def keep_warps(owner: nn.Module, maps: tuple[Tensor, Tensor], _: object) -> None:
                warps.extend(warps_of(*maps, flows[owner], bool(owner.align_corners)))

            hooks += [module.flow_make.register_forward_hook(keep_flow)]
            hooks += [module.register_forward_hook(keep_warps)]
    if not hooks:
        raise SystemExit("this network warps nothing; flow is in SFNet and SFNet-Lite with FAM")
    with torch.inference_mode():
        logits = network(images_from_rgb(torch.from_numpy(rgb)[None], network))["logits"]
    for hook in hooks:
        hook.remove()
    return logits[0].argmax(0).to(torch.uint8).numpy(), warps


def warps_of(low: Tensor, high: Tensor, flow: Tensor, align_corners: bool) -> list[Warp]:
    """Returns the warp of the coarse map, and of the fine map if `flow` has four channels."""
    found = []
    for name, source, part in (("coarse", high, flow[:, 0:2]), ("fine", low, flow[:, 2:4])):
        if part.shape[1] == 0:
            continue
        height, width = part.shape[2:]
        # flow / (W, H) in a grid from -1 to 1, whose pixels are 2 / (W - 1) apart
        # (operators.flow_warp).
        scale = torch.tensor([(width - 1) / (2 * width), (height - 1) / (2 * height)])
        rows, columns = source.shape[2:]
        found.append(
            Warp(
                what=f"{name} map {rows}x{columns} on {height}x{width}",
                flow_px=(part[0].permute(1, 2, 0) * scale).numpy(),
                before=resize(source, (height, width))[0].mean(0).numpy(),
                after=flow_warp(source, part, align_corners)[0].mean(0).numpy(),
            )
        )
    return found


def flow_figure(rgb: Rgb, warps: Sequence[Warp]) -> Rgb:
    """Draws one row per warp: arrows on the picture, flow colours, the map before and after."""
    rows = []
    for warp in warps:
        size = (rgb.shape[0], rgb.shape[1])
        per_px = np.array([size[1] / warp.before.shape[1], size[0] / warp.before.shape[0]])
        flow = np.asarray(cv2.resize(warp.flow_px, size[::-1]) * per_px, np.float32)
        longest = max(float(np.percentile(np.hypot(flow[..., 0], flow[..., 1]), 99)), 1e-6)
        low, high = np.percentile(warp.before, (1, 99))
        panels = [
            (f"{warp.what}: longest arrow {longest:.1f} px", arrows(rgb, flow, longest)),
            (f"flow by colour, full colour is {longest:.1f} px", with_wheel(flow, longest)),
            ("channel mean, without flow", heat(warp.before, low, high, size)),
            ("channel mean, warped by the flow", heat(warp.after, low, high, size)),
        ]
        rows.append(np.hstack([captioned(panel, text) for text, panel in panels]))
    return np.vstack(rows)


def prediction_figure(
    rgb: Rgb,
    labels: NDArray[np.uint8],
    classes: Sequence[SemanticClass],
    truth: NDArray[np.uint8] | None,
) -> Rgb:
    """Draws picture and prediction, with `truth` also truth and errors, above a legend of the
    classes in them."""
    palette = palette_rgb_of(classes)
    panels = [("picture", rgb), ("prediction", overlay(rgb, labels, palette, 0.6))]
    if truth is not None:
        panels.append(("truth", overlay(rgb, truth, palette, 0.6)))
        panels.append(("errors, in the true class's colour", errors(labels, truth, palette)))
    row = np.hstack([captioned(panel, text) for text, panel in panels])
    present = set(np.unique(labels if truth is None else np.stack([labels, truth])).tolist())
    return np.vstack([row, legend([c for c in classes if c.index in present], row.shape[1])])


def legend(classes: Sequence[SemanticClass], width: int) -> Rgb:
    """Draws the names of the classes beside their colours, in as many lines as necessary."""
    lines: list[Rgb] = []
    x = width
    for c in classes:
        (text_px, _), _ = cv2.getTextSize(c.name, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
        if x + CAPTION_PX + text_px > width:
            lines.append(np.full((CAPTION_PX, width, 3), 255, np.uint8))
            x = 4
        cv2.rectangle(lines[-1], (x, 5), (x + 12, CAPTION_PX - 5), c.color_rgb, cv2.FILLED)
        cv2.putText(
            lines[-1], c.name, (x + 17, CAPTION_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0),
            1, cv2.LINE_AA,
        )  # fmt: skip
        x += CAPTION_PX + text_px + 12
    return np.vstack(lines)


def colours_of_flow(flow: NDArray[np.float32], longest: float) -> Rgb:
    """uint8 (H, W, 3) RGB of flow (H, W, 2): hue by direction (right red, down green-yellow, left
    cyan, up violet), white where nothing moves, full colour from `longest` on."""
    angle = np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) % 360
    length = np.clip(np.hypot(flow[..., 0], flow[..., 1]) / longest, 0, 1)
    hsv = np.stack([angle / 2, 255 * length, np.full_like(length, 255)], axis=2)
    return np.asarray(cv2.cvtColor(hsv.round().astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)


def with_wheel(flow: NDArray[np.float32], longest: float) -> Rgb:
    """Draws flow colours, with the colour wheel in the lower right corner."""
    picture = colours_of_flow(flow, longest)
    radius = min(picture.shape[:2]) // 8
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    wheel = colours_of_flow(np.stack([x, y], axis=2), float(radius))
    inside = np.hypot(x, y) <= radius
    wheel[(np.hypot(x, y) > radius - 1.5) & inside] = 0
    corner = picture[-2 * radius - 1 :, -2 * radius - 1 :]
    corner[inside] = wheel[inside]
    return picture


def arrows(rgb: Rgb, flow: NDArray[np.float32], longest: float) -> Rgb:
    """Draws arrows on the dimmed picture, from each grid point towards the source of its features.

    The longest arrow is as long as the grid spacing.
    """
    picture = rgb // 2
    stretch = ARROW_SPACING_PX / longest
    height, width = picture.shape[:2]
    for y in range(ARROW_SPACING_PX // 2, height, ARROW_SPACING_PX):
        for x in range(ARROW_SPACING_PX // 2, width, ARROW_SPACING_PX):
            dx, dy = np.clip(flow[y, x] * stretch, -1.5 * ARROW_SPACING_PX, 1.5 * ARROW_SPACING_PX)
            end = (round(x + float(dx)), round(y + float(dy)))
            cv2.arrowedLine(picture, (x, y), end, (255, 255, 0), 1, cv2.LINE_AA, tipLength=0.3)
    return picture


def heat(values: NDArray[np.float32], low: float, high: float, size: tuple[int, int]) -> Rgb:
    """Draws a map as uint8 RGB at `size`, `low` black, `high` bright, with visible map pixels."""
    scaled = np.clip(255 * (values - low) / max(high - low, 1e-6), 0, 255).astype(np.uint8)
    coloured = cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.asarray(cv2.resize(coloured, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)


def errors(labels: NDArray[np.uint8], truth: NDArray[np.uint8], palette: Rgb) -> Rgb:
    """Draws correct pixels black, wrong ones in their true colour, unlabelled ones grey."""
    picture = color_mask(truth, palette)
    picture[labels == truth] = 0
    picture[truth == 255] = UNLABELLED_RGB
    return picture


def class_table(labels: NDArray[np.uint8], truth: NDArray[np.uint8], names: Sequence[str]) -> str:
    """Returns a Markdown table: IoU in percent and share of the true pixels per class.

    Classes in neither truth nor prediction are omitted.
    """
    matrix = ConfusionMatrix(len(names))
    matrix.update(labels, truth)
    lines = ["| Class | IoU, % | pixels, % |", "| --- | --- | --- |"]
    shares = 100 * matrix.truth_pixels / max(int(matrix.truth_pixels.sum()), 1)
    for name, iou, share in zip(names, matrix.iou(), shares, strict=True):
        if not np.isnan(iou):
            lines.append(f"| {name} | {100 * iou:.1f} | {share:.1f} |")
    lines.append(f"| **mean** | **{100 * matrix.miou():.1f}** | |")
    return "\n".join(lines) + "\n"


def captioned(panel: Rgb, text: str) -> Rgb:
    """Puts a line of text above `panel`."""
    line = np.full((CAPTION_PX, panel.shape[1], 3), 255, np.uint8)
    cv2.putText(
        line, text, (4, CAPTION_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA
    )
    return np.vstack([line, panel])


def read_rgb(path: Path) -> Rgb:
    """Reads a picture. Raises SystemExit if it is unreadable."""
    try:
        return rgb_from_file(path)
    except ImageError as error:
        raise SystemExit(f"{path} cannot be read as a picture ({error})") from None


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Reads a label map. Raises SystemExit unless it has one byte per pixel."""
    try:
        return read_label_ids(path)
    except DataError as error:
        raise SystemExit(str(error)) from None


def write_rgb(path: Path, rgb: Rgb) -> None:
    if not cv2.imwrite(str(path), rgb[..., ::-1]):
        raise SystemExit(f"{path} cannot be written")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="module:function in training/recipes")
    parser.add_argument("--checkpoint", type=Path, required=True, help="of a training run")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="PNG of class indices, 255 is not counted")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="default: the recipe's"
    )
    parser.add_argument("--output-dir", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
