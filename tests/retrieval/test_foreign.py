"""Other LlamaIndex retrievers as channels: LlamaIndex's own ones, over nodes of the store and others."""

import asyncio
import copy
import logging
import math
import threading

import pytest
from llama_index.core import SummaryIndex, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import IndexNode, NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import FilterCondition, MetadataFilter, MetadataFilters

from llama_index_mm.errors import QueryError
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.retrieval import FusionRetriever, MediaQuery, reasons_of
from llama_index_mm.retrieval.foreign import copy_of, read_results
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import HashingEncoder, tiny_preset

SPACES = tiny_preset().spaces
OURS = [TextNode(id_=f"ours {at}", text=text) for at, text in enumerate(["a goat", "a boat", "a storm", "red bread"])]
THEIRS = [TextNode(id_=f"theirs {at}", text=text, metadata={"kind": text}) for at, text in enumerate(["goat", "bell"])]


class HashingEmbedding(BaseEmbedding):
    """The tests' encoder as LlamaIndex's embedding."""

    def _get_text_embedding(self, text):
        return HashingEncoder("text").encode([text])[0].tolist()

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


class Listed(BaseRetriever):
    """Gives fixed results; an error if there are none. Has no async code."""

    def __init__(self, *results):
        super().__init__()
        self.results = [NodeWithScore(node=node, score=score) for node, score in results]
        self.asked = []

    def _retrieve(self, query_bundle):
        self.asked.append((query_bundle, threading.current_thread()))
        if not self.results:
            raise RuntimeError("no connection")
        return self.results


@pytest.fixture
def store(tmp_path):
    with MediaStore(tmp_path / "index") as made:
        for space in SPACES:
            made.declare_space(space.name, space.dimension, space.fingerprint)
        made.add(encode_nodes(OURS, SPACES))
        yield made


def made(store, k=9, spaces=SPACES, **retrievers):
    options = retrievers.pop("options", {})
    return FusionRetriever(store, spaces, similarity_top_k=k, retrievers=retrievers, **options)


def names(found):
    return [one.node.node_id for one in found]


def test_scores_of_a_list():
    found = read_results("x", [NodeWithScore(node=node, score=score) for node, score in zip(OURS, [5, 1, 5, 1], strict=True)])
    assert {name: (hit.raw, hit.score) for name, hit in found.hits.items()} == {
        "ours 0": (5.0, pytest.approx(2 / 3)),
        "ours 1": (1.0, pytest.approx(1 / 3)),
        "ours 2": (5.0, pytest.approx(2 / 3)),
        "ours 3": (1.0, pytest.approx(1 / 3)),
    }


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_without_scores_the_order_counts(score):
    found = read_results("x", [NodeWithScore(node=OURS[0], score=score), NodeWithScore(node=OURS[1], score=0.9)])
    assert [(hit.raw, hit.score) for hit in found.hits.values()] == [(None, pytest.approx(2 / 3)), (0.9, pytest.approx(1 / 3))]


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([2.0, 1.0, 0.0, 0.0], {"ours 0": 2 / 3, "ours 1": 1 / 3}),
        ([0.0, 0.0], {}),
        ([3.0, 0.0], {"ours 0": 0.5}),
        ([1.0, 0.0, -1.0], {"ours 0": 0.5 + 6**0.5 / 12, "ours 1": 0.5, "ours 2": 0.5 - 6**0.5 / 12}),
        ([0.0, None], {"ours 0": 2 / 3, "ours 1": 1 / 3}),
    ],
)
def test_zeros_say_that_nothing_fits_where_nothing_is_negative(scores, kept):
    given = [NodeWithScore(node=node, score=score) for node, score in zip(OURS, scores, strict=False)]
    assert {name: hit.score for name, hit in read_results("x", given).hits.items()} == pytest.approx(kept)


def test_what_shares_no_word_with_the_query_is_not_found(store):
    words = Listed((OURS[3], 1.2), (OURS[0], 0.0), (THEIRS[0], 0.0), (THEIRS[1], 0.0))
    found = made(store, spaces=(), words=words).retrieve("bread")
    assert [(one.node.node_id, one.score) for one in found] == [("ours 3", 0.5)]
    nothing = Listed((OURS[0], 0.0), (THEIRS[0], 0.0))
    assert made(store, words=nothing).retrieve("goat") == made(store).retrieve("goat")


