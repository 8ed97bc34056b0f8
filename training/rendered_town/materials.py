# SPDX-License-Identifier: Apache-2.0
"""Procedural Cycles materials. "Col" is the geometry's colour, "UVMap" its plane in metres."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bpy

Tree = Any  # bpy's node types carry no annotations


class _Nodes:
    """Short names for the nodes of one tree, so that a material reads as a formula."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def node(self, kind: str, inputs: dict | None = None, **settings: object) -> Tree:
        node = self.tree.nodes.new(kind)
        for name, value in settings.items():
            setattr(node, name, value)
        for name, value in (inputs or {}).items():
            self.set(node.inputs[name], value)
        return node

    def set(self, socket: Tree, value: object) -> None:
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        else:
            socket.default_value = value

    def color(self) -> Tree:
        return self.node("ShaderNodeVertexColor", layer_name="Col").outputs["Color"]

    def uv(self) -> Tree:
        return self.node("ShaderNodeUVMap", uv_map="UVMap").outputs["UV"]

    def position(self) -> Tree:
        return self.node("ShaderNodeNewGeometry").outputs["Position"]

    def noise(
        self, scale: float, detail: float = 3.0, vector: Tree = None, roughness: float = 0.55
    ) -> Tree:
        at = self.position() if vector is None else vector
        return self.node(
            "ShaderNodeTexNoise",
            {"Vector": at, "Scale": scale, "Detail": detail, "Roughness": roughness},
        ).outputs["Fac"]

    def spread(self, value: Tree, low: float, high: float, a: float = 0.3, b: float = 0.7) -> Tree:
        """Map a..b of `value` to low..high, clamped."""
        node = self.node(
            "ShaderNodeMapRange",
            {"Value": value, "From Min": a, "From Max": b, "To Min": low, "To Max": high},
        )
        return node.outputs["Result"]

    def math(self, operation: str, a: object, b: object = 0.0) -> Tree:
        node = self.node("ShaderNodeMath", operation=operation)
        self.set(node.inputs[0], a)
        self.set(node.inputs[1], b)
        return node.outputs[0]

    def mix(self, factor: object, a: object, b: object, blend: str = "MIX") -> Tree:
        node = self.node("ShaderNodeMix", data_type="RGBA", blend_type=blend)
        for socket, value in ((node.inputs[0], factor), (node.inputs[6], a), (node.inputs[7], b)):
            if isinstance(value, tuple) and len(value) == 3:
                value = (*value, 1.0)
            self.set(socket, value)
        return node.outputs[2]

    def scale(self, color: object, factor: object) -> Tree:
        """Colour times a number."""
        node = self.node("ShaderNodeVectorMath", operation="SCALE")
        self.set(node.inputs[0], color)
        self.set(node.inputs["Scale"], factor)
        return node.outputs[0]

    def bump(self, height: Tree, strength: float, distance: float) -> Tree:
        return self.node(
            "ShaderNodeBump", {"Height": height, "Strength": strength, "Distance": distance}
        ).outputs["Normal"]

    def surface(
        self, color: object, roughness: object = 0.8, normal: Tree = None, **inputs: object
    ) -> None:
        if isinstance(color, tuple) and len(color) == 3:
            color = (*color, 1.0)
        if isinstance(roughness, float) and roughness >= 0.75 and not inputs:
            # Matt materials need no principled shader, which costs twice as much.
            matt = self.node("ShaderNodeBsdfDiffuse", {"Color": color})
            if normal is not None:
                self.set(matt.inputs["Normal"], normal)
            self.output(matt.outputs[0])
            return
        values = {"Base Color": color, "Roughness": roughness, **inputs}
        shader = self.node("ShaderNodeBsdfPrincipled", values)
        if normal is not None:
            self.set(shader.inputs["Normal"], normal)
        self.output(shader.outputs[0])

    def output(self, shader: Tree) -> None:
        self.set(self.node("ShaderNodeOutputMaterial").inputs["Surface"], shader)


def _weathered(n: _Nodes, color: Tree, amount: float = 0.25) -> Tree:
    """Large soft stains, and streaks that run down."""
    stretched = n.node("ShaderNodeMapping", {"Vector": n.position(), "Scale": (1.0, 1.0, 0.15)})
    streaks = n.noise(1.7, 4.0, stretched.outputs[0])
    stains = n.noise(0.35, 3.0)
    dirt = n.math(
        "MULTIPLY",
        n.spread(streaks, 1 - amount, 1.0, 0.35, 0.6),
        n.spread(stains, 1 - amount * 0.7, 1.08, 0.3, 0.7),
    )
    return n.scale(color, dirt)


