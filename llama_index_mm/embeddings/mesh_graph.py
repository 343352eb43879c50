"""Meshes as graphs that a graph network takes: the mesh's own vertices, or cells of space that its surface passes through.

Both kinds are centred on the surface's centre of gravity and scaled by its radius of gyration (the root of the mean squared
distance to that centre), which belong to the surface and not to how it is cut into faces.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.errors import EncodeError
from llama_index_mm.media import Mesh

__all__ = ["FEATURES", "GraphKind", "MeshGraph", "Up", "surface_graph", "vertex_graph"]

GraphKind = Literal["surface", "vertices"]
"""What the nodes of a graph are: cells that the surface passes through, or the mesh's own vertices."""

Up = Literal["y", "z", "any"]
"""Which axis points up; ``"any"`` takes each of the six directions along the axes in turn."""

FEATURES: dict[GraphKind, int] = {"surface": 9, "vertices": 7}
"""Numbers at each node."""

_CELLS = 20  # along each axis
_REACH = 2.4  # radii of gyration from the centre to the outermost grid point; what lies beyond is put there
_STEP = 2 * _REACH / (_CELLS - 1)  # between grid points, in radii of gyration
_FULL = _STEP**2 / 2  # area at a grid point, in squared radii of gyration, from which on it counts in full
_EMPTY = 1e-6  # share of _FULL below which a grid point is no node
_FINE = 0.4967 * _STEP  # longest edge of the pieces that faces are cut into; off the round ratios that real meshes have
_PIECES = 400_000  # at most, but for one for each face
_CHUNK = 200_000  # pieces that are taken at once
_AXES: dict[Up, tuple[tuple[int, float], ...]] = {
    "y": ((1, 1.0),),
    "z": ((2, 1.0),),
    "any": tuple(product((0, 1, 2), (1.0, -1.0))),
}


@dataclass(frozen=True)
class MeshGraph:
    """A graph with numbers at its nodes.

    Attributes:
        features: ``(u, n, f)`` float32, for each of the u directions that were taken for up.
        weights: ``(n,)`` float32 in (0, 1], how much a node counts.
        edges: ``(2, e)`` int64, to and from, in order; each node has one to itself.
        strengths: ``(e,)`` float32, of the edges, normalised as ``D^-1/2 A D^-1/2`` (Kipf and Welling 2017).
    """

    features: NDArray[np.float32]
    weights: NDArray[np.float32]
    edges: NDArray[np.int64]
    strengths: NDArray[np.float32]


def vertex_graph(mesh: Mesh, *, up: Up = "y") -> MeshGraph:
    """The mesh's own graph: vertices, joined by the edges of faces.

    At each node are its place, its normal and its distance to the centre; the normal is the mean over the faces around it,
    weighted by area. How finely the mesh is cut shows in it.

    Args:
        mesh: with at least one face that has an area.
        up: which axis points up.

    Raises:
        EncodeError: no face has an area, or numbers are not finite.
    """
    corners, crosses, areas = _measured(mesh)
    points = np.zeros((len(mesh.vertices), 3))
    points[mesh.faces] = corners
    normals = np.stack(
        [np.bincount(mesh.faces.ravel(), np.repeat(crosses[:, axis], 3), len(points)) for axis in range(3)], axis=1
    )
    # Where faces cancel one another out there is no direction, only the noise of rounding.
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6 * areas.max())
    pairs = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    keys = np.unique(np.concatenate([pairs[:, 0] * len(points) + pairs[:, 1], pairs[:, 1] * len(points) + pairs[:, 0]]))
    edges = np.stack(np.divmod(keys, len(points)))
    distance = np.linalg.norm(points, axis=1, keepdims=True)
    features = []
    for axis, sign in _AXES[up]:
        turn = _turn(axis, sign)
        features.append(np.concatenate([points @ turn.T, normals @ turn.T, distance], axis=1))
    used = np.unique(mesh.faces)
    weights = np.zeros(len(points))
    weights[used] = 1.0
    return _graph(np.stack(features), weights, edges, np.ones(edges.shape[1]))


