"""What goes into a store and what comes out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from llama_index.core.schema import BaseNode

from llama_index_mm.embeddings.base import Vectors

__all__ = ["Hit", "Record", "Source", "StoredSpace"]


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
