"""Milvus as what searches the vectors of an index."""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery, VectorStoreQueryResult

from llama_index_mm._optional import require
from llama_index_mm.stores.external import VectorStores
from llama_index_mm.stores.external_space import BATCH, MODALITY, SEQ

__all__ = ["milvus_stores"]

_HNSW: Mapping[str, Any] = {"index_type": "HNSW", "M": 16, "efConstruction": 128}
_WIDE: Mapping[str, Any] = {"ef": 128}


def milvus_stores(
    uri: str,
    *,
    prefix: str = "mm_",
    token: str = "",
    consistency: str = "Session",
    index: Mapping[str, Any] = _HNSW,
    search: Mapping[str, Any] = _WIDE,
) -> VectorStores:
    """Give each space of an index a collection of Milvus.

    Example:
        >>> MultiModalIndex.open("my-index", vector_stores=milvus_stores("http://localhost:19530", prefix="my_index_"))

    Args:
        uri: of the server.
        prefix: of the names of collections; letters, digits and underscores. One for each index.
        token: ``"user:password"`` or a key, where the server asks for one.
        consistency: ``"Session"``, ``"Bounded"``, ``"Eventually"`` or ``"Strong"``. With any of them nothing comes out that was
            deleted or replaced, for what Milvus gives is looked up in the index; Strong makes each search wait.
        index: kind of the index over the vectors and its parameters, as `MilvusVectorStore` takes them.
        search: parameters of a search. The ``ef`` of HNSW is raised where more results are asked for, as Milvus wants it.

    Returns:
        What `MultiModalIndex.open` and `MediaStore` take as ``vector_stores``.

    Raises:
        MissingExtraError: the package for Milvus is not installed.
    """
    store = _store()
    kinds = require("pymilvus", extra="milvus").DataType

    def make(space: str, dimension: int) -> BasePydanticVectorStore:
        made: BasePydanticVectorStore = store(
            uri=uri,
            token=token,
            collection_name=collection_of(space, prefix),
            dim=dimension,
            similarity_metric="IP",
            consistency_level=consistency,
            index_config=dict(index),
            search_config=dict(search),
            scalar_field_names=[MODALITY, SEQ],  # columns of their own: filters on Milvus's JSON read all of it
            scalar_field_types=[kinds.VARCHAR, kinds.INT64],
            output_fields=[SEQ],
            batch_size=BATCH,
            use_async_client=False,
        )
        return made

    return make


@cache
def _store() -> Any:
    """The class of the vector stores."""
    base = require("llama_index.vector_stores.milvus", extra="milvus").MilvusVectorStore

    class MilvusVectorStore(base):  # type: ignore[misc, valid-type]
        """LlamaIndex's, with a search that is as wide as it is deep."""

        def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
            search = dict(self.search_config)
            if "ef" in search:
                search["ef"] = max(search["ef"], query.similarity_top_k)
            found: VectorStoreQueryResult = super().query(query, **{"milvus_search_config": search, **kwargs})
            return found

    return MilvusVectorStore


def collection_of(space: str, prefix: str) -> str:
    """Name of a space's collection. Two spaces never have the same."""
    plain = re.sub(r"\W", "_", space, flags=re.ASCII)
    if plain == space:
        return prefix + plain
    return f"{prefix}{plain}_{hashlib.sha256(space.encode()).hexdigest()[:8]}"
