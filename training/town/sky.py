# SPDX-License-Identifier: Apache-2.0
"""Sun, sky, clouds and haze."""

from __future__ import annotations

import math
from typing import Any

import bpy
from mathutils import Euler

from training.town.layout import Light
from training.town.materials import _Nodes


class Sky:
    """The world's shader and the sun lamp; `apply` sets both to a `Light`."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        world = bpy.data.worlds.new("sky")
        world.use_nodes = True
        world.node_tree.nodes.clear()
        world.cycles.sampling_method = "MANUAL"
        world.cycles.sample_map_resolution = 256
        scene.world = world
        n = _Nodes(world.node_tree)
        self._nishita = n.node("ShaderNodeTexSky", sky_type="NISHITA", sun_disc=False)
        ray = n.node("ShaderNodeTexCoord").outputs["Generated"]
        up = n.node("ShaderNodeSeparateXYZ", {0: ray}).outputs["Z"]
        # Clouds lie on a plane overhead: the ray is divided by its height above the horizon.
        flat = n.node("ShaderNodeVectorMath", operation="DIVIDE")
        n.set(flat.inputs[0], ray)
        level = n.math("ADD", n.math("MAXIMUM", up, 0.0), 0.12)
        n.set(flat.inputs[1], n.node("ShaderNodeCombineXYZ", {0: level, 1: level, 2: 1.0}).outputs[0])
        self._drift = n.node("ShaderNodeMapping", {"Vector": flat.outputs[0]})
        shape = n.noise(1.1, 7.0, self._drift.outputs[0], 0.58)
        self._cover = n.node("ShaderNodeMapRange", {"Value": shape, "To Min": 0.0, "To Max": 1.0})
        inner = n.noise(2.6, 4.0, self._drift.outputs[0])
        self._cloud = n.node("ShaderNodeVectorMath", operation="SCALE")
        n.set(self._cloud.inputs[0], n.mix(n.spread(inner, 0, 1), (0.55, 0.6, 0.68), (1, 1, 1)))
        clear = n.node("ShaderNodeVectorMath", operation="SCALE")
        n.set(clear.inputs[0], self._nishita.outputs[0])
        self._clear = clear
        mixed = n.mix(self._cover.outputs["Result"], clear.outputs[0], self._cloud.outputs[0])
        horizon = n.spread(up, 1.0, 0.0, 0.0, 0.22)
        self._veil = n.node("ShaderNodeMath", operation="MULTIPLY")
        n.set(self._veil.inputs[0], horizon)
        self._glare = n.node("ShaderNodeRGB")
        mixed = n.mix(self._veil.outputs[0], mixed, self._glare.outputs[0])
        background = n.node("ShaderNodeBackground", {"Color": mixed, "Strength": 1.0})
        output = n.node("ShaderNodeOutputWorld")
        n.set(output.inputs["Surface"], background.outputs[0])
        lamp = bpy.data.lights.new("sun", "SUN")
        lamp.angle = math.radians(0.6)
        self._sun = bpy.data.objects.new("sun", lamp)
        scene.collection.objects.link(self._sun)

    def apply(self, light: Light) -> None:
        """Weather, time of day, exposure and tone curve."""
        self._nishita.sun_elevation = light.sun_elevation
        self._nishita.sun_rotation = math.pi / 2 - light.sun_azimuth
        bright = 0.22 + 0.9 * light.overcast
        self._clear.inputs["Scale"].default_value = 0.16
        self._cloud.inputs["Scale"].default_value = 1.0 + 0.5 * light.overcast
        edge = 0.62 - 0.22 * light.clouds - 0.55 * light.overcast
        self._cover.inputs["From Min"].default_value = edge
        self._cover.inputs["From Max"].default_value = edge + 0.22
        self._drift.inputs["Location"].default_value = (light.sun_azimuth * 7, light.clouds * 9, 0)
        self._veil.inputs[1].default_value = 0.45 + 0.4 * light.overcast
        self._glare.outputs[0].default_value = (0.85 * (0.7 + bright / 2), 0.9 * (0.7 + bright / 2),
                                                0.97 * (0.7 + bright / 2), 1)
        low = max(0.0, 1 - light.sun_elevation / 0.6)
        self._sun.data.energy = light.sun_strength
        self._sun.data.color = (1.0, 0.96 - 0.16 * low, 0.9 - 0.38 * low)
        self._sun.hide_render = light.sun_strength == 0
        # A sun lamp shines along its own -z.
        self._sun.rotation_euler = Euler((math.pi / 2 - light.sun_elevation, 0.0,
                                          light.sun_azimuth + math.pi / 2))
        view = self._scene.view_settings
        view.view_transform = light.view
        view.exposure = light.exposure + {"Standard": -0.25, "Filmic": 0.25, "AgX": 0.35}[light.view]
        view.look = {"Standard": "None", "Filmic": "Medium High Contrast",
                     "AgX": "AgX - Medium High Contrast"}[light.view]
