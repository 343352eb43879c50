"""Wavefront OBJ: vertices and faces; materials, groups, normals and curves are passed over."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.limits import MediaLimits
from llama_index_mm.media.mesh_formats.polygons import (
    Geometry,
    check_faces,
    check_sizes,
    first_three,
    numbers,
    triangulate,
    unix_lines,
    words_of_lines,
)

__all__ = ["read_obj"]

_VERTEX = re.compile(rb"(?m)^[ \t]*v[ \t]+([^#\n]*)")
_FACE = re.compile(rb"(?m)^[ \t]*fo?[ \t]+([^#\n]*)")  # "fo" of old files is a face too
_NOT_POSITION = re.compile(rb"/[^\s]*")  # texture and normal of a corner


def read_obj(data: bytes, path: Path, limits: MediaLimits) -> Geometry:
    """Read OBJ; the statements that name other files (``mtllib``, ``call``, ...) are never looked at."""
    text = unix_lines(data).replace(b"\\\n", b" ")
    rows = _FACE.findall(text)
    check_faces(len(rows), limits)
    vertices = first_three(_VERTEX.findall(text))
    if not rows:
        return vertices, np.zeros((0, 3), np.int64)
    joined = _NOT_POSITION.sub(b"", b"\n".join(rows))
    sizes = words_of_lines(joined)
    check_sizes(sizes, limits)
    corners = numbers(joined, np.int64)
    if len(corners) != sizes.sum():
        raise DecodeError(f"has something that is no number after {len(corners):,} corners of faces.")
    if (corners == 0).any():
        raise DecodeError("has a face with corner 0; OBJ counts from 1, or from -1 backwards.")
    if sizes.min() < 3:
        raise DecodeError(f"has a face of {sizes.min()} corners; at least 3 are needed. Is it complete?")
    if (corners < 0).any():
        behind = np.repeat(_vertices_before_faces(text), sizes)
        corners = np.where(corners < 0, corners + behind, corners - 1)
    else:
        corners -= 1
    return vertices, triangulate(vertices, corners, sizes, limits)


def _vertices_before_faces(text: bytes) -> NDArray[np.int64]:
    """How many vertices stand before each face: negative corners count back from there."""
    vertices = np.array([found.start() for found in _VERTEX.finditer(text)], np.int64)
    faces = np.array([found.start() for found in _FACE.finditer(text)], np.int64)
    return np.searchsorted(vertices, faces).astype(np.int64)
