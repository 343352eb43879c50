"""Files to triangle meshes, by Open3D."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.errors import DecodeError
from llama_index_mm.media.files import check_readable

__all__ = ["MAX_FACES", "Mesh", "MeshFacts", "load_mesh"]

MAX_FACES = 20_000_000


@dataclass(frozen=True)
class MeshFacts:
    """What can be said of a mesh in one line.

    Attributes:
        vertices: how many vertices.
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
        return f"3D model, {self.vertices:,} vertices, {self.faces:,} faces, size {extent} (file units), {kind} surface"


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
        used = self.vertices[np.unique(self.faces)]
        size = used.max(0) - used.min(0)
        edges = np.sort(self.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        shared = np.unique(edges, axis=0, return_counts=True)[1]
        return MeshFacts(
            vertices=len(self.vertices),
            faces=len(self.faces),
            size=(float(size[0]), float(size[1]), float(size[2])),
            closed=bool((shared == 2).all()),
        )


def load_mesh(source: Path | str) -> Mesh:
    """Read a mesh; polygons become triangles, parts of one file become one mesh.

    Raises:
        DecodeError: the file is missing, empty or broken, has no faces or more than ``MAX_FACES``, or has numbers that are
            not finite.
        MissingExtraError: Open3D is not installed.
    """
    o3d: Any = require("open3d", extra="mesh")
    path = Path(source)
    check_readable(path)
    try:
        with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
            read = o3d.io.read_triangle_mesh(str(path))
    except (RuntimeError, ValueError) as error:
        raise DecodeError(f"{path.name} can't be read as a mesh: {error}") from error
    vertices = np.asarray(read.vertices, dtype=np.float32)
    faces = np.asarray(read.triangles, dtype=np.int64)
    if not len(vertices) or not len(faces):
        raise DecodeError(
            f"{path.name} gives a mesh of {len(vertices)} vertices and {len(faces)} faces; at least one face is needed. "
            "Is it complete, and what its name says?"
        )
    if len(faces) > MAX_FACES:
        raise DecodeError(f"{path.name} has {len(faces):,} faces; at most {MAX_FACES:,} are taken. Decimate it.")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise DecodeError(f"{path.name} has faces that point past its {len(vertices)} vertices.")
    if not np.isfinite(vertices).all():
        raise DecodeError(f"{path.name} has vertices that are not finite numbers.")
    return Mesh(vertices, faces)
