"""Approximate indexes: what they find, what they follow, and when they are left aside."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

from llama_index_mm.errors import SpaceError
from llama_index_mm.nodes import ImageMedia
from llama_index_mm.stores import MediaStore, Record, SpaceVectorStore, approximate
from llama_index_mm.stores.approximate import ApproximateIndex

COUNT, DIMENSION, CLUSTERS, RECALL = 4000, 64, 40, 0.95


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def clustered(count, seed):
    """Vectors of length 1 around centres that are the same for every seed."""
    centres = unit(np.random.default_rng(0).normal(size=(CLUSTERS, DIMENSION)))
    rng = np.random.default_rng(seed)
    return unit(centres[rng.integers(0, CLUSTERS, count)] + 0.12 * rng.normal(size=(count, DIMENSION)))


VECTORS, QUERIES = clustered(COUNT, 1), clustered(50, 2)


def records(vectors, start=0, **metadata):
    return [
        Record(TextNode(id_=str(at), text=f"text {at}", metadata={"digit": at % 10, **metadata}), {"words": vector})
        for at, vector in enumerate(vectors, start)
    ]


def open_store(folder, **options):
    store = MediaStore(folder, recall=RECALL, **options)
    store.declare_space("words", DIMENSION, "f")
    return store


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of a store with an approximate index, which is used though reading all of so few vectors takes no longer."""
    folder = tmp_path_factory.mktemp("built") / "store"
    with pytest.MonkeyPatch.context() as patch, open_store(folder) as store:
        patch.setattr(approximate, "_FASTER", 0.0)
        store.add(records(VECTORS))
        store.build_approximate("words")
    return folder


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """How many candidates were wanted, of every search that asked an approximate index."""
    monkeypatch.setattr(approximate, "_FASTER", 0.0)
    found = []
    whole = ApproximateIndex.candidates

    def noting(self, query, k, live=None):
        found.append(k)
        return whole(self, query, k, live)

    monkeypatch.setattr(ApproximateIndex, "candidates", noting)
    return found


@pytest.fixture
def store(built, tmp_path):
    with open_store(shutil.copytree(built, tmp_path / "store")) as made:
        yield made


def search(store, query, k=10, among=None, **options):
    return [(hit.seq, hit.similarity) for hit in store.search("words", "text", query, k, among, **options)]


def seqs(store, query, k=10, among=None, **options):
    return [seq for seq, _ in search(store, query, k, among, **options)]


def recall(store, k, queries=QUERIES):
    shares = [len({*seqs(store, query, k)} & {*seqs(store, query, k, exact=True)}) / k for query in queries]
    return float(np.mean(shares))


# -- what is measured ---------------------------------------------------------------------------------------------------


def test_what_was_measured_is_told_and_holds(store, asked):
    (told,) = store.statistics()
    facts = told.approximate
    assert (told.vectors, told.pending, facts.vectors, facts.target, facts.why) == (COUNT, 0, COUNT, RECALL, "")
    assert [one.k for one in facts.settings] == [10, 100]
    assert re.fullmatch(
        rf"IVF{facts.lists},RaBitQ \+ exact re-rank: recall@10 \S+ on {facts.queries} queries, .*exact", str(told)
    )
    for one in facts.settings:
        assert RECALL <= one.recall <= 1
        assert recall(store, one.k) >= one.recall - 0.05
    assert recall(store, 40) >= RECALL - 0.05
    assert {*asked} == {10, 40, 100}


def test_similarities_are_exact_and_in_order(store):
    for query in QUERIES:
        found = search(store, query, 30)
        everything = dict(search(store, query, COUNT))
        assert found == sorted(((seq, everything[seq]) for seq, _ in found), key=lambda hit: (-hit[1], hit[0]))


def test_facts_and_files_survive_reopening(store, asked):
    before = store.statistics(), [search(store, query) for query in QUERIES]
    store.close()
    assert len(asked) == len(QUERIES)
    with MediaStore(store.folder, create=False) as again:
        assert (again.statistics(), [search(again, query) for query in QUERIES]) == before
        assert len(asked) == 2 * len(QUERIES)
        assert again.check().problems == ()


def test_several_threads_find_the_same(store):
    expected = [search(store, query) for query in QUERIES]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: search(store, query), [*QUERIES] * 4)) == expected * 4


# -- what is exact nevertheless -----------------------------------------------------------------------------------------


