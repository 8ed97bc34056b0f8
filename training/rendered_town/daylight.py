# SPDX-License-Identifier: Apache-2.0
"""Computes a picture of the whole sky, once per weather.

Blender's own sky node and noise clouds take a third of the rendering time, because every bounce
evaluates them; looking up a picture takes almost none.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from training.rendered_town.weather import Light

WIDTH, HEIGHT = 1024, 512


@functools.cache
def _cloud_field(size: int = 1024) -> np.ndarray:
    """Fractal noise that tiles, (size, size) float32, evenly spread over 0..1."""
    rng = np.random.default_rng(11)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) * size
    spectrum = np.fft.fft2(rng.normal(size=(size, size))) / np.maximum(frequency, 4.0) ** 1.75
    field = np.fft.ifft2(spectrum).real
    return (field.argsort(axis=None).argsort().reshape(size, size) / size**2).astype(np.float32)


def _perez(cos_theta: np.ndarray, gamma: np.ndarray, k: tuple[float, ...]) -> np.ndarray:
    a, b, c, d, e = k
    sky = 1 + c * np.exp(d * gamma) + e * np.cos(gamma) ** 2
    return np.asarray((1 + a * np.exp(b / cos_theta)) * sky)


def _clear_sky(up: np.ndarray, gamma: np.ndarray, sun_up: float) -> np.ndarray:
    """Preetham's daylight (SIGGRAPH 1999, appendix A.2) as linear RGB, brightest about 1."""
    turbidity = 3.0
    t = np.array([turbidity, 1.0])
    tables = {  # A..E as linear functions of turbidity
        "Y": (
            (0.1787, -1.4630),
            (-0.3554, 0.4275),
            (-0.0227, 5.3251),
            (0.1206, -2.5771),
            (-0.0670, 0.3703),
        ),
        "x": (
            (-0.0193, -0.2592),
            (-0.0665, 0.0008),
            (-0.0004, 0.2125),
            (-0.0641, -0.8989),
            (-0.0033, 0.0452),
        ),
        "y": (
            (-0.0167, -0.2608),
            (-0.0950, 0.0092),
            (-0.0079, 0.2102),
            (-0.0441, -1.6537),
            (-0.0109, 0.0529),
        ),
    }
    theta = math.pi / 2 - sun_up
    powers = np.array([theta**3, theta**2, theta, 1.0])
    t2 = np.array([turbidity**2, turbidity, 1.0])
    zenith_x = (
        t2
        @ np.array(
            [
                [0.00166, -0.00375, 0.00209, 0.0],
                [-0.02903, 0.06377, -0.03202, 0.00394],
                [0.11693, -0.21196, 0.06052, 0.25886],
            ]
        )
        @ powers
    )
    zenith_y = (
        t2
        @ np.array(
            [
                [0.00275, -0.00610, 0.00317, 0.0],
                [-0.04214, 0.08970, -0.04153, 0.00516],
                [0.15346, -0.26756, 0.06670, 0.26688],
            ]
        )
        @ powers
    )
    chi = (4 / 9 - turbidity / 120) * (math.pi - 2 * theta)
    zenith_lum = (4.0453 * turbidity - 4.9710) * math.tan(chi) - 0.2155 * turbidity + 2.4192
    cos_theta = np.maximum(up, 0.02)
    values = {}
    for name, zenith in (("Y", zenith_lum), ("x", zenith_x), ("y", zenith_y)):
        k = tuple(float(np.dot(row, t)) for row in tables[name])
        at_zenith = _perez(np.array(1.0), np.array(theta), k)
        values[name] = zenith * _perez(cos_theta, gamma, k) / at_zenith
    lum = np.minimum(values["Y"] * 0.06, 2.5)
    x, y = values["x"], values["y"]
    xyz = np.stack([x / y * lum, lum, (1 - x - y) / y * lum], -1)
    to_rgb = np.array(
        [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    )
    return np.asarray((xyz @ to_rgb.T).clip(0.01, 3.0))


def panorama(light: Light) -> np.ndarray:
    """(512, 1024, 3) linear RGB, equirectangular as Blender maps it, bottom row first."""
    azimuth = (0.5 - (np.arange(WIDTH) + 0.5) / WIDTH) * 2 * math.pi  # u = 0.5 looks along +x
    elevation = ((np.arange(HEIGHT) + 0.5) / HEIGHT - 0.5) * math.pi
    up = np.broadcast_to(np.sin(elevation)[:, None], (HEIGHT, WIDTH))
    flat = np.cos(elevation)[:, None]
    x, y = flat * np.cos(azimuth), flat * np.sin(azimuth)
    sun = (
        math.cos(light.sun_elevation) * math.cos(light.sun_azimuth),
        math.cos(light.sun_elevation) * math.sin(light.sun_azimuth),
        math.sin(light.sun_elevation),
    )
    cos_gamma = (x * sun[0] + y * sun[1] + up * sun[2]).clip(-1, 1)
    clear = _clear_sky(up, np.arccos(cos_gamma), light.sun_elevation)
    # Clouds lie on a plane overhead: a ray meets it at its slope.
    rise = np.maximum(up, 0.0) + 0.12
    field = _cloud_field()
    size = len(field)
    column = ((x / rise * 0.11 + light.sun_azimuth) * size).astype(int) % size
    row = ((y / rise * 0.11 + light.clouds * 9) * size).astype(int) % size
    level = field[row, column]
    edge = 0.95 - 0.6 * light.clouds - 0.8 * light.overcast
    cover = ((level - edge) / 0.3).clip(0, 1)[..., None]
    cover = cover * cover * (3 - 2 * cover)
    thick = ((level - 0.5) / 0.45).clip(0, 1)[..., None]
    shade = np.array([0.58, 0.61, 0.66]) * (0.8 + 0.25 * light.overcast)
    lit = np.array([1.0, 0.98, 0.95]) * (1.15 + 0.5 * (cos_gamma[..., None].clip(0, 1) ** 4))
    cloud = lit + (shade - lit) * thick * (0.75 - 0.25 * light.overcast)
    sky = clear + (cloud - clear) * cover
    veil = (1 - up / 0.3).clip(0, 1)[..., None] ** 2 * (0.35 + 0.45 * light.overcast)
    sky += (np.array([0.86, 0.9, 0.95]) - sky) * veil
    return np.where(up[..., None] < -0.02, [0.13, 0.13, 0.12], sky).astype(np.float32)
