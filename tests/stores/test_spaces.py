"""Several `SpaceVectorStore`s over one folder, and what a space takes and refuses."""

import inspect
import threading

import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery, VectorStoreQueryMode

from llama_index_mm.errors import SpaceError, StoreError
from llama_index_mm.stores import MediaStore, SpaceVectorStore, StoredSpace
from llama_index_mm.testing import HashingEncoder

DOCUMENTS = {"a": "p", "b": "p", "c": "q"}


def node(name, embedding, text="", **metadata):
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=DOCUMENTS[name])} if name in DOCUMENTS else {}
    made = TextNode(id_=name, text=text or f"text {name}", metadata=metadata, relationships=source)
    return made.model_copy(update={"embedding": embedding})  # as it is, whatever it is


def nodes(dimension, names="abc"):
    """With vectors of length 1 that differ between names and dimensions."""
    vectors = {name: np.random.default_rng([ord(name), dimension]).normal(size=dimension) for name in names}
    return [node(name, (vector / np.linalg.norm(vector)).tolist()) for name, vector in vectors.items()]


def ask(embedding, k=9, **given):
    return VectorStoreQuery(query_embedding=embedding, similarity_top_k=k, **given)


def held(store):
    return "".join(one.node_id for one in store.get_nodes())


def bytes_of(store, names="abc"):
    """Vectors as the store keeps them, by node."""
    seqs = [store.client.find(node_ids=[name]).tolist() for name in names]
    return {
        name: store.client.vectors(store.space, "text", seq).tobytes() for name, seq in zip(names, seqs, strict=True) if seq
    }


@pytest.fixture
def media(tmp_path):
    with MediaStore(tmp_path / "store") as made:
        yield made


@pytest.fixture
def stores(media):
    made = SpaceVectorStore(media, "words"), SpaceVectorStore(media, "looks")
    made[0].add(nodes(3))
    made[1].add(nodes(5))
    return made


# -- several spaces -----------------------------------------------------------------------------------------------------


def test_the_same_nodes_through_a_second_space(media):
    words, looks = SpaceVectorStore(media, "words"), SpaceVectorStore(media, "looks")
    words.add(nodes(3))
    before, seqs = bytes_of(words), media.find().tolist()
    looks.add(nodes(5))
    assert bytes_of(words) == before == {one.node_id: np.float32(one.embedding).tobytes() for one in nodes(3)}
    assert bytes_of(looks) == {one.node_id: np.float32(one.embedding).tobytes() for one in nodes(5)}
    assert media.find().tolist() == seqs
    assert media.partitions() == {("words", "text"): 3, ("looks", "text"): 3}
    assert media.spaces() == {"looks": StoredSpace(5, "", True), "words": StoredSpace(3, "", True)}


@pytest.mark.parametrize("change", [{"text": "new"}, {"kind": "new"}])
def test_a_changed_node_leaves_the_spaces_that_have_only_its_old_vector(stores, media, change):
    words, looks = stores
    kept = bytes_of(looks, "bc")
    words.add([node("a", [0.0, 0.0, 1.0], **change)])
    assert (held(words), held(looks)) == ("bca", "bc")
    assert bytes_of(looks, "bc") == kept
    assert words.query(ask([0.0, 0.0, 1.0], 1)).ids == ["a"]
    assert "a" not in looks.query(ask([1.0, 0.0, 0.0, 0.0, 0.0])).ids
    looks.add([node("a", [1.0, 0.0, 0.0, 0.0, 0.0], **change)])
    assert (held(words), held(looks)) == ("bca", "bca")
    assert media.check().problems == ()


def test_the_same_node_with_another_vector_stays_in_other_spaces(stores):
    words, looks = stores
    kept = bytes_of(looks)
    words.add([node("a", [0.0, 0.0, 1.0])])
    assert bytes_of(looks) == kept
    assert bytes_of(words)["a"] == np.float32([0, 0, 1]).tobytes()
    assert held(words) == held(looks) == "abc"