def test_bm25(store):
    bm25 = pytest.importorskip("llama_index.retrievers.bm25", reason="pip install llama-index-retrievers-bm25")
    retriever = bm25.BM25Retriever.from_defaults(nodes=[*OURS, *THEIRS], similarity_top_k=6, language="en")
    assert [one.score for one in retriever.retrieve("bread")][1:] == [0.0] * 5
    assert names(made(store, spaces=(), words=retriever).retrieve("bread")) == ["ours 3"]
    assert made(store, spaces=(), words=retriever).retrieve("zebra") == []
    assert names(made(store, words=retriever).retrieve("red bread"))[0] == "ours 3"


def test_of_a_node_that_comes_twice_the_first_counts():
    found = read_results("x", [NodeWithScore(node=OURS[0], score=score) for score in (0.9, 0.1)])
    assert [(hit.raw, hit.score) for hit in found.hits.values()] == [(0.9, 0.5)]
    assert read_results("x", []).hits == {}


async def test_nodes_of_the_store_and_others(store):
    index = VectorStoreIndex(nodes=[OURS[0], *THEIRS], embed_model=HashingEmbedding())
    retriever = made(store, other=index.as_retriever(similarity_top_k=3))
    found = retriever.retrieve("goat")
    assert sorted(names(found)) == sorted(node.node_id for node in [*OURS, *THEIRS])
    assert await retriever.aretrieve("goat") == found
    for one in found:
        reasons = {reason.space: reason for reason in reasons_of(one.node)}
        assert sum(reason.contribution for reason in reasons.values()) == pytest.approx(one.score, abs=1e-12)
        expected = {"ours 0": {"text", "other"}, "theirs 0": {"other"}, "theirs 1": {"other"}}
        assert set(reasons) == expected.get(one.node.node_id, {"text"})
    both = {reason.space: reason for reason in reasons_of(next(one.node for one in found if one.node.node_id == "ours 0"))}
    assert both["other"].raw == pytest.approx(both["text"].raw, abs=1e-6)
    assert both["other"].part == "query"


async def test_a_retriever_without_scores(store):
    retriever = made(store, other=SummaryIndex(nodes=THEIRS).as_retriever())
    found = retriever.retrieve("goat")
    assert await retriever.aretrieve("goat") == found
    scores = {one.node.node_id: one.score for one in found}
    assert (scores["theirs 0"], scores["theirs 1"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert all(reason.raw is None for one in found for reason in reasons_of(one.node) if reason.space == "other")


def test_weights(store):
    other = Listed((OURS[3], 0.9), (OURS[2], 0.1))
    heavy = made(store, other=other, options={"weights": {"other": 3.0}}).retrieve("goat")
    (reason,) = [reason for reason in reasons_of(heavy[0].node) if reason.space == "other"]
    assert (names(heavy)[0], reason.weight, reason.contribution) == ("ours 3", 3.0, pytest.approx(3 / 4 * 2 / 3))
    other.asked.clear()
    muted = made(store, other=other, options={"weights": {"other": 0.0}}).retrieve("goat")
    assert muted == made(store).retrieve("goat")
    assert other.asked == []


def test_filters_and_modalities_hold(store):
    other = Listed((THEIRS[0], 0.9), (THEIRS[1], 0.8), (OURS[0], 0.1))
    filters = MetadataFilters(filters=[MetadataFilter(key="kind", value="bell")])
    assert names(made(store, other=other, options={"filters": filters}).retrieve("goat")) == ["theirs 1"]
    assert names(made(store, other=other).retrieve(MediaQuery("goat", filters=filters))) == ["theirs 1"]
    assert made(store, other=other).retrieve(MediaQuery("goat", modalities=["image"])) == []


FACTS = {
    "german": {"mm_language": "de", "year": 1990, "tags": ["a", "b"]},
    "english": {"mm_language": "en", "mm_start": 5.0, "mm_end": 9.0, "year": "1990", "tags": "ab"},
    "late": {"mm_start": 50.0, "mm_end": 60.0, "tags": 7, "document_id": "its own"},
    "bare": {},
}


def entry(key, operator, value):
    return MetadataFilter(key=key, operator=operator, value=value)


def both(*filters, condition=FilterCondition.AND):
    return MetadataFilters(filters=list(filters), condition=condition)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"language": "de"}, {"german", "late", "bare"}),
        ({"language": ["de", "EN"]}, {"german", "english", "late", "bare"}),
        ({"between": (0, 10)}, {"english"}),
        ({"between": (0, math.inf), "language": "de"}, {"late"}),
        ({"filters": both(entry("year", ">", 1980))}, {"german"}),
        ({"filters": both(entry("year", ">", 1980), condition=FilterCondition.NOT)}, {"english", "late", "bare"}),
        ({"filters": both(entry("tags", "contains", "a"))}, {"german", "english"}),
        ({"filters": both(entry("tags", "nin", ["ab"]))}, {"german", "late", "bare"}),
        ({"filters": both(both(), entry("year", "==", 1990))}, {"german"}),
        ({"filters": both(both(), condition=FilterCondition.NOT)}, set(FACTS)),
        ({"filters": both(entry("document_id", "==", "book"))}, {"bare"}),
        (
            {"filters": both(both(entry("year", "<", 2000)), entry("mm_start", ">=", 50), condition=FilterCondition.OR)},
            {"german", "late"},
        ),
    ],
)
def test_filters_mean_the_same_in_the_store_and_elsewhere(tmp_path, asked, expected):
    nodes = [TextNode(id_=name, text="a goat", metadata=facts) for name, facts in FACTS.items()]
    nodes[-1].relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="book")
    other = Listed(*((node, 1.0 - at / 10) for at, node in enumerate(nodes)))
    with MediaStore(tmp_path / "empty") as store:
        assert set(names(made(store, spaces=(), other=other).retrieve(MediaQuery("goat", **asked)))) == expected
        for space in SPACES:
            store.declare_space(space.name, space.dimension, space.fingerprint)
        store.add(encode_nodes(nodes, SPACES))
        assert set(names(made(store).retrieve(MediaQuery("goat", **asked)))) == expected


