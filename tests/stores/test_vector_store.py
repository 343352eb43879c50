import asyncio
import threading

import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.retrievers import VectorIndexRetriever
from llama_index.core.schema import Document, NodeRelationship, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from llama_index_mm.embeddings.base import unit
from llama_index_mm.errors import QueryError, SpaceError
from llama_index_mm.nodes import ImageMedia
from llama_index_mm.stores import MediaStore, Record, SpaceVectorStore
from llama_index_mm.testing import HashingEncoder

ENCODER = HashingEncoder("text")
TEXTS = {
    "boat": ("sea", "a boat in a storm"),
    "tide": ("sea", "the tide comes in"),
    "goat": ("hill", "a goat on a hill"),
    "rain": ("hill", "rain in a storm"),
}


class Words(BaseEmbedding):
    """Embeds by words, like `HashingEncoder`, but not at unit length."""

    def _get_text_embedding(self, text):
        return (3 * ENCODER.encode([text])[0]).tolist()

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


def node(name):
    place, text = TEXTS[name]
    return TextNode(
        id_=name,
        text=text,
        metadata={"place": place},
        excluded_embed_metadata_keys=["place"],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document {place}")},
    )


def embedded(*names):
    nodes = [node(name) for name in names]
    for one in nodes:
        one.embedding = Words().get_text_embedding(one.text)
    return nodes


def place(value, operator=FilterOperator.EQ):
    return MetadataFilters(filters=[MetadataFilter(key="place", value=value, operator=operator)])


def ask(text, k=10, **restricted):
    return VectorStoreQuery(query_embedding=Words().get_query_embedding(text), similarity_top_k=k, **restricted)


@pytest.fixture
def media(tmp_path):
    with MediaStore(tmp_path) as made:
        made.declare_space("words", ENCODER.dimension, ENCODER.fingerprint)
        made.declare_space("small", 3, "f")
        yield made


@pytest.fixture
def store(media):
    return SpaceVectorStore(media, "words")


def similarities(question, names):
    asked = ENCODER.encode([question])[0]
    return [float(asked @ ENCODER.encode([TEXTS[name][1]])[0]) for name in names]


def ranked(question, names=TEXTS):
    return sorted(names, key=lambda name: -similarities(question, [name])[0])


# -- through LlamaIndex ---------------------------------------------------------------------------------------------------


@pytest.fixture
def index(store):
    made = VectorStoreIndex.from_vector_store(store, embed_model=Words())
    made.insert_nodes([node(name) for name in TEXTS])
    return made


def test_the_nearest_come_first(index, store):
    results = index.as_retriever(similarity_top_k=3).retrieve("a boat in a storm")
    expected = ranked("a boat in a storm")[:3]
    assert [result.node.node_id for result in results] == expected
    assert expected[0] == "boat"
    np.testing.assert_allclose([result.score for result in results], similarities("a boat in a storm", expected), atol=1e-6)
    assert [result.node.to_dict() for result in results] == [node(name).to_dict() for name in expected]
    assert index.vector_store is store


def test_filters_come_before_the_search(index):
    for filters, names in [
        (place("hill"), ["goat", "rain"]),
        (place(["sea"], FilterOperator.NIN), ["goat", "rain"]),
        (place("moon"), []),
        (MetadataFilters(filters=[]), list(TEXTS)),
    ]:
        results = index.as_retriever(similarity_top_k=4, filters=filters).retrieve("a boat in a storm")
        assert [result.node.node_id for result in results] == ranked("a boat in a storm", names)


def test_node_ids_and_documents(index):
    def retrieve(**restricted):
        results = VectorIndexRetriever(index, similarity_top_k=4, **restricted).retrieve("storm")
        return [result.node.node_id for result in results]

    assert retrieve(node_ids=["goat", "tide", "nobody"]) == ranked("storm", ["goat", "tide"])
    assert retrieve(doc_ids=["document sea"]) == ranked("storm", ["boat", "tide"])
    assert retrieve(doc_ids=["document sea"], node_ids=["goat", "tide"]) == ["tide"]
    assert retrieve(node_ids=[], doc_ids=[]) == ranked("storm")


def test_insert_and_delete_documents(index, store):
    index.insert(Document(id_="late", text="a whale"))
    (best, *_) = index.as_retriever(similarity_top_k=1).retrieve("a whale")
    assert (best.node.text, best.node.ref_doc_id) == ("a whale", "late")
    index.delete_ref_doc("late")
    index.delete_ref_doc("document hill")
    assert [result.node.node_id for result in index.as_retriever(similarity_top_k=9).retrieve("a whale")] == ranked(
        "a whale", ["boat", "tide"]
    )
    index.delete_nodes(["boat"])
    assert [one.node_id for one in store.get_nodes()] == ["tide"]


async def test_the_index_without_blocking(index):
    await index.ainsert_nodes([TextNode(id_="late", text="a whale")])
    results = await index.as_retriever(similarity_top_k=9).aretrieve("a whale")
    assert [result.node.node_id for result in results] == ["late", *ranked("a whale")]
    await index.adelete_ref_doc("document sea")
    results = await index.as_retriever(similarity_top_k=9).aretrieve("a whale")
    assert [result.node.node_id for result in results] == ["late", *ranked("a whale", ["goat", "rain"])]