CHANGES = {
    "delete": (lambda store: store.delete("p"), "c"),
    "delete_nodes": (lambda store: store.delete_nodes(["a", "nobody"]), "bc"),
    "filters": (lambda store: store.delete_nodes(filters=MetadataFilters(filters=[at("doc_id", "q")])), "ab"),
    "clear": (lambda store: store.clear(), ""),
}


def at(key, value):
    return MetadataFilter(key=key, value=value)


@pytest.mark.parametrize("change", CHANGES)
def test_a_space_changes_and_shows_only_itself(stores, media, change):
    words, looks = stores
    words.add(nodes(3, "d"))
    looks.add(nodes(5, "e"))
    kept = bytes_of(looks, "abce")
    CHANGES[change][0](words)
    left = CHANGES[change][1] + ("" if change == "clear" else "d")
    assert (held(words), held(looks)) == (left, "abce")
    assert bytes_of(looks, "abce") == kept
    assert set(words.query(ask([1.0, 0.0, 0.0])).ids) == set(left)
    assert set(looks.query(ask([1.0, 0.0, 0.0, 0.0, 0.0])).ids) == set("abce")
    assert words.get_nodes(["e"]) == []
    assert words.query(ask([1.0, 0.0, 0.0], node_ids=["e"])).ids == []
    assert media.check().problems == ()


def test_a_node_goes_with_the_last_space_that_lets_it_go(stores, media):
    words, looks = stores
    words.delete("p")
    assert len(media) == 3
    looks.delete_nodes(["a"])
    assert [one.node_id for one in media.nodes(media.find().tolist()).values()] == ["b", "c"]
    words.clear()
    looks.clear()
    assert (len(media), media.partitions()) == (0, {})
    assert set(media.spaces()) == {"words", "looks"}


def test_two_embed_models_over_one_folder(media):
    class Embeds(BaseEmbedding):
        dimension: int

        def _get_text_embedding(self, text):
            return HashingEncoder("text", self.dimension).encode([text])[0].tolist()

        def _get_query_embedding(self, query):
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query):
            return self._get_text_embedding(query)

    documents = [Document(id_=text, text=text) for text in ("a boat in a storm", "a goat", "the tide")]
    indexes = {}
    for dimension in (16, 48):
        context = StorageContext.from_defaults(vector_store=SpaceVectorStore(media, f"words {dimension}"))
        indexes[dimension] = VectorStoreIndex.from_documents(
            documents, storage_context=context, embed_model=Embeds(dimension=dimension)
        )
    for dimension, index in indexes.items():
        (best, *others) = index.as_retriever(similarity_top_k=3).retrieve("a boat in a storm")
        assert (best.node.text, len(others)) == ("a boat in a storm", 2)
        assert best.score == pytest.approx(1.0)
        assert media.spaces()[f"words {dimension}"].dimension == dimension
    indexes[16].delete_ref_doc("a goat")
    assert len(indexes[16].as_retriever(similarity_top_k=9).retrieve("goat")) == 2
    assert indexes[48].as_retriever(similarity_top_k=1).retrieve("a goat")[0].node.text == "a goat"


# -- what a space is ----------------------------------------------------------------------------------------------------


def test_a_space_takes_the_dimension_of_its_first_vector(media):
    store = SpaceVectorStore(media, "late", fingerprint="f")
    assert store.query(ask([1.0, 0.0])).ids == []
    assert store.get_nodes() == []
    assert media.spaces() == {}
    store.add(nodes(7))
    assert media.spaces() == {"late": StoredSpace(7, "f", True)}
    with pytest.raises(SpaceError, match=r"^Expected a query of shape \(7,\) for space 'late', got \(3,\)\.$"):
        store.query(ask([1.0, 0.0, 0.0]))
    store.clear()
    assert SpaceVectorStore(media, "late").client.spaces()["late"].dimension == 7


