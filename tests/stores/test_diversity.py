"""Maximal marginal relevance: the same results as LlamaIndex's own vector store gives."""

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery, VectorStoreQueryMode

from llama_index_mm.stores import SpaceVectorStore

EVEN = MetadataFilters(filters=[MetadataFilter(key="even", value=1)])


class Found:
    """Ids and similarities, these equal but for rounding."""

    def __init__(self, ids, similarities):
        self.ids, self.similarities = ids, similarities

    def __eq__(self, other):
        return self.ids == other.ids and np.allclose(self.similarities, other.similarities, rtol=0, atol=1e-6)

    def __repr__(self):
        return repr(list(zip(self.ids, self.similarities, strict=True)))


def scattered(count, seed=0, dimension=8):
    """A query, and nodes by falling similarity to it."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=dimension)
    vectors = rng.normal(size=(count, dimension)) + query / 2
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors[np.argsort(-vectors @ query)]
    return query.tolist(), [
        TextNode(id_=str(at), text="", metadata={"even": at % 2 == 0}, embedding=vector.tolist())
        for at, vector in enumerate(vectors)
    ]


def diverse(store, query, k, *, filters=None, field=None, **given):
    asked = VectorStoreQuery(
        query_embedding=query, similarity_top_k=k, mode=VectorStoreQueryMode.MMR, filters=filters, mmr_threshold=field
    )
    result = store.query(asked, **given)
    return Found(result.ids, result.similarities)


@pytest.mark.parametrize("threshold", [None, 0, 0.25, 0.5, 0.9, 1])
@pytest.mark.parametrize("filters", [None, EVEN])
def test_diversity(tmp_path, threshold, filters):
    query, nodes = scattered(40)
    core = SimpleVectorStore()
    core.add(nodes)
    with SpaceVectorStore(tmp_path).client as media:
        ours = SpaceVectorStore(media)
        ours.add(nodes)
        for k in (1, 2, 7, 20, 99):
            expected = diverse(core, query, k, filters=filters, mmr_threshold=threshold)
            assert diverse(ours, query, k, filters=filters, mmr_threshold=threshold) == expected
            # `SimpleVectorStore` takes the threshold as an argument only.
            assert diverse(ours, query, k, filters=filters, field=threshold) == expected
            assert diverse(ours, query, k, filters=filters, field=0.7, mmr_threshold=threshold) == expected
        if threshold == 1:
            ranked = ours.query(VectorStoreQuery(query_embedding=query, similarity_top_k=7, filters=filters))
            assert diverse(ours, query, 7, filters=filters, mmr_threshold=1) == Found(ranked.ids, ranked.similarities)


def test_without_relevance_the_nearest_is_still_the_first(tmp_path):
    """`SimpleVectorStore` begins with whatever was added first."""
    query, nodes = scattered(20)
    with SpaceVectorStore(tmp_path).client as media:
        ours = SpaceVectorStore(media)
        ours.add(nodes[::-1])
        assert diverse(ours, query, 5, mmr_threshold=0).ids[0] == "0"


def test_candidates_for_diversity(tmp_path):
    """`SimpleVectorStore` looks at all vectors; ours at the nearest, as many as it is told."""
    query, nodes = scattered(150)
    core, core_of_70 = SimpleVectorStore(), SimpleVectorStore()
    core.add(nodes)
    core_of_70.add(nodes[:70])
    with SpaceVectorStore(tmp_path).client as media:
        ours = SpaceVectorStore(media)
        ours.add(nodes)
        expected = diverse(core, query, 10, mmr_threshold=0.3)
        assert diverse(ours, query, 10, mmr_threshold=0.3, mmr_prefetch_k=150) == expected
        assert diverse(ours, query, 10, mmr_threshold=0.3, mmr_prefetch_factor=15) == expected
        expected = diverse(core_of_70, query, 10, mmr_threshold=0.3)
        assert diverse(ours, query, 10, mmr_threshold=0.3, mmr_prefetch_k=70) == expected
        assert diverse(ours, query, 10, mmr_threshold=0.3, mmr_prefetch_factor=7) == expected
        assert len(diverse(ours, query, 100, mmr_prefetch_k=3).ids) == 100
