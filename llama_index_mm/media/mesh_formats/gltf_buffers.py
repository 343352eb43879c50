"""Numbers out of the buffers of a glTF: accessors, buffer views, data URIs and files beside it."""

import base64
import binascii
import json
import os
import re
import stat
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.limits import MediaLimits

__all__ = ["Buffers", "integer", "item", "parse", "rows"]

_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_BLANK = 65_536  # items of an accessor that is zero where nothing else is said
_DATA = re.compile(r"data:[^,]{0,200};base64,")


def parse(text: bytes, limits: MediaLimits) -> dict[str, Any]:
    """Parse the JSON of a glTF.

    Raises:
        DecodeError: it is no JSON object, is nested too deep, or is too long without its data URIs.
    """
    size = len(text) - sum(len(found) for found in re.findall(rb'"data:[^"]*"', text))
    if size > limits.characters:
        raise DecodeError(
            f"has a JSON part of {size:,} bytes; at most {limits.characters:,} are taken (MediaLimits.characters)."
        )
    try:
        tree = json.loads(text.removeprefix(b"\xef\xbb\xbf").decode(), parse_constant=_no_number)
    except RecursionError:
        raise DecodeError("has a JSON part that is nested too deep.") from None
    except ValueError as error:
        raise DecodeError(f"has a JSON part that can't be read: {str(error)[:200]}. Is it complete?") from None
    if not isinstance(tree, dict):
        raise DecodeError("is no glTF: its JSON part is no object.")
    return tree


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def rows(tree: dict[str, Any], key: str) -> list[Any]:
    """List under a key; empty where there is none."""
    found = tree.get(key, [])
    if not isinstance(found, list):
        raise DecodeError(f"is no valid glTF: {key!r} is no list.")
    return found


def item(tree: dict[str, Any], key: str, at: object) -> dict[str, Any]:
    """Object ``at`` of the list under a key.

    Raises:
        DecodeError: there is none.
    """
    found = rows(tree, key)
    if type(at) is not int or not 0 <= at < len(found) or not isinstance(found[at], dict):
        raise DecodeError(f"is no valid glTF: it points to {str(at)[:20]} of its {len(found):,} {key}.")
    return found[at]  # type: ignore[no-any-return]


def integer(part: dict[str, Any], key: str, default: int | None = None) -> int:
    """Give a count or an offset.

    Raises:
        DecodeError: it is missing or no whole number from 0 to 2**53.
    """
    value = part.get(key, default)
    if type(value) is not int or not 0 <= value < 2**53:
        raise DecodeError(f"is no valid glTF: {key!r} is {str(value)[:40]}, not a whole number from 0.")
    return value


