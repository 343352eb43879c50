"""Polygons and strips to triangles, and the numbers of text formats."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.limits import MediaLimits

__all__ = [
    "Geometry",
    "Reader",
    "check_faces",
    "check_sizes",
    "first_three",
    "numbers",
    "triangulate",
    "unix_lines",
    "whole",
    "words_of_lines",
]

# Vertices (v, 3) of some float type, and triangles (f, 3) int64 that point into them.
Geometry = tuple[NDArray[Any], NDArray[np.int64]]
Reader = Callable[[bytes, Path, MediaLimits], Geometry]

_CORNERS = 65_536  # of one polygon
_BLOCK = 1 << 18  # corners that are cut at once: a quad takes about a kilobyte meanwhile
_CLIPPED = 50_000  # corners of one block whose polygons are cut by ears, which is slow; the rest become fans
_EARS = 256  # corners of one polygon that is cut by ears


def check_faces(count: int, limits: MediaLimits) -> None:
    """Refuse more triangles than the limit.

    Raises:
        DecodeError: there are more than ``limits.faces``.
    """
    if count > limits.faces:
        raise DecodeError(f"has {count:,} faces; at most {limits.faces:,} are taken (MediaLimits.faces). Decimate it.")


def check_sizes(sizes: NDArray[np.int64], limits: MediaLimits) -> None:
    """Refuse polygons of too many corners, and of more triangles than the limit in sum.

    Raises:
        DecodeError: one has more than 65,536 corners, or they give more than ``limits.faces``.
    """
    if len(sizes) and sizes.max() > _CORNERS:
        raise DecodeError(f"has a face of {sizes.max():,} corners; at most {_CORNERS:,} are taken. Triangulate it.")
    check_faces(int(np.maximum(sizes - 2, 0).sum()), limits)


def triangulate(
    vertices: NDArray[Any], corners: NDArray[np.int64], sizes: NDArray[np.int64], limits: MediaLimits
) -> NDArray[np.int64]:
    """Cut polygons into triangles that wind as they do; hollow ones (concave) keep their outline.

    Args:
        vertices: ``(v, 3)``.
        corners: ``(c,)`` indices into the vertices, one polygon after the other.
        sizes: ``(p,)`` corners of each polygon, which sum to ``c``; those of less than three are dropped.
        limits: on faces.

    Returns:
        ``(f, 3)`` int64 indices into the vertices; a polygon of n corners gives n - 2.

    Raises:
        DecodeError: beyond the limit, a polygon has more than 65,536 corners, or a corner is no vertex.
    """
    check_sizes(sizes, limits)
    if len(corners) and (corners.min() < 0 or corners.max() >= len(vertices)):
        raise DecodeError(f"has faces that point past its {len(vertices):,} vertices.")
    if len(sizes) and sizes.min() < 3:
        corners, sizes = corners[np.repeat(sizes >= 3, sizes)], sizes[sizes >= 3]
    simple = np.repeat(sizes == 3, sizes)
    if simple.all():
        return corners.reshape(-1, 3)
    fans = np.repeat(sizes == 3, np.maximum(sizes - 2, 0))
    faces = np.empty((len(fans), 3), np.int64)
    faces[fans] = corners[simple].reshape(-1, 3)
    corners, sizes = corners[~simple], sizes[sizes > 3]
    ends = np.cumsum(sizes)
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], _BLOCK)).tolist()
    blocks = [
        _cut(vertices, corners[ends[begin] - sizes[begin] : ends[end - 1]], sizes[begin:end])
        for begin, end in zip(cuts, [*cuts[1:], len(sizes)], strict=True)
        if begin < end
    ]
    faces[~fans] = np.concatenate(blocks)
    return faces


def _cut(vertices: NDArray[Any], corners: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fans of polygons of four and more corners; each begins at its most hollow corner, if it has one."""
    starts = np.cumsum(sizes) - sizes
    within = np.arange(len(corners)) - np.repeat(starts, sizes)
    after = np.where(within + 1 == np.repeat(sizes, sizes), np.repeat(starts, sizes), np.arange(len(corners)) + 1)
    points = vertices[corners].astype(np.float64)
    sides = points[after] - points
    arms = points - np.repeat(points[starts], sizes, axis=0)
    areas = np.add.reduceat(np.cross(arms, arms[after]), starts)  # twice the area, along the normal
    turns = np.empty_like(points)
    turns[after] = np.cross(sides, sides[after])
    bend = (turns * np.repeat(areas, sizes, axis=0)).sum(1)
    slack = -1e-9 * (areas**2).sum(1)  # a straight angle is no hollow
    hollow = np.minimum.reduceat(bend, starts) < slack
    lowest = np.flatnonzero(bend == np.repeat(np.minimum.reduceat(bend, starts), sizes))
    shift = np.zeros(len(sizes), np.int64)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    shift[owner[lowest]] = within[lowest]
    shift[~hollow] = 0
    turned = corners[np.repeat(starts, sizes) + (within + np.repeat(shift, sizes)) % np.repeat(sizes, sizes)]

    counts = sizes - 2
    step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(starts, counts)
    faces = np.stack([turned[first], turned[first + step + 1], turned[first + step + 2]], axis=1)
    if hollow.any():
        _clip(vertices, turned, starts, sizes, areas, np.flatnonzero(hollow & (sizes > 4)), faces)
    return faces


