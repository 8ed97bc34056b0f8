# SPDX-License-Identifier: Apache-2.0
"""The path of a camera frame from its message to the published topics; read it downwards.

1. `receive`: the newest message of each camera waits in its mailbox (executor's thread).
2. `prepare`: message -> picture, if one of its outputs has a subscriber.
3. `infer`: picture -> network's input -> labels -> published labels -> the image's pixels.
4. `publish_first`: the mask of each camera, before any other output.
5. `publish_rest`: the other outputs, the point clouds, a snapshot.

Steps 2 to 5 run in the worker's thread; `segment_frames` takes one frame of each waiting camera
through them together. `warm_up` runs step 3 once before the first frame.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sensor_msgs.msg import CompressedImage, Image

from sfseg_ros.errors import ImageError
from sfseg_ros.frames.pacing import too_old
from sfseg_ros.geometry import View
from sfseg_ros.imaging import Picture
from sfseg_ros.model.published_labels import PAINTED_IMAGES, LabelRules
from sfseg_ros.nodes.camera import Camera
from sfseg_ros.nodes.messages import nanoseconds, picture_from_message
from sfseg_ros.nodes.middleware import LARGE_MESSAGE_BYTES, missing_profile
from sfseg_ros.nodes.outputs import Output
from sfseg_ros.nodes.segmented_frame import SegmentedFrame
from sfseg_ros.segmenter import Segmentation, Segmenter

HAND_OVER_S = 0.0001
"""The executor sleeps this long after it received a frame. Otherwise it holds Python's lock while
it prepares to wait for the next message, and the worker starts half a millisecond later."""

Outcome = bool | Exception | None
"""True: segmented. False: no subscriber. None: too old. An exception: the frame is rejected."""

Frame = TypeVar("Frame")
NextFrame = TypeVar("NextFrame")


@dataclass(frozen=True)
class ReceivedFrame:
    """A message and the monotonic time of its arrival."""

    camera: Camera
    message: Image | CompressedImage
    received_ns: int


@dataclass(frozen=True)
class PreparedFrame:
    """The picture of a frame and the outputs to publish.

    `needs`: what the wanted outputs need besides labels, "confidence" and names of PAINTED_IMAGES.
    `begin_ns`, `converted_ns`: monotonic time before and after the message became a picture.
    """

    received: ReceivedFrame
    picture: Picture
    view: View
    wanted: Sequence[Output]
    wanted_clouds: Sequence[Output]
    needs: frozenset[str]
    begin_ns: int
    converted_ns: int


@dataclass(frozen=True)
class InferredFrame:
    """A frame with its published labels."""

    prepared: PreparedFrame
    result: Segmentation
    rules: LabelRules


@dataclass(frozen=True)
class PublishedFrame:
    """A frame whose first output is published."""

    prepared: PreparedFrame
    segmented: SegmentedFrame


def receive(camera: Camera, message: Image | CompressedImage) -> None:
    """Step 1: put the message into the camera's mailbox, in place of an older one that waits."""
    received_ns = camera.heard_ns = time.monotonic_ns()
    if camera.enabled and camera.pacing.admits(camera.clock_ns(), received_ns):
        camera.mailbox.offer(ReceivedFrame(camera, message, received_ns))
        time.sleep(HAND_OVER_S)
    else:
        camera.mailbox.skip()


def segment_frames(
    batch: Sequence[ReceivedFrame], segmenter: Segmenter, rules: LabelRules
) -> list[Outcome]:
    """Steps 2 to 5 for a batch of at most one frame per camera; returns the outcome of each."""
    prepared = _each(prepare, batch)
    inferred = infer(prepared, segmenter, rules)
    published = _each(publish_first, inferred)
    return _each(publish_rest, published)


def prepare(frame: ReceivedFrame) -> PreparedFrame | Outcome:
    """Step 2: the frame as a picture, or its outcome if it is too old or has no subscriber.

    Raises ImageError.
    """
    camera, begin_ns, clock_ns = frame.camera, time.monotonic_ns(), frame.camera.clock_ns()
    stamp_ns = nanoseconds(frame.message.header.stamp)
    if too_old(stamp_ns, clock_ns, camera.parameters.max_age_ms):
        camera.frames_too_old += 1
        return None
    picture = picture_from_message(frame.message)
    converted_ns = time.monotonic_ns()
    if camera.pacing.jumped_back(stamp_ns, clock_ns):
        camera.times.clear()
    camera.image_format = picture.format
    if len(frame.message.data) > LARGE_MESSAGE_BYTES and (hint := missing_profile()):
        camera.warn_once(f"images this large get lost: {hint}")
    allowed = camera.node_parameters.outputs
    wanted = camera.publishers.outputs.wanted(allowed)
    wanted_clouds = camera.publishers.clouds.wanted(allowed)
    for_snapshot = camera.snapshots is not None
    if not wanted and not wanted_clouds and not for_snapshot:
        return False
    needs = {output.needs for output in (*wanted, *wanted_clouds) if output.needs}
    if for_snapshot:
        needs |= {"confidence", "overlay"}
    return PreparedFrame(
        received=frame,
        picture=picture,
        view=camera.parameters.view(),
        wanted=wanted,
        wanted_clouds=wanted_clouds,
        needs=frozenset(needs),
        begin_ns=begin_ns,
        converted_ns=converted_ns,
    )