def test_from_documents_with_a_mock_embedding(media):
    media.declare_space("mock", 8, "mock")
    context = StorageContext.from_defaults(vector_store=SpaceVectorStore(media, "mock"))
    documents = [Document(text=text) for _, text in TEXTS.values()]
    index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=MockEmbedding(embed_dim=8))
    results = index.as_retriever(similarity_top_k=2).retrieve(QueryBundle("anything"))
    assert [result.node.get_content() for result in results] == ["a boat in a storm", "the tide comes in"]
    assert [result.score for result in results] == pytest.approx([1.0, 1.0])


def test_reopened(index, store, tmp_path):
    expected = index.as_retriever(similarity_top_k=4).retrieve("storm")
    store.client.close()
    with MediaStore(tmp_path, create=False) as again:
        other = VectorStoreIndex.from_vector_store(SpaceVectorStore(again, "words"), embed_model=Words())
        assert other.as_retriever(similarity_top_k=4).retrieve("storm") == expected


# -- by itself ------------------------------------------------------------------------------------------------------------


def test_query(store):
    assert store.add(embedded("boat", "tide", "rain")) == ["boat", "tide", "rain"]
    assert store.add([]) == []
    result = store.query(ask("the tide comes in", 2))
    assert result.ids == ranked("the tide comes in", ["boat", "tide", "rain"])[:2]
    assert [one.node_id for one in result.nodes] == result.ids
    assert result.similarities == pytest.approx(similarities("the tide comes in", result.ids), abs=1e-6)
    assert store.query(ask("tide", filters=place("moon"))).ids == []


def test_all_modalities_of_the_space_and_no_other_space(store, media):
    picture = ImageMedia.create("a.png", digest="ab" * 32, id_="picture")
    media.add([Record(picture, {"words": ENCODER.encode(["storm"])[0]})])
    media.add([Record(TextNode(id_="elsewhere"), {"small": unit(np.ones(3))})])
    store.add(embedded("rain", "boat"))
    result = store.query(ask("storm"))
    assert result.ids == ["picture", *ranked("storm", ["boat", "rain"])]
    assert type(result.nodes[0]) is ImageMedia


def test_refusals(store, media):
    with pytest.raises(QueryError, match=r"^This store answers queries of mode 'default' and 'mmr', got 'hybrid'\.$"):
        store.query(ask("a", mode=VectorStoreQueryMode.HYBRID))
    with pytest.raises(QueryError, match=r"^The query has no embedding; give the index an embed_model\.$"):
        store.query(VectorStoreQuery(query_str="a"))
    with pytest.raises(SpaceError, match=r"^Expected a query of shape \(32,\) for space 'words', got \(2,\)\.$"):
        store.query(VectorStoreQuery(query_embedding=[1.0, 0.0]))
    with pytest.raises(ValueError, match="embedding not set"):
        store.add([node("boat")])


def test_get_and_delete_nodes(store):
    store.add(embedded(*TEXTS))

    def left():
        return [one.node_id for one in store.get_nodes()]

    assert left() == list(TEXTS)
    assert [one.node_id for one in store.get_nodes(["rain", "boat"])] == ["boat", "rain"]
    assert [one.node_id for one in store.get_nodes(["rain", "boat"], place("sea"))] == ["boat"]
    for nothing in ({}, {"node_ids": []}, {"filters": MetadataFilters(filters=[])}):
        store.delete_nodes(**nothing)
        assert left() == list(TEXTS)
    store.delete_nodes(["rain", "boat"], place("sea"))
    assert left() == ["tide", "goat", "rain"]
    store.delete_nodes(filters=place("hill"))
    assert left() == ["tide"]
    store.delete("document sea")
    assert left() == []


async def test_async_gives_the_same(store, tmp_path):
    other_media = MediaStore(tmp_path / "other")
    other_media.declare_space("words", ENCODER.dimension, ENCODER.fingerprint)
    other = SpaceVectorStore(other_media, "words")
    assert await other.async_add(embedded(*TEXTS)) == store.add(embedded(*TEXTS))
    for query in (ask("storm"), ask("tide", 2, filters=place("hill")), ask("goat", node_ids=["boat"])):
        assert await other.aquery(query) == store.query(query)
    for given in ((None, None), (["boat", "goat"], None), (None, place("sea")), (["boat"], place("hill"))):
        assert await other.aget_nodes(*given) == store.get_nodes(*given)
    for change in ({"node_ids": ["boat"]}, {"filters": place("sea")}, {}):
        await other.adelete_nodes(**change)
        store.delete_nodes(**change)
        assert await other.aget_nodes() == store.get_nodes()
    await other.adelete("document hill")
    store.delete("document hill")
    assert await other.aget_nodes() == store.get_nodes() == []
    other_media.close()


CALLS = {
    "async_add": lambda store: store.async_add(embedded("rain")),
    "aquery": lambda store: store.aquery(ask("storm", filters=place("sea"))),
    "aget_nodes": lambda store: store.aget_nodes(),
    "adelete": lambda store: store.adelete("document sea"),
    "adelete_nodes": lambda store: store.adelete_nodes(["boat"]),
    "aclear": lambda store: store.aclear(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_the_event_loop_is_never_blocked(store, media, call, monkeypatch):
    """The store takes its time; the loop must go on, and is the one that lets the store go."""
    store.add(embedded("boat"))
    started, release = threading.Event(), threading.Event()
    for name in ("add", "find"):
        whole = getattr(media, name)

        def slow(*args, whole=whole, **kwargs):
            started.set()
            assert release.wait(30)
            return whole(*args, **kwargs)

        monkeypatch.setattr(media, name, slow)
    waiting = asyncio.create_task(CALLS[call](store))
    while not started.is_set():
        await asyncio.sleep(0.001)
    assert not waiting.done()
    release.set()
    await waiting
