"""What becomes of a query on its way through LlamaIndex's own components, and what ours add to that."""

import copy
import json
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.evaluation import BaseEvaluator, EvaluationResult, GuidelineEvaluator
from llama_index.core.indices.query.query_transform.base import (
    BaseQueryTransform,
    DecomposeQueryTransform,
    HyDEQueryTransform,
    IdentityQueryTransform,
    ImageOutputQueryTransform,
    StepDecomposeQueryTransform,
)
from llama_index.core.indices.query.query_transform.feedback_transform import FeedbackQueryTransformation
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import (
    MultiStepQueryEngine,
    RetrieverQueryEngine,
    RetryGuidelineQueryEngine,
    RetryQueryEngine,
    RetrySourceQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import (
    AutoMergingRetriever,
    QueryFusionRetriever,
    RecursiveRetriever,
    RouterRetriever,
    TransformRetriever,
)
from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.settings import Settings
from llama_index.core.storage import StorageContext
from llama_index.core.tools import QueryEngineTool, RetrieverTool
from PIL import Image
from pydantic import PrivateAttr

from llama_index_mm.errors import QueryError
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.media import digest_file
from llama_index_mm.nodes import ImageMedia
from llama_index_mm.retrieval import (
    AddMedia,
    FusionRetriever,
    KeepMedia,
    MediaQuery,
    MediaQueryFusionRetriever,
    MediaRecursiveRetriever,
    MediaRetryQueryEngine,
    reasons_of,
)
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import tiny_preset

SPACES = tiny_preset().spaces
COLOURS = ["red", "green", "blue", "white", "black"]


class Scripted(CustomLLM):
    """Gives its replies in turn, the last one for ever."""

    replies: list[str]
    _prompts: list[str] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._prompts.append(prompt)
        return CompletionResponse(text=self.replies[min(len(self._prompts), len(self.replies)) - 1])

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any):
        whole = self.complete(prompt).text
        return (CompletionResponse(text=whole[: at + 1], delta=one) for at, one in enumerate(whole))


class Noting(BaseRetriever):
    """Notes each query, and passes it on."""

    def __init__(self, retriever):
        super().__init__()
        self.retriever = retriever
        self.seen = []

    def _retrieve(self, query_bundle):
        self.seen.append(query_bundle)
        return self.retriever.retrieve(query_bundle)

    async def _aretrieve(self, query_bundle):
        self.seen.append(query_bundle)
        return await self.retriever.aretrieve(query_bundle)


