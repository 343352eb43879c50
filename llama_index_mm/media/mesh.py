"""Files to triangle meshes, over NumPy alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.files import check_readable
from llama_index_mm.media.limits import LIMITS, MediaLimits
from llama_index_mm.media.mesh_formats import READERS
from llama_index_mm.media.regular import open_regular

__all__ = ["Mesh", "MeshFacts", "load_mesh"]

_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class MeshFacts:
    """What can be said of a mesh in one line.

    Attributes:
        vertices: how many vertices; those in one place count once.
        faces: how many triangles.
        size: extent along x, y and z, in the file's own unit.
        closed: whether every edge joins exactly two triangles.
    """

    vertices: int
    faces: int
    size: tuple[float, float, float]
    closed: bool

    def __str__(self) -> str:
        extent = " x ".join(f"{side:.3g}" for side in self.size)
        kind = "closed" if self.closed else "open"
        # Plain digits, each after what it counts: small language models misread 5,162 and take one number for the other.
        return f"3D model, vertices: {self.vertices}, faces: {self.faces}, size: {extent} (file units), surface: {kind}"


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: ``(v, 3)`` float32, in the file's own unit.
        faces: ``(f, 3)`` int64 indices into ``vertices``.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]

    def facts(self) -> MeshFacts:
        """Count and measure."""
        used = self.vertices[np.unique(self.faces)].astype(np.float64)
        size = used.max(0) - used.min(0)
        edges = np.sort(self.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        shared = np.unique(edges[:, 0] * len(self.vertices) + edges[:, 1], return_counts=True)[1]
        return MeshFacts(
            vertices=len(self.vertices),
            faces=len(self.faces),
            size=(float(size[0]), float(size[1]), float(size[2])),
            closed=bool((shared == 2).all()),
        )


def load_mesh(source: Path | str, *, limits: MediaLimits = LIMITS) -> Mesh:
    """Read a PLY, OBJ, STL, OFF, glTF or GLB file, told apart by the ending of its name.

    Polygons become triangles, hollow ones too; all parts of a file become one mesh, those of a glTF where its nodes put
    them. Vertices in one place become one, unless that takes a face its extent: such faces, of two corners in one place,
    are dropped, and vertices that no face uses. No other file is opened but the buffers of a glTF, in its own folder or
    below: no materials, no textures.

    Args:
        source: a path.
        limits: on bytes (those of a glTF's buffers each and in sum) and faces.

    Raises:
        DecodeError: the file is missing, empty, broken or incomplete, is beyond the limits, reaches out of its folder, has
            no face, or has numbers that are not finite.
    """
    path = Path(source)
    check_readable(path, limits)
    if not (read := READERS.get(path.suffix.lower())):
        raise DecodeError(f"{path.name} doesn't end in what meshes are read by: {' '.join(READERS)}.")
    try:
        with open_regular(path) as file:
            data = file.read()
        with np.errstate(all="ignore"):  # numbers that are not finite are refused at the end, with their reason
            return _tidy(*read(data, path, limits))
    except DecodeError as error:
        raise DecodeError(f"{path.name} {error}") from error.__cause__
    except Exception as error:  # whatever a broken file makes of a parser, memory that is lacking included
        reason = str(error)[:300] or type(error).__name__
        raise DecodeError(f"{path.name} can't be read as a mesh: {reason}. Is it complete, and what its name says?") from error


def _tidy(vertices: NDArray[Any], faces: NDArray[np.int64]) -> Mesh:
    """Check what was read, join vertices in one place, and drop what has no extent or no use."""
    if not len(vertices) or not len(faces):
        raise DecodeError(
            f"gives a mesh of {len(vertices)} vertices and {len(faces)} faces; at least one face is needed. "
            "Is it complete, and what its name says?"
        )
    if not (np.abs(vertices) < _LARGEST).all():  # also catches NaN
        raise DecodeError("has vertices that are not finite numbers of 32 bits.")
    # Many formats repeat a vertex for each of its faces, which would leave every surface open.
    points, faces = _joined(vertices.astype(np.float32), faces)
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    if not len(faces):
        raise DecodeError(f"has no face with three corners in different places, among {len(a):,}.")
    used = np.zeros(len(points), bool)
    used[faces] = True
    return Mesh(points[used], (np.cumsum(used) - 1)[faces])


def _joined(points: NDArray[np.float32], faces: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Make vertices in one place one, in the order in which they come first."""
    bits = (points + np.float32(0)).view(np.uint32).astype(np.uint64)  # 0 added: -0 and 0 are one place
    keys = bits[:, 0] << np.uint64(32) | bits[:, 1]
    order = np.lexsort((bits[:, 2], keys))
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(keys[order]) != 0) | (np.diff(bits[order, 2]) != 0)
    first = np.minimum.reduceat(order, np.flatnonzero(fresh))[np.cumsum(fresh) - 1]
    kept = np.empty(len(order), np.int64)
    kept[order] = first
    is_first = kept == np.arange(len(kept))
    return points[is_first], (np.cumsum(is_first) - 1)[kept[faces]]