def surface_graph(mesh: Mesh, *, up: Up = "y") -> MeshGraph:
    """A graph over the surface that does not depend on how the surface is cut into faces.

    Faces are cut into small pieces, and each piece gives its area to the eight points of a grid around it, by trilinear
    weights: an even sampling of the surface, in which nothing is drawn at random and everything is continuous. Grid points
    that got some area are the nodes, joined to their six neighbours. At each node are what does not change when the mesh is
    turned about the up axis: height, distance to the axis and to the centre, the area, of the normals' mean outer product
    the entries (up, up), (radial, radial), (tangential, tangential) and |(up, radial)|, and its squared norm, which is 1
    where the surface is flat. Which side of a face is the outside does not matter.

    Args:
        mesh: with at least one face that has an area.
        up: which axis points up.

    Raises:
        EncodeError: no face has an area, or numbers are not finite.
    """
    corners, crosses, areas = _measured(mesh)
    area, places, outer = _splat(corners, crosses, areas)
    keep = np.flatnonzero(area > _EMPTY * _FULL)
    places = places[keep] / area[keep, None]
    outer = outer[keep] / area[keep, None, None]
    weights = np.minimum(1.0, area[keep] / _FULL)
    number = np.full(_CELLS**3, -1)
    number[keep] = np.arange(len(keep))
    grid = np.pad(number.reshape(_CELLS, _CELLS, _CELLS), 1, constant_values=-1)
    here = np.stack(np.unravel_index(keep, (_CELLS,) * 3)) + 1
    starts, ends = [], []
    for offset in np.concatenate([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)]):
        there = grid[tuple(here + offset[:, None])]
        starts.append(np.flatnonzero(there >= 0))
        ends.append(there[there >= 0])
    edges = np.stack([np.concatenate(starts), np.concatenate(ends)])
    features = np.stack([_about_axis(places, outer, weights, axis, sign) for axis, sign in _AXES[up]])
    return _graph(features, weights, edges, weights[edges[0]] * weights[edges[1]])


def _measured(mesh: Mesh) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Corners ``(f, 3, 3)``, centred and scaled, with the normals of length area, ``(f, 3)``, and the areas."""
    points = np.asarray(mesh.vertices, dtype=np.float64)
    if not len(mesh.faces) or not np.isfinite(points).all():
        raise EncodeError(
            f"Expected a mesh with faces and finite vertices, got {len(mesh.faces)} faces. Read it with load_mesh."
        )
    used = points[mesh.faces]
    low, high = used.min((0, 1)), used.max((0, 1))
    extent = float((high - low).max())
    if extent > 0:
        corners = (used - (low + high) / 2) / extent
        crosses = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
        areas = np.linalg.norm(crosses, axis=1)
        total = areas.sum()
        if total > 1e-12:
            corners -= areas @ corners.mean(1) / total
            squares = ((corners**2).sum((1, 2)) + (corners.sum(1) ** 2).sum(1)) / 12  # mean over each face, exactly
            radius = np.sqrt(areas @ squares / total)
            return corners / radius, crosses / radius**2, areas / radius**2
    raise EncodeError("The faces of the mesh have no area; there is no surface to encode.")


def _splat(
    corners: NDArray[np.float64], crosses: NDArray[np.float64], areas: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Give the surface to the grid: at each point area, sum of places and sum of the normals' outer products, by area."""
    area = np.zeros(_CELLS**3)
    places = np.zeros((_CELLS**3, 3))
    outer = np.zeros((_CELLS**3, 6))
    normals = crosses / np.where(areas > 0, areas, 1.0)[:, None]
    rows, columns = np.triu_indices(3)
    products = normals[:, rows] * normals[:, columns]
    for of, shares, points in _pieces(corners, areas):
        inside = np.clip((points + _REACH) / _STEP, 0, _CELLS - 1)
        low = np.minimum(inside.astype(np.int64), _CELLS - 2)
        part = inside - low
        for corner in product((0, 1), repeat=3):
            at = np.ravel_multi_index(tuple((low + corner).T), (_CELLS,) * 3)
            share = shares * np.where(corner, part, 1 - part).prod(1)
            area += np.bincount(at, share, _CELLS**3)
            for axis in range(3):
                places[:, axis] += np.bincount(at, share * points[:, axis], _CELLS**3)
            for entry in range(6):
                outer[:, entry] += np.bincount(at, share * products[of, entry], _CELLS**3)
    square = np.empty((_CELLS**3, 3, 3))
    square[:, rows, columns] = square[:, columns, rows] = outer
    return area, places, square