def _brick(n: _Nodes, _style: dict) -> None:
    color = n.color()
    node = n.node(
        "ShaderNodeTexBrick",
        {
            "Vector": n.uv(),
            "Color1": n.scale(color, 0.8),
            "Color2": n.scale(color, 1.25),
            "Mortar": n.mix(0.5, n.scale(color, 0.9), (0.42, 0.40, 0.36)),
            "Scale": 1.0,
            "Mortar Size": 0.009,
            "Brick Width": 0.225,
            "Row Height": 0.075,
            "Bias": -0.1,
        },
    )
    n.surface(_weathered(n, node.outputs["Color"], 0.3), 0.9)


def _plaster(n: _Nodes, _style: dict) -> None:
    fine = n.noise(9.0, 3.0)
    n.surface(_weathered(n, n.scale(n.color(), n.spread(fine, 0.93, 1.05)), 0.22), 0.9)


def _concrete(n: _Nodes, _style: dict) -> None:
    joints = n.node(
        "ShaderNodeTexBrick",
        {
            "Vector": n.uv(),
            "Color1": (1, 1, 1, 1),
            "Color2": (0.88, 0.88, 0.88, 1),
            "Mortar": (0.5, 0.5, 0.5, 1),
            "Scale": 1.0,
            "Mortar Size": 0.012,
            "Brick Width": 2.4,
            "Row Height": 1.45,
        },
        offset=0.0,
    )
    color = n.mix(1.0, n.color(), joints.outputs["Color"], "MULTIPLY")
    n.surface(_weathered(n, n.scale(color, n.spread(n.noise(4.0, 5.0), 0.85, 1.1)), 0.3), 0.85)


def _stone(n: _Nodes, _style: dict) -> None:
    blocks = n.node(
        "ShaderNodeTexBrick",
        {
            "Vector": n.uv(),
            "Color1": (1, 1, 1, 1),
            "Color2": (0.78, 0.78, 0.78, 1),
            "Mortar": (0.62, 0.62, 0.62, 1),
            "Scale": 1.0,
            "Mortar Size": 0.01,
            "Brick Width": 0.62,
            "Row Height": 0.3,
        },
    )
    color = n.mix(1.0, n.color(), blocks.outputs["Color"], "MULTIPLY")
    n.surface(_weathered(n, color, 0.3), 0.85)


def _roof(n: _Nodes, _style: dict) -> None:
    color = n.color()
    tiles = n.node(
        "ShaderNodeTexBrick",
        {
            "Vector": n.uv(),
            "Color1": n.scale(color, 0.75),
            "Color2": n.scale(color, 1.2),
            "Mortar": n.scale(color, 0.35),
            "Scale": 1.0,
            "Mortar Size": 0.014,
            "Brick Width": 0.28,
            "Row Height": 0.22,
        },
    )
    moss = n.spread(n.noise(1.3, 4.0), 0.0, 0.5, 0.52, 0.75)
    n.surface(n.mix(moss, tiles.outputs["Color"], (0.07, 0.08, 0.035)), 0.75)


def _window(n: _Nodes, _style: dict) -> None:
    """Glass before a dark room; every other pane has a curtain or a blind behind it."""
    random = n.node("ShaderNodeNewGeometry").outputs["Random Per Island"]
    ramp = n.node("ShaderNodeValToRGB", {"Fac": random})
    elements = ramp.color_ramp.elements
    ramp.color_ramp.interpolation = "CONSTANT"
    elements[0].color, elements[1].color = (0.012, 0.014, 0.018, 1), (0.40, 0.36, 0.29, 1)
    elements[1].position = 0.88
    for position, color in (
        (0.4, (0.03, 0.032, 0.035, 1)),
        (0.62, (0.09, 0.08, 0.07, 1)),
        (0.75, (0.22, 0.20, 0.18, 1)),
    ):
        elements.new(position).color = color
    folds = n.node("ShaderNodeTexWave", {"Vector": n.uv(), "Scale": 3.2, "Distortion": 1.5})
    color = n.scale(ramp.outputs["Color"], n.spread(folds.outputs["Fac"], 0.6, 1.1, 0.0, 1.0))
    n.surface(color, 0.06, **{"Specular IOR Level": 0.9})


