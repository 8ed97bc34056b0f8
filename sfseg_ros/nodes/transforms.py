# SPDX-License-Identifier: Apache-2.0
"""Poses of the sensors on the robot, from /tf."""

import importlib
from typing import Any

import numpy as np
from rclpy.clock import ClockType
from rclpy.node import Node
from rclpy.time import Time

from sfseg_ros.errors import one_line
from sfseg_ros.frames.pacing import JUMP_BACK_NS
from sfseg_ros.points.clouds import CloudError, matrix_from_pose
from sfseg_ros.points.lens_distortion import FloatArray


class Transforms:
    """/tf and /tf_static, if tf2_ros is installed; only a lidar without extrinsics needs them."""

    def __init__(self, node: Node) -> None:
        self._tf2_ros: Any = None
        self._last_ns = 0
        try:
            self._tf2_ros = importlib.import_module("tf2_ros")
        except ImportError:
            return
        # Without the node, else each camera would offer the service `tf2_frames`.
        self._buffer = self._tf2_ros.Buffer()
        self._listener = self._tf2_ros.TransformListener(self._buffer, node)

    def matrix(self, target: str, source: str, stamp_ns: int) -> FloatArray:
        """float64 (4, 4) that maps points of the frame `source` into `target` at that time.

        Does not wait for transforms: if a simulated clock stands still, tf2 would wait forever.
        Raises CloudError.
        """
        if target == source:
            return np.eye(4)
        if self._tf2_ros is None:
            raise CloudError(
                f"the transform from {source!r} to {target!r} needs tf2_ros (apt install "
                "ros-$ROS_DISTRO-tf2-ros) or the parameter lidar_extrinsics"
            )
        if stamp_ns < self._last_ns - JUMP_BACK_NS:
            # A looped bag: tf2 ignores transforms that are older than its own. Static ones stay.
            self._buffer.clear()
        self._last_ns = stamp_ns
        stamp = Time(nanoseconds=stamp_ns, clock_type=ClockType.ROS_TIME)
        try:
            found = self._buffer.lookup_transform(target, source, stamp).transform
        except self._tf2_ros.TransformException as error:
            raise CloudError(
                f"no transform from {source!r} to {target!r}: {one_line(error)}"
            ) from error
        shift, turn = found.translation, found.rotation
        return matrix_from_pose([shift.x, shift.y, shift.z, turn.x, turn.y, turn.z, turn.w])

    def close(self) -> None:
        if self._tf2_ros is not None:
            self._listener.unregister()
