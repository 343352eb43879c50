"""What goes into a store and what comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from llama_index.core.schema import BaseNode

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import SpaceError

__all__ = ["Hit", "Record", "Source", "StoredSpace", "scale"]

_UNIT = 1e-6  # a vector whose length is this near to 1 is left as it is


@dataclass(frozen=True)
class Record:
    """A node and its vector in each space in which it lives."""

    node: BaseNode
    vectors: Mapping[str, Vectors]


@dataclass(frozen=True)
class Hit:
    """One result of a search in one space.

    Attributes:
        seq: the node's number in this store.
        similarity: inner product with the query; in [-1, 1] where vectors are of unit length.
    """

    seq: int
    similarity: float


@dataclass(frozen=True)
class Source:
    """What became of a file.

    Attributes:
        path: the file.
        digest: SHA-256 of its content, empty where it could not be read.
        status: ``"indexed"`` or ``"failed"``.
        reason: why it failed.
        document_id: of the document made of it.
    """

    path: str
    digest: str
    status: str
    reason: str = ""
    document_id: str | None = None


class StoredSpace(NamedTuple):
    """What a store knows of an embedding space.

    Attributes:
        dimension: length of a vector.
        fingerprint: of its encoders; vectors and queries of another one are refused.
        normalize: whether vectors and queries are scaled to unit length.
    """

    dimension: int
    fingerprint: str
    normalize: bool = True


def scale(vectors: Sequence[Vectors], whose: Sequence[str], name: str, spaces: Mapping[str, StoredSpace]) -> Vectors:
    """Vectors as float32, of unit length where the space wants that.

    Args:
        vectors: ``(d,)`` each.
        whose: ids of their nodes, for errors; empty for a query.
        name: of the space.
        spaces: those that there are.

    Returns:
        ``(n, d)``.

    Raises:
        SpaceError: the space is unknown, or a vector is of another shape, not finite or of length 0.
    """
    if name not in spaces:
        raise SpaceError(f"Space {name!r} is not declared in this store; it has {sorted(spaces)}.")
    expected = (spaces[name].dimension,)
    for vector, of in zip(vectors, whose, strict=True):
        if np.shape(vector) != expected:
            raise SpaceError(f"{_told(of)}: expected a vector of shape {expected} for space {name!r}, got {np.shape(vector)}.")
    stacked = np.array(vectors, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", stacked, stacked, dtype=np.float64))
    for at in np.flatnonzero(~((lengths > 0) & np.isfinite(lengths))):
        length = f"{lengths[at]:g}"
        raise SpaceError(
            f"{_told(whose[int(at)])}: the vector for space {name!r} has length {length}; expected a finite one above 0."
        )
    if spaces[name].normalize:
        off = np.abs(lengths - 1) > _UNIT
        stacked[off] = (stacked[off] / lengths[off, None]).astype(np.float32)
    return stacked


def _told(node_id: str) -> str:
    return f"Node {node_id}" if node_id else "Query"
