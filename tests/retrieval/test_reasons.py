from llama_index.core.schema import MetadataMode, TextNode

from llama_index_mm.nodes import ImageMedia, node_from_json, node_to_json
from llama_index_mm.retrieval import ChannelReason, reasons_of
from llama_index_mm.retrieval.reasons import attach_reasons, explain

WORDS = ChannelReason("text", "words", raw=0.825, score=0.75, weight=0.6, contribution=0.45)
SOUND = ChannelReason("speech", "sound", raw=-1 / 3, score=0.1, weight=0.25, contribution=0.1 / 3)


def test_reasons_come_back_exactly():
    node = TextNode(text="a")
    attach_reasons(node, [WORDS, SOUND])
    assert reasons_of(node) == (WORDS, SOUND)
    assert reasons_of(node_from_json(node_to_json(node), node.class_name())) == (WORDS, SOUND)


def test_new_reasons_replace_old_ones():
    node = TextNode(text="a")
    attach_reasons(node, [WORDS, SOUND])
    attach_reasons(node, [SOUND])
    assert reasons_of(node) == (SOUND,)
    assert node.excluded_llm_metadata_keys == node.excluded_embed_metadata_keys == ["mm_reasons"]


def test_reasons_are_hidden_from_models():
    for node in (
        TextNode(text="words", metadata={"k": "v"}),
        ImageMedia.create("a.png", digest="ab" * 32, metadata={"k": "v"}),
    ):
        modes = (MetadataMode.EMBED, MetadataMode.LLM)
        before = [node.get_content(metadata_mode=mode) for mode in modes]
        attach_reasons(node, [WORDS])
        assert [node.get_content(metadata_mode=mode) for mode in modes] == before


def test_a_node_that_was_not_retrieved():
    assert reasons_of(TextNode(text="a")) == ()
    assert explain(TextNode(text="a")) == ""


def test_another_retriever_and_what_is_not_wanted():
    node = TextNode(text="a")
    reasons = (
        ChannelReason("query", "bm25", raw=None, score=0.5, weight=1.0, contribution=0.5),
        ChannelReason("image 2", "picture", raw=0.25, score=0.4, weight=1.0, contribution=-0.2, negative=True),
    )
    attach_reasons(node, reasons)
    assert reasons_of(node) == reasons
    assert explain(node) == (
        "query in bm25: 0.50 (0.50 at weight 1); not image 2 in picture: -0.20 (0.40 at weight 1, raw 0.25)"
    )


def test_reasons_of_older_versions_can_be_read():
    entry = '{"part": "text", "space": "words", "raw": 0.825, "score": 0.75, "weight": 0.6, "contribution": 0.45}'
    assert reasons_of(TextNode(text="a", metadata={"mm_reasons": f"[{entry}]"})) == (WORDS,)


def test_explain():
    node = TextNode(text="a")
    attach_reasons(node, [WORDS, SOUND])
    assert explain(node) == (
        "text in words: 0.45 (0.75 at weight 0.6, raw 0.82); speech in sound: 0.03 (0.10 at weight 0.25, raw -0.33)"
    )