class Picky(BaseEvaluator):
    """Lets an answer pass after some that did not."""

    def __init__(self, failures):
        self.failures = failures
        self.judged = []

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    async def aevaluate(self, query=None, response=None, contexts=None, **kwargs):
        self.judged.append(query)
        passing = len(self.judged) > self.failures
        return EvaluationResult(query=query, response=response, passing=passing, feedback=f"feedback {len(self.judged)}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("through")
    nodes = []
    for at, colour in enumerate(COLOURS):
        path = home / f"{colour}.png"
        Image.new("RGB", (8, 8), colour).save(path)
        nodes.append(ImageMedia.create(path, digest=digest_file(path), text=f"boat number {at}", id_=colour))
    with MediaStore(home / "index") as store:
        for space in SPACES:
            store.declare_space(space.name, space.dimension, space.fingerprint)
        store.add(encode_nodes([*nodes, TextNode(id_="text", text="a boat")], SPACES))
    return home


@pytest.fixture
def retriever(folder):
    with MediaStore(folder / "index", create=False) as store:
        yield Noting(FusionRetriever(store, SPACES, similarity_top_k=2))


@pytest.fixture
def query(folder):
    return MediaQuery("a boat", image=folder / "green.png", negative="storm", part_weights={"image": 2}, modalities=["image"])


@pytest.fixture(autouse=True)
def llm(monkeypatch):
    made = Scripted(replies=["a wooden boat"])
    monkeypatch.setattr(Settings, "_llm", made)
    return made


def names(results):
    return [result.node.node_id for result in results]


def engine_over(retriever, llm):
    return RetrieverQueryEngine.from_args(retriever, llm=llm)


# -- kept -----------------------------------------------------------------------------------------------------------------


def routed_retriever(retriever, llm):
    chooser = LLMSingleSelector.from_defaults(llm=Scripted(replies=['[{"choice": 2, "reason": "pictures"}]']))
    others = Noting(None)
    tools = [RetrieverTool.from_defaults(one, description="boats") for one in (others, retriever)]
    return RouterRetriever(chooser, tools, llm=llm)


def routed_engine(retriever, llm):
    chooser = LLMSingleSelector.from_defaults(llm=Scripted(replies=['[{"choice": 1, "reason": "pictures"}]']))
    tools = [QueryEngineTool.from_defaults(engine_over(retriever, llm), description="boats")]
    return RouterQueryEngine(chooser, tools, llm=llm)


class Leading(BaseRetriever):
    """Finds one node, which leads to another retriever."""

    def __init__(self, retriever):
        super().__init__()
        self.node = IndexNode(text="pictures", index_id="pictures", obj=retriever)

    def _retrieve(self, query_bundle):
        return [NodeWithScore(node=self.node, score=1.0)]


KEPT = {
    "RetrieverQueryEngine": engine_over,
    "RouterRetriever": routed_retriever,
    "RouterQueryEngine": routed_engine,
    "MediaRecursiveRetriever": lambda retriever, llm: MediaRecursiveRetriever("root", {"root": retriever}),
    "IndexNode": lambda retriever, llm: Leading(retriever),
    "AutoMergingRetriever": lambda retriever, llm: AutoMergingRetriever(retriever, StorageContext.from_defaults()),
    "TransformRetriever": lambda retriever, llm: TransformRetriever(retriever, IdentityQueryTransform()),
    "TransformQueryEngine": lambda retriever, llm: TransformQueryEngine(engine_over(retriever, llm), IdentityQueryTransform()),
    "QueryFusionRetriever": lambda retriever, llm: QueryFusionRetriever([retriever], num_queries=1, use_async=False),
    "QueryFusionRetriever async": lambda retriever, llm: QueryFusionRetriever([retriever], num_queries=1),
    "RetrySourceQueryEngine": lambda retriever, llm: RetrySourceQueryEngine(engine_over(retriever, llm), Picky(0), llm=llm),
    "RetryQueryEngine, first try": lambda retriever, llm: RetryQueryEngine(engine_over(retriever, llm), Picky(0)),
}


@pytest.mark.parametrize("component", KEPT)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_keeps_the_query(retriever, query, llm, component, asynchronous):
    before = copy.deepcopy(query)
    expected = retriever.retriever.retrieve(query)
    made = KEPT[component](retriever, llm)
    if isinstance(made, BaseRetriever):
        found = await made.aretrieve(query) if asynchronous else made.retrieve(query)
    else:
        found = (await made.aquery(query) if asynchronous else made.query(query)).source_nodes
    assert [one is query for one in retriever.seen] == [True]
    assert names(found) == names(expected) == names(expected)[:2]
    assert names(found)[0] == "green"
    assert {reason.part for reason in reasons_of(found[0].node)} >= {"text", "image"}
    assert query == before


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_from_node_to_retriever(retriever, query, asynchronous):
    """LlamaIndex's own keeps the query on the way, and stops at the first node that is no text."""

    class Contents(BaseRetriever):
        def _retrieve(self, query_bundle):
            leading = [IndexNode(text="pictures", index_id=name) for name in ("pictures", "texts", "pictures")]
            return [NodeWithScore(node=node, score=0.5) for node in (TextNode(id_="preface", text="boats"), *leading)]

    texts = Noting(retriever.retriever)
    retrievers = {"root": Contents(), "pictures": retriever, "texts": texts}
    with pytest.raises(AssertionError):
        RecursiveRetriever("root", retrievers).retrieve(query)
    assert [one is query for one in retriever.seen] == [True]
    made = MediaRecursiveRetriever("root", retrievers)
    found = await made.aretrieve(query) if asynchronous else made.retrieve(query)
    assert [one is query for one in (*retriever.seen, *texts.seen)] == [True, True, True]
    assert names(found) == ["preface", *names(retriever.retriever.retrieve(query))]


def test_instructions_for_pictures_keep_the_query(retriever, query, llm):
    """The one transform of LlamaIndex that changes nothing but the words."""
    TransformQueryEngine(engine_over(retriever, llm), ImageOutputQueryTransform(width=9)).query(query)
    (seen,) = retriever.seen
    assert (type(seen), seen.image, seen.modalities) == (MediaQuery, query.image, ["image"])


def test_events_take_every_query(retriever, query):
    """Handlers that write events down get what LlamaIndex knows of a query."""
    written = []

    class Writing(BaseEventHandler):
        def handle(self, event, **kwargs):
            written.append(event.model_dump_json())

    dispatcher = get_dispatcher()
    handler = Writing()
    dispatcher.add_event_handler(handler)
    try:
        retriever.retrieve(MediaQuery("a boat", image=Image.new("RGB", (8, 8), "red"), modalities=["image"]))
    finally:
        dispatcher.event_handlers.remove(handler)
    assert any('"a boat"' in one for one in written)


# -- dropped, and kept ----------------------------------------------------------------------------------------------------


def bare(bundle):
    """Whether it is a bundle of words alone."""
    return type(bundle) is QueryBundle and bundle.image_path is None


def kept(bundle, query):
    """Whether all but the words is that of a query."""
    names = ("image", "audio", "mesh", "negative", "part_weights", "modalities", "spaces", "filters", "language", "between")
    return type(bundle) is MediaQuery and all(getattr(bundle, name) is getattr(query, name) for name in names)


TRANSFORMS = {
    "HyDE": lambda llm: HyDEQueryTransform(llm=llm),
    "Decompose": lambda llm: DecomposeQueryTransform(llm=llm),
    "StepDecompose": lambda llm: StepDecomposeQueryTransform(llm=llm),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_transforms_drop_media_and_keep_media_keeps_them(retriever, query, llm, transform, asynchronous):
    before = copy.deepcopy(query)
    inner = TRANSFORMS[transform](llm)
    expected = inner.run(query)
    assert bare(expected)
    engine = TransformQueryEngine(engine_over(retriever, llm), KeepMedia(inner))
    response = await engine.aquery(query) if asynchronous else engine.query(query)
    (seen,) = retriever.seen
    assert kept(seen, query)
    assert (seen.query_str, seen.custom_embedding_strs) == (expected.query_str, expected.custom_embedding_strs)
    assert names(response.source_nodes)[0] == "green"
    assert query == before


def test_hypothetical_words_are_asked_for_with_the_picture(retriever, query, llm):
    (changed,) = [KeepMedia(HyDEQueryTransform(llm=llm)).run(query)]
    assert changed.custom_embedding_strs == ["a wooden boat", "a boat"]
    same = MediaQuery(**{**vars(query), "custom_embedding_strs": ["a wooden boat", "a boat"]})
    assert retriever.retrieve(changed) == retriever.retrieve(same) != retriever.retrieve(query)


def test_keep_media_has_nothing_to_change_in_a_query_without_words(folder, llm):
    query = MediaQuery(image=folder / "green.png")
    assert KeepMedia(HyDEQueryTransform(llm=llm)).run(query) is query
    assert llm._prompts == []


def test_keep_media_with_other_queries(llm):
    hyde = HyDEQueryTransform(llm=llm)
    assert KeepMedia(hyde).run("a boat") == hyde.run("a boat")
    both = KeepMedia(hyde).run(QueryBundle("a boat", image_path="a.png", embedding=[1.0]))
    assert both == QueryBundle("a boat", image_path="a.png", custom_embedding_strs=["a wooden boat", "a boat"])


def test_keep_media_leaves_what_a_transform_knows_of_media(query):
    class Other(BaseQueryTransform):
        def _get_prompts(self):
            return {}

        def _update_prompts(self, prompts):
            pass

        def _run(self, query_bundle, metadata):
            return MediaQuery("other", image="other.png")

    assert KeepMedia(Other()).run(query) == MediaQuery("other", image="other.png")


def test_prompts_are_reached_through_keep_media(llm):
    hyde = HyDEQueryTransform(llm=llm)
    assert KeepMedia(hyde).get_prompts() == {"transform:hyde_prompt": hyde.get_prompts()["hyde_prompt"]}


@pytest.mark.parametrize("wrapped", [False, True])
def test_questions_in_steps(retriever, query, wrapped):
    llm = Scripted(replies=["which boat?", "the green one", "None"])
    transform = StepDecomposeQueryTransform(llm=llm)
    synthesizer = get_response_synthesizer(llm=llm)
    engine = MultiStepQueryEngine(
        engine_over(retriever, llm),
        KeepMedia(transform) if wrapped else transform,
        response_synthesizer=synthesizer,
        num_steps=2,
    )
    engine.query(query)
    assert [one.query_str for one in retriever.seen] == ["which boat?"]
    assert kept(retriever.seen[0], query) if wrapped else bare(retriever.seen[0])


# -- retries --------------------------------------------------------------------------------------------------------------


def test_retries_of_llama_index_drop_media(retriever, query, llm):
    RetryQueryEngine(engine_over(retriever, llm), Picky(1)).query(query)
    RetryGuidelineQueryEngine(engine_over(retriever, llm), Picky(1)).query(query)
    first, second, third, fourth = retriever.seen
    assert first is third is query
    assert bare(second)
    assert bare(fourth)


def test_even_a_transform_that_keeps_media_is_lost_after_one_retry(retriever, query, llm):
    transform = KeepMedia(FeedbackQueryTransformation(llm=llm))
    RetryGuidelineQueryEngine(engine_over(retriever, llm), Picky(2), query_transformer=transform).query(query)
    first, second, third = retriever.seen
    assert first is query
    assert kept(second, query)
    assert bare(third)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("failures", [0, 1, 2, 5])
async def test_retries_that_keep_media(retriever, query, llm, failures, asynchronous):
    before = copy.deepcopy(query)
    picky = Picky(failures)
    engine = MediaRetryQueryEngine(engine_over(retriever, llm), picky, max_retries=3)
    response = await engine.aquery(query) if asynchronous else engine.query(query)
    assert str(response) == "a wooden boat"
    assert names(response.source_nodes)[0] == "green"
    first, *others = retriever.seen
    assert first is query
    assert len(others) == min(failures, 3)
    for at, one in enumerate(others, 1):
        assert kept(one, query)
        assert one.custom_embedding_strs == ["a boat"]
        assert one.query_str == (
            "Here is a previous bad answer.\na wooden boat\n"
            "Here is some feedback from the evaluator about the response given.\n"
            f"feedback {at}\nNow answer the question.\na boat"
        )
    assert picky.judged == ["a boat"] * min(failures + 1, 3)
    assert query == before


def test_retries_of_a_question_without_words_search_without_words(retriever, folder, llm):
    query = MediaQuery(image=folder / "green.png", modalities=["image"])
    response = MediaRetryQueryEngine(engine_over(retriever, llm), Picky(1)).query(query)
    expected = retriever.retriever.retrieve(query)
    assert "feedback 1" in retriever.seen[1].query_str
    assert response.source_nodes == expected


def test_retries_keep_texts_of_their_own_for_embedding(retriever, query, llm):
    query = KeepMedia(HyDEQueryTransform(llm=llm)).run(query)
    MediaRetryQueryEngine(engine_over(retriever, llm), Picky(1)).query(query)
    assert [one.custom_embedding_strs for one in retriever.seen] == [["a wooden boat", "a boat"]] * 2


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_retries_of_a_stream(retriever, query, llm, asynchronous):
    inner = RetrieverQueryEngine.from_args(retriever, llm=llm, streaming=True)
    engine = MediaRetryQueryEngine(inner, Picky(1), max_retries=2)
    response = await engine.aquery(query) if asynchronous else engine.query(query)
    assert str(response) == "a wooden boat"
    assert names(response.source_nodes)[0] == "green"
    assert len(retriever.seen) == 2


def test_retries_by_guidelines_with_a_transform_of_ones_own(retriever, query, llm):
    verdicts = Scripted(replies=['{"passing": false, "feedback": "say where"}', '{"passing": true, "feedback": ""}'])
    rewriting = FeedbackQueryTransformation(llm=Scripted(replies=["where is the boat?"]), resynthesize_query=True)
    evaluator = GuidelineEvaluator(llm=verdicts, guidelines="Say where.")
    MediaRetryQueryEngine(engine_over(retriever, llm), evaluator, query_transform=rewriting).query(query)
    assert len(verdicts._prompts) == 2
    assert retriever.seen[1].query_str.endswith("say where\nNow answer the question.\nwhere is the boat?")
    assert kept(retriever.seen[1], query)


def test_options_of_retries(retriever, llm):
    with pytest.raises(QueryError, match=r"^Expected max_retries of at least 0, got -1\.$"):
        MediaRetryQueryEngine(engine_over(retriever, llm), Picky(0), max_retries=-1)
    picky = Picky(9)
    MediaRetryQueryEngine(engine_over(retriever, llm), picky, max_retries=0).query("a boat")
    assert (len(retriever.seen), picky.judged) == (1, [])


def test_a_retry_over_the_sources_makes_texts_of_them(retriever, query, llm):
    response = RetrySourceQueryEngine(engine_over(retriever, llm), Picky(1), llm=llm).query(query)
    assert [one is query for one in retriever.seen] == [True]
    assert {type(source.node) for source in response.source_nodes} == {TextNode}


# -- several queries of one -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reciprocal_rerank", "relative_score", "dist_based_score", "simple"])
@pytest.mark.parametrize("way", ["sync", "nested", "async"])
async def test_rewritten_queries(retriever, query, mode, way):
    before = copy.deepcopy(query)
    for kind in (QueryFusionRetriever, MediaQueryFusionRetriever):
        retriever.seen.clear()
        llm = Scripted(replies=["a ship\na wooden boat"])
        fused = kind([retriever], llm=llm, num_queries=3, mode=mode, use_async=way == "nested")
        found = await fused.aretrieve(query) if way == "async" else fused.retrieve(query)
        first, *others = retriever.seen
        assert first is query
        assert [one.query_str for one in others] == ["a ship", "a wooden boat"]
        assert all(bare(one) if kind is QueryFusionRetriever else kept(one, query) for one in others)
        if kind is MediaQueryFusionRetriever:
            assert names(found)[0] == "green"
            assert {one.node.modality for one in found} == {"image"}
    assert query == before


# -- questions in words only ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_chat_engines_ask_in_words(retriever, folder, asynchronous):
    photo = MediaQuery(image=folder / "green.png", modalities=["image"])
    for chosen in (retriever, TransformRetriever(retriever, AddMedia(photo))):
        retriever.seen.clear()
        llm = Scripted(replies=["the green one", "is the green boat old?", "it is"])
        chat = CondensePlusContextChatEngine.from_defaults(chosen, llm=llm, memory=ChatMemoryBuffer.from_defaults(llm=llm))
        for message in ("which boat?", "is it old?"):
            response = await chat.achat(message) if asynchronous else chat.chat(message)
        assert [one.query_str for one in retriever.seen] == ["which boat?", "is the green boat old?"]
        if chosen is retriever:
            assert all(map(bare, retriever.seen))
        else:
            assert all(kept(one, photo) for one in retriever.seen)
            assert names(response.source_nodes)[0] == "green"


@pytest.mark.parametrize("use_async", [False, True])
def test_sub_questions_are_asked_in_words(retriever, query, llm, use_async):
    questions = json.dumps({"items": [{"sub_question": one, "tool_name": "boats"} for one in ("a ship", "old?")]})
    inner = engine_over(retriever, llm)
    for engine in (inner, TransformQueryEngine(inner, AddMedia(query))):
        retriever.seen.clear()
        SubQuestionQueryEngine.from_defaults(
            [QueryEngineTool.from_defaults(engine, name="boats", description="boats")],
            llm=llm,
            question_gen=LLMQuestionGenerator.from_defaults(llm=Scripted(replies=[f"```json\n{questions}\n```"])),
            verbose=False,
            use_async=use_async,
        ).query(query)
        assert sorted(one.query_str for one in retriever.seen) == ["a ship", "old?"]
        assert all(bare(one) if engine is inner else kept(one, query) for one in retriever.seen)


def test_add_media(query):
    assert AddMedia(query).run(query) is query
    other = MediaQuery("other")
    assert AddMedia(query).run(other) is other
    added = AddMedia(query).run(QueryBundle("a ship", custom_embedding_strs=["ship"]))
    assert kept(added, query)
    assert (added.query_str, added.custom_embedding_strs) == ("a ship", ["ship"])
    with pytest.raises(QueryError, match=r"^Expected a MediaQuery whose media are added, got str\.$"):
        AddMedia("a boat")
