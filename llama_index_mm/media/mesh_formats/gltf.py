"""glTF 2.0, as text with its buffers and as one binary file: all triangles of the scene, where its nodes put them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.limits import MediaLimits
from llama_index_mm.media.mesh_formats.gltf_buffers import Buffers, integer, item, parse, rows
from llama_index_mm.media.mesh_formats.polygons import Geometry, check_faces

__all__ = ["read_glb", "read_gltf"]

_JSON, _BIN = b"JSON", b"BIN\0"
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_INDEX_TYPES = (5121, 5123, 5125)
_POSITION_TYPES = (5120, 5121, 5122, 5123, 5126)  # whole numbers by KHR_mesh_quantization
# Extensions that a file may require, as they leave its geometry alone or are understood.
_HARMLESS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "MSFT_texture_", "KHR_lights_", "KHR_xmp")
_PLACED = {"matrix", "translation", "rotation", "scale"}
_UNDERSTOOD = "KHR_mesh_quantization"


def read_gltf(data: bytes, path: Path, limits: MediaLimits) -> Geometry:
    """Read a ``.gltf``; its buffers are data URIs or files in its own folder."""
    if data[:4] == b"glTF":
        return read_glb(data, path, limits)
    tree = parse(data, limits)
    return _Scene(tree, Buffers(tree, None, path, limits), limits).geometry()


def read_glb(data: bytes, path: Path, limits: MediaLimits) -> Geometry:
    """Read a ``.glb``: a header of 12 bytes, then chunks, the first of JSON."""
    if data[:4] != b"glTF" or len(data) < 20:
        raise DecodeError("is no GLB: it doesn't begin with 'glTF'.")
    version, size = (int.from_bytes(data[at : at + 4], "little") for at in (4, 8))
    if version != 2:
        raise DecodeError(f"is a GLB of version {version}; only version 2 is read. Save it as glTF 2.0.")
    if size > len(data):
        raise DecodeError(f"breaks off: it states {size:,} bytes, but has {len(data):,}. Is it complete?")
    chunks: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= size:
        length, kind = int.from_bytes(data[at : at + 4], "little"), data[at + 4 : at + 8]
        if at + 8 + length > size:
            raise DecodeError(f"breaks off: a chunk of {length:,} bytes goes past the end. Is it complete?")
        if kind in (_JSON, _BIN):
            chunks.setdefault(kind, data[at + 8 : at + 8 + length])
        at += 8 + length + -length % 4
    if _JSON not in chunks:
        raise DecodeError("is no valid GLB: it has no JSON chunk.")
    tree = parse(chunks[_JSON], limits)
    return _Scene(tree, Buffers(tree, chunks.get(_BIN), path, limits), limits).geometry()


@dataclass(frozen=True)
class _Primitive:
    """Triangles that are stated, but not read yet."""

    positions: object
    indices: object
    mode: int
    corners: int

    @property
    def faces(self) -> int:
        return self.corners // 3 if self.mode == _TRIANGLES else max(0, self.corners - 2)


class _Scene:
    """What a glTF shows: its default scene, else its first, else every node, else every mesh."""

    def __init__(self, tree: dict[str, Any], buffers: Buffers, limits: MediaLimits) -> None:
        self._tree, self._buffers, self._limits = tree, buffers, limits
        version = tree.get("asset", {}).get("version") if isinstance(tree.get("asset"), dict) else None
        if not isinstance(version, str) or version.split(".")[0] != "2":
            raise DecodeError(f"is glTF of version {str(version)[:20]}; only version 2 is read. Save it as glTF 2.0.")
        required = [str(name) for name in rows(tree, "extensionsRequired")]
        if unknown := sorted(name for name in required if not name.startswith((*_HARMLESS, _UNDERSTOOD))):
            raise DecodeError(
                f"needs glTF extensions that are not read: {', '.join(unknown)[:200]}. Save it without, uncompressed."
            )

    def geometry(self) -> Geometry:
        """Give all triangles, each instance of a mesh in its place; counted before any is read."""
        places = list(self._places())
        meshes = {at: list(self._primitives(at)) for at in dict.fromkeys(at for at, _ in places)}
        check_faces(sum(primitive.faces for at, _ in places for primitive in meshes[at]), self._limits)
        read = {at: [self._triangles(primitive) for primitive in parts if primitive.faces] for at, parts in meshes.items()}
        vertices, faces, done = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0
        for at, matrix in places:
            turned = np.linalg.det(matrix[:3, :3]) < 0  # a mirror image winds the other way round
            for points, corners in read[at]:
                vertices.append(points @ matrix[:3, :3].T + matrix[:3, 3])
                faces.append((corners[:, ::-1] if turned else corners) + done)
                done += len(points)
        return np.concatenate(vertices), np.concatenate(faces)

    def _places(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Each use of a mesh, and the 4 x 4 matrix that puts it into the scene."""
        nodes = rows(self._tree, "nodes")
        if not nodes:
            yield from ((at, np.eye(4)) for at in range(len(rows(self._tree, "meshes"))))
            return
        if rows(self._tree, "scenes"):
            roots = rows(item(self._tree, "scenes", self._tree.get("scene", 0)), "nodes")
        else:
            inner = {child for node in nodes if isinstance(node, dict) for child in map(str, rows(node, "children"))}
            roots = [at for at in range(len(nodes)) if str(at) not in inner]
        seen = set[int]()
        waiting: list[tuple[Any, NDArray[np.float64]]] = [(root, np.eye(4)) for root in reversed(roots)]
        while waiting:
            at, outer = waiting.pop()
            node = item(self._tree, "nodes", at)
            if at in seen:
                raise DecodeError(f"is no valid glTF: node {at} has two parents, or is its own ancestor.")
            seen.add(at)
            matrix = outer @ _matrix(node) if _PLACED & node.keys() else outer
            if "mesh" in node:
                yield integer(node, "mesh"), matrix
            waiting.extend((child, matrix) for child in reversed(rows(node, "children")))

    def _primitives(self, at: int) -> Iterator[_Primitive]:
        """Primitives of a mesh that are of triangles; lines and points are passed over."""
        for part in rows(item(self._tree, "meshes", at), "primitives"):
            attributes = part.get("attributes") if isinstance(part, dict) else None
            if not isinstance(attributes, dict):
                raise DecodeError(f"is no valid glTF: mesh {at} has a primitive without attributes.")
            mode = integer(part, "mode", _TRIANGLES)
            if mode not in (_TRIANGLES, _STRIP, _FAN) or "POSITION" not in attributes:
                continue
            counted = part.get("indices", attributes["POSITION"])
            corners = integer(item(self._tree, "accessors", counted), "count")
            yield _Primitive(attributes["POSITION"], part.get("indices"), mode, corners)

    def _triangles(self, primitive: _Primitive) -> Geometry:
        """Vertices that are used, and triangles into them."""
        points = self._buffers.accessor(primitive.positions, _POSITION_TYPES, "VEC3")
        if primitive.indices is None:
            corners = np.arange(len(points))
        else:
            corners = self._buffers.accessor(primitive.indices, _INDEX_TYPES, "SCALAR")[:, 0].astype(np.int64)
        if len(corners) and corners.max() >= len(points):
            raise DecodeError(f"has faces that point past its {len(points):,} vertices.")
        number = np.arange(primitive.faces)
        if primitive.mode == _TRIANGLES:
            faces = corners[: 3 * primitive.faces].reshape(-1, 3)
        elif primitive.mode == _STRIP:  # every second triangle winds the other way round
            faces = corners[np.stack([number, number + 1 + number % 2, number + 2 - number % 2], axis=1)]
        else:
            faces = corners[np.stack([number + 1, number + 2, 0 * number], axis=1)]
        used, compact = np.unique(faces, return_inverse=True)  # one big accessor may serve thousands of small parts
        return points[used].astype(np.float64), compact.reshape(-1, 3)


def _matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    """The 4 x 4 matrix of a node, out of its own or out of translation, rotation (x, y, z, w) and scale."""
    if "matrix" in node:
        by_column = _floats(node, "matrix", [0] * 16)
        return np.reshape(by_column, (4, 4), order="F")
    x, y, z, w = _floats(node, "rotation", [0, 0, 0, 1])
    norm = x * x + y * y + z * z + w * w
    if not norm > 0:
        raise DecodeError("is no valid glTF: a node is turned by a quaternion of zeros.")
    turn = np.array(
        [
            [norm - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), norm - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), norm - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn / norm * _floats(node, "scale", [1, 1, 1])
    matrix[:3, 3] = _floats(node, "translation", [0, 0, 0])
    return matrix


def _floats(node: dict[str, Any], key: str, default: list[float]) -> NDArray[np.float64]:
    values = node.get(key, default)
    right = isinstance(values, list) and len(values) == len(default) and all(isinstance(x, int | float) for x in values)
    if not right:
        raise DecodeError(f"is no valid glTF: the {key} of a node is not {len(default)} numbers.")
    return np.array(values, np.float64)