def infer(
    frames: Sequence[PreparedFrame | Outcome], segmenter: Segmenter, rules: LabelRules
) -> list[InferredFrame | Outcome]:
    """Step 3: the labels of all pictures, in one batch (`Segmenter.segment_batch`)."""
    prepared = [frame for frame in frames if isinstance(frame, PreparedFrame)]
    needs = frozenset[str]().union(*(frame.needs for frame in prepared))
    results = iter(
        segmenter.segment_batch(
            [(frame.picture, frame.view) for frame in prepared],
            confidence="confidence" in needs,
            rules=rules,
            to_paint=needs.intersection(PAINTED_IMAGES),
        )
        if prepared
        else ()
    )

    def with_result(frame: PreparedFrame) -> InferredFrame | Outcome:
        result = next(results)
        return InferredFrame(frame, result, rules) if isinstance(result, Segmentation) else result

    return _each(with_result, frames)


def publish_first(frame: InferredFrame) -> PublishedFrame:
    """Step 4: publish the first wanted output, which is the mask if it has a subscriber, and record
    how long each step took."""
    begin_ns = time.monotonic_ns()
    prepared, result, rules = frame.prepared, frame.result, frame.rules
    camera, header = prepared.received.camera, prepared.received.message.header
    stamp_ns = nanoseconds(header.stamp)
    segmented = SegmentedFrame(
        header=header,
        picture=prepared.picture,
        labels=result.labels,
        confidence=result.confidence,
        palette_rgb=rules.mapping.palette_rgb,
        overlay_alpha=rules.alpha,
        geometry=result.geometry,
        camera=camera.calibration_of(stamp_ns, result.geometry.image_size),
        painted=result.painted,
    )
    for output in prepared.wanted[:1]:
        camera.publishers.outputs.publish(output, segmented)
    end_ns = time.monotonic_ns()
    camera.times.add(
        stamp_ns,
        latency=(camera.clock_ns() - stamp_ns) / 1e6,
        wait=(prepared.begin_ns - prepared.received.received_ns) / 1e6,
        convert=(prepared.converted_ns - prepared.begin_ns) / 1e6,
        preprocess=result.preprocess_ms,
        inference=result.inference_ms,
        postprocess=result.postprocess_ms,
        publish=(end_ns - begin_ns) / 1e6,
    )
    return PublishedFrame(prepared, segmented)


def publish_rest(frame: PublishedFrame) -> Outcome:
    """Step 5: publish the other wanted outputs; hand the frame to the clouds and a snapshot."""
    prepared, segmented = frame.prepared, frame.segmented
    camera = prepared.received.camera
    for output in prepared.wanted[1:]:
        camera.publishers.outputs.publish(output, segmented)
    if prepared.wanted_clouds:
        camera.publishers.clouds.add(segmented)
    if (snapshots := camera.snapshots) is not None:
        camera.snapshots = None
        snapshots.put((camera.name, segmented))
    return True


def _each(
    step: Callable[[Frame], NextFrame | Outcome], frames: Sequence[Frame | Outcome]
) -> list[NextFrame | Outcome]:
    """Apply `step` to the frames that have no outcome yet. An exception is the outcome of its
    frame and does not affect the others."""
    after: list[NextFrame | Outcome] = []
    for frame in frames:
        if frame is None or isinstance(frame, bool | Exception):
            after.append(frame)
            continue
        try:
            after.append(step(frame))
        except Exception as error:
            after.append(error)
    return after


def warm_up(
    segmenter: Segmenter, cameras: Sequence[Camera], rules: LabelRules, max_batch: int
) -> None:
    """Prepare a model for its own input size and for the images that the cameras have sent so far:
    a batch of every camera with the same format and view, at most `max_batch` (0: no limit)."""
    segmenter.warm_up(segmenter.manifest.input_size, rules=rules)
    alike = Counter((camera.image_format, camera.parameters.view()) for camera in cameras)
    for (image_format, view), count in alike.items():
        if image_format is not None:
            # An image outside the region of interest is rejected, whatever the model.
            with contextlib.suppress(ImageError):
                segmenter.warm_up(image_format, view, rules, min(count, max_batch or count))
