# SPDX-License-Identifier: Apache-2.0
"""Evaluate a replay: join the played images with the recorded masks and the ground truth, count,
and draw overlays. `report.py` shows the result.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import BagError, ImageError
from sfseg_ros.evaluation.metrics import ConfusionMatrix
from sfseg_ros.imaging import color_mask, jpeg_from_rgb, overlay
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.recordings.message_bytes import diagnostics_from_cdr, labels_from_cdr, rgb_from_cdr
from sfseg_ros.recordings.opening import open_recording
from sfseg_ros.recordings.recording import Message, Recording, Topic
from sfseg_ros.recordings.timeline import Damage, Timeline, undamaged, with_times
from sfseg_ros.recordings.video import VideoWriter
from sfseg_ros.whole_files import whole_folder

RgbImage = npt.NDArray[np.uint8]
LabelImage = npt.NDArray[np.uint8]

OVERLAY_ALPHA = 0.55
MAX_PICTURES = 200
SAMPLES = 6
MAX_PANEL_WIDTH = 960


@dataclass(frozen=True)
class Playback:
    """What was played, when, and which bag holds the recorded masks.

    A frame recorded at time `t` (of `clock`, "header" or "log") was played with the stamp
    `timeline.played_ns(t)`. `frames_played` is the number of frames that the player sent.
    """

    input_bag: Path
    image_topic: Topic
    truth_topic: Topic | None
    clock: str
    timeline: Timeline
    frames_played: int
    output_bag: Path
    mask_topic: str


@dataclass(frozen=True)
class Frame:
    """One played frame.

    `labels` is None if no mask came back, `truth` if the frame has no ground truth. `latency_ms` is
    the mask's arrival at the recorder minus the image's stamp.
    """

    index: int
    seconds: float
    rgb: RgbImage
    labels: LabelImage | None
    truth: LabelImage | None
    latency_ms: float | None


@dataclass(frozen=True)
class Sample:
    """Pictures of one frame, uint8 (H, W, 3) RGB of equal size; `truth` may be None."""

    title: str
    rgb: RgbImage
    truth: RgbImage | None
    prediction: RgbImage
    overlay: RgbImage


@dataclass
class ReplayResult:
    """Numbers and pictures of one replay.

    `seconds` and `latency_ms` have one entry per mask; `seconds` counts from the first image.
    `confusion` is None without ground truth. `damage` counts unreadable images, masks and truths.
    """

    frames_played: int
    image_size: tuple[int, int] = (0, 0)
    seconds: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    duration_s: float = 0.0
    damage: Damage = field(default_factory=Damage)
    confusion: ConfusionMatrix | None = None
    samples: list[Sample] = field(default_factory=list)
    pictures: int = 0
    video: Path | None = None

    @property
    def masks(self) -> int:
        """Number of masks that came back."""
        return len(self.latency_ms)

    def latency_percentile(self, percent: float) -> float:
        """The percentile (0 to 100) of the latency in milliseconds; NaN if no mask came back."""
        return float(np.percentile(self.latency_ms, percent)) if self.latency_ms else float("nan")


def read_replay(playback: Playback, damage: Damage) -> Iterator[Frame]:
    """Yield the played frames in order, each with its mask and its ground truth.

    Unreadable messages are counted in `damage`. A frame with an unreadable image is left out, as
    the node rejected it too.
    """

    def labels_of(message: Message | None) -> LabelImage | None:
        if message is None:
            return None
        try:
            return labels_from_cdr(message.cdr, message.type)
        except BagError as error:
            damage.add(message.topic, error)
            return None

    with (
        open_recording(playback.input_bag) as images,
        open_recording(playback.input_bag) as truths,
        open_recording(playback.output_bag) as outputs,
    ):

        def timed(reader: Recording, topic: str, clock: str) -> Iterator[tuple[int, Message]]:
            return with_times(undamaged(reader.messages([topic]), damage), clock)

        masks = _AtTime(timed(outputs, playback.mask_topic, "header"))
        truth_topic = playback.truth_topic
        true_labels = _AtTime(
            timed(truths, truth_topic.name, playback.clock) if truth_topic else iter(())
        )
        first_ns: int | None = None
        played = timed(images, playback.image_topic.name, playback.clock)
        for index, (time_ns, image) in enumerate(itertools.islice(played, playback.frames_played)):
            first_ns = time_ns if first_ns is None else first_ns
            stamp_ns = playback.timeline.played_ns(time_ns)
            mask = masks.at(stamp_ns)
            truth = true_labels.at(time_ns)
            try:
                rgb = rgb_from_cdr(image.cdr, image.type)
            except ImageError as error:
                damage.add(image.topic, error)
                continue
            yield Frame(
                index=index,
                seconds=(time_ns - first_ns) / 1e9,
                rgb=rgb,
                labels=labels_of(mask),
                truth=labels_of(truth),
                latency_ms=(mask.log_ns - stamp_ns) / 1e6 if mask else None,
            )


class _AtTime:
    """Finds messages by their exact time; both the messages and the requests rise in time."""

    def __init__(self, timed: Iterator[tuple[int, Message]]) -> None:
        self._timed = timed
        self._next = next(timed, None)

    def at(self, time_ns: int) -> Message | None:
        while self._next is not None and self._next[0] < time_ns:
            self._next = next(self._timed, None)
        return self._next[1] if self._next is not None and self._next[0] == time_ns else None


def last_diagnostics(output_bag: Path, topic: str = "/diagnostics") -> dict[str, str]:
    """Keys and values of the node's newest readable status in /diagnostics; empty if none."""
    status: dict[str, str] = {}
    with open_recording(output_bag) as reader:
        for message in undamaged(reader.messages([topic]), Damage()):
            for values in diagnostics_from_cdr(message.cdr):
                if "frames_in" in values:
                    status = values
    return status


