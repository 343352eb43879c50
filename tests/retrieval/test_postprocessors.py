"""LlamaIndex's own postprocessors on what the retriever finds, with nodes of all four modalities."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    LLMMetadata,
    TextBlock,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import CustomLLM
from llama_index.core.postprocessor import (
    AutoPrevNextNodePostprocessor,
    EmbeddingRecencyPostprocessor,
    FixedRecencyPostprocessor,
    KeywordNodePostprocessor,
    LLMRerank,
    LongContextReorder,
    MetadataReplacementPostProcessor,
    PIINodePostprocessor,
    PrevNextNodePostprocessor,
    SentenceEmbeddingOptimizer,
    SentenceTransformerRerank,
    SimilarityPostprocessor,
    StructuredLLMRerank,
    TimeWeightedPostprocessor,
)
from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank
from llama_index.core.schema import MetadataMode, Node, NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from llama_index_mm.answers import NumberSources, RetypeNodes
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.media import digest_file
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.retrieval import FusionRetriever, MediaQuery, reasons_of
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import HashingEncoder, tiny_preset

CLASSES = {"text": TextNode, "image": ImageMedia, "audio": AudioMedia, "mesh": MeshMedia}
WORDS = {
    "image": "A boat in the harbour. The sea is calm.",
    "audio": "We saw a boat. Then Ann called from 555.",
    "mesh": "A model of a chair. It has four legs.",
    "text": "Boats are built of oak. Chairs are too.",
}
QUERY = "a boat in the harbour"


@pytest.fixture(scope="module")
def store(make_once):
    """Two nodes of each modality, the second of which comes after the first."""
    nodes = []
    for at in range(2):
        files = {
            "image": make_once.picture(f"{at}.png", "red" if at else "blue"),
            "audio": make_once.tone(f"{at}.wav", 220.0 * (at + 1)),
            "mesh": make_once.obj(f"{at}.obj"),
        }
        for kind, path in files.items():
            sheet = make_once.picture(f"views {at}.png", (90, 90 * at, 0), size=(6, 4))
            facts = {"views": str(sheet)} if kind == "mesh" else {}
            made = CLASSES[kind].create(path, digest=digest_file(path), text=WORDS[kind], id_=f"{kind} {at}", **facts)
            nodes.append(made)
        nodes.append(TextNode(text=WORDS["text"], id_=f"text {at}"))
    for at, node in enumerate(nodes):
        node.metadata |= {"date": f"2024-01-{at + 10}", "window": f"the window of {node.node_id}"}
        node.excluded_embed_metadata_keys += ["date", "window"]
        node.excluded_llm_metadata_keys += ["date", "window"]
    for first, second in zip(nodes[:4], nodes[4:], strict=True):
        first.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=second.node_id)
        second.relationships[NodeRelationship.PREVIOUS] = RelatedNodeInfo(node_id=first.node_id)
    preset = tiny_preset()
    with MediaStore(make_once.path("index"), create=True) as store:
        for space in preset.spaces:
            store.declare_space(space.name, space.dimension, space.fingerprint)
        store.add(encode_nodes(nodes, preset.spaces))
        yield store


@pytest.fixture
def found(store):
    """All that is there, best first."""
    query = MediaQuery(QUERY, modalities=["image", "audio", "mesh", "text"])
    results = FusionRetriever(store, tiny_preset().spaces, similarity_top_k=20).retrieve(query)
    assert {type(result.node) for result in results} == set(CLASSES.values())
    assert len(results) == 8
    return results


@pytest.fixture
def docstore(found):
    """LlamaIndex's own, with the same nodes."""
    made = SimpleDocumentStore()
    made.add_documents([result.node for result in found])
    return made