def are_nearest(found, query, k, among=None):
    """Whether these are the nearest, but for ties, by NumPy. Numbers of nodes begin at 1."""
    rows = np.arange(COUNT) if among is None else np.asarray(among) - 1
    wanted = np.sort(VECTORS[rows].astype(float) @ query)[::-1][:k]
    similarities = VECTORS[np.asarray(found) - 1].astype(float) @ query
    return {*found} <= {*(rows + 1)} and len({*found}) == len(wanted) and np.allclose(similarities, wanted, rtol=0, atol=1e-6)


def test_searches_that_read_all_vectors(store, asked):
    among = store.find(filters=MetadataFilters(filters=[MetadataFilter(key="digit", value=3)]))
    assert len(among) == COUNT // 10
    for query in QUERIES:
        assert are_nearest(seqs(store, query, 10, exact=True), query, 10)
        assert are_nearest(seqs(store, query, 101), query, 101)
        assert are_nearest(seqs(store, query, 10, among), query, 10, among)
        assert are_nearest(seqs(store, query, 10, among[:3]), query, 3, among[:3])
    assert len(seqs(store, QUERIES[0], 2 * COUNT)) == COUNT
    assert asked == []


def test_through_the_vector_store(store, asked):
    vectors = SpaceVectorStore(store, "words")
    digit = MetadataFilters(filters=[MetadataFilter(key="digit", value=3)])
    for query in QUERIES[:10]:
        ask = VectorStoreQuery(query_embedding=query.tolist(), similarity_top_k=10)
        exact = [int(name) + 1 for name in vectors.query(ask, exact=True).ids]
        assert are_nearest(exact, query, 10)
        filtered = vectors.query(VectorStoreQuery(query_embedding=query.tolist(), similarity_top_k=10, filters=digit))
        assert are_nearest([int(name) + 1 for name in filtered.ids], query, 10, range(4, COUNT + 1, 10))
        assert asked == []
        assert len({int(name) + 1 for name in vectors.query(ask).ids} & {*exact}) >= 5
        no_filter = VectorStoreQuery(query_embedding=query.tolist(), similarity_top_k=10, filters=MetadataFilters(filters=[]))
        assert vectors.query(no_filter).ids == vectors.query(ask).ids
        assert asked == [10, 10, 10]
        asked.clear()


# -- what is followed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 10, 100])
def test_never_fewer_than_there_are(store, k, asked):
    """Nearly all vectors near the query go; the lists that are read first are then as good as empty."""
    query = QUERIES[0]
    near = seqs(store, query, 1500)
    store.delete_from("words", [seq for seq in near if seq % 50])
    left = [seq for seq in near if seq % 50 == 0]
    found = search(store, query, k)
    assert len(found) == k
    assert not {seq for seq, _ in found} & {seq for seq in near if seq % 50}
    assert len({seq for seq, _ in found[: len(left)]} & {*left}) >= 0.9 * min(k, len(left))
    assert k in asked
    store.delete_from("words", [seq for seq in store.find().tolist() if seq not in near[:1000]])
    assert seqs(store, query, k) == [seq for seq in left if seq in near[:1000]][:k]


def test_what_is_new_is_found_exactly(store, asked):
    query = QUERIES[0]
    fresh = unit(query + 0.01 * np.random.default_rng(3).normal(size=(20, DIMENSION)))
    store.add(records(fresh, COUNT))
    assert {*seqs(store, query, 20)} == {*range(COUNT + 1, COUNT + 21)}
    assert {*seqs(store, query, 40)} > {*range(COUNT + 1, COUNT + 21)}
    assert asked == [20, 40]
    (told,) = store.statistics()
    assert (told.vectors, told.pending, told.approximate.vectors) == (COUNT + 20, 20, COUNT)


def test_what_has_changed_and_what_is_gone(store, asked):
    query = QUERIES[0]
    first, second, third, *_ = seqs(store, query, 10)
    store.delete_from("words", [second])
    moved = records(-query[None], first - 1)  # the same node, with a vector far away
    store.add(moved)
    found = search(store, query, 10)
    assert not {first, second} & {seq for seq, _ in found}
    assert found[0][0] == third
    assert search(store, -query, 1) == [(first, pytest.approx(1.0))]
    store.add(records(query[None], first - 1, kind="new"))  # another node, as its metadata is new
    assert search(store, query, 1) == [(COUNT + 1, pytest.approx(1.0))]
    assert len(asked) == 4


