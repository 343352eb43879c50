from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, TextNode

from llama_index_mm import RetypeNodes
from llama_index_mm.nodes import AudioMedia, ImageMedia


def test_nodes_of_another_store_are_typed_again(make):
    """Core's own vector store gives media nodes out as plain ones; everything in them is there."""
    span = AudioMedia.create(
        make.tone("talk.wav"), digest="a" * 64, id_="span", text="the tide", start=0.25, end=0.75, language="en", speech=True
    )
    picture = ImageMedia.create(make.picture("red.png"), digest="b" * 64, id_="picture", text="a red door", caption="red")
    index = VectorStoreIndex(nodes=[span, picture, TextNode(id_="words", text="words")], embed_model=MockEmbedding(4))
    plain = index.as_retriever(similarity_top_k=3).retrieve("anything")
    assert {type(found.node) for found in plain} == {TextNode, type(plain[0].node)} != {AudioMedia, ImageMedia, TextNode}
    typed = {found.node.node_id: found for found in RetypeNodes().postprocess_nodes(plain)}
    assert {name: type(found.node) for name, found in typed.items()} == {
        "span": AudioMedia,
        "picture": ImageMedia,
        "words": TextNode,
    }
    assert [typed[found.node.node_id].score for found in plain] == [found.score for found in plain]
    heard = typed["span"].node
    assert (heard.start, heard.end, heard.text, heard.path, heard.language) == (0.25, 0.75, "the tide", span.path, "en")
    assert len(heard.get_content_blocks()[-1].resolve_audio().read()) == 44 + 2 * 8000


def test_nodes_that_are_typed_are_left_alone(make):
    picture = ImageMedia.create(make.picture("red.png"), digest="b" * 64)
    assert RetypeNodes().postprocess_nodes([NodeWithScore(node=picture, score=0.5)])[0].node is picture
    assert isinstance(RetypeNodes(), BaseNodePostprocessor)
    assert RetypeNodes.class_name() == "RetypeNodes"