def test_without_spaces_other_retrievers_are_enough(store):
    other = Listed((THEIRS[0], 0.2), (OURS[0], 0.4))
    assert names(made(store, spaces=(), other=other).retrieve("goat")) == ["ours 0", "theirs 0"]


def test_where_no_space_takes_words_other_retrievers_are_enough(store):
    other = Listed((THEIRS[0], 0.2), (OURS[0], 0.4))
    pictures = [space for space in SPACES if space.name == "picture"]
    retriever = made(store, spaces=pictures, other=other)
    assert names(retriever.retrieve("goat")) == ["ours 0", "theirs 0"]
    assert asyncio.run(retriever.aretrieve("goat")) == retriever.retrieve("goat")
    with pytest.raises(QueryError, match="can't find"):
        made(store, spaces=pictures, other=other, options={"weights": {"other": 0.0}}).retrieve("goat")


def test_only_words_are_asked_and_nothing_is_changed(store):
    other = Listed((THEIRS[0], 0.2), (THEIRS[1], None))
    kept = copy.deepcopy(other.results)
    query = MediaQuery("  goat\n")
    found = made(store, other=other).retrieve(query)
    assert query == MediaQuery("  goat\n")
    assert [type(bundle).__name__ + bundle.query_str for bundle, _ in other.asked] == ["QueryBundlegoat"]
    for one in found:
        one.node.metadata["new"] = 1
        one.node.excluded_llm_metadata_keys.append("new")
    assert other.results == kept


def test_a_copy_of_an_index_node_leads_to_the_same():
    target = Listed((OURS[0], 1.0))
    node = IndexNode(text="a", index_id="b", obj=target)
    copied = copy_of(node)
    copied.metadata["new"] = 1
    assert copied.obj is target
    assert node.metadata == {}


async def test_one_that_fails(store, caplog):
    broken = made(store, broken=Listed())
    for ask in (lambda: broken.retrieve("goat"), lambda: asyncio.run(broken.aretrieve("goat"))):
        with pytest.raises(QueryError, match="Retriever 'broken' failed: RuntimeError: no connection") as caught:
            await asyncio.to_thread(ask)
        assert isinstance(caught.value.__cause__, RuntimeError)
    going_on = made(store, broken=Listed(), options={"on_error": "skip"})
    with caplog.at_level(logging.WARNING):
        assert going_on.retrieve("goat") == await going_on.aretrieve("goat") == made(store).retrieve("goat")
    assert [record.message for record in caplog.records] == [
        "Retriever 'broken' failed and is passed over: RuntimeError: no connection"
    ] * 2


async def test_one_without_async_code_is_asked_in_a_thread(store):
    other = Listed((THEIRS[0], 0.2))
    await made(store, other=other).aretrieve("goat")
    assert [thread is threading.main_thread() for _, thread in other.asked] == [False]


def test_names_that_are_refused(store):
    with pytest.raises(QueryError, match="The names text of other retrievers are names of spaces"):
        made(store, text=Listed())
    with pytest.raises(QueryError, match="on_error must be 'raise' or 'skip', got 'stop'"):
        made(store, options={"on_error": "stop"})