class Buffers:
    """Buffers of one glTF, each read when something points into it.

    Files are opened only in the folder of the glTF and below, links followed.
    """

    def __init__(self, tree: dict[str, Any], binary: bytes | None, path: Path, limits: MediaLimits) -> None:
        self._tree, self._binary, self._limits = tree, binary, limits
        self._folder = path.parent.resolve()
        self._read: dict[int, bytes] = {}

    def accessor(self, at: object, kinds: tuple[int, ...], shape: str) -> NDArray[Any]:
        """Read an accessor: ``(n, components)``, scaled to [-1, 1] or [0, 1] where it is normalized.

        Raises:
            DecodeError: it is of another type, or goes past its buffer.
        """
        part = item(self._tree, "accessors", at)
        kind, count, of = part.get("componentType"), integer(part, "count"), part.get("type")
        if kind not in kinds or of != shape:
            raise DecodeError(f"is no valid glTF: accessor {at} holds {str(of)[:20]} of type {str(kind)[:20]}.")
        dtype = np.dtype(_TYPES[kind])
        width = _COMPONENTS[shape]
        if "bufferView" in part:
            values = self._values(part["bufferView"], integer(part, "byteOffset", 0), count, dtype, width, f"accessor {at}")
        elif count <= _BLANK and "sparse" in part:
            values = np.zeros((count, width), dtype)
        else:
            raise DecodeError(f"has {count:,} items in accessor {at}, but no data for them. Is it compressed? Save it plainly.")
        if "sparse" in part:
            values = self._changed(values, part["sparse"], at)
        if part.get("normalized") is True and dtype.kind in "iu":
            return np.maximum(values / np.iinfo(dtype).max, -1.0)
        return values

    def _changed(self, values: NDArray[Any], sparse: object, at: object) -> NDArray[Any]:
        """Lay the exceptions of a sparse accessor over its values."""
        if not isinstance(sparse, dict) or not all(isinstance(sparse.get(key), dict) for key in ("indices", "values")):
            raise DecodeError(f"is no valid glTF: the sparse part of accessor {at} has no indices and values.")
        count, indices, new = integer(sparse, "count"), sparse["indices"], sparse["values"]
        if (kind := indices.get("componentType")) not in (5121, 5123, 5125):
            raise DecodeError(f"is no valid glTF: sparse indices of type {str(kind)[:20]}.")
        name, start = f"the sparse part of accessor {at}", integer(indices, "byteOffset", 0)
        places = self._values(indices.get("bufferView"), start, count, np.dtype(_TYPES[kind]), 1, name)[:, 0]
        if count and places.max() >= len(values):
            raise DecodeError(f"is no valid glTF: {name} points to {places.max():,} of {len(values):,} items.")
        start = integer(new, "byteOffset", 0)
        values = values.copy()
        values[places] = self._values(new.get("bufferView"), start, count, values.dtype, values.shape[1], name)
        return values

    def _values(self, view_at: object, start: int, count: int, dtype: np.dtype[Any], width: int, name: str) -> NDArray[Any]:
        view = item(self._tree, "bufferViews", view_at)
        offset, length = integer(view, "byteOffset", 0), integer(view, "byteLength")
        row = dtype.itemsize * width
        stride = integer(view, "byteStride", row) or row
        if stride < row or (count and start + (count - 1) * stride + row > length):
            raise DecodeError(f"breaks off: {name} states {count:,} items, more than its {length:,} bytes hold.")
        data = self._bytes(integer(view, "buffer"))
        if offset + length > len(data):
            raise DecodeError(
                f"breaks off: buffer view {view_at} ends at byte {offset + length:,} of a buffer of {len(data):,}."
            )
        begin = offset + start if count else 0
        values: NDArray[Any] = np.ndarray((count, width), dtype, data, begin, (stride, dtype.itemsize))
        return values

    def _bytes(self, at: int) -> bytes:
        buffer = item(self._tree, "buffers", at)
        if at not in self._read:
            self._read[at] = self._load(at, buffer, integer(buffer, "byteLength"))
        return self._read[at]

    def _load(self, at: int, buffer: dict[str, Any], length: int) -> bytes:
        uri = buffer.get("uri")
        if uri is None:
            if at or self._binary is None:
                raise DecodeError(f"has no data for buffer {at}: neither a URI nor a binary chunk. Is it complete?")
            data = self._binary
        elif not isinstance(uri, str):
            raise DecodeError(f"is no valid glTF: the URI of buffer {at} is no text.")
        elif uri[:5].lower() == "data:":
            data = self._decode(uri, at)
        else:
            data = self._beside(uri, length)
        if len(data) < length:
            raise DecodeError(f"breaks off: buffer {at} states {length:,} bytes, but holds {len(data):,}. Is it complete?")
        return data

    def _decode(self, uri: str, at: int) -> bytes:
        head = _DATA.match(uri)
        if not head:
            raise DecodeError(f"has a data URI in buffer {at} that is not base64.")
        try:
            return base64.b64decode(uri[head.end() :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise DecodeError(f"has a data URI in buffer {at} that can't be decoded: {error}. Is it complete?") from None

    def _beside(self, uri: str, length: int) -> bytes:
        """Bytes of a file in the folder of the glTF."""
        name = unquote(uri, errors="strict")
        shown = repr(name[:100])
        if re.match(r"[A-Za-z][\w+.-]*:|[/\\]", name) or "\\" in name or "\0" in name:
            raise DecodeError(f"takes its buffer from {shown}; only files in its own folder are opened.")
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            raise DecodeError(f"takes its buffer from {shown}, outside of its folder; only files in it are opened.")
        left = self._limits.file_bytes - sum(map(len, self._read.values()))
        if length > left:
            raise DecodeError(f"takes {length:,} bytes from {shown}; {left:,} may still be read (MediaLimits.file_bytes).")
        try:  # neither links that came since, nor pipes, on which opening would wait
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            with open(handle, "rb") as file:  # noqa: PTH123 - a handle, not a path
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise DecodeError(f"takes its buffer from {shown}, which is no regular file.")
                return file.read(length)
        except OSError as error:
            raise DecodeError(f"takes its buffer from {shown}, which can't be read: {error.strerror}.") from None
