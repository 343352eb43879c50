"""Which names weights may have."""

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.schema import TextNode

from llama_index_mm.errors import QueryError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.retrieval import FusionRetriever
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import tiny_preset

SPACES = tiny_preset().spaces


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An empty one: nothing is there of any modality yet."""
    with MediaStore(tmp_path_factory.mktemp("store") / "index") as made:
        yield made


def others():
    return {name: SummaryIndex(nodes=[TextNode(text="x")]).as_retriever() for name in ("bm25", "my:own")}


@pytest.mark.parametrize(
    "name",
    [
        "text",
        "picture:mesh",
        "image:picture:mesh",
        "speech:text:audio",
        "sound:text",  # where it has no encoder, it is never asked
        "bm25",
        "bm25:text",
        "query:bm25:image",
        "my:own",
        "my:own:text",
        "query:my:own:text",
    ],
)
def test_known_names(store, name):
    made = FusionRetriever(store, SPACES, weights={name: 2.0}, retrievers=others())
    assert made._weights == {name: 2.0}


@pytest.mark.parametrize(
    "name", ["", "txt", "text:txt", "text:", ":text", "txt:text:text", "text:txt:text", "text:text:text:x"]
)
def test_unknown_names(store, name):
    with pytest.raises(QueryError) as told:
        FusionRetriever(store, SPACES, weights={"text": 1.0, name: 2.0}, retrievers=others())
    assert str(told.value) == (
        f"Unknown weights [{name!r}]. Expected names of spaces or other retrievers (text, picture, sound, bm25, my:own), "
        "alone, as NAME:MODALITY with one of text, image, audio, mesh, or as PART:NAME:MODALITY with a part of text, image, "
        "audio, mesh, speech, query."
    )


def test_other_retrievers_names_are_known_only_with_them(store):
    with pytest.raises(QueryError, match=r"Unknown weights \['bm25'\]"):
        FusionRetriever(store, SPACES, weights={"bm25": 1.0})


def test_an_index_refuses_them_too(tmp_path):
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as index:
        index.insert_nodes([TextNode(text="a goat")])
        with pytest.raises(QueryError, match=r"Unknown weights \['pictures'\]"):
            index.as_retriever(weights={"pictures": 2.0})
