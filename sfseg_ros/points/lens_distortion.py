# SPDX-License-Identifier: Apache-2.0
"""Distort and undistort the directions of rays.

The formulas are those of OpenCV's camera models, whose coefficients ROS carries in CameraInfo.d.
They are implemented here because cv2.projectPoints spends most of its time on unused derivatives,
which is too slow for a lidar's 130,000 points. The tests compare both.
"""

import functools
import math

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import SfsegError

FloatArray = npt.NDArray[np.float64]

NO_DISTORTION = ("", "none")
"""Names that drivers use for images without distortion."""
COEFFICIENTS = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
"""Number of coefficients in CameraInfo.d, by the names of sensor_msgs/distortion_models.hpp."""

_STEPS = 8192
_WIDEST_DEG = 89.5  # a ray at 90 degrees has no x / z
_ITERATIONS = 6
_TOLERANCE = 5e-4  # half a pixel at a focal length of 1000


class LensError(SfsegError):
    """A camera has an unsupported distortion model."""


class Lens:
    """A distortion model with its coefficients; rays are (x / z, y / z) in the optical frame.

    Far outside the image the polynomials turn back, so a point beside the robot would appear in the
    middle of the image. Both methods return NaN beyond that turning point.
    """

    def __init__(self, distortion_model: str, d: tuple[float, ...]) -> None:
        """Raise LensError for an unknown model, too many coefficients or one that is not finite.

        Missing coefficients are zeros, as in OpenCV.
        """
        known = COEFFICIENTS.get(distortion_model)
        if known is None and (distortion_model not in NO_DISTORTION or any(d)):
            raise LensError(
                f"distortion model {distortion_model[:40]!r}: expected one of "
                f"{', '.join(COEFFICIENTS)}; or publish the rectified image and set `rectified`"
            )
        known = known or 0
        if any(d[known:]) or not all(map(math.isfinite, d)):
            raise LensError(
                f"{distortion_model} has coefficients {d}: expected {known} finite numbers"
            )
        self._fisheye = distortion_model == "equidistant"
        k = (*d[:known], *(0.0,) * 8)
        self._k1, self._k2, self._p1, self._p2, self._k3, self._k4, self._k5, self._k6 = k[:8]
        if self._fisheye:  # its four numbers are all radial
            self._theta_coefficients, self._p1, self._p2 = k[:4], 0.0, 0.0
        self.straight = not self._fisheye and not any(d)
        angles = np.radians(np.linspace(0.0, _WIDEST_DEG, _STEPS))
        radii = np.tan(angles)
        with np.errstate(all="ignore"):
            distorted = radii * self._radial_factor(radii**2)
            turns = np.flatnonzero(~(np.diff(distorted) > 0))
        end = turns[0] + 1 if turns.size else _STEPS
        self._angles, self._distorted_radii = angles[:end], distorted[:end]
        self._max_squared_radius = float(radii[end - 1] ** 2)

    def distorted(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return where the lens maps rays of a scene; x and y have the same shape."""
        if self.straight:
            return x, y
        squared = x * x + y * y
        factor = self._radial_factor(squared)
        factor[~(squared <= self._max_squared_radius)] = np.nan
        shift_x, shift_y = self._tangential_shift(x, y, squared)
        return x * factor + shift_x, y * factor + shift_y

    def undistorted(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the rays of a scene that the lens maps to (x, y): the inverse of `distorted`.

        A table inverts the radial part without a starting value; iteration inverts the small
        tangential part. The result is NaN at points that no ray reaches.
        """
        if self.straight:
            return x, y
        scene_x, scene_y = x, y
        for _ in range(_ITERATIONS if self._p1 or self._p2 else 1):
            shift_x, shift_y = self._tangential_shift(scene_x, scene_y, scene_x**2 + scene_y**2)
            radial_x, radial_y = x - shift_x, y - shift_y
            radius = np.hypot(radial_x, radial_y)
            angle = np.interp(radius, self._distorted_radii, self._angles)
            scale = np.divide(np.tan(angle), radius, out=np.ones_like(radius), where=radius > 0)
            scene_x, scene_y = radial_x * scale, radial_y * scale
        back_x, back_y = self.distorted(scene_x, scene_y)
        missed = ~(np.hypot(back_x - x, back_y - y) <= _TOLERANCE)
        scene_x[missed] = scene_y[missed] = np.nan
        return scene_x, scene_y

    def _radial_factor(self, squared: FloatArray) -> FloatArray:
        if self._fisheye:
            radius = np.sqrt(squared)
            angle = np.arctan(radius)
            a = angle * angle
            k1, k2, k3, k4 = self._theta_coefficients
            distorted = angle * (1 + a * (k1 + a * (k2 + a * (k3 + a * k4))))
            return np.divide(distorted, radius, out=np.ones_like(radius), where=radius > 0)
        factor = 1 + squared * (self._k1 + squared * (self._k2 + squared * self._k3))
        if self._k4 or self._k5 or self._k6:
            factor /= 1 + squared * (self._k4 + squared * (self._k5 + squared * self._k6))
        return np.asarray(factor, np.float64)

    def _tangential_shift(
        self, x: FloatArray, y: FloatArray, squared: FloatArray
    ) -> tuple[FloatArray | float, FloatArray | float]:
        p1, p2 = self._p1, self._p2
        if not (p1 or p2):
            return 0.0, 0.0
        xy = 2 * x * y
        return p1 * xy + p2 * (squared + 2 * x * x), p2 * xy + p1 * (squared + 2 * y * y)


@functools.lru_cache(maxsize=16)  # one per camera; the table takes a millisecond
def cached_lens(distortion_model: str, d: tuple[float, ...]) -> Lens:
    """Return `Lens(distortion_model, d)` from a cache. Raises LensError."""
    return Lens(distortion_model, d)