def test_it_is_built_again_with_the_next_files(store, asked):
    store.add(records(clustered(500, 4), COUNT))
    store.delete_from("words", range(1, 1001))
    (told,) = store.statistics()
    assert (told.vectors, told.pending, told.approximate.vectors) == (COUNT - 500, 1500, COUNT)
    exact = [seqs(store, query, exact=True) for query in QUERIES]
    store.checkpoint()
    (told,) = store.statistics()
    assert (told.vectors, told.pending, told.approximate.vectors) == (COUNT - 500, 0, COUNT - 500)
    assert [seqs(store, query, exact=True) for query in QUERIES] == exact
    asked.clear()
    assert recall(store, 10) >= told.approximate.settings[0].recall - 0.05
    assert len(asked) == len(QUERIES)
    assert len([path for path in (store.folder / "faiss").iterdir() if path.suffix == ".faiss"]) == 1
    assert store.check().problems == ()


# -- whether there is one -----------------------------------------------------------------------------------------------


def spread(count=2000):
    """Without any clusters."""
    return unit(np.random.default_rng(5).normal(size=(count, DIMENSION)))


def test_vectors_without_clusters(tmp_path, asked):
    with MediaStore(tmp_path, recall=0.999) as store:
        store.declare_space("words", DIMENSION, "f")
        store.add(records(spread()))
        facts = store.build_approximate("words")["words", "text"]
        assert facts.settings == ()
        assert 0.5 < facts.best < 0.999
        assert facts.why == f"recall@10 was at most {facts.best:.3f}, 0.999 is asked for"
        (told,) = store.statistics()
        assert told.approximate == facts
        assert str(told) == f"exact (no approximate index: {facts.why})"
        assert not list((tmp_path / "faiss").glob("*.faiss"))
        assert {*seqs(store, QUERIES[0])} == {*(np.argsort(-(spread() @ QUERIES[0]))[:10] + 1)}
    assert asked == []


def test_one_that_is_not_faster_is_not_used(tmp_path, monkeypatch, asked):
    monkeypatch.setattr(approximate, "_FASTER", 1e9)
    with open_store(tmp_path) as store:
        store.add(records(VECTORS))
        facts = store.build_approximate("words")["words", "text"]
        assert (facts.settings, facts.digest) == ((), None)
        assert facts.best >= RECALL
        assert "x as fast as reading all vectors" in facts.why
        assert are_nearest(seqs(store, QUERIES[0]), QUERIES[0], 10)
    assert asked == []


@pytest.mark.parametrize("by", ["close", "checkpoint"])
def test_large_partitions_get_one_by_themselves(tmp_path, by, asked):
    with open_store(tmp_path, approximate_above=1500) as store:
        store.declare_space("small", DIMENSION, "f")
        store.add(records(VECTORS[:1501]))
        store.add([Record(TextNode(id_=str(at)), {"small": vector}) for at, vector in enumerate(VECTORS[:1500], 9000)])
        if by == "checkpoint":
            store.checkpoint()
        else:
            store.close()
            store = open_store(tmp_path)
        told = {one.space: one.approximate for one in store.statistics()}
        assert told["small"] is None
        assert told["words"].vectors == 1501
        assert len(search(store, QUERIES[0])) == 10
        assert asked == [10]
        store.close()


@pytest.mark.parametrize("above", [None, 10_000])
def test_small_ones_get_none(tmp_path, above):
    with open_store(tmp_path, approximate_above=above) as store:
        store.add(records(VECTORS[:1500]))
        store.checkpoint(everything=True)
        assert [(one.approximate, str(one)) for one in store.statistics()] == [(None, "exact")]


def test_too_few_vectors(tmp_path):
    with open_store(tmp_path, approximate_above=5) as store:
        store.add(records(VECTORS[:20]))
        assert store.build_approximate("words")["words", "text"].why == "needs 1000 vectors"
        store.checkpoint(everything=True)
        assert str(store.statistics()[0]) == "exact (no approximate index: needs 1000 vectors)"
        assert seqs(store, VECTORS[7], 1) == [8]


def test_each_modality_has_its_own(store):
    pictures = [
        Record(ImageMedia.create(f"{at}.png", digest="ab" * 32, id_=f"picture {at}"), {"words": vector})
        for at, vector in enumerate(clustered(1200, 6))
    ]
    store.add(pictures)
    assert set(store.build_approximate("words", "image")) == {("words", "image")}
    assert {one.modality: one.approximate.vectors for one in store.statistics()} == {"text": COUNT, "image": 1200}
    assert set(store.build_approximate("words")) == {("words", "image"), ("words", "text")}
    with pytest.raises(SpaceError, match=r"^Space 'looks' is not in this store; it has \['words'\]\.$"):
        store.build_approximate("looks")