class Told(CustomLLM):
    """Answers by a function of what it is sent."""

    answer: Callable[[Any], str]
    sent: list[Any] = Field(default_factory=list)
    chat_model: bool = False

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="told", is_chat_model=self.chat_model)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.sent.append(prompt)
        return CompletionResponse(text=self.answer(prompt))

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        self.sent.append(messages)
        return ChatResponse(message=ChatMessage(role="assistant", content=self.answer(messages)))

    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return self.chat(messages)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


class Hashing(BaseEmbedding):
    """LlamaIndex's kind of embedding model, over words."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return HashingEncoder("text").encode([text])[0].tolist()

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def ids(results):
    return [result.node.node_id for result in results]


def classes_are_kept(results):
    return all(type(result.node) is CLASSES[result.node.node_id.split()[0]] for result in results)


def run(processor, found, query=QUERY):
    return processor.postprocess_nodes(found, query_bundle=MediaQuery(query))


# -- by score, words, metadata --------------------------------------------------------------------------------------------


def test_similarity_cutoff(found):
    """On scores in [0, 1], over all modalities."""
    cutoff = found[3].score
    results = run(SimilarityPostprocessor(similarity_cutoff=cutoff), found)
    assert results == [result for result in found if result.score >= cutoff]
    assert run(SimilarityPostprocessor(similarity_cutoff=1.01), found) == []


def test_long_context_reorder(found):
    results = run(LongContextReorder(), found)
    assert sorted(ids(results)) == sorted(ids(found))
    scores = [result.score for result in results]
    low = scores.index(min(scores))
    assert scores[:low] == sorted(scores[:low], reverse=True)
    assert scores[low:] == sorted(scores[low:])
    assert classes_are_kept(results)


def test_keywords(found):
    """By the text: the words of a recording, the labels of a picture, the facts of a mesh."""
    pytest.importorskip("spacy")
    results = run(KeywordNodePostprocessor(required_keywords=["boat"], exclude_keywords=["harbour"]), found)
    assert sorted(ids(results)) == ["audio 0", "audio 1"]
    assert classes_are_kept(results)


def test_metadata_replacement(found):
    """The text is replaced, the medium stays: the nodes still show their pictures."""
    scores = [result.score for result in found]
    results = run(MetadataReplacementPostProcessor("window"), found)
    assert [result.node.get_content() for result in results] == [f"the window of {name}" for name in ids(found)]
    assert [result.score for result in results] == scores
    for result in results:
        shown = {"image": ImageBlock, "mesh": ImageBlock, "audio": AudioBlock, "text": TextBlock}
        assert type(result.node.get_content_blocks()[-1]) is shown[result.node.node_id.split()[0]]
        assert reasons_of(result.node)
    assert [r.node.get_content() for r in run(MetadataReplacementPostProcessor("none"), results)] == [
        f"the window of {name}" for name in ids(found)
    ]


# -- by time --------------------------------------------------------------------------------------------------------------


def test_fixed_recency(found):
    pytest.importorskip("pandas")
    results = run(FixedRecencyPostprocessor(top_k=3), found)
    assert ids(results) == ["text 1", "mesh 1", "audio 1"]
    assert classes_are_kept(results)


def test_embedding_recency(found):
    """Of nodes that say the same the latest stays; it compares texts, whatever the modality."""
    pytest.importorskip("pandas")
    everything = run(EmbeddingRecencyPostprocessor(embed_model=Hashing(), similarity_cutoff=2.0), found)
    assert ids(everything) == [f"{kind} {at}" for at in (1, 0) for kind in ("text", "mesh", "audio", "image")]
    nothing_like = run(EmbeddingRecencyPostprocessor(embed_model=Hashing(), similarity_cutoff=-2.0), found)
    assert ids(nothing_like) == ["text 1"]


def test_time_weighted(found):
    """It notes the time in the metadata of the nodes it is given, where the LLM will read it."""
    for at, result in enumerate(found):
        result.node.metadata["__last_accessed__"] = 1_000_000.0 - 3600 * at
    before = [result.score for result in found]
    results = run(TimeWeightedPostprocessor(now=1_000_000.0, time_decay=0.5, top_k=3), found)
    assert ids(results) == ids(found)[:3]
    assert [result.score for result in results] == [before[at] + 0.5**at for at in range(3)]
    assert classes_are_kept(results)
    assert "__last_accessed__: 1000000.0" in results[0].node.get_content(metadata_mode=MetadataMode.LLM)


# -- neighbours -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("automatic", [False, True])
def test_neighbours_come_without_their_class_until_they_are_retyped(found, docstore, automatic):
    """A docstore of LlamaIndex's gives media as plain `Node`; `RetypeNodes` after it makes them what they are."""
    firsts = [result for result in found if result.node.node_id.endswith("0")]
    if automatic:
        llm = Told(answer=lambda prompt: "NEXT" if "boat" in prompt.partition("Context: ")[2] else "NONE")
        processor = AutoPrevNextNodePostprocessor(docstore=docstore, llm=llm)
    else:
        processor = PrevNextNodePostprocessor(docstore=docstore, mode="next")
    results = run(processor, firsts)
    assert sorted(ids(results)) == sorted(ids(found))
    for kind in CLASSES:
        assert ids(results).index(f"{kind} 0") < ids(results).index(f"{kind} 1")
    added = [result for result in results if result.node.node_id.endswith("1")]
    assert {type(result.node) for result in added} == {Node, TextNode}
    assert [result.score for result in added] == [None] * 4
    typed = RetypeNodes().postprocess_nodes(results)
    assert classes_are_kept(typed)
    assert ids(typed) == ids(results)