def test_another_model_is_refused(media):
    SpaceVectorStore(media, "words", dimension=3, fingerprint="f").add(nodes(3))
    for wrong in ({"fingerprint": "g"}, {"dimension": 4}, {"dimension": 4, "fingerprint": "f"}):
        with pytest.raises(SpaceError, match="was made with fingerprint f \\(3 dimensions\\)"):
            SpaceVectorStore(media, "words", **wrong)
    for right in ({}, {"fingerprint": "f"}, {"dimension": 3}):
        store = SpaceVectorStore(media, "words", **right)
        assert len(store.query(ask([1.0, 0.0, 0.0]), fingerprint="f").ids) == 3
        with pytest.raises(SpaceError, match=r"^The query was made with fingerprint g; the vectors of space 'words' have f\."):
            store.query(ask([1.0, 0.0, 0.0]), fingerprint="g")


def test_as_long_as_they_come(media):
    raw = SpaceVectorStore(media, "raw", normalize=False)
    raw.add([node("a", [3.0, 4.0]), node("b", [-0.5, 0.0]), node("c", [0.0, 100.0])])
    result = raw.query(ask([2.0, 1.0]))
    assert (result.ids, result.similarities) == (["c", "a", "b"], [100.0, 10.0, -1.0])
    assert np.frombuffer(bytes_of(raw)["a"], np.float32).tolist() == [3.0, 4.0]
    scaled = SpaceVectorStore(media, "scaled")
    scaled.add([node("a", [3.0, 4.0])])
    assert scaled.query(ask([0.0, 2.0])).similarities == pytest.approx([0.8])
    assert SpaceVectorStore(media, "raw").query(ask([2.0, 1.0])) == result
    for space, kept in (("raw", False), ("scaled", True)):
        with pytest.raises(SpaceError, match=f"was made with normalize={kept}, not {not kept}; that can't change"):
            SpaceVectorStore(media, space, normalize=not kept)


# -- what is refused ----------------------------------------------------------------------------------------------------

BAD = {
    "zero": ([0.0, 0.0, 0.0], "Node bad: the vector for space 'words' has length 0; expected a finite one above 0."),
    "nan": ([1.0, float("nan"), 0.0], "Node bad: the vector for space 'words' has length nan; expected a finite one"),
    "infinite": ([1.0, float("-inf"), 0.0], "Node bad: the vector for space 'words' has length inf; expected a finite one"),
    "too large": ([1.0, 1e39, 0.0], "Node bad: the vector for space 'words' has length inf; expected a finite one"),
    "none": ([1.0, None, 0.0], "Node bad: "),
    "too long": ([1.0] * 4, "Node bad: expected a vector of shape (3,) for space 'words', got (4,)."),
    "too short": ([1.0], "Node bad: expected a vector of shape (3,) for space 'words', got (1,)."),
    "empty": ([], "Node bad: expected a vector of shape (3,) for space 'words', got (0,)."),
    "a table": ([[1.0, 0.0, 0.0]], "Node bad: expected an embedding of shape (d,), got (1, 3)."),
    "ragged": ([[1.0], [0.0, 0.0], 1.0], "Node bad: expected an embedding of numbers, got list: "),
    "words": (["a", "b", "c"], "Node bad: expected an embedding of numbers, got list: "),
    "a text": ("abc", "Node bad: expected an embedding of numbers, got str: "),
    "a number": (1.0, "Node bad: expected an embedding of shape (d,), got ()."),
    "a mapping": ({"a": 1.0}, "Node bad: expected an embedding of numbers, got dict: "),
}


@pytest.mark.parametrize("first", [False, True], ids=["known", "new"])
@pytest.mark.parametrize("what", BAD)
def test_a_bad_vector_is_refused_with_its_whole_batch(media, what, first):
    store = SpaceVectorStore(media, "words")
    if not first:
        store.add(nodes(3, "x"))
    embedding, message = BAD[what]
    for batch in ([*nodes(3), node("bad", embedding)], [*nodes(3, "a"), node("bad", embedding), *nodes(3, "b")]):
        with pytest.raises(SpaceError) as caught:
            store.add(batch)
        assert str(caught.value).startswith(message)
    assert held(store) == ("" if first else "x")
    assert media.partitions() == ({} if first else {("words", "text"): 1})
    assert set(media.spaces()) == (set() if first else {"words"})
    if first:
        store.add(nodes(4))  # what was refused has not settled the dimension
        assert held(store) == "abc"


