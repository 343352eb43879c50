"""One space in a LlamaIndex vector store: vectors go there under their nodes' numbers, and numbers come back."""

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from textwrap import shorten
from typing import Any
from uuid import UUID

import numpy as np
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import StoreError
from llama_index_mm.stores.partition import Ids

__all__ = ["ExternalSpace"]

MODALITY, SEQ, NODE_ID = "mm_modality", "mm_seq", "mm_node_id"
BATCH = 1000  # nodes in one call; Chroma takes 5,461, a list of Milvus 16,384
_TEXT = 4000  # characters; Milvus takes 65,535 bytes
_TOLD = 300  # characters of an error; some hold the whole request
_MARK = "mark"  # in place of a modality
_HALF = 64  # bits of an id: above them the identity of the index, below the number of the node
_MARKED = 1 << 63  # set in the lower half of a mark's id


class _Gate:
    """Many may search at once; who writes is alone, for stores in memory can't be read while they change."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._inside = 0
        self._waiting = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Together with others."""
        with self._turn:
            self._turn.wait_for(lambda: not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._turn:
                self._inside -= 1
                self._turn.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While nobody else is inside."""
        with self._turn:
            self._waiting += 1
            try:
                self._turn.wait_for(lambda: not self._inside)
                yield
            finally:
                self._waiting -= 1
                self._turn.notify_all()


class ExternalSpace:
    """A vector store, seen by what a space needs of it.

    The id of a node there is a UUID: the index's identity and the node's number. So numbers can be read out of ids, which is
    all that some stores give, and what belongs to another index is seen as that.

    A *mark* is a node that says whose the vectors are. Which changes have come there is noted in the index under the mark's id:
    another store, or one that lost everything, has another mark or none.

    Args:
        store: of one space only.
        space: name of the space.
        dimension: length of a vector.
        identity: of the index, 16 hexadecimal digits.
    """

    def __init__(self, store: BasePydanticVectorStore, space: str, dimension: int, identity: str) -> None:
        self.store = store
        self.name = type(store).__name__
        self._space = space
        self._dimension = dimension
        self._identity = int(identity, 16)
        self._gate = _Gate()

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of whatever client
            told = shorten(str(error), _TOLD) or type(error).__name__
            raise StoreError(
                f"{self.name}, which searches space {self._space!r}, could not {what}: {told}. See that it runs and can be "
                "reached, then try again; llama-index-mm check-store tells what a store lacks. All nodes and vectors are safe "
                "in the index, and with exact=True it searches them itself."
            ) from error

    # -- ids --------------------------------------------------------------------------------------------------------

    def _id(self, low: int) -> str:
        return str(UUID(int=self._identity << _HALF | low))

    def _low(self, node_id: str) -> int | None:
        """The lower half of an id, None if it is not of this index."""
        try:
            whole = UUID(node_id).int
        except (ValueError, AttributeError, TypeError):
            return None
        return whole & ((1 << _HALF) - 1) if whole >> _HALF == self._identity else None

    # -- marks ------------------------------------------------------------------------------------------------------

    def marks(self) -> list[str]:
        """Ids of the marks that are there.

        Raises:
            StoreError: the store can't be asked, or holds the mark of another index.
        """
        with self._asking("be asked"):
            found = _ids(self._query(self._first(), 8, _MARK))
        if any(self._low(one) is None for one in found):
            raise self._others()
        return found

    def set_mark(self) -> str:
        """Put a new mark there, in a store in which there is nothing else; give its id.

        Raises:
            StoreError: the store can't be written, or holds something.
        """
        mark = self._id(_MARKED | secrets.randbits(_HALF - 1))
        node = TextNode(
            id_=mark, text=_MARK, metadata={MODALITY: _MARK, SEQ: -1, NODE_ID: _MARK}, embedding=self._first().tolist()
        )
        with self._asking("be written"), self._gate.alone():
            self.store.add([node])
        with self._asking("be asked"):
            found = _ids(self._query(self._first(), 2))
        if set(found) - {mark}:
            with suppress(Exception):
                self._delete([mark])
            raise self._others()
        return mark

    def _first(self) -> Vectors:
        first: Vectors = np.eye(1, self._dimension, dtype=np.float32)[0]
        return first

    def _others(self) -> StoreError:
        return StoreError(
            f"{self.name} for space {self._space!r} holds nodes that are not of this index. Give each index tables or "
            "collections of its own, or empty this one."
        )

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(self, modality: str, seqs: Ids, vectors: Vectors, told: Mapping[int, tuple[str, str]], gone: Sequence[int]) -> None:
        """Write vectors.

        Args:
            modality: of the nodes.
            seqs: their numbers.
            vectors: ``(len(seqs), d)``.
            told: id and text of each node.
            gone: numbers that are deleted first. One that is there already has to be among them, for stores differ in what
                they make of an id that comes twice.

        Raises:
            StoreError: the store can't be written.
        """
        nodes = [
            TextNode(
                id_=self._id(seq),
                text=told[seq][1][:_TEXT] or told[seq][0],
                metadata={MODALITY: modality, SEQ: seq, NODE_ID: told[seq][0]},
                embedding=vector.tolist(),
            )
            for seq, vector in zip(seqs.tolist(), vectors, strict=True)
        ]
        with self._asking("be written"), self._gate.alone():
            for at in range(0, len(gone), BATCH):
                self._delete([self._id(seq) for seq in gone[at : at + BATCH]])
            for at in range(0, len(nodes), BATCH):
                self.store.add(nodes[at : at + BATCH])

    def _delete(self, ids: list[str]) -> None:
        self.store.delete_nodes(node_ids=ids)

    def clear(self) -> None:
        """Delete everything that is there.

        Raises:
            StoreError: the store can't be written.
        """
        with self._asking("be emptied"), self._gate.alone():
            try:
                self.store.clear()
            except NotImplementedError:
                while found := _ids(self._query_alone(self._first(), BATCH)):
                    self._delete(found)

    # -- searching --------------------------------------------------------------------------------------------------

    def nearest(self, query: Vectors, modality: str, k: int) -> tuple[Ids, int]:
        """Numbers of what the store takes for the nearest, best first, and how many rows it gave.

        Raises:
            StoreError: the store can't be asked.
        """
        with self._asking("be asked"):
            found = _ids(self._query(query, k, modality))
        lows = [self._low(one) for one in found]
        seqs = np.array([low for low in lows if low is not None and not low & _MARKED], np.int64)
        return seqs, len(found)

    def _query(self, vector: Vectors, k: int, modality: str | None = None) -> VectorStoreQueryResult:
        with self._gate.shared():
            return self._query_alone(vector, k, modality)

    def _query_alone(self, vector: Vectors, k: int, modality: str | None = None) -> VectorStoreQueryResult:
        filters = None if modality is None else MetadataFilters(filters=[MetadataFilter(key=MODALITY, value=modality)])
        return self.store.query(VectorStoreQuery(query_embedding=vector.tolist(), similarity_top_k=k, filters=filters))


def _ids(result: VectorStoreQueryResult) -> list[str]:
    """Ids in a result; some stores give them with the nodes only."""
    nodes: Sequence[Any] = result.nodes or []
    return list(result.ids) if result.ids is not None else [node.node_id for node in nodes]
