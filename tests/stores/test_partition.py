"""The FAISS index of one partition against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_mm.embeddings.base import unit
from llama_index_mm.stores.partition import BLOCK, Block, Partition

NONE = np.zeros(0, np.int64)


def filled(ids, vectors):
    ids = np.asarray(ids, dtype=np.int64)
    return Partition(vectors.shape[1]).changed(1, ids, ids, vectors)


def ranked(ids, vectors, query, k):
    """Ids and similarities, ties by id."""
    similarities = vectors @ query
    order = np.lexsort((ids, -similarities))[:k]
    return np.asarray(ids)[order].tolist(), similarities[order].tolist()


def lists(found):
    return found[0].tolist(), found[1].tolist()


@st.composite
def collections(draw):
    """Vectors of small whole numbers, so that inner products are exact and often equal, a query, k and a choice of ids."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, dimension = draw(st.integers(1, 150)), draw(st.sampled_from([1, 2, 3, 8, 31, 64, 384]))
    vectors = rng.integers(-2, 3, (count, dimension)).astype(np.float32)
    ids = np.sort(rng.choice(10 * count, count, replace=False))
    among = rng.choice(12 * count, draw(st.integers(0, 2 * count)))
    query = rng.integers(-2, 3, dimension).astype(np.float32)
    return ids, vectors, query, draw(st.integers(0, count + 3)), among


@settings(deadline=None, max_examples=150)
@given(collections())
def test_search_is_exact_with_ties_by_id(collection):
    ids, vectors, query, k, among = collection
    partition = filled(ids, vectors)
    assert lists(partition.search(query, k)) == ranked(ids, vectors, query, k)
    chosen = np.isin(ids, among)
    assert lists(partition.search(query, k, among)) == ranked(ids[chosen], vectors[chosen], query, k)


@pytest.mark.parametrize("dimension", [2, 31, 384])
@pytest.mark.parametrize("among", [False, True])
def test_equal_vectors_are_never_torn_by_rounding(dimension, among):
    rng = np.random.default_rng(dimension)
    distinct = unit(rng.normal(size=(20, dimension)))
    vectors = distinct[rng.integers(0, 20, 300)]
    ids, query = np.arange(300), unit(rng.normal(size=dimension))
    for k in (1, 10, 99, 150, 300):
        found, similarities = filled(ids, vectors).search(query, k, ids if among else None)
        exact = np.round(vectors.astype(np.float64) @ query.astype(np.float64), 9)
        assert found.tolist() == np.lexsort((ids, -exact))[:k].tolist()
        np.testing.assert_allclose(similarities, exact[found], atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(collections(), st.data())
def test_removed_ids_are_gone(collection, data):
    ids, vectors, query, _, _ = collection
    gone = data.draw(st.lists(st.sampled_from(ids.tolist()), max_size=20))
    partition = filled(ids, vectors)
    before = partition.ids.tolist()
    removed = partition.changed(2, np.unique(np.array([*gone, -5, 10**9], dtype=np.int64)), NONE, vectors[:0])
    assert partition.ids.tolist() == before
    partition = removed
    left = ~np.isin(ids, gone)
    assert partition.ids.tolist() == ids[left].tolist()
    assert lists(partition.search(query, len(ids))) == ranked(ids[left], vectors[left], query, len(ids))
    more = np.array([10**9])
    assert len(partition.changed(3, more, more, query[None])) == left.sum() + 1
    assert (partition.change, len(partition)) == (2, left.sum())


def test_empty():
    partition = Partition(3, 7)
    query = unit(np.ones(3))
    for among in (None, np.array([1, 2])):
        ids, similarities = partition.search(query, 5, among)
        assert (ids.shape, ids.dtype, similarities.shape, similarities.dtype) == ((0,), np.int64, (0,), np.float32)
    assert partition.sample(4).shape == (0, 3)
    assert np.isnan(partition.similarities(query, np.array([1]))).all()
    assert (len(partition), partition.change) == (0, 7)


def test_similarities_keep_the_order_asked_for():
    partition = filled([3, 5, 9], np.eye(3, dtype=np.float32))
    query = unit(np.array([1.0, 2.0, 2.0]))
    np.testing.assert_allclose(partition.similarities(query, np.array([9, 4, 3, 9])), [2 / 3, np.nan, 1 / 3, 2 / 3], rtol=1e-6)


def test_among_may_repeat_and_be_unordered():
    partition = filled([3, 5, 9], np.eye(3, dtype=np.float32))
    ids, similarities = partition.search(unit(np.array([3.0, 1.0, 2.0])), 9, np.array([9, 3, 9, 77]))
    assert ids.tolist() == [3, 9]
    np.testing.assert_allclose(similarities, np.array([3, 2]) / np.sqrt(14), rtol=1e-6)


@pytest.mark.parametrize(("size", "expected"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, range(10)), (99, range(10))])
def test_sample_is_spread_evenly(size, expected):
    vectors = unit(np.random.default_rng(0).normal(size=(10, 4)))
    assert (filled(range(10), vectors).sample(size) == vectors[list(expected)]).all()


def test_many_small_changes_make_few_blocks():
    """Against a dictionary, one vector at a time: added, replaced, removed."""
    rng = np.random.default_rng(3)
    partition, known = Partition(4), {}
    for change in range(1, 2001):
        vector = unit(rng.normal(size=(1, 4)))
        id_ = np.array([rng.integers(0, 600)])
        if rng.random() < 0.3:
            partition = partition.changed(change, id_, NONE, vector[:0])
            known.pop(int(id_[0]), None)
        else:
            partition = partition.changed(change, id_, id_, vector)
            known[int(id_[0])] = vector[0]
    assert partition.ids.tolist() == sorted(known)
    assert len(partition.blocks) < 16
    assert (partition.vectors(partition.ids) == np.stack([known[id_] for id_ in sorted(known)])).all()
    for block in partition.blocks:
        assert (np.diff(block.ids) > 0).all()


def test_blocks_do_not_grow_for_ever():
    ids = np.arange(3 * BLOCK)
    vectors = unit(np.random.default_rng(4).normal(size=(len(ids), 2)))
    partition = Partition(2)
    for change, at in enumerate(range(0, len(ids), BLOCK // 2)):
        some = slice(at, at + BLOCK // 2)
        partition = partition.changed(change, ids[some], ids[some], vectors[some])
    assert max(len(block.ids) for block in partition.blocks) <= BLOCK
    assert lists(partition.search(vectors[5], 30)) == ranked_close(ids, vectors, vectors[5], 30)


def ranked_close(ids, vectors, query, k):
    partition = Partition(2, 0, (Block(ids, vectors),))
    return lists(partition.search(query, k))
