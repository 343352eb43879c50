"""STL, of text and binary."""

import re
from pathlib import Path

import numpy as np

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.limits import MediaLimits
from llama_index_mm.media.mesh_formats.polygons import Geometry, check_faces, first_three, unix_lines

__all__ = ["read_stl"]

_HEAD = 84  # bytes: 80 of anything, then the number of facets
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_NAME = re.compile(rb"solid[^\n]*")
_VERTEX = re.compile(rb"vertex([^\n]*)")


def read_stl(data: bytes, path: Path, limits: MediaLimits) -> Geometry:
    """Read STL; three vertices a facet, the solids of a text as one."""
    stated = int.from_bytes(data[80:_HEAD], "little") if len(data) >= _HEAD else 0
    needed = _HEAD + stated * _FACET.itemsize
    # Binary files may begin with "solid" too: the size tells.
    if len(data) != needed and data[:512].lstrip()[:5].lower() == b"solid" and b"facet" in data[:4096].lower():
        return _text(unix_lines(data), limits)
    if len(data) < _HEAD:
        raise DecodeError(f"is no STL: it neither begins with 'solid' nor has the {_HEAD} bytes of a binary header.")
    check_faces(stated, limits)
    if len(data) < needed:
        raise DecodeError(
            f"breaks off: it states {stated:,} faces, which take {needed:,} bytes, but has {len(data):,}. Is it complete?"
        )
    facets = np.frombuffer(data, _FACET, count=stated, offset=_HEAD)
    return facets["corners"].reshape(-1, 3), np.arange(3 * stated).reshape(-1, 3)


def _text(data: bytes, limits: MediaLimits) -> Geometry:
    plain = _NAME.sub(b"solid", data.lower())  # names may hold any word
    closed, ended = plain.count(b"endsolid"), plain.count(b"endfacet")
    solids, begun = plain.count(b"solid") - closed, plain.count(b"facet") - ended
    check_faces(begun, limits)
    vertices = _VERTEX.findall(plain)
    if begun != ended or closed < solids:
        raise DecodeError(
            f"breaks off: it begins {begun:,} facets and {solids:,} solids, and ends {ended:,} and {closed:,}. Is it complete?"
        )
    if len(vertices) != 3 * begun:
        raise DecodeError(f"has {len(vertices):,} vertices for {begun:,} facets; each facet has three.")
    return first_three(vertices), np.arange(len(vertices)).reshape(-1, 3)