def test_an_id_that_comes_twice(stores, media):
    before = bytes_of(stores[0]), bytes_of(stores[1])
    with pytest.raises(StoreError, match=r"^Node ids must not repeat within one call of add; these do: a, c\.$"):
        stores[0].add([*nodes(3, "cab"), *nodes(3, "dca")])
    assert (bytes_of(stores[0]), bytes_of(stores[1])) == before
    assert len(media) == 3


def test_no_embedding(stores):
    with pytest.raises(ValueError, match="embedding not set"):
        stores[0].add([*nodes(3, "xyz"), TextNode(id_="w", text="w")])
    assert held(stores[0]) == "abc"


@pytest.mark.parametrize(
    "embedding", [[0.0] * 3, [np.nan, 0, 0], [np.inf, 0, 0], [-1e39, 0, 0], ["a", "b", "c"], [[1.0, 0, 0]], "abc"]
)
def test_a_bad_query(stores, embedding):
    with pytest.raises(SpaceError):
        stores[0].query(ask(embedding))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64])
def test_arrays(media, kind):
    store = SpaceVectorStore(media, "words")
    vectors = np.array([[0, 1, 0, 0], [0, 0, 2, 0], [3, 0, 0, 4]]).astype(kind)
    store.add([node(name, vector) for name, vector in zip("abc", vectors[:, ::-1], strict=True)])
    result = store.query(ask(vectors[2, ::-1]))
    assert result.ids == ["c", "a", "b"]
    assert result.similarities == pytest.approx([1.0, 0.0, 0.0])
    assert result.nodes[0].embedding is None


# -- many at once -------------------------------------------------------------------------------------------------------


def test_reading_while_another_thread_writes(media):
    """At any moment 6 nodes are "kept", under ever new numbers; as many again come and go."""
    store = SpaceVectorStore(media, "words", dimension=8)
    rng = np.random.default_rng(0)
    query = rng.normal(size=8).tolist()

    def some(kind, turn, count):
        near = rng.normal(size=(count, 8)) * 0.1 + (query if turn % 2 else -np.array(query))
        return [node(f"{kind} {at}", near[at].tolist(), f"{kind} {at} {turn}", kind=kind) for at in range(count)]

    store.add(some("kept", 0, 6))
    kept = MetadataFilters(filters=[at("kind", "kept")])
    expected = {f"kept {at}" for at in range(6)}
    done = threading.Event()
    failures, answers = [], []

    def reads(mode, filters):
        try:
            while not done.is_set():
                result = store.query(ask(query, 6, mode=mode, filters=filters))
                assert len(result.ids) == len(set(result.ids)) == 6
                assert filters is None or set(result.ids) == expected
                assert [one.node_id for one in result.nodes] == result.ids
                assert {one.node_id for one in store.get_nodes(filters=kept)} == expected
                answers.append(mode)
        except BaseException as error:
            failures.append(error)

    modes = (VectorStoreQueryMode.DEFAULT, None), (VectorStoreQueryMode.DEFAULT, kept), (VectorStoreQueryMode.MMR, kept)
    threads = [threading.Thread(target=reads, args=given) for given in modes]
    for thread in threads:
        thread.start()
    turn = 0
    while not failures and turn < 4000 and (turn < 60 or len(answers) < 120):
        turn += 1
        store.add(some("kept", turn, 6))
        store.add(some("other", turn, 6))
        store.delete_nodes([f"other {at}" for at in range(6)])
    done.set()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(answers) >= 120


def test_every_method_has_a_twin_that_does_not_block():
    twins = {"add": "async_add"} | {name: f"a{name}" for name in ("delete", "delete_nodes", "clear", "get_nodes", "query")}
    public = {name for name in vars(SpaceVectorStore) if not name.startswith(("_", "model_"))}
    rest = {"class_name", "client", "close", "persist", "from_persist_path", "from_persist_dir"}
    assert public - rest == {*twins, *twins.values()}
    for name, twin in twins.items():
        method, other = getattr(SpaceVectorStore, name), getattr(SpaceVectorStore, twin)
        assert inspect.iscoroutinefunction(other)
        assert not inspect.iscoroutinefunction(method)
        assert inspect.signature(method) == inspect.signature(other)