def _shop_window(n: _Nodes, _style: dict) -> None:
    """Things on display, vaguely lit, behind glass."""
    cells = n.node("ShaderNodeTexVoronoi", {"Vector": n.uv(), "Scale": 2.3, "Randomness": 0.8})
    shade = n.spread(n.noise(1.2, 2.0, n.uv()), 0.02, 0.5, 0.42, 0.72)
    color = n.scale(n.mix(0.55, cells.outputs["Color"], (0.4, 0.32, 0.22)), shade)
    n.surface(
        color,
        0.05,
        **{"Specular IOR Level": 0.9, "Emission Color": color, "Emission Strength": 0.25},
    )


def _asphalt(n: _Nodes, style: dict) -> None:
    tone, warm = style["asphalt"], style["asphalt_warmth"]
    base = (tone * (1 + warm), tone, tone * (1 - warm), 1.0)
    grain = n.spread(n.noise(55.0, 2.0), 0.65, 1.4)
    wear = n.spread(n.noise(0.45, 4.0), 0.8, 1.18, 0.3, 0.7)
    cells = n.node(
        "ShaderNodeTexVoronoi",
        {
            "Vector": n.mix(
                0.12,
                n.position(),
                n.node("ShaderNodeTexNoise", {"Vector": n.position(), "Scale": 1.5}).outputs[
                    "Color"
                ],
            ),
            "Scale": 0.35,
        },
        feature="DISTANCE_TO_EDGE",
    )
    crack = n.spread(cells.outputs["Distance"], 0.72, 1.0, 0.0, 0.009)
    old = n.spread(n.noise(0.12, 1.0), 0.0, 1.0, 0.48, 0.55)
    crack = n.math("MAXIMUM", crack, old)
    color = n.scale(
        n.mix(1.0, base, n.color(), "MULTIPLY"),
        n.math("MULTIPLY", n.math("MULTIPLY", grain, wear), crack),
    )
    n.surface(color, n.spread(n.noise(0.8, 3.0), 0.62, 0.92), **{"Specular IOR Level": 0.35})


def _marking(n: _Nodes, style: dict) -> None:
    tone = style["asphalt"]
    worn = n.spread(n.noise(7.0, 6.0, roughness=0.7), 0.0, 1.0, 0.36, 0.46)
    n.surface(n.mix(worn, (tone, tone, tone), n.color()), 0.7)


def _slabs(width: float, row: float, joint: float) -> Callable[[_Nodes, dict], None]:
    def build(n: _Nodes, _style: dict) -> None:
        color = n.color()
        node = n.node(
            "ShaderNodeTexBrick",
            {
                "Vector": n.uv(),
                "Color1": n.scale(color, 0.86),
                "Color2": n.scale(color, 1.12),
                "Mortar": n.scale(color, 0.5),
                "Scale": 1.0,
                "Mortar Size": joint,
                "Brick Width": width,
                "Row Height": row,
            },
        )
        dirt = n.spread(n.noise(0.9, 5.0), 0.72, 1.1, 0.3, 0.7)
        fine = n.spread(n.noise(30.0, 2.0), 0.85, 1.15)
        n.surface(n.scale(node.outputs["Color"], n.math("MULTIPLY", dirt, fine)), 0.85)

    return build


def _tarmac(n: _Nodes, _style: dict) -> None:
    grain = n.math(
        "MULTIPLY", n.spread(n.noise(60.0, 2.0), 0.75, 1.3), n.spread(n.noise(0.6, 4.0), 0.75, 1.2)
    )
    n.surface(n.scale(n.color(), grain), 0.9)


def _grass(n: _Nodes, style: dict) -> None:
    patch = n.spread(n.noise(0.5, 4.0), 0.0, 1.0, 0.35, 0.65)
    dry = {
        "summer": (0.13, 0.15, 0.04),
        "autumn": (0.17, 0.14, 0.05),
        "winter": (0.12, 0.12, 0.05),
    }[style["season"]]
    blades = n.spread(n.noise(28.0, 4.0, roughness=0.75), 0.35, 1.6, 0.3, 0.7)
    n.surface(
        n.scale(n.mix(patch, (0.055, 0.11, 0.025), dry), blades),
        1.0,
        n.bump(n.noise(28.0, 4.0), 0.9, 0.08),
    )


def _leaf(n: _Nodes, _style: dict) -> None:
    color = n.color()
    front = n.node("ShaderNodeBsdfDiffuse", {"Color": color})
    through = n.node(
        "ShaderNodeBsdfTranslucent", {"Color": n.mix(1.0, color, (1.3, 1.25, 0.5), "MULTIPLY")}
    )
    mixed = n.node("ShaderNodeMixShader", {0: 0.35, 1: front.outputs[0], 2: through.outputs[0]})
    n.output(mixed.outputs[0])


