"""What a query can be asked with besides words: files, bytes, pixels, samples, geometry, and nodes."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from llama_index.core.schema import BaseNode, NodeWithScore
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm.embeddings.payloads import mesh_suffix
from llama_index_mm.errors import QueryError
from llama_index_mm.media import LIMITS, Mesh, Modality, Picture, Waveform
from llama_index_mm.nodes import modality_of_node, retype

__all__ = ["Part", "PartSource", "brief", "check_part", "listed", "same"]

PartSource = (
    Path
    | str
    | bytes
    | bytearray
    | IO[bytes]
    | Image.Image
    | NDArray[Any]
    | Picture
    | Waveform
    | Mesh
    | BaseNode
    | NodeWithScore
)
"""What one part can be given as."""

_NOUNS: Mapping[str, str] = {"image": "a picture", "audio": "a recording", "mesh": "a mesh"}
_DECODED: Mapping[str, tuple[type[Any], ...]] = {"image": (Picture, Image.Image), "audio": (Waveform,), "mesh": (Mesh,)}
_OTHERS: Mapping[str, str] = {
    "image": "a PIL image, an array of (height, width, 3) or a Picture",
    "audio": "a Waveform",
    "mesh": "a Mesh(vertices, faces)",
}


@dataclass(frozen=True)
class Part:
    """One part of a query.

    Attributes:
        kind: its modality.
        name: the modality, with a number from the second on: ``"image"``, ``"image 2"``.
        value: what it is asked with; for text a tuple of texts, whose mean is asked.
        weight: of its channels.
        speech_weight: of the channels of the words heard in it; None for `weight`.
        negative: whether it is what is not wanted.
    """

    kind: Modality
    name: str
    value: Any
    weight: float = 1.0
    speech_weight: float | None = None
    negative: bool = False


def listed(given: Any) -> list[Any]:
    """One part or several as a list; None, and empty texts, are none."""
    several = list(given) if isinstance(given, list | tuple) else [given]
    return [one for one in several if one is not None and not (isinstance(one, str) and not one)]


def check_part(kind: Modality, given: Any) -> Any:
    """Check what is given for one part.

    Files that are open are read, so that a query can be asked again, copied and pickled; nodes lose their score and get their
    media class; all else is given back as it is.

    Raises:
        QueryError: it is nothing that such a part can be asked with.
    """
    if isinstance(given, NodeWithScore | BaseNode):
        return _node(kind, given)
    if isinstance(given, str):
        scheme = given.partition(":")[0]
        if "://" in given or scheme.lower() == "data":
            raise QueryError(
                f"Expected a file for {kind}, got the address {_cut(given)!r}. Queries are not fetched for: fetch it "
                "(llama_index_mm.readers.fetch.fetch(url).data), and give the bytes."
            )
    if isinstance(given, Image.Image):
        _load(given)
    if isinstance(given, (str, Path, *_DECODED[kind])):
        return given
    if isinstance(given, bytes | bytearray | memoryview):
        return _bytes(kind, bytes(given))
    if callable(read := getattr(given, "read", None)):
        data = read(LIMITS.file_bytes + 1)
        if not isinstance(data, bytes):
            raise QueryError(f"Expected a file opened for bytes for {kind}, it gave {type(data).__name__}. Open it with 'rb'.")
        return _bytes(kind, data)
    if isinstance(given, np.ndarray):
        return _array(kind, given)
    raise QueryError(
        f"Expected {_NOUNS[kind]} for {kind}, got {type(given).__name__}. Give a path, bytes, {_OTHERS[kind]}, or a node."
    )


def _node(kind: Modality, given: NodeWithScore | BaseNode) -> BaseNode:
    node = retype(given.node if isinstance(given, NodeWithScore) else given)
    carried = modality_of_node(node)
    if carried != kind:
        raise QueryError(
            f"Expected a node with {_NOUNS[kind]} for {kind}, got {node.node_id}, which carries {carried}. "
            "MediaQuery.like(node) puts every node where it belongs."
        )
    return node


def _load(image: Image.Image) -> None:
    """Have the pixels read while the file is open that they are in."""
    try:
        image.load()
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        raise QueryError(
            f"Expected a PIL image that can be read, got {type(image).__name__}: {error}. Is its file closed, or broken?"
        ) from error


def _bytes(kind: Modality, data: bytes) -> bytes:
    if not data:
        raise QueryError(f"Expected {_NOUNS[kind]} for {kind}, got 0 bytes. A file that was read before has to be rewound.")
    if len(data) > LIMITS.file_bytes:
        raise QueryError(f"Expected at most {LIMITS.file_bytes:,} bytes for {kind}, got more. Give the path of the file.")
    if kind == "mesh" and mesh_suffix(data) is None:
        raise QueryError(
            f"Expected GLB, PLY, OFF, STL or OBJ for mesh, got {len(data):,} bytes that look like none of them. "
            "Give the path of the file, or a Mesh(vertices, faces)."
        )
    return data


def _array(kind: Modality, array: NDArray[Any]) -> NDArray[Any]:
    if kind == "audio":
        raise QueryError(f"Expected a Waveform for audio, got an array of {array.shape}. Give Waveform(samples, rate).")
    if kind == "mesh":
        raise QueryError(f"Expected a Mesh for mesh, got an array of {array.shape}. Give Mesh(vertices, faces).")
    wanted = "(height, width), or (height, width, c) with c of 1, 3 or 4, uint8 or floats in [0, 1]"
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise QueryError(f"Expected an array of {wanted}, for image, got {array.shape}. Put the colours last.")
    if not (array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)):
        raise QueryError(f"Expected an array of {wanted}, for image, got {array.dtype}. Convert it to uint8.")
    if array.dtype != np.uint8 and not (array.min() >= 0 and array.max() <= 1):
        raise QueryError(
            f"Expected an array of {wanted}, for image, got {array.dtype} from {array.min():g} to {array.max():g}. Scale it."
        )
    return array


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "..."


def same(one: Any, other: Any) -> bool:
    """Whether two fields of queries are equal; arrays and what holds them too."""
    if one is other:
        return True
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return type(one) is type(other) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    return bool(one == other)


def brief(value: Any) -> str:
    """A field of a query in a few words: no pixels, no samples, no bytes."""
    if isinstance(value, list | tuple):
        inside = ", ".join(map(brief, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    for words in _words(value):
        return f"<{words}>"
    return repr(value)


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, bytes):
        yield f"{len(value):,} bytes"
    if isinstance(value, np.ndarray):
        yield f"array {value.shape} {value.dtype}"
    if isinstance(value, Picture):
        value = value.image
    if isinstance(value, Image.Image):
        yield f"picture {value.width} x {value.height}"
    if isinstance(value, Waveform):
        yield f"sound of {value.seconds:g} s"
    if isinstance(value, Mesh):
        yield f"mesh of {len(value.faces):,} faces"
    if isinstance(value, BaseNode):
        yield f"{type(value).__name__} {value.node_id}"
