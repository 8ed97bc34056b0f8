# SPDX-License-Identifier: Apache-2.0
"""A town in Blender: meshes, static objects, actors and the camera."""

from __future__ import annotations

import math
import random
from typing import Any

import bpy
import numpy as np
from mathutils import Euler, Matrix

from training.rendered_town.geometry import Geometry, Model
from training.rendered_town.labels import pass_index
from training.rendered_town.materials import material_library
from training.rendered_town.objects import building, furniture, ground, person, plant, vehicle
from training.rendered_town.sky import Sky
from training.rendered_town.street import Item, Town
from training.rendered_town.traffic import Actor, Camera

Mesh = Any  # bpy's types carry no annotations


def to_mesh(geometry: Geometry, name: str, library: dict[str, Any], subdivide: int) -> Mesh:
    """Blender mesh with "UVMap" (the face's plane in metres) and the corner colour "Col"."""
    patches = geometry.patches
    vertices = np.concatenate([p.vertices for p in patches])
    starts = np.cumsum([0] + [len(p.vertices) for p in patches[:-1]])
    loops = np.concatenate([(p.faces + s).ravel() for p, s in zip(patches, starts, strict=True)])
    sizes = np.concatenate([np.full(len(p.faces), p.faces.shape[1]) for p in patches])
    names = list(dict.fromkeys(p.material for p in patches))
    slots = np.concatenate([np.full(len(p.faces), names.index(p.material)) for p in patches])
    smooth = np.concatenate([np.full(len(p.faces), p.smooth) for p in patches])
    colors = np.repeat(np.concatenate([p.colors for p in patches]), sizes, axis=0)
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(vertices))
    mesh.vertices.foreach_set("co", vertices.ravel().astype(np.float32))
    mesh.loops.add(len(loops))
    mesh.loops.foreach_set("vertex_index", loops.astype(np.int32))
    mesh.polygons.add(len(sizes))
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    mesh.polygons.foreach_set("loop_start", first.astype(np.int32))
    mesh.polygons.foreach_set("material_index", slots.astype(np.int32))
    mesh.polygons.foreach_set("use_smooth", smooth)
    for material in names:
        mesh.materials.append(library[material])
    uv = mesh.uv_layers.new(name="UVMap")
    uv.data.foreach_set("uv", _planar_uv(vertices, loops, sizes, first).ravel().astype(np.float32))
    layer = mesh.color_attributes.new("Col", "FLOAT_COLOR", "CORNER")
    rgba = np.concatenate([colors, np.ones((len(colors), 1))], 1)
    layer.data.foreach_set("color", rgba.ravel().astype(np.float32))
    mesh.update(calc_edges=True)
    mesh.validate()
    return _rounded(mesh, subdivide) if subdivide else mesh