# -- texts rewritten ------------------------------------------------------------------------------------------------------


def test_sentence_optimizer(found):
    """The sentences nearest to the words asked; a text of one sentence can't be halved, and stays."""
    embed = Hashing()
    found[0].node.set_content("Only one")
    processor = SentenceEmbeddingOptimizer(
        embed_model=embed, percentile_cutoff=0.5, context_before=0, context_after=0, tokenizer_fn=lambda text: text.split(". ")
    )
    results = run(processor, found)
    assert ids(results) == ids(found)
    assert classes_are_kept(results)
    said = {result.node.node_id: result.node.get_content() for result in results[1:]}
    assert all(text == "A boat in the harbour" for name, text in said.items() if name.startswith("image"))
    assert all(len(text.split(". ")) == 1 for text in said.values())
    assert results[0].node.get_content() == "Only one"


def test_pii_is_masked_in_the_text_and_nowhere_else(found):
    """Works on copies. What a picture shows, a recording says, or our own metadata holds, is not masked."""
    llm = Told(answer=lambda prompt: "somebody called Output Mapping: " + json.dumps({"NAME1": "Ann"}))
    before = [result.model_copy(deep=True) for result in found]
    results = run(PIINodePostprocessor(llm=llm), found)
    assert found == before
    assert classes_are_kept(results)
    for given, result in zip(found, results, strict=True):
        assert result.node.get_content(metadata_mode=MetadataMode.LLM) == "somebody called"
        assert given.node.get_content() in llm.sent[ids(found).index(given.node.node_id)]
        assert result.node.metadata["__pii_node_info__"] == {"NAME1": "Ann"}
        assert result.score == given.score
    (audio, *_) = [result for result in results if type(result.node) is AudioMedia]
    assert [type(block) for block in audio.node.get_content_blocks()] == [TextBlock, AudioBlock]


