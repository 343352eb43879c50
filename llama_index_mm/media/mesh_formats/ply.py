"""PLY, of text and binary in both byte orders: vertices and faces of any number of corners."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.limits import MediaLimits
from llama_index_mm.media.mesh_formats.polygons import (
    Geometry,
    check_faces,
    check_sizes,
    numbers,
    triangulate,
    unix_lines,
    whole,
)

__all__ = ["read_ply"]

_HEAD = 1 << 16  # bytes in which the header has to end
_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}


@dataclass(frozen=True)
class _Property:
    name: str
    type: np.dtype[Any]
    count: np.dtype[Any] | None = None  # of a list: what its number of items is written as

    @property
    def least(self) -> int:
        """Bytes it takes at least."""
        return int((self.count or self.type).itemsize)


@dataclass(frozen=True)
class _Element:
    name: str
    rows: int
    properties: list[_Property]

    @property
    def least(self) -> int:
        """Bytes that a row takes at least."""
        return sum(part.least for part in self.properties)


def read_ply(data: bytes, path: Path, limits: MediaLimits) -> Geometry:
    """Read PLY; elements other than vertices and faces are passed over."""
    end = re.search(rb"\bend_header[ \t]*(?:\r\n|\r|\n)", data[:_HEAD])
    if not re.match(rb"ply\s", data) or not end:
        raise DecodeError("is no PLY: it needs a header that begins with 'ply' and ends with 'end_header'.")
    order, elements = _header(unix_lines(data[: end.start()]).decode("latin1"))
    for element in elements:
        if element.name == "face":
            check_faces(element.rows, limits)
    body: bytes | NDArray[Any] = memoryview(data)[end.end() :]  # type: ignore[assignment]
    if order == "=":  # as if it were binary, with every number of 64 bits
        body = numbers(bytes(body)).view(np.uint8)
    raw = np.frombuffer(body, np.uint8)
    vertices: NDArray[Any] = np.zeros((0, 3))
    corners, sizes = np.zeros(0, np.int64), np.zeros(0, np.int64)
    at = 0
    for element in elements:
        if element.rows * element.least > len(raw) - at:
            raise _breaks_off(element)
        if element.name == "vertex":
            vertices, at = _vertices(raw, at, element)
        elif element.name == "face":
            starts, sizes, kind, at = _lists(raw, at, element, "vertex_index", "vertex_indices")
            check_sizes(sizes, limits)
            corners = whole(_gather(raw, starts, sizes, kind))
        else:
            at = _lists(raw, at, element)[3]
    return vertices, triangulate(vertices, corners, sizes, limits)


def _breaks_off(element: _Element) -> DecodeError:
    things = {"vertex": "vertices", "face": "faces"}.get(element.name, f"rows of {element.name!r}")
    return DecodeError(f"breaks off: it states {element.rows:,} {things}, but holds fewer. Is it complete?")


def _header(text: str) -> tuple[str, list[_Element]]:
    """Order of bytes, and the elements in the order of the file."""
    order, elements = "", list[_Element]()
    for line in text.split("\n")[1:]:
        words = line.split()
        match words:
            case [] | ["comment" | "obj_info", *_]:
                continue
            case ["format", kind, _] if kind in _ORDERS:
                order = _ORDERS[kind]
            case ["element", name, rows] if re.fullmatch(r"\d{1,18}", rows) and order:
                elements.append(_Element(name, int(rows), []))
            case ["property", "list", count, kind, name] if elements and count in _TYPES and kind in _TYPES:
                elements[-1].properties.append(_Property(name, _type(order, kind), _type(order, count)))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append(_Property(name, _type(order, kind)))
            case _:
                raise DecodeError(f"has a PLY header with a line that makes no sense: {line[:80]!r}.")
    return order, elements


def _type(order: str, kind: str) -> np.dtype[Any]:
    return np.dtype("f8" if order == "=" else order + _TYPES[kind])


def _column(raw: NDArray[np.uint8], at: int, rows: int, stride: int, kind: np.dtype[Any], items: int = 1) -> NDArray[Any]:
    """View ``(rows, items)`` numbers, of which each row begins ``stride`` bytes after the last; NumPy checks the bounds."""
    view: NDArray[Any] = np.ndarray((rows, items), kind, raw.data, at, (stride, kind.itemsize))
    return view


def _vertices(raw: NDArray[np.uint8], at: int, element: _Element) -> tuple[NDArray[Any], int]:
    places = dict[str, tuple[int, np.dtype[Any]]]()
    stride = 0
    for part in element.properties:
        if part.count is not None:
            raise DecodeError("has vertices with lists in them, which can't be read; save it without.")
        places.setdefault(part.name, (stride, part.type))
        stride += part.type.itemsize
    if not places.keys() >= {"x", "y", "z"}:
        raise DecodeError(f"has vertices without x, y and z, but with {', '.join(places) or 'nothing'}.")
    axes = [_column(raw, at + places[axis][0], element.rows, stride, places[axis][1]) for axis in "xyz"]
    return np.concatenate(axes, axis=1).astype(np.float64), at + element.rows * stride


def _lists(
    raw: NDArray[np.uint8], at: int, element: _Element, *wanted: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], np.dtype[Any], int]:
    """Walk through the rows of an element.

    Returns:
        Where the wanted list begins in each row, how many items it has, their type; and where the element ends.

    Raises:
        DecodeError: the rows go on beyond the file.
    """
    found = [number for number, part in enumerate(element.properties) if part.count is not None and part.name in wanted]
    lists = [part for part in element.properties if part.count is not None]
    none = np.zeros(0, np.int64)
    if wanted and not found and element.rows:
        raise DecodeError(f"has faces without a list {' or '.join(wanted)}.")
    kind = element.properties[found[0]].type if found else np.dtype("u1")
    if not lists:
        return none, none, kind, at + element.rows * element.least
    if len(lists) == 1 and element.rows and (alike := _alike(raw, at, element)):
        start, items, stride = alike
        starts = at + start + stride * np.arange(element.rows)
        return starts, np.full(element.rows, items), kind, at + element.rows * stride
    starts, sizes = np.zeros(element.rows, np.int64), np.zeros(element.rows, np.int64)
    steps = [(number in found[:1], part) for number, part in enumerate(element.properties)]
    view = raw.data
    for row in range(element.rows):
        for chosen, part in steps:
            if part.count is None:
                at += part.type.itemsize
                continue
            if at + part.count.itemsize > len(raw):
                raise _breaks_off(element)
            items = _count(np.frombuffer(view, part.count, 1, at)[0])
            at += part.count.itemsize
            if chosen:
                starts[row], sizes[row] = at, items
            at += items * part.type.itemsize
        if at > len(raw):
            raise _breaks_off(element)
    return starts, sizes, kind, at


def _count(value: Any) -> int:
    """Items of a list."""
    if not 0 <= value < 2**32 or value != int(value):
        raise DecodeError(f"has a list of {value} items.")
    return int(value)


def _alike(raw: NDArray[np.uint8], at: int, element: _Element) -> tuple[int, int, int] | None:
    """Begin of the one list within a row, its items, and bytes of a row, if all rows have as many; else None."""
    place = next(number for number, part in enumerate(element.properties) if part.count is not None)
    part = element.properties[place]
    before = sum(other.least for other in element.properties[:place])
    count = part.count or part.type
    items = _count(np.frombuffer(raw.data, count, 1, at + before)[0])
    stride = element.least + items * part.type.itemsize
    if element.rows * stride > len(raw) - at:
        return None
    same = (_column(raw, at + before, element.rows, stride, count) == items).all()
    return (before + count.itemsize, items, stride) if same else None


def _gather(raw: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64], kind: np.dtype[Any]) -> NDArray[Any]:
    """Items of all lists, one after the other."""
    if not len(starts):
        return np.zeros(0, kind)
    if (sizes == sizes[0]).all():
        stride = int(starts[1] - starts[0]) if len(starts) > 1 else 0
        if (np.diff(starts) == stride).all():
            return _column(raw, int(starts[0]), len(starts), stride, kind, int(sizes[0])).reshape(-1)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    places = np.repeat(starts, sizes) + within * kind.itemsize
    gathered: NDArray[Any] = raw[places[:, None] + np.arange(kind.itemsize)].view(kind).reshape(-1)
    return gathered