def _pieces(
    corners: NDArray[np.float64], areas: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]]:
    """Cut each face into n x n equal triangles: for each piece its face, its area and its middle ``(p, 3)``; by chunks."""
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
    fine = _FINE
    while True:
        cuts = np.maximum(1, np.ceil(longest / fine)).astype(np.int64)
        if (cuts**2).sum() <= max(_PIECES, len(cuts)):
            break
        fine *= 1.5
    held: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]] = []
    for cut in np.unique(cuts):
        weights = _middles(int(cut))
        faces = np.flatnonzero(cuts == cut)
        size = max(1, _CHUNK // len(weights))
        for at in range(0, len(faces), size):
            some = faces[at : at + size]
            of = np.repeat(some, len(weights))
            held.append((of, areas[of] / len(weights), (weights @ corners[some]).reshape(-1, 3)))
            if sum(len(part[0]) for part in held) >= _CHUNK:
                yield _together(held)
                held = []
    if held:
        yield _together(held)


def _together(
    parts: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    of, shares, points = zip(*parts, strict=True)
    return np.concatenate(of), np.concatenate(shares), np.concatenate(points)


def _middles(cut: int) -> NDArray[np.float64]:
    """Barycentric weights of the middles of the cut x cut equal triangles in a triangle, ``(cut * cut, 3)``."""
    i, j = (part.ravel() for part in np.mgrid[:cut, :cut])
    upright = np.stack([i + 1 / 3, j + 1 / 3], 1)[i + j < cut]
    turned = np.stack([i + 2 / 3, j + 2 / 3], 1)[i + j < cut - 1]
    two = np.concatenate([upright, turned]) / cut
    return np.concatenate([two, 1 - two.sum(1, keepdims=True)], axis=1)


def _about_axis(
    places: NDArray[np.float64], outer: NDArray[np.float64], weights: NDArray[np.float64], axis: int, sign: float
) -> NDArray[np.float64]:
    """What of the nodes does not change when the mesh is turned about an axis."""
    up = np.zeros(3)
    up[axis] = sign
    height = places @ up
    flat = places - height[:, None] * up
    off = np.linalg.norm(flat, axis=1)
    radial = flat / np.sqrt(off**2 + (_STEP / 4) ** 2)[:, None]  # fades out at the axis, where it has no direction
    lifted = outer @ up
    up_up = lifted @ up
    outward = np.einsum("ni,nij,nj->n", radial, outer, radial)
    slanted = np.abs((lifted * radial).sum(1))
    square = (outer**2).sum((1, 2))
    distance = np.linalg.norm(places, axis=1)
    return np.stack([height, off, distance, weights, up_up, outward, 1 - up_up - outward, slanted, square], axis=1)


def _turn(axis: int, sign: float) -> NDArray[np.float64]:
    """The rotation that takes an axis, or its opposite, to y."""
    first = np.roll(np.eye(3), axis - 1, axis=1)  # cyclic, so it keeps the hand
    return first if sign > 0 else np.diag([1.0, -1.0, -1.0]) @ first


def _graph(
    features: NDArray[np.float64], weights: NDArray[np.float64], edges: NDArray[np.int64], strengths: NDArray[np.float64]
) -> MeshGraph:
    """Add edges from nodes to themselves, put the edges in order, normalise."""
    own = np.arange(len(weights))
    to, start = np.concatenate([edges, np.stack([own, own])], axis=1)
    strengths = np.concatenate([strengths, np.ones(len(own))])
    scale = 1 / np.sqrt(np.bincount(to, strengths, len(own)))
    order = np.lexsort((start, to))
    to, start, strengths = to[order], start[order], strengths[order]
    return MeshGraph(
        features=features.astype(np.float32),
        weights=weights.astype(np.float32),
        edges=np.stack([to, start]),
        strengths=(strengths * scale[to] * scale[start]).astype(np.float32),
    )
