# SPDX-License-Identifier: Apache-2.0
"""Sun and sky in Blender."""

from __future__ import annotations

import math
from typing import Any

import bpy
import numpy as np
from mathutils import Euler

from training.rendered_town.daylight import HEIGHT, WIDTH, panorama
from training.rendered_town.weather import Light


class Sky:
    """The world's panorama and the sun lamp; `apply` sets both to a `Light`."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        world = bpy.data.worlds.new("sky")
        world.use_nodes = True
        tree = world.node_tree
        tree.nodes.clear()
        # All light samples go to the sun; the sky is even, so bounces sample it well enough.
        world.cycles.sampling_method = "NONE"
        scene.world = world
        self._picture = tree.nodes.new("ShaderNodeTexEnvironment")
        background = tree.nodes.new("ShaderNodeBackground")
        output = tree.nodes.new("ShaderNodeOutputWorld")
        tree.links.new(self._picture.outputs[0], background.inputs["Color"])
        tree.links.new(background.outputs[0], output.inputs["Surface"])
        lamp = bpy.data.lights.new("sun", "SUN")
        lamp.angle = math.radians(0.6)
        self._sun = bpy.data.objects.new("sun", lamp)
        scene.collection.objects.link(self._sun)
        self._light: Light | None = None

    def apply(self, light: Light) -> None:
        """Weather, time of day, exposure and tone curve."""
        if light == self._light:
            return
        self._light = light
        old = self._picture.image
        image = bpy.data.images.new("sky", WIDTH, HEIGHT, float_buffer=True)
        image.colorspace_settings.name = "Linear Rec.709"
        rgba = np.concatenate([panorama(light), np.ones((HEIGHT, WIDTH, 1), np.float32)], -1)
        image.pixels.foreach_set(rgba.ravel())
        image.pack()  # Cycles reads a generated image again only when it is packed
        self._picture.image = image
        if old is not None:
            bpy.data.images.remove(old)
        low = max(0.0, 1 - light.sun_elevation / 0.6)
        self._sun.data.energy = light.sun_strength
        self._sun.data.color = (1.0, 0.96 - 0.16 * low, 0.9 - 0.38 * low)
        self._sun.hide_render = light.sun_strength == 0
        # A sun lamp shines along its own -z.
        self._sun.rotation_euler = Euler(
            (math.pi / 2 - light.sun_elevation, 0.0, light.sun_azimuth + math.pi / 2)
        )
        view = self._scene.view_settings
        view.view_transform = light.view
        view.exposure = (
            light.exposure + {"Standard": -0.25, "Filmic": 0.25, "AgX": 0.35}[light.view]
        )
        view.look = {
            "Standard": "None",
            "Filmic": "Medium High Contrast",
            "AgX": "AgX - Medium High Contrast",
        }[light.view]
