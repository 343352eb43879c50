"""One space of a `MediaStore` behind LlamaIndex's vector store interface."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from llama_index_mm.embeddings.base import unit
from llama_index_mm.errors import QueryError, SpaceError
from llama_index_mm.media import MODALITIES
from llama_index_mm.stores.records import Record
from llama_index_mm.stores.store import MediaStore

__all__ = ["SpaceVectorStore"]


class SpaceVectorStore(BasePydanticVectorStore):
    """A LlamaIndex vector store over one embedding space: exact, filtered before the search, unit vectors.

    Args:
        store: where it lives.
        space: name of the space; it must be declared in the store.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    space: str
    _store: MediaStore = PrivateAttr()

    def __init__(self, store: MediaStore, space: str) -> None:
        super().__init__(space=space)  # type: ignore[call-arg]
        if space not in store.spaces():
            raise SpaceError(f"Space {space!r} is not declared in this store; it has {sorted(store.spaces())}.")
        self._store = store

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "SpaceVectorStore"

    @property
    def client(self) -> MediaStore:
        """The store behind."""
        return self._store

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes that carry their embedding; scaled to unit length. Gives their ids."""
        if not nodes:
            return []
        vectors = unit(np.asarray([node.get_embedding() for node in nodes]))
        self._store.add([Record(node, {self.space: vector}) for node, vector in zip(nodes, vectors, strict=True)])
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Like `add`, off the event loop."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        self._store.delete(ref_doc_ids=[ref_doc_id])

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Like `delete`, off the event loop."""
        await asyncio.to_thread(self.delete, ref_doc_id)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Give the nodes that match ids and filters, in the order in which they were added."""
        seqs = self._store.find(node_ids=node_ids, filters=filters)
        return list(self._store.nodes(seqs.tolist()).values())

    async def aget_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Like `get_nodes`, off the event loop."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes that match ids and filters; nothing if neither is given."""
        if not node_ids and (filters is None or not filters.filters):
            return
        nodes = self.get_nodes(node_ids, filters)
        self._store.delete(node_ids=[node.node_id for node in nodes])

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Like `delete_nodes`, off the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find the nearest nodes over all modalities of the space.

        Raises:
            QueryError: no embedding in the query, or a mode other than DEFAULT.
        """
        if query.mode != VectorStoreQueryMode.DEFAULT:
            raise QueryError(f"This store answers queries of mode 'default', got {query.mode.value!r}.")
        if query.query_embedding is None:
            raise QueryError("The query has no embedding; give the index an embed_model.")
        vector = unit(np.asarray(query.query_embedding))
        among = None
        if query.node_ids or query.doc_ids or query.filters is not None:
            among = self._store.find(node_ids=query.node_ids, ref_doc_ids=query.doc_ids, filters=query.filters)
        k = query.similarity_top_k
        hits = [hit for modality in MODALITIES for hit in self._store.search(self.space, modality, vector, k, among)]
        hits = sorted(hits, key=lambda hit: (-hit.similarity, hit.seq))[:k]
        nodes = self._store.nodes([hit.seq for hit in hits])
        kept = [hit for hit in hits if hit.seq in nodes]
        return VectorStoreQueryResult(
            nodes=[nodes[hit.seq] for hit in kept],
            similarities=[hit.similarity for hit in kept],
            ids=[nodes[hit.seq].node_id for hit in kept],
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Like `query`, off the event loop."""
        return await asyncio.to_thread(self.query, query, **kwargs)
