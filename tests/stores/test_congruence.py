"""Random nodes, filters and queries: ours finds what LlamaIndex's own vector store finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import FilterCondition, MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import FilterOperator as Op

from llama_index_mm.stores import SpaceVectorStore

AND, OR, NOT = FilterCondition.AND, FilterCondition.OR, FilterCondition.NOT


def where(key, operator, value=None):
    return MetadataFilter(key=key, operator=operator, value=value)


def group(*filters):
    return MetadataFilters(filters=list(filters))


# Vectors of length 1 whose inner products are exact; many are equal.
CORNERS = [[x / 2, y / 2, z / 2, w / 2] for x in (1, -1) for y in (1, -1) for z in (1, -1) for w in (1, -1)]
VECTORS = [*CORNERS, [1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 1.0, 0]]
words = st.sampled_from(["", "a", "b", "ab", "AB", "é'%_"])
numbers = st.integers(-2, 3) | st.sampled_from([0.5, 2.0, 1e6])
entries = st.fixed_dictionaries(
    {}, optional={"n": st.none() | numbers, "s": st.none() | words, "l": st.lists(words, max_size=3), "m": numbers | words}
)
everywhere = [Op.EQ, Op.NE, Op.IN, Op.NIN]
ordered = [Op.GT, Op.GTE, Op.LT, Op.LTE]


def one_of(key, operators, values):
    lists = st.lists(values, max_size=3).filter(lambda some: len({isinstance(one, float) for one in some}) < 2)
    return st.sampled_from(operators).flatmap(
        lambda operator: st.builds(
            where, st.just(key), st.just(operator), lists if operator in (Op.IN, Op.NIN, Op.ANY, Op.ALL) else values
        )
    )


leaves = st.one_of(
    one_of("n", everywhere + ordered, numbers),
    one_of("s", [*everywhere, *ordered, Op.TEXT_MATCH, Op.TEXT_MATCH_INSENSITIVE, Op.CONTAINS], words),
    one_of("l", [Op.CONTAINS, Op.ANY, Op.ALL], words),
    one_of("m", everywhere, words),
    one_of("doc_id", everywhere, st.sampled_from(["p", "q", "None"])),
    st.builds(where, st.sampled_from(["n", "s", "l", "m"]), st.just(Op.IS_EMPTY)),
)
conditions = st.sampled_from([AND, OR, NOT])
flat = st.builds(MetadataFilters, filters=st.lists(leaves, min_size=1, max_size=3), condition=conditions)
nested = st.recursive(
    leaves, lambda inner: st.builds(MetadataFilters, filters=st.lists(inner, min_size=1, max_size=3), condition=conditions)
).map(lambda made: made if isinstance(made, MetadataFilters) else group(made))
stored = st.lists(st.tuples(entries, st.sampled_from(["p", "q", None]), st.sampled_from(VECTORS)), min_size=1, max_size=12)


def depth(filters):
    return 1 + max(map(depth, filters.filters)) if isinstance(filters, MetadataFilters) else 0


def passes(core, filters):
    """Which nodes of core's store match nested filters; each alone is asked of that store."""
    if isinstance(filters, MetadataFilter):
        asked = VectorStoreQuery(query_embedding=VECTORS[0], similarity_top_k=99, filters=group(filters))
        return set(core.query(asked).ids)
    parts = [passes(core, part) for part in filters.filters]
    if filters.condition == AND:
        return set.intersection(*parts)
    return set.union(*parts) if filters.condition == OR else set(core.data.embedding_dict) - set.union(*parts)


@pytest.fixture(scope="module")
def cleared(tmp_path_factory):
    store = SpaceVectorStore(tmp_path_factory.mktemp("random"), dimension=4)
    yield store
    store.close()


@settings(deadline=None, max_examples=80)
@given(stored, flat | nested.filter(lambda made: depth(made) <= 8), st.sampled_from(VECTORS), st.integers(1, 14))
def test_both_find_the_same(cleared, every, filters, query, k):
    nodes = [
        TextNode(
            id_=str(at),
            text="",
            metadata=metadata,
            embedding=vector,
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=doc)} if doc else {},
        )
        for at, (metadata, doc, vector) in enumerate(every)
    ]
    core = SimpleVectorStore()
    core.add(nodes)
    cleared.clear()
    cleared.add(nodes)
    match = passes(core, filters)
    similarities = {str(at): float(np.dot(vector, query)) for at, (_, _, vector) in enumerate(every) if str(at) in match}
    ranked = sorted(similarities, key=lambda name: (-similarities[name], int(name)))[:k]
    result = cleared.query(VectorStoreQuery(query_embedding=query, similarity_top_k=k, filters=filters))
    assert result.ids == ranked
    assert result.similarities == [similarities[name] for name in ranked]
    if depth(filters) == 1:  # core's store takes no more, and orders equal ones by itself
        theirs = core.query(VectorStoreQuery(query_embedding=query, similarity_top_k=k, filters=filters))
        assert theirs.similarities == result.similarities
        assert {name for name in theirs.ids if similarities[name] > result.similarities[-1]} == {
            name for name in result.ids if similarities[name] > result.similarities[-1]
        }