def _bark(n: _Nodes, _style: dict) -> None:
    long = n.node("ShaderNodeMapping", {"Vector": n.position(), "Scale": (9.0, 9.0, 1.6)})
    ridges = n.noise(1.0, 4.0, long.outputs[0])
    n.surface(n.mix(n.spread(ridges, 0, 1), (0.035, 0.028, 0.022), (0.16, 0.135, 0.11)), 0.95)


def _car_paint(n: _Nodes, _style: dict) -> None:
    tint = n.node("ShaderNodeObjectInfo").outputs["Color"]
    height = n.node("ShaderNodeSeparateXYZ", {0: n.position()}).outputs["Z"]
    dust = n.math(
        "MULTIPLY", n.spread(height, 0.45, 0.0, 0.2, 0.75), n.spread(n.noise(6.0, 4.0), 0.4, 1.0)
    )
    color = n.mix(dust, tint, (0.16, 0.14, 0.12))
    n.surface(
        color,
        n.math("ADD", 0.32, n.math("MULTIPLY", dust, 0.4)),
        **{"Coat Weight": 0.7, "Coat Roughness": 0.06, "Metallic": 0.15},
    )


def _car_glass(n: _Nodes, _style: dict) -> None:
    shade = n.spread(n.noise(1.4, 2.0), 0.005, 0.05, 0.4, 0.7)
    n.surface(n.scale((0.8, 0.95, 1.0), shade), 0.03, **{"Specular IOR Level": 0.6})


def _plain(
    roughness: float, metallic: float = 0.0, grime: float = 0.15
) -> Callable[[_Nodes, dict], None]:
    def build(n: _Nodes, _style: dict) -> None:
        color = n.scale(n.color(), n.spread(n.noise(4.0, 3.0), 1 - grime, 1 + grime / 2))
        n.surface(color, roughness, Metallic=metallic)

    return build


def _wood(n: _Nodes, _style: dict) -> None:
    long = n.node("ShaderNodeMapping", {"Vector": n.position(), "Scale": (14.0, 14.0, 0.9)})
    n.surface(n.scale(n.color(), n.spread(n.noise(1.0, 4.0, long.outputs[0]), 0.6, 1.25)), 0.85)


def _cloth(n: _Nodes, _style: dict) -> None:
    folds = n.spread(n.noise(11.0, 3.0), 0.7, 1.2)
    n.surface(n.scale(n.color(), folds), 0.95, n.bump(n.noise(7.0, 2.0), 0.5, 0.05))


def _glow(strength: float) -> Callable[[_Nodes, dict], None]:
    def build(n: _Nodes, _style: dict) -> None:
        n.surface(n.color(), 0.4, **{"Emission Color": n.color(), "Emission Strength": strength})

    return build


MATERIALS: dict[str, Callable[[_Nodes, dict], None]] = {
    "brick": _brick,
    "plaster": _plaster,
    "concrete": _concrete,
    "stone": _stone,
    "roof": _roof,
    "window": _window,
    "shop_window": _shop_window,
    "asphalt": _asphalt,
    "marking": _marking,
    "slabs": _slabs(0.6, 0.6, 0.008),
    "pavers": _slabs(0.2, 0.1, 0.005),
    "kerb": _slabs(0.9, 0.3, 0.008),
    "tarmac": _tarmac,
    "grass": _grass,
    "leaf": _leaf,
    "hedge": _plain(1.0),
    "bark": _bark,
    "car_paint": _car_paint,
    "car_glass": _car_glass,
    "paint": _plain(0.5),
    "metal": _plain(0.45, 0.35),
    "trim": _plain(0.6),
    "rubber": _plain(0.85),
    "painted_box": _plain(0.5),
    "sign": _plain(0.55, 0.0, 0.06),
    "plate": _glow(0.15),
    "head_light": _glow(0.25),
    "tail_light": _glow(0.3),
    "glow": _glow(5.0),
    "cloth": _cloth,
    "skin": _plain(0.6),
    "wood": _wood,
}


def material_library(style: dict) -> dict[str, Any]:
    """All materials for one town, by the name that geometry uses."""
    library = {}
    for name, build in MATERIALS.items():
        material = bpy.data.materials.new(name)
        material.use_nodes = True
        material.node_tree.nodes.clear()
        build(_Nodes(material.node_tree), style)
        library[name] = material
    return library
