"""What goes into a store and what comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from llama_index.core.schema import BaseNode
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import SpaceError, StoreError

__all__ = ["Hit", "Record", "Source", "StoredSpace", "as_vector", "checked_query", "evenly", "scale", "settled", "vector_bytes"]

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


def vector_bytes(records: Sequence[Record], spaces: Mapping[str, StoredSpace]) -> list[dict[str, bytes]]:
    """The vectors of each record by space, as they are stored.

    Args:
        records: nodes with their vectors.
        spaces: those that there are.

    Raises:
        SpaceError: as `scale`.
        StoreError: an id that comes twice.
    """
    ids = [record.node.node_id for record in records]
    if len(set(ids)) != len(ids):
        twice = sorted({one for one in ids if ids.count(one) > 1})[:3]
        raise StoreError(f"Node ids must not repeat within one call of add; these do: {', '.join(twice)}.")
    vectors: list[dict[str, bytes]] = [{} for _ in records]
    for name in dict.fromkeys(name for record in records for name in record.vectors):
        having = [at for at, record in enumerate(records) if name in record.vectors]
        scaled = scale([records[at].vectors[name] for at in having], [ids[at] for at in having], name, spaces)
        for at, vector in zip(having, scaled, strict=True):
            vectors[at][name] = vector.tobytes()
    return vectors


def checked_query(name: str, known: StoredSpace, query: Vectors, fingerprint: str | None = None) -> Vectors:
    """A query as ``(d,)``, contiguous, scaled where the space wants that.

    Args:
        name: of the space.
        known: of the space.
        query: ``(d,)``.
        fingerprint: of the encoder that made the query; None if that is not known.

    Raises:
        SpaceError: it has another dimension or fingerprint, numbers that are not finite, or length 0.
    """
    if fingerprint is not None and fingerprint != known.fingerprint:
        raise SpaceError(
            f"The query was made with fingerprint {fingerprint}; the vectors of space {name!r} have {known.fingerprint}. "
            "Encode it with the model that the space was made with."
        )
    if query.shape != (known.dimension,):
        raise SpaceError(f"Expected a query of shape ({known.dimension},) for space {name!r}, got {query.shape}.")
    if not np.isfinite(query).all():
        raise SpaceError(f"The query for space {name!r} has numbers that are not finite.")
    scaled: Vectors = scale([query], [""], name, {name: known})[0]
    return np.ascontiguousarray(scaled)


def settled(name: str, known: StoredSpace, wanted: StoredSpace, where: str) -> None:
    """See that a space which is there is the one that is wanted.

    Args:
        name: of the space.
        known: what the store has.
        wanted: of the encoders at hand.
        where: what messages call the store.

    Raises:
        SpaceError: it is another.
    """
    if known[:2] != wanted[:2]:
        raise SpaceError(
            f"Space {name!r} of {where} was made with fingerprint {known.fingerprint} ({known.dimension} dimensions); the "
            f"encoders at hand have {wanted.fingerprint} ({wanted.dimension}). Open it with the preset that it was made with, "
            "or index again."
        )
    if known.normalize != wanted.normalize:
        raise SpaceError(
            f"Space {name!r} of {where} was made with normalize={known.normalize}, not {wanted.normalize}; that can't change."
        )


def as_vector(embedding: Any, whose: str) -> Vectors:
    """An embedding as ``(d,)`` float32.

    Raises:
        SpaceError: it is no list of numbers.
    """
    try:
        with np.errstate(over="ignore"):
            vector = np.asarray(embedding, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise SpaceError(f"{whose}: expected an embedding of numbers, got {type(embedding).__name__}: {error}.") from error
    if vector.ndim != 1:
        raise SpaceError(f"{whose}: expected an embedding of shape (d,), got {vector.shape}.")
    return vector


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Places of at most so many of ``count`` things, evenly spread over them, ascending."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def _told(node_id: str) -> str:
    return f"Node {node_id}" if node_id else "Query"
