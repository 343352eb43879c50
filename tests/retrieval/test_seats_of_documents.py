"""Seats that are kept, where one document fills all that is searched at first."""

import asyncio

import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.nodes import AudioMedia
from llama_index_mm.retrieval import FusionRetriever
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import tiny_preset

SPACES = tiny_preset().spaces
LONG = 120  # spans of one talk; a search gives 50 at first


def of(document, node):
    node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=document)
    return node


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Texts that speak of goats alone, a long German talk of goats, and two other talks, one in French, that do so less."""
    talk = tmp_path_factory.mktemp("files") / "talk.wav"
    nodes = [of(f"t{at}", TextNode(id_=f"t{at}", text="goat")) for at in range(8)]
    spans = [("long", at, "goat goat goat goat goat", "de") for at in range(LONG)] + [
        ("b", 0, "goat goat goat b", "de"),
        ("c", 0, "goat and six other words that follow", "fr"),
    ]
    for name, at, words, language in spans:
        node = AudioMedia.create(talk, digest="0" * 64, text=f"{words} {at}", id_=f"{name} {at}", language=language)
        nodes.append(of(name, node))
    text = tuple(space for space in SPACES if space.name == "text")
    with MediaStore(tmp_path_factory.mktemp("store") / "index") as made:
        for space in text:
            made.declare_space(space.name, space.dimension, space.fingerprint)
        made.add(encode_nodes(nodes, text))
        yield made


def ask(store, k=5, **options):
    """Documents of what is found, both ways to retrieve."""
    text = [space for space in SPACES if space.name == "text"]
    retriever = FusionRetriever(store, text, similarity_top_k=k, collapse="document", **options)
    found = retriever.retrieve("goat")
    assert asyncio.run(retriever.aretrieve("goat")) == found
    assert len(found) == k
    return sorted(one.node.ref_doc_id for one in found)


def test_modalities(store):
    assert ask(store) == ["t0", "t1", "t2", "t3", "t4"]
    assert ask(store, at_least={"audio": 1}) == ["long", "t0", "t1", "t2", "t3"]
    assert ask(store, at_least={"audio": 2}) == ["b", "long", "t0", "t1", "t2"]
    assert ask(store, at_least={"audio": 3}) == ["b", "c", "long", "t0", "t1"]
    assert ask(store, at_least={"audio": 4}) == ["b", "c", "long", "t0", "t1"]  # there are no more


def test_languages(store):
    assert ask(store, at_least={"language:de": 2}) == ["b", "long", "t0", "t1", "t2"]
    assert ask(store, at_least={"language:de": 3, "language:fr": 1}) == ["b", "c", "long", "t0", "t1"]
    assert ask(store, at_least={"language:de": 2}, at_most={"audio": 2}) == ["b", "long", "t0", "t1", "t2"]
