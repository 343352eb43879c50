"""Files to triangle meshes, by Open3D."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.errors import DecodeError
from llama_index_mm.media.files import check_readable
from llama_index_mm.media.limits import LIMITS, MediaLimits

__all__ = ["Mesh", "MeshFacts", "load_mesh"]

_HEAD = 1 << 14  # bytes in which a file states its numbers


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


def load_mesh(source: Path | str, *, limits: MediaLimits = LIMITS) -> Mesh:
    """Read a mesh; polygons become triangles, parts of one file become one mesh.

    Args:
        source: a path.
        limits: on bytes and faces.

    Raises:
        DecodeError: the file is missing, empty or broken, has no faces or more than the limit, or has numbers that are
            not finite.
        MissingExtraError: Open3D is not installed.
    """
    o3d: Any = require("open3d", extra="mesh")
    path = Path(source)
    check_readable(path, limits)
    try:
        with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
            read = _read(o3d, path)
    except (RuntimeError, ValueError) as error:
        raise DecodeError(f"{path.name} can't be read as a mesh: {error}") from error
    vertices, faces = np.asarray(read.vertices), np.asarray(read.triangles)
    if not len(vertices) or not len(faces):
        raise DecodeError(
            f"{path.name} gives a mesh of {len(vertices)} vertices and {len(faces)} faces; at least one face is needed. "
            "Is it complete, and what its name says?"
        )
    if len(faces) > limits.faces:
        raise DecodeError(f"{path.name} has {len(faces):,} faces; at most {limits.faces:,} are taken. Decimate it.")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise DecodeError(f"{path.name} has faces that point past its {len(vertices)} vertices.")
    if not (np.abs(vertices) < np.finfo(np.float32).max).all():  # also catches NaN
        raise DecodeError(f"{path.name} has vertices that are not finite numbers of 32 bits.")
    if len(faces) < (stated := _stated_faces(path)):
        raise DecodeError(f"{path.name} breaks off: it states {stated:,} faces, but holds {len(faces):,}. Is it complete?")
    # Many formats repeat a vertex for each of its faces, which would leave every surface open.
    read.remove_duplicated_vertices().remove_unreferenced_vertices()
    return Mesh(np.asarray(read.vertices, dtype=np.float32), np.asarray(read.triangles, dtype=np.int64))


def _read(o3d: Any, path: Path) -> Any:
    """Give Open3D's mesh; empty where it can't read the file."""
    if path.suffix.lower() != ".obj":
        return o3d.io.read_triangle_mesh(str(path))
    whole = o3d.geometry.TriangleMesh()  # read_triangle_mesh drops the polygons of OBJ files without a word
    for part in o3d.io.read_triangle_model(str(path)).meshes:
        whole += part.mesh
    return whole


def _stated_faces(path: Path) -> int:
    """Faces that a PLY or OFF file states at its beginning; 0 for other files. Open3D gives what is there of a part."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    found = re.match(rb"ply\b.*?element\s+face\s+(\d+).*?end_header", head, re.DOTALL) or re.match(
        rb"\s*OFF\s+\d+\s+(\d+)", re.sub(rb"#[^\n]*", b"", head)
    )
    return int(found[1]) if found else 0