# -- rerankers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat_model", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_llm_rerank(found, chat_model, asynchronous):
    """A chat model is sent every picture, and every sound, whole; `NumberSources` before it keeps out what it can't take."""
    llm = Told(answer=lambda _: "Doc: 8, Relevance: 9\nDoc: 2, Relevance: 4\nDoc: 99, Relevance: 9", chat_model=chat_model)
    processor, query = LLMRerank(llm=llm, top_n=5), QueryBundle(QUERY)
    results = await processor.apostprocess_nodes(found, query) if asynchronous else processor.postprocess_nodes(found, query)
    assert ids(results) == [ids(found)[7], ids(found)[1]]
    assert [result.score for result in results] == [9.0, 4.0]
    assert classes_are_kept(results)
    if not chat_model:
        assert all(text in llm.sent[0] for text in WORDS.values())
        return
    assert kinds_sent(llm) == {"ImageBlock": 4, "AudioBlock": 2}
    blind = Told(answer=llm.answer, chat_model=True)
    LLMRerank(llm=blind).postprocess_nodes(NumberSources(llm_media=("image",)).postprocess_nodes(found), query)
    assert kinds_sent(blind) == {"ImageBlock": 4, "AudioBlock": 0}


def kinds_sent(llm: Told) -> dict[str, int]:
    blocks = [type(block).__name__ for message in llm.sent[0] for block in message.blocks]
    return {kind: blocks.count(kind) for kind in ("ImageBlock", "AudioBlock")}


def test_structured_llm_rerank(found):
    """It is sent texts only, whatever the LLM can see."""
    answer = {"documents": [{"document_number": 3, "relevance": 8}, {"document_number": 1, "relevance": 2}]}
    llm = Told(answer=lambda _: json.dumps(answer))
    results = run(StructuredLLMRerank(llm=llm), found)
    assert ids(results) == [ids(found)[2], ids(found)[0]]
    assert [result.score for result in results] == [8, 2]
    assert all(text in str(llm.sent[0]) for text in WORDS.values())


def test_rank_gpt(found):
    """It is sent texts only, and keeps the scores of the retriever, so that they no longer fall."""
    llm = Told(answer=lambda _: "[4] > [2] > [4] > [77]", chat_model=True)
    results = run(RankGPTRerank(llm=llm, top_n=8), found)
    order = [3, 1, 0, 2, 4, 5, 6, 7]
    assert ids(results) == [ids(found)[at] for at in order]
    assert [result.score for result in results] == [found[at].score for at in order]
    assert classes_are_kept(results)


def test_sentence_transformer_rerank(found, tmp_path):
    """A cross-encoder on the texts, here a tiny one with random weights. The score that it keeps can be read by the LLM."""
    pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "boat", "harbour", "chair", "in", "the"]
    tokenizer = transformers.BertTokenizer(vocab={word: at for at, word in enumerate(words)}, model_max_length=64)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        num_labels=1,
        initializer_range=1.0,
    )
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    before = {result.node.node_id: result.score for result in found}
    texts = {result.node.node_id: result.node.get_content(metadata_mode=MetadataMode.EMBED) for result in found}
    processor = SentenceTransformerRerank(model=str(tmp_path), top_n=8, device="cpu", keep_retrieval_score=True)
    results = run(processor, found)
    expected = processor._model.predict([(QUERY, texts[name]) for name in ids(results)])
    assert [result.score for result in results] == pytest.approx(expected.tolist(), abs=1e-5)
    scores = [result.score for result in results]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    assert {result.node.node_id: result.node.metadata["retrieval_score"] for result in results} == before
    assert "retrieval_score: " in results[0].node.get_content(metadata_mode=MetadataMode.LLM)
    assert classes_are_kept(results)


# -- the known trap -------------------------------------------------------------------------------------------------------


def test_text_of_a_media_node_is_asked_of_the_node(found):
    """`NodeWithScore.text` is for `TextNode` alone, as for every `Node` of LlamaIndex's own; `get_content` is for all."""
    for result in found:
        if type(result.node) is TextNode:
            assert result.text == result.get_content()
        else:
            with pytest.raises(ValueError, match="must be a TextNode"):
                _ = result.text
            assert result.get_content() == WORDS[result.node.node_id.split()[0]]
    assert isinstance(found[0], NodeWithScore)
