# SPDX-License-Identifier: Apache-2.0
"""Renders a drive, or single pictures, through a procedural town with exact labels.

    python -m training.rendered_town.render --seed 7 --frames 120 --fps 10 --size 360 640 \
        --output-dir DIR [--split NAME] [--stills]

Writes CamVid's layout: images/<split>/<stem>.jpg, labels/<split>/<stem>.png (train ids, 255 void),
<split>.txt, and drive_<split>_<seed>.json with intrinsics and poses; beside it COCO's panoptic
format, panoptic_<split>/<stem>.png with panoptic_<split>.json. Frames that exist are kept, so an
interrupted run continues where it stopped. One process at a time per folder.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy
import cv2
import numpy as np

from sfseg_ros.picture_files.decoding import read_picture
from training.rendered_town.labels import labels_and_instances
from training.rendered_town.layout import plan_town
from training.rendered_town.panoptic import add_to_split
from training.rendered_town.scene import TownScene, frame_rng
from training.rendered_town.street import Town
from training.rendered_town.traffic import (
    Camera,
    drive_camera,
    plan_drive,
    plan_still,
    still_camera,
)
from training.rendered_town.weather import Light, plan_light


def configure(scene: Any, size: tuple[int, int], samples: int, threads: int, scratch: Path) -> None:
    """Sets up Cycles on the processor with few samples and a denoiser, and object indices for the
    labels."""
    render = scene.render
    render.engine = "CYCLES"
    render.resolution_y, render.resolution_x = size
    render.resolution_percentage = 100
    render.use_persistent_data = True
    render.threads_mode = "FIXED" if threads else "AUTO"
    render.threads = threads or 1
    render.image_settings.file_format = "PNG"
    render.image_settings.compression = 5
    cycles = scene.cycles
    cycles.device = "CPU"
    cycles.samples = samples
    cycles.use_adaptive_sampling = True
    cycles.adaptive_threshold = 0.05
    cycles.adaptive_min_samples = max(1, samples // 2)
    cycles.use_denoising = True
    cycles.denoiser = "OPENIMAGEDENOISE"
    cycles.denoising_prefilter = "FAST"
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 4, 2, 2
    cycles.transmission_bounces, cycles.transparent_max_bounces = 2, 4
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 4.0
    cycles.use_light_tree = False
    # The index pass keeps the first sample of a pixel, never a mixture. A box filter as wide as
    # the pixel keeps that sample inside of it, so labels and picture agree to half a pixel.
    cycles.pixel_filter_type, cycles.filter_width = "BOX", 1.0
    layer = scene.view_layers[0]
    layer.use_pass_object_index = layer.use_pass_z = True
    scene.use_nodes = True
    tree = scene.node_tree
    tree.nodes.clear()
    layers = tree.nodes.new("CompositorNodeRLayers")
    picture = tree.nodes.new("CompositorNodeComposite")
    pack = tree.nodes.new("CompositorNodeCombineColor")
    output = tree.nodes.new("CompositorNodeOutputFile")
    output.base_path, output.file_slots[0].path = str(scratch), "passes"
    output.format.file_format, output.format.color_depth = "OPEN_EXR", "32"
    tree.links.new(layers.outputs["Image"], picture.inputs["Image"])
    tree.links.new(layers.outputs["IndexOB"], pack.inputs[0])
    tree.links.new(layers.outputs["Depth"], pack.inputs[1])
    tree.links.new(pack.outputs[0], output.inputs[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the standard output of Blender's C code, to keep the progress lines clean."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("w") as sink:
        os.dup2(sink.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def render_frame(scene: Any, size: tuple[int, int], scratch: Path) -> tuple[np.ndarray, ...]:
    """Renders once: picture uint8 (H, W, 3) BGR, and (H, W) maps: labels uint8, instances uint16
    (0: none) and depth float32 in m."""
    scene.render.filepath = str(scratch / "frame.png")
    with _quiet():
        bpy.ops.render.render(write_still=True)
    image = read_picture(Path(scene.render.filepath), cv2.IMREAD_COLOR)
    packed = np.empty(size[0] * size[1] * 4, np.float32)
    passes = bpy.data.images.load(str(scratch / f"passes{scene.frame_current:04d}.exr"))
    passes.pixels.foreach_get(packed)
    bpy.data.images.remove(passes)
    packed = packed.reshape(*size, 4)[::-1]  # Blender counts rows from the bottom
    labels, instances = labels_and_instances(np.rint(packed[..., 0]).astype(int))
    return image, labels, instances, np.ascontiguousarray(packed[..., 1])


def expose(
    image: np.ndarray, depth: np.ndarray, light: Light, rng: random.Random, still: bool
) -> np.ndarray:
    """Adds the effects of air, lens and sensor: haze, white balance, vignette, blur and noise.

    Takes and returns uint8 (H, W, 3) BGR.
    """
    noise = np.random.default_rng(rng.randrange(1 << 30))
    picture = image.astype(np.float32) / 255
    fog = 1 - np.exp(-light.haze * np.minimum(depth, 1500.0))
    fog[depth > 900] = 0  # the sky already shows its own haze
    shade = 0.62 + 0.25 * light.overcast
    air = np.array([shade * 1.03, shade * 1.01, shade], np.float32)
    picture += (air - picture) * fog[..., None]
    picture *= np.array([1 - 0.05 * light.warmth, 1.0, 1 + 0.05 * light.warmth], np.float32)
    height, width = depth.shape
    y, x = np.mgrid[:height, :width]
    radius = np.hypot((x - width / 2) / width, (y - height / 2) / height)
    picture *= (1 - 0.28 * radius**2)[..., None]
    blur = rng.choice([0.0, 0.35, 0.6]) if still else 0.35
    if blur:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), blur), picture.dtype)
    grain = rng.uniform(0.003, 0.012) if still else 0.004
    shape = (height, width, 1)
    picture += noise.normal(0, grain, shape) + noise.normal(0, grain / 2, (height, width, 3))
    return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Job:
    """One call of the command."""

    seed: int
    frames: int
    fps: float
    size: tuple[int, int]
    samples: int
    output_dir: Path
    split: str
    stills: bool
    threads: int
    first: int
    start: float


def _prepare(job: Job, scene: TownScene, frame: int) -> tuple[Camera, Light]:
    """Places camera and actors for a frame; for stills also changes the weather."""
    town: Town = scene.town
    rng = frame_rng(job.seed, frame)
    if not job.stills:
        t = frame / job.fps
        movers = plan_drive(town, frame_rng(job.seed, -1), job.start, job.frames / job.fps)
        scene.place([m.at(t, town) for m in movers])
        # People look at a drive: the exposure suits the street instead of the sky.
        light = dataclasses.replace(town.light, exposure=max(town.light.exposure, 0.4))
        return drive_camera(town, job.start, t), light
    s = rng.uniform(0, 215)
    camera = still_camera(town, rng, s)
    scene.place([m.at(0.0, town) for m in plan_still(town, rng, s)])
    return camera, plan_light(rng)


def run(job: Job) -> None:
    """Renders the missing frames of the job."""
    began = time.monotonic()
    images, labels = (job.output_dir / kind / job.split for kind in ("images", "labels"))
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    kind = "still" if job.stills else "drive"
    stems = {
        f: f"town{job.seed:03d}_{kind}_{f:04d}" for f in range(job.first, job.first + job.frames)
    }
    missing = [f for f, stem in stems.items() if not (labels / f"{stem}.png").exists()]
    print(f"seed {job.seed}: {len(missing)} of {len(stems)} frames to render", flush=True)
    if not missing:
        return
    with tempfile.TemporaryDirectory() as scratch:
        scene = TownScene(plan_town(job.seed))
        configure(scene.scene, job.size, job.samples, job.threads, Path(scratch))
        print(
            f"  scene of {len(bpy.data.objects)} objects built in {time.monotonic() - began:.0f} s",
            flush=True,
        )
        for done, frame in enumerate(missing):
            frame_began = time.monotonic()
            camera, light = _prepare(job, scene, frame)
            scene.sky.apply(light)
            pose = scene.look(camera)
            image, label, instances, depth = render_frame(scene.scene, job.size, Path(scratch))
            image = expose(image, depth, light, frame_rng(job.seed, frame), job.stills)
            cv2.imwrite(str(images / f"{stems[frame]}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
            add_to_split(job.output_dir, job.split, stems[frame], label, instances)
            _note_pose(job, frame, stems[frame], camera, pose)
            _write_list(job, images, labels)
            cv2.imwrite(str(labels / f"{stems[frame]}.png"), label)  # last: it marks the frame done
            _write_list(job, images, labels)
            took = time.monotonic() - frame_began
            left = (time.monotonic() - began) / (done + 1) * (len(missing) - done - 1)
            print(f"  {stems[frame]} {took:.1f} s, {left / 60:.1f} min left", flush=True)


def _note_pose(job: Job, frame: int, stem: str, camera: Camera, pose: list[list[float]]) -> None:
    """Adds the frame to the drive's JSON file."""
    path = job.output_dir / f"drive_{job.split}_{job.seed:03d}.json"
    note: dict[str, Any] = (
        json.loads(path.read_text())
        if path.exists()
        else {
            "seed": job.seed,
            "fps": job.fps,
            "height": job.size[0],
            "width": job.size[1],
            "split": job.split,
            "stills": job.stills,
            "frames": {},
        }
    )
    fx, fy, cx, cy = camera.intrinsics(*job.size)
    note["frames"][stem] = {
        "index": frame,
        "fx": fx,
        "fy": fy,
        "cx": cx,
        "cy": cy,
        "pose_world_from_optical": pose,
    }
    path.write_text(json.dumps(note, indent=1))


