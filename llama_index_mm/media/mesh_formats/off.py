"""OFF, as text: with or without colours, normals and texture coordinates, which are passed over."""

import re
from pathlib import Path

import numpy as np

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.limits import MediaLimits
from llama_index_mm.media.mesh_formats.polygons import (
    Geometry,
    check_faces,
    first_three,
    numbers,
    triangulate,
    unix_lines,
    whole,
    words_of_lines,
)

__all__ = ["read_off"]

# ModelNet, a well-known collection, has files whose counts follow the keyword without a space.
_KEYWORD = re.compile(rb"\s*(?:ST)?C?N?(4?n?)OFF(?![A-Za-z_])[ \t]*(BINARY)?")


def read_off(data: bytes, path: Path, limits: MediaLimits) -> Geometry:
    """Read OFF, COFF, NOFF, STOFF and what they combine to."""
    text = re.sub(rb"#[^\n]*", b"", unix_lines(data))
    if not (keyword := _KEYWORD.match(text)):
        raise DecodeError("is no OFF: it doesn't begin with OFF, COFF, NOFF or STOFF.")
    if keyword[1] or keyword[2]:
        raise DecodeError("is an OFF of four or more dimensions, or binary; save it as plain OFF.")
    lines = [line for line in text[keyword.end() :].split(b"\n") if line and not line.isspace()]
    counts = re.match(rb"\s*(\d{1,18})\s+(\d{1,18})(?:\s|$)", lines[0]) if lines else None
    if not counts:
        raise DecodeError("is an OFF without its numbers of vertices and faces.")
    points, polygons = int(counts[1]), int(counts[2])
    check_faces(polygons, limits)
    held = len(lines) - 1
    if held < points:
        raise DecodeError(f"breaks off: it states {points:,} vertices, but holds {held:,}. Is it complete?")
    vertices = first_three(lines[1 : 1 + points])
    rows = lines[1 + points : 1 + points + polygons]
    if not rows:
        return vertices, np.zeros((0, 3), np.int64)
    joined = b"\n".join(rows)
    words = words_of_lines(joined)
    values = numbers(joined)
    if len(values) != words.sum():
        raise DecodeError(f"has something that is no number after {len(values):,} numbers of faces.")
    starts = np.cumsum(words) - words
    sizes = whole(values[starts])
    complete = int(((sizes >= 0) & (sizes < words)).cumprod().sum())
    if complete < polygons:
        raise DecodeError(f"breaks off: it states {polygons:,} faces, but holds {complete:,}. Is it complete?")
    place = np.arange(len(values)) - np.repeat(starts, words)
    corners = whole(values[(place > 0) & (place <= np.repeat(sizes, words))])
    return vertices, triangulate(vertices, corners, sizes, limits)