def _planar_uv(
    vertices: np.ndarray, loops: np.ndarray, sizes: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """(L, 2) metres along the face's horizontal and up its slope, so that bricks lie level."""
    a, b, c = (vertices[loops[first + k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    level = np.abs(normal[:, 2:]) > 0.95
    u = np.where(level, [1.0, 0, 0], np.cross([0, 0, 1.0], normal))
    u /= np.linalg.norm(u, axis=1, keepdims=True) + 1e-12
    v = np.where(level, [0, 1.0, 0], np.cross(normal, u))
    at, face = vertices[loops], np.repeat(np.arange(len(sizes)), sizes)
    return np.stack([(at * u[face]).sum(1), (at * v[face]).sum(1)], 1)


def _rounded(mesh: Mesh, levels: int) -> Mesh:
    """The mesh welded and after `levels` Catmull-Clark steps."""
    holder = bpy.data.objects.new("rounding", mesh)
    bpy.context.scene.collection.objects.link(holder)
    holder.modifiers.new("weld", "WELD").merge_threshold = 1e-4
    modifier = holder.modifiers.new("subdivide", "SUBSURF")
    modifier.levels = modifier.render_levels = levels
    evaluated = holder.evaluated_get(bpy.context.evaluated_depsgraph_get())
    result = bpy.data.meshes.new_from_object(evaluated)
    result.name = mesh.name
    bpy.data.objects.remove(holder)
    return result


class TownScene:
    """One town in Blender; `place` and `look` change it from frame to frame."""

    def __init__(self, town: Town) -> None:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self.town = town
        self.scene = bpy.context.scene
        self.sky = Sky(self.scene)
        self.sky.apply(town.light)
        self._library = material_library(town.style)
        for material in self._library.values():
            # Lamps shine but are not sampled as lights: they would only add noise.
            material.cycles.emission_sampling = "NONE"
        self._meshes: dict[tuple, list[tuple[int, Mesh]]] = {}
        self._actors: list[Any] = []
        self._add_static("ground", ("ground",), lambda: ground.ground(town), Matrix())
        for item in town.items:
            self._add_item(item)
        camera = bpy.data.cameras.new("camera")
        camera.clip_end = 1000.0
        self._camera = bpy.data.objects.new("camera", camera)
        self.scene.collection.objects.link(self._camera)
        self.scene.camera = self._camera

    def _model(self, item: Item) -> tuple[tuple, Any]:
        """Key and builder of an item's model; equal keys share their meshes."""
        o, seed, season = item.options, self.town.seed, self.town.style["season"]
        key: tuple[Any, ...] = (item.kind, repr(sorted(o.items())))
        builders = {
            "building": lambda: building.building(**o),
            "tree": lambda: plant.tree(o["variant"], season, seed),
            "bush": lambda: plant.bush(o["variant"], season, seed),
            "boundary": lambda: furniture.boundary(**o),
            "lamp": lambda: furniture.lamp(**o),
            "sign": lambda: furniture.sign(**o),
            "traffic_light": lambda: furniture.traffic_light(**o),
            "bollard": lambda: furniture.bollard(**o),
            "bin": furniture.bin_,
            "cabinet": furniture.cabinet,
            "post": furniture.post,
            "lawn": lambda: ground.lawn(self.town, item.s, item.d, **o),
        }
        if item.kind in ("tree", "bush"):  # the scale belongs to the instance
            key = (item.kind, o["variant"])
        if item.kind == "lawn":
            key = ("lawn", item.s, item.d)
        return key, builders[item.kind]

    def _add_item(self, item: Item) -> None:
        key, build = self._model(item)
        if item.kind == "lawn":  # already in world coordinates
            self._add_static(item.kind, key, build, Matrix())
            return
        x, y, heading = self.town.street.locate(item.s, item.d)
        scale = item.options.get("scale", 1.0)
        matrix = (
            Matrix.Translation((x, y, item.z))
            @ Matrix.Rotation(heading + item.turn, 4, "Z")
            @ Matrix.Scale(scale, 4)
        )
        self._add_static(item.kind, key, build, matrix)

    def _parts(self, key: tuple, build: Any) -> list[tuple[int, Mesh]]:
        if key not in self._meshes:
            model: Model = build()
            self._meshes[key] = [
                (part.label, to_mesh(part.geometry, str(key[0]), self._library, part.subdivide))
                for part in model
                if part.geometry.patches
            ]
        return self._meshes[key]

    def _add_static(self, name: str, key: tuple, build: Any, matrix: Matrix) -> None:
        for label, mesh in self._parts(key, build):
            thing = bpy.data.objects.new(name, mesh)
            thing.pass_index = pass_index(label)
            thing.matrix_world = matrix
            self.scene.collection.objects.link(thing)

    def place(self, actors: list[Actor]) -> None:
        """Puts exactly these actors on the street; their instances are 1, 2, 3 ..."""
        used = 0
        for instance, actor in enumerate(actors, 1):
            if actor.kind == "vehicle":

                def build(a: Actor = actor) -> Model:
                    return vehicle.vehicle(str(a.model))

                key: tuple = ("vehicle", actor.model)
            elif actor.kind == "cyclist":

                def build(a: Actor = actor) -> Model:
                    return person.cyclist(int(a.model), max(0, a.phase))

                key = ("cyclist", actor.model, actor.phase)
            else:

                def build(a: Actor = actor) -> Model:
                    return person.pedestrian(int(a.model), max(0, a.phase), a.phase < 0)

                key = ("pedestrian", actor.model, actor.phase)
            x, y, heading = self.town.street.locate(actor.s, actor.d)
            matrix = Matrix.Translation((x, y, actor.z)) @ Matrix.Rotation(
                heading + actor.turn, 4, "Z"
            )
            for label, mesh in self._parts(key, build):
                if used == len(self._actors):
                    thing = bpy.data.objects.new("actor", mesh)
                    self.scene.collection.objects.link(thing)
                    self._actors.append(thing)
                thing = self._actors[used]
                thing.data = mesh
                thing.pass_index = pass_index(label, instance)
                thing.matrix_world = matrix
                thing.color = (*actor.color, 1.0)
                thing.hide_render = False
                used += 1
        for thing in self._actors[used:]:
            thing.hide_render = True

    def look(self, camera: Camera) -> list[list[float]]:
        """Points the camera; returns its 4 x 4 pose, from optical frame (z forward) to world."""
        x, y, heading = self.town.street.locate(camera.s, camera.d)
        # Blender's camera looks along its own -z with y up.
        turn = Euler((math.pi / 2 + camera.pitch, 0.0, heading + camera.yaw - math.pi / 2))
        matrix = (
            Matrix.Translation((x, y, camera.height))
            @ turn.to_matrix().to_4x4()
            @ Matrix.Rotation(camera.roll, 4, "Z")
        )
        self._camera.matrix_world = matrix
        self._camera.data.angle_x = camera.horizontal_fov
        optical = matrix @ Matrix.Rotation(math.pi, 4, "X")
        return [[round(v, 6) for v in row] for row in optical]


def frame_rng(seed: int, frame: int) -> random.Random:
    """Returns the random state of one frame, which is independent of earlier frames."""
    return random.Random(seed * 100_003 + frame)
