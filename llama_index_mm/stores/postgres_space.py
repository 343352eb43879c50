"""One space of a `PostgresStore` behind LlamaIndex's vector store interface."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import QueryError
from llama_index_mm.media import MODALITIES
from llama_index_mm.stores import postgres_reading as reading
from llama_index_mm.stores.postgres_connections import Plan
from llama_index_mm.stores.postgres_facts import Prepared
from llama_index_mm.stores.postgres_filters import Condition, PostgresAmong, all_of
from llama_index_mm.stores.postgres_plans import PostgresPlans
from llama_index_mm.stores.records import Record, StoredSpace, as_vector, checked_query, scale

require("llama_index.vector_stores.postgres", extra="postgres")
from llama_index.vector_stores.postgres import PGVectorStore  # noqa: E402
from llama_index.vector_stores.postgres.base import get_data_model  # noqa: E402

from llama_index_mm.stores.postgres import PostgresStore  # noqa: E402

__all__ = ["PostgresSpaceStore"]

_MMR_FACTOR = 4  # candidates for each result
_MMR_LEAST = 64


class PostgresSpaceStore(PGVectorStore):  # type: ignore[misc]
    """LlamaIndex's `PGVectorStore` over the table of one space, with what a store for media needs besides.

    Adding replaces nodes of the same ids, filters mean what they mean to LlamaIndex's ``SimpleVectorStore``, vectors of another
    length or model are refused, and nodes come back as the classes that they were. Each change is one transaction over the
    tables of the whole store. The async methods are asynchronous down to the connection.

    Example:
        >>> store = PostgresStore("postgresql://me:secret@db/photos")
        >>> VectorStoreIndex.from_vector_store(PostgresSpaceStore(store, "clip"))

    Args:
        store: where it lives, or an address for it.
        space: name of the space.
        dimension: length of a vector; default is that of the first one added.
        fingerprint: of the model that makes the vectors; vectors of another one are refused.
        normalize: whether vectors and queries are scaled to unit length, so that similarity is the cosine; default is what the
            space was made with, or yes.

    Raises:
        MissingExtraError: the extra ``postgres`` is not installed.
        SpaceError: the space is there with another dimension or fingerprint.
        StoreError: the address can't be opened as a store.
    """

    is_embedding_query: bool = True
    space: str = "default"
    _store: PostgresStore = PrivateAttr()
    _plans: PostgresPlans = PrivateAttr()
    _fingerprint: str | None = PrivateAttr()
    _normalize: bool | None = PrivateAttr()

    def __init__(
        self,
        store: PostgresStore | str,
        space: str = "default",
        *,
        dimension: int | None = None,
        fingerprint: str | None = None,
        normalize: bool | None = None,
    ) -> None:
        opened = store if isinstance(store, PostgresStore) else PostgresStore(store)
        known = opened.spaces().get(space)
        super().__init__(
            connection_string=opened.name,  # without the password: LlamaIndex shows it
            async_connection_string=opened.name,
            table_name="space",
            schema_name=opened.plans.tables.schema,
            embed_dim=dimension or (known.dimension if known else 0) or 1,
            use_jsonb=True,
            perform_setup=False,
        )
        self.space = space
        self._store = opened
        self._plans = opened.plans
        self._fingerprint = fingerprint
        self._normalize = normalize
        if known is not None or dimension is not None:
            self._declare(dimension, known)

    def _wanted(self, dimension: int | None, known: StoredSpace | None) -> StoredSpace:
        """The space as this store would have it."""
        return StoredSpace(
            dimension if dimension is not None else known.dimension if known else 0,
            self._fingerprint if self._fingerprint is not None else known.fingerprint if known else "",
            self._normalize if self._normalize is not None else known.normalize if known else True,
        )

    def _declare(self, dimension: int | None, known: StoredSpace | None) -> None:
        wanted = self._wanted(dimension, known)
        self._store.declare_space(self.space, wanted.dimension, wanted.fingerprint, normalize=wanted.normalize)
        self._bind(wanted.dimension)

    def _bind(self, dimension: int) -> None:
        """Let LlamaIndex's class know the table."""
        self.embed_dim = dimension
        self.table_name = f"space_{self._plans.read(lambda: reading.space_of(self._plans.tables, self.space, 'text')).number}"
        self._table_class = get_data_model(
            self._base, self.table_name, self.schema_name, False, "english", False, embed_dim=dimension, use_jsonb=True
        )

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "PostgresSpaceStore"

    @property
    def client(self) -> PostgresStore:
        """The store behind."""
        return self._store

    async def close(self) -> None:
        """Close the store behind, for all its spaces."""
        self._store.close()

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        """Add nodes that carry their embedding. Gives their ids.

        A node with an id that is there already replaces the old one. All of them are stored when this returns, or none.

        Raises:
            SpaceError: an embedding of another length, with numbers that are not finite, or of length 0.
            StoreError: an id that comes twice; the server refuses.
        """
        if not nodes:
            return []
        given = self._ready(nodes)
        self._plans.write(lambda: self._plans.add(given))
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Like `add`."""
        if not nodes:
            return []
        given = await asyncio.to_thread(self._ready, nodes)
        await self._plans.awrite(lambda: self._plans.add(given))
        return [node.node_id for node in nodes]

    def _ready(self, nodes: Sequence[BaseNode]) -> list[Prepared]:
        """Nodes, checked and ready to be written; the first ones settle the dimension."""
        vectors = [as_vector(node.get_embedding(), f"Node {node.node_id}") for node in nodes]
        known = self._store.spaces().get(self.space)
        if known is None:
            # A first batch that is refused must not settle the dimension.
            scale(vectors, [node.node_id for node in nodes], self.space, {self.space: StoredSpace(len(vectors[0]), "")})
        if known is None or self.table_name == "space":
            self._declare(None if known else len(vectors[0]), known)
        return self._plans.prepared([Record(node, {self.space: one}) for node, one in zip(nodes, vectors, strict=True)])

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        self._plans.write(lambda: self._delete(self._plans.conditions(ref_doc_ids=[ref_doc_id])))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Like `delete`."""
        await self._plans.awrite(lambda: self._delete(self._plans.conditions(ref_doc_ids=[ref_doc_id])))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes that match ids and filters; nothing if neither is given."""
        wanted = self._plans.conditions(node_ids=node_ids, filters=filters)
        if wanted:
            self._plans.write(lambda: self._delete(wanted))

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Like `delete_nodes`."""
        wanted = self._plans.conditions(node_ids=node_ids, filters=filters)
        if wanted:
            await self._plans.awrite(lambda: self._delete(wanted))

    def clear(self) -> None:
        """Delete all nodes of this space."""
        self._plans.write(lambda: self._delete(()))

    async def aclear(self) -> None:
        """Like `clear`."""
        await self._plans.awrite(lambda: self._delete(()))

    def _delete(self, wanted: tuple[Condition, ...]) -> Plan[int]:
        return self._plans.delete_from(self.space, all_of(wanted))

    # -- reading ----------------------------------------------------------------------------------------------------

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Give the nodes that match ids and filters, in the order in which they were added."""
        wanted = self._plans.conditions(node_ids=node_ids, filters=filters)
        return self._plans.read(lambda: self._nodes(wanted))

    async def aget_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Like `get_nodes`."""
        wanted = self._plans.conditions(node_ids=node_ids, filters=filters)
        return await self._plans.aread(lambda: self._nodes(wanted))

    def _nodes(self, wanted: tuple[Condition, ...]) -> Plan[list[BaseNode]]:
        seqs = yield from reading.find(self._plans.tables, all_of(wanted), self.space)
        found = yield from self._plans.nodes(seqs.tolist())
        return list(found.values())

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find the nearest nodes over all modalities of the space.

        Args:
            query: of mode DEFAULT or MMR, with an embedding.
            **kwargs: ``exact=True`` reads all vectors even where there is an approximate index; ``fingerprint`` is that of the
                model which made the query; for MMR ``mmr_threshold`` in [0, 1], where 1 is no diversity at all (default 0.5),
                and ``mmr_prefetch_k`` or ``mmr_prefetch_factor``, the number of candidates, in all or for each result.

        Returns:
            Nodes, ids, and similarities: inner products, or in mode MMR the marginal relevance of each.

        Raises:
            QueryError: no embedding in the query, or another mode.
            SpaceError: the embedding has another length or fingerprint than the space.
            FilterError: a filter that has no meaning.
        """
        asked = self._asked(query)
        return self._plans.read(lambda: self._query(query, *asked, kwargs))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Like `query`."""
        asked = self._asked(query)
        return await self._plans.aread(lambda: self._query(query, *asked, kwargs))

    def _asked(self, query: VectorStoreQuery) -> tuple[Vectors, PostgresAmong | None]:
        """The vector of a query, and the nodes that it may find."""
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            raise QueryError(f"This store answers queries of mode 'default' and 'mmr', got {query.mode.value!r}.")
        if query.query_embedding is None:
            raise QueryError("The query has no embedding; give the index an embed_model.")
        wanted = self._plans.conditions(node_ids=query.node_ids, ref_doc_ids=query.doc_ids, filters=query.filters)
        among = PostgresAmong(wanted, lambda _: np.zeros(0, np.int64)) if wanted else None
        return as_vector(query.query_embedding, "Query"), among

    def _query(
        self, query: VectorStoreQuery, vector: Vectors, among: PostgresAmong | None, options: dict[str, Any]
    ) -> Plan[VectorStoreQueryResult]:
        if self.space not in (yield from self._plans.spaces()):
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])  # nothing was ever added
        k = depth = query.similarity_top_k
        mmr = query.mode == VectorStoreQueryMode.MMR
        if mmr:
            depth = options.get("mmr_prefetch_k") or max(_MMR_LEAST, int(k * options.get("mmr_prefetch_factor", _MMR_FACTOR)))
            depth = max(k, depth)
        tables, parts = self._plans.tables, []
        for modality in MODALITIES:
            known = yield from reading.space_of(tables, self.space, modality)
            checked = checked_query(self.space, known.facts, vector, options.get("fingerprint"))
            exact = bool(options.get("exact"))
            parts.append((yield from reading.nearest(tables, known, modality, checked, depth, among, exact=exact)))
        seqs, scores, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((seqs, -scores))[:depth]
        seqs, scores, vectors = seqs[order], scores[order], vectors[order]
        similarities = [float(one) for one in scores]
        if mmr:
            seqs, similarities = _diverse(vector, seqs, vectors, k, options.get("mmr_threshold", query.mmr_threshold))
        nodes = yield from self._plans.nodes(seqs.tolist())
        found = [nodes[seq] for seq in seqs.tolist()]
        return VectorStoreQueryResult(nodes=found, similarities=similarities, ids=[node.node_id for node in found])


def _diverse(vector: Vectors, seqs: Any, vectors: Vectors, k: int, threshold: float | None) -> tuple[Any, list[float]]:
    """Maximal marginal relevance, by LlamaIndex's own function."""
    if not len(seqs) or k < 1:
        return seqs[:0], []
    scores, chosen = get_top_k_mmr_embeddings(
        vector.tolist(),
        vectors.tolist(),
        similarity_top_k=k,
        embedding_ids=list(range(len(seqs))),
        mmr_threshold=threshold,
    )
    return seqs[chosen], [float(score) for score in scores]