def _write_list(job: Job, images: Path, labels: Path) -> None:
    """Writes <split>.txt, the list of all finished frames of the split, of all seeds."""
    lines = [
        f"images/{job.split}/{p.stem}.jpg labels/{job.split}/{p.name}"
        for p in sorted(labels.glob("*.png"))
        if (images / f"{p.stem}.jpg").exists()
    ]
    (job.output_dir / f"{job.split}.txt").write_text("".join(f"{line}\n" for line in lines))


def main() -> None:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True, help="chooses the town")
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first frame")
    parser.add_argument("--fps", type=float, default=10.0)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("H", "W"))
    parser.add_argument("--samples", type=int, default=16, help="rays per pixel before denoising")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument(
        "--stills",
        action="store_true",
        help="unrelated pictures for training instead of one continuous drive",
    )
    parser.add_argument("--threads", type=int, default=0, help="0: all processors")
    parser.add_argument("--start", type=float, default=5.0, help="where a drive begins, m")
    o = parser.parse_args()
    run(
        Job(
            o.seed,
            o.frames,
            o.fps,
            tuple(o.size),
            o.samples,
            o.output_dir,
            o.split,
            o.stills,
            o.threads,
            o.first,
            o.start,
        )
    )


if __name__ == "__main__":
    main()
