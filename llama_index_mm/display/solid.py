"""Meshes small enough to turn in a page: few faces, whole numbers, base64."""

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import Mesh

__all__ = ["MAX_FACES", "Solid", "pack", "simplify"]

MAX_FACES = 8000  # of a mesh in a page: about 100 kB of base64
_CELLS = 96  # along the longest side, where simplifying begins
_FLAT = 1e-3  # of the largest eigenvalue, below which planes say nothing of a direction
_LARGEST = 0xFFFF


@dataclass(frozen=True)
class Solid:
    """A mesh in a page.

    Attributes:
        data: base64 of little-endian 16-bit numbers: x, y and z of each vertex in 65,535ths of the longest side, then three
            corners of each face.
        vertices: how many vertices.
        faces: how many triangles.
    """

    data: str
    vertices: int
    faces: int


def simplify(mesh: Mesh, most: int = MAX_FACES) -> Mesh:
    """Give a mesh like this one with at most ``most`` faces; this one itself if it has no more.

    Vertices in one cell of a grid become one, which is put where the planes of the faces around it meet best (Lindstrom,
    Out-of-core simplification of large polygonal models, SIGGRAPH 2000), so that edges stay sharp. It takes NumPy alone,
    and never fails on holes, loose parts or edges of many faces. The grid is made coarser until the faces are few enough.

    Raises:
        DecodeError: nothing is left: the mesh is a cloud of specks.
    """
    if len(mesh.faces) <= most:
        return mesh
    low, high = (bound.astype(np.float64) for bound in (mesh.vertices.min(0), mesh.vertices.max(0)))
    points = (mesh.vertices - low) / (high - low).max()
    cells = _CELLS
    while True:
        of, faces = _clustered(points, mesh.faces, cells)
        if not len(faces):
            raise DecodeError(f"The mesh has {len(mesh.faces):,} faces that are all too small to be seen in a page.")
        if len(faces) <= most:
            break
        cells = min(cells - 1, int(cells * np.sqrt(most / len(faces))))
    placed = _placed(points, mesh.faces, of, 1 / cells)
    used, numbers = np.unique(faces, return_inverse=True)
    return Mesh(placed[used].astype(np.float32), numbers.reshape(-1, 3))


def _clustered(
    points: NDArray[np.float64], faces: NDArray[np.int64], cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cell of each vertex, numbered from 0, and the faces between three different cells, each once."""
    at = np.minimum((points * cells).astype(np.int64), cells - 1)
    of = np.unique(at @ [cells * cells, cells, 1], return_inverse=True)[1]
    a, b, c = of[faces].T
    left = of[faces][(a != b) & (b != c) & (c != a)]
    first = np.unique(np.sort(left, axis=1), axis=0, return_index=True)[1]
    return of, left[np.sort(first)]


def _placed(points: NDArray[np.float64], faces: NDArray[np.int64], of: NDArray[np.int64], cell: float) -> NDArray[np.float64]:
    """For each cell the point nearest to the planes of the faces at its vertices, no further than a cell from their mean."""
    count = int(of.max()) + 1
    sizes = np.bincount(of, minlength=count)
    means = np.stack([np.bincount(of, points[:, axis], count) for axis in range(3)], axis=1) / sizes[:, None]
    first, second, third = (points[faces[:, corner]] for corner in range(3))
    normals = np.cross(second - first, third - first)  # as long as twice the area
    offsets = (normals * first).sum(1)
    where = of[faces].ravel()

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums: NDArray[np.float64] = np.bincount(where, np.repeat(values, 3), count).astype(np.float64)
        return sums

    planes = np.stack([summed(normals[:, row] * normals[:, column]) for row in range(3) for column in range(3)], axis=1)
    planes = planes.reshape(-1, 3, 3)
    wanted = np.stack([summed(normals[:, axis] * offsets) for axis in range(3)], axis=1)
    values, vectors = np.linalg.eigh(planes)
    told = values > _FLAT * values[:, -1:]
    inverse = np.where(told, 1 / np.where(told, values, 1), 0)
    missing = wanted - (planes @ means[:, :, None])[:, :, 0]
    steps = (vectors @ (inverse[:, :, None] * (vectors.transpose(0, 2, 1) @ missing[:, :, None])))[:, :, 0]
    placed: NDArray[np.float64] = means + np.clip(steps, -cell, cell)
    return placed


def pack(mesh: Mesh) -> Solid:
    """Write a mesh of at most 65,536 vertices as text."""
    points = mesh.vertices.astype(np.float64)
    points -= points.min(0)
    whole = np.rint(points / points.max() * _LARGEST).astype("<u2")
    data = whole.tobytes() + mesh.faces.astype("<u2").tobytes()
    return Solid(base64.b64encode(data).decode("ascii"), len(whole), len(mesh.faces))
