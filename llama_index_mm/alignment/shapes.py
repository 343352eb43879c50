"""Shapes made from random numbers alone, and meshes distorted at random: what a mesh network learns from without labels.

A recipe draws some parts (boxes, tubes, bodies turned on a lathe, cushions, globes), where they stand, and whether they are
mirrored or repeated about the up axis. An execution of it draws the sizes anew around the recipe's, turns the whole about the
up axis, and now and then thins out its faces or moves its vertices a little. Recipes know no classes and no data. Open3D thins
out faces: the extra ``mesh``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.embeddings.mesh_graph import Up
from llama_index_mm.errors import AlignmentError
from llama_index_mm.media import Mesh
from llama_index_mm.media.primitives import Solid, box, cushion, join, tube, turned

__all__ = ["SHAPES_VERSION", "decimated", "distorted", "procedural_mesh"]

SHAPES_VERSION = 1
"""Of recipes and distortions: counts up whenever the same numbers give other shapes."""

_SPREAD = 0.25  # standard deviation of the logarithm of what an execution changes in a size
_STRETCH = 0.15  # the same of what a distortion changes along each axis
_JITTER = (0.0, 0.0, 0.004, 0.01)  # standard deviations that moved vertices have, in extents of the shape
_MOST_PARTS = 5
_FULL_TURN = 2 * np.pi


def procedural_mesh(recipe: int, execution: int = 0, *, up: Up = "y", seed: int = 0) -> Mesh:
    """Make one execution of a recipe.

    Example:
        >>> one, other = procedural_mesh(7, 0), procedural_mesh(7, 1)  # the same thing in other sizes

    Args:
        recipe: number of the recipe, from 0.
        execution: number of the execution, from 0.
        up: axis that is to point up; ``"any"`` is y.
        seed: another one gives other recipes.

    Returns:
        Closed surfaces that may run into each other, in no unit, some 1 to 5 wide.

    Raises:
        AlignmentError: a number is below 0.
        MissingExtraError: Open3D is not installed.
    """
    if min(recipe, execution, seed) < 0:
        raise AlignmentError(f"Expected recipe, execution and seed of at least 0, got {recipe}, {execution} and {seed}.")
    draw, change = np.random.default_rng([seed, 0, recipe]), np.random.default_rng([seed, 1, recipe, execution])
    parts: list[Solid] = []
    for number in range(draw.integers(1, _MOST_PARTS + 1)):
        vertices, faces = _part(draw, change)
        if draw.random() < 0.5:  # lie it down or lean it
            vertices = vertices @ _about(draw.choice([np.pi / 2, draw.uniform(-0.8, 0.8)]), 0)
        vertices = vertices @ _about(draw.choice([0, np.pi / 2, draw.uniform(0, _FULL_TURN)]))
        away = (number > 0) * draw.normal(0, 1, 3) * [0.8, 1.0, 0.8] * np.exp(change.normal(0, _SPREAD / 2, 3))
        vertices = vertices * np.exp(draw.normal(-0.3 * (number > 0), 0.3)) + away
        how = draw.random()
        copies = 1 if how < 0.4 else int(draw.choice([2, 3, 4, 4, 6]))
        if 0.4 <= how < 0.7:
            parts += [(vertices, faces), (vertices * [-1, 1, 1], faces[:, ::-1])]
        else:
            parts += [(vertices @ _about(_FULL_TURN * turn / copies), faces) for turn in range(copies)]
    vertices, faces = join(*parts)
    vertices = vertices * np.exp(change.normal(0, _SPREAD, 3)) @ _about(change.uniform(0, _FULL_TURN))
    if up == "z":
        vertices = vertices[:, [0, 2, 1]] * [1, -1, 1]
    return _roughened(Mesh(vertices.astype(np.float32), faces), change, thinned=0.25)


def distorted(mesh: Mesh, rng: np.random.Generator, *, up: Up = "y") -> Mesh:
    """Turn a mesh about its up axis, stretch it along its axes, and maybe thin out its faces and move its vertices a little.

    What it shows stays the same: two copies so made are a positive pair (Chen et al., "A Simple Framework for Contrastive
    Learning of Visual Representations", ICML 2020, arXiv:2002.05709).

    Args:
        mesh: of any size and place.
        rng: what is drawn comes from here.
        up: axis that points up; ``"any"`` turns it about y.

    Raises:
        MissingExtraError: Open3D is not installed.
    """
    turn = _about(rng.uniform(0, _FULL_TURN), 2 if up == "z" else 1)
    vertices = mesh.vertices.astype(np.float64) * np.exp(rng.normal(0, _STRETCH, 3)) @ turn
    return _roughened(Mesh(vertices.astype(np.float32), mesh.faces), rng, thinned=0.5)


def decimated(mesh: Mesh, share: float = 0.5) -> Mesh:
    """Give a mesh with that share of the faces, by quadric decimation (Garland and Heckbert, SIGGRAPH 1997), over Open3D.

    Where nothing would be left, the mesh comes back as it is.
    """
    o3d: Any = require("open3d", extra="mesh")
    full = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices.astype(np.float64)), o3d.utility.Vector3iVector(mesh.faces.astype(np.int32))
    )
    less = full.simplify_quadric_decimation(max(4, int(share * len(mesh.faces))))
    faces = np.asarray(less.triangles, dtype=np.int64)
    return Mesh(np.asarray(less.vertices, dtype=np.float32), faces) if len(faces) else mesh


def _part(draw: np.random.Generator, change: np.random.Generator) -> Solid:
    """One part about the origin, of size about 1, from the recipe's numbers and an execution's."""
    size = np.exp(draw.normal(0, 0.6, 3) + change.normal(0, _SPREAD, 3))
    kind = draw.integers(5)
    bends = draw.uniform(0.15, 1, 6)
    if kind == 0:
        return box((0, 0, 0), size)
    if kind == 1:
        return cushion((0, 0, 0), size, radius=0.3 * size.min(), bulge=0.2 * size[1] * bends[0])
    if kind == 2:
        profile = [(0, -size[1] / 2), *zip(bends * size[0] / 2, np.linspace(-0.5, 0.5, 6) * size[1], strict=True)]
        return turned([*profile, (0, size[1] / 2)])
    if kind == 3:
        bow = np.linspace(0, np.pi * (0.2 + 1.3 * bends[0]), 12)
        path = np.stack([np.cos(bow) * size[0], np.sin(bow) * size[1], 0 * bow], 1)
        return tube(path - path.mean(0), np.linspace(bends[1], bends[2], 12) * 0.15 * size[2], corners=10)
    angle = np.linspace(0, np.pi, 10)[1:-1]
    globe = [(0, -size[1] / 2), *np.stack([np.sin(angle) * size[0] / 2, -np.cos(angle) * size[1] / 2], 1), (0, size[1] / 2)]
    vertices, faces = turned(globe)
    return vertices * [1, 1, size[2] / size[0]], faces


def _roughened(mesh: Mesh, rng: np.random.Generator, *, thinned: float) -> Mesh:
    """Thin out its faces with the probability ``thinned``, and move its vertices in half of all cases."""
    if rng.random() < thinned:
        mesh = decimated(mesh, rng.uniform(0.3, 0.8))
    extent = np.ptp(mesh.vertices, axis=0).max()
    noise = rng.normal(0, rng.choice(_JITTER), mesh.vertices.shape) * extent
    return Mesh((mesh.vertices + noise).astype(np.float32), mesh.faces)


def _about(angle: float, axis: int = 1) -> NDArray[np.float64]:
    """The rotation about an axis, y if not given."""
    rotation = np.eye(3)
    one, two = (axis + 1) % 3, (axis + 2) % 3
    rotation[[one, one, two, two], [one, two, one, two]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return rotation