def summarise(playback: Playback, manifest: Manifest, folder: Path) -> ReplayResult:
    """Walk the replay once: counts, percentiles and a confusion matrix; in `folder` the video
    `overlay` and `pictures/`, at most MAX_PICTURES overlays, both whole or not at all.

    One frame is in memory at a time, besides the samples. Raises BagError if damage left nothing to
    count, OSError if a file cannot be written.
    """
    result = ReplayResult(playback.frames_played)
    truth_expected = playback.truth_topic is not None
    result.confusion = ConfusionMatrix(len(manifest.classes)) if truth_expected else None
    with whole_folder(folder / "pictures") as pictures:
        with VideoWriter(pictures / "overlay") as video:
            decoded = _summarise_frames(playback, manifest, result, video, pictures)
        _check_damage(playback, result, decoded)
        if video.path is not None:
            result.video = video.path.replace(folder / video.path.name)
    return result


def _summarise_frames(
    playback: Playback,
    manifest: Manifest,
    result: ReplayResult,
    video: VideoWriter,
    pictures: Path,
) -> int:
    """Count and draw every frame; returns the number of images that can be read."""
    palette = manifest.palette_rgb
    every_picture = -(-playback.frames_played // MAX_PICTURES) or 1
    sample_at = _sample_indices(playback.frames_played)
    worst: tuple[float, Sample] | None = None
    decoded = 0
    for frame in read_replay(playback, result.damage):
        decoded += 1
        result.duration_s = frame.seconds
        if frame.labels is None or frame.latency_ms is None:
            continue
        _check_size(frame)
        result.image_size = frame.rgb.shape[0], frame.rgb.shape[1]
        result.seconds.append(frame.seconds)
        result.latency_ms.append(frame.latency_ms)
        blended = overlay(frame.rgb, frame.labels, palette, OVERLAY_ALPHA)
        video.add(np.hstack([_scaled(frame.rgb), _scaled(blended)]), frame.seconds)
        if (result.masks - 1) % every_picture == 0:
            _write_picture(pictures / f"frame_{frame.index:05d}.jpg", blended)
            result.pictures += 1
        accuracy = _count(frame, result.confusion)
        if sample_at and frame.index >= sample_at[0]:
            sample_at = [index for index in sample_at if index > frame.index]
            result.samples.append(_sample(frame, blended, palette, ""))
        if accuracy is not None and (worst is None or accuracy < worst[0]):
            note = f"worst frame: {accuracy:.0%} of the pixels correct"
            worst = accuracy, _sample(frame, blended, palette, note)
    if worst is not None:
        result.samples.append(worst[1])
    return decoded


def _check_size(frame: Frame) -> None:
    """Raise BagError if mask and image differ in size."""
    if frame.labels is not None and frame.labels.shape != frame.rgb.shape[:2]:
        raise BagError(
            f"mask of {frame.labels.shape} for an image of {frame.rgb.shape[:2]}: "
            "the node's masks have the image's size; is another node on the topic?"
        )


def _check_damage(playback: Playback, result: ReplayResult, decoded: int) -> None:
    """Raise BagError if damage left no image, no mask, or no ground truth."""
    damaged = result.damage.counts
    if not decoded and damaged[playback.image_topic.name]:
        raise BagError(f"{playback.input_bag}: no image can be read; {result.damage}")
    if not result.masks and damaged[playback.mask_topic]:
        raise BagError(f"{playback.output_bag}: no mask can be read; {result.damage}")
    truth = playback.truth_topic
    counted = result.confusion is not None and result.confusion.truth_pixels.any()
    if truth is not None and damaged[truth.name] and not counted:
        raise BagError(f"{playback.input_bag}: no ground truth can be read; {result.damage}")


def _sample_indices(frames: int) -> list[int]:
    """Evenly spaced indices that avoid the first and the last frame."""
    return sorted({int((k + 0.5) * frames / SAMPLES) for k in range(SAMPLES)})


def _count(frame: Frame, confusion: ConfusionMatrix | None) -> float | None:
    """Add the frame to the matrix; returns its share of correct pixels, or None without truth."""
    if confusion is None or frame.truth is None or frame.labels is None:
        return None
    try:
        confusion.update(frame.labels, frame.truth)
    except ValueError as error:
        raise BagError(f"ground truth of frame {frame.index} does not fit: {error}") from error
    counted = frame.truth != confusion.ignore
    return float((frame.labels == frame.truth)[counted].mean()) if counted.any() else None


def _sample(frame: Frame, blended: RgbImage, palette: RgbImage, note: str) -> Sample:
    assert frame.labels is not None
    title = f"frame {frame.index}, {frame.seconds:.1f} s"
    return Sample(
        title=f"{title}, {note}" if note else title,
        rgb=_scaled(frame.rgb),
        truth=None if frame.truth is None else _scaled(color_mask(frame.truth, palette)),
        prediction=_scaled(color_mask(frame.labels, palette)),
        overlay=_scaled(blended),
    )


def _scaled(rgb: RgbImage) -> RgbImage:
    """The image, scaled down to a width of MAX_PANEL_WIDTH if it is wider."""
    height, width = rgb.shape[:2]
    if width <= MAX_PANEL_WIDTH:
        return rgb
    size = (MAX_PANEL_WIDTH, max(1, round(height * MAX_PANEL_WIDTH / width)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _write_picture(path: Path, rgb: RgbImage) -> None:
    path.write_bytes(jpeg_from_rgb(rgb, quality=92))