def _clip(
    vertices: NDArray[Any],
    corners: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    areas: NDArray[np.float64],
    hollow: NDArray[np.int64],
    faces: NDArray[np.int64],
) -> None:
    """Cut hollow polygons, whose fans may overlap, by ears instead, in place."""
    done = 0
    for at in hollow.tolist():
        size = int(sizes[at])
        if size > _EARS or (done := done + size) > _CLIPPED:
            continue
        corner = corners[starts[at] : starts[at] + size]
        drop = int(np.abs(areas[at]).argmax())
        flat = np.delete(vertices[corner].astype(np.float64), drop, axis=1)
        if (areas[at][drop] > 0) == (drop == 1):  # so that it winds against the clock
            flat[:, 0] *= -1
        begin = int(starts[at]) - 2 * at
        faces[begin : begin + size - 2] = corner[_ears(flat)]


def _ears(points: NDArray[np.float64]) -> list[tuple[int, int, int]]:
    """Triangles of a simple polygon ``(n, 2)`` that winds against the clock, by cutting off one ear after the other."""
    left = list(range(len(points)))
    cut = []
    while len(left) > 3:
        ring = points[left]
        for at in range(len(left)):
            a, b, c = ring[at - 1], ring[at], ring[(at + 1) % len(left)]
            if _area(a, b, c[None])[0] <= 0:
                continue
            inside = (_area(a, b, ring) >= 0) & (_area(b, c, ring) >= 0) & (_area(c, a, ring) >= 0)
            apart = (ring != a).any(1) & (ring != b).any(1) & (ring != c).any(1)
            if not (inside & apart).any():
                break
        else:
            at = 1  # it crosses itself: any cut is as good
        cut.append((left[at - 1], left[at], left[(at + 1) % len(left)]))
        del left[at]
    return [*cut, (left[0], left[1], left[2])]


def _area(a: NDArray[np.float64], b: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the signed area of the triangles (a, b, point)."""
    area: NDArray[np.float64] = (b[0] - a[0]) * (points[:, 1] - a[1]) - (b[1] - a[1]) * (points[:, 0] - a[0])
    return area


def unix_lines(data: bytes) -> bytes:
    """Text whose lines all end in a line feed."""
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def numbers(text: bytes, dtype: type[np.float64] | type[np.int64] = np.float64) -> NDArray[Any]:
    """Numbers between white space.

    Raises:
        DecodeError: something is no number; of NumPy before 2.3 only where what comes after it is missed.
    """
    try:
        return np.fromstring(text, dtype=dtype, sep=" ")
    except (ValueError, DeprecationWarning):
        raise DecodeError("has something that is no number where numbers belong.") from None


def words_of_lines(text: bytes) -> NDArray[np.int64]:
    """How many words each line has: ``(lines,)``."""
    characters = np.frombuffer(text, np.uint8)
    blank = np.ones(len(characters) + 1, bool)
    np.less_equal(characters, 32, out=blank[1:])
    begins = np.flatnonzero(blank[:-1] & ~blank[1:])
    ends = np.append(np.flatnonzero(characters == 10), len(characters))
    return np.diff(np.searchsorted(begins, ends), prepend=0).astype(np.int64)


def first_three(lines: Sequence[bytes]) -> NDArray[np.float64]:
    """Take the first three numbers of each line: ``(n, 3)``.

    Raises:
        DecodeError: a line has fewer, or something that is no number.
    """
    if not lines:
        return np.zeros((0, 3))
    joined = b"\n".join(lines)
    words = words_of_lines(joined)
    if words.min() < 3:
        raise DecodeError(f"has a vertex of {words.min()} numbers; three are needed. Is it complete?")
    values = numbers(joined)
    if len(values) != words.sum():
        raise DecodeError(f"has something that is no number after {len(values):,} numbers of vertices.")
    if (words == words[0]).all():
        return values.reshape(len(words), -1)[:, :3]
    found: NDArray[np.float64] = values[(np.cumsum(words) - words)[:, None] + np.arange(3)]
    return found


def whole(values: NDArray[Any]) -> NDArray[np.int64]:
    """Indices that a text format gives as numbers.

    Raises:
        DecodeError: one of them is no whole number.
    """
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    if not (np.abs(values) < 2**53).all() or (values != np.floor(values)).any():
        raise DecodeError("has faces whose corners are no whole numbers.")
    return values.astype(np.int64)
