from pathlib import Path

import pytest
from llama_index.core.schema import QueryBundle

from llama_index_mm.errors import QueryError
from llama_index_mm.retrieval import MediaQuery
from llama_index_mm.retrieval.query import parts_of


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        (QueryBundle("a red chair"), {"text": "a red chair"}),
        (QueryBundle("  a red chair\n"), {"text": "a red chair"}),
        (QueryBundle("red", image_path="a.png"), {"text": "red", "image": "a.png"}),
        (QueryBundle("", image_path="a.png"), {"image": "a.png"}),
        (MediaQuery("red"), {"text": "red"}),
        (MediaQuery(image="a.png"), {"image": "a.png"}),
        (MediaQuery(image_path="a.png"), {"image": "a.png"}),
        (MediaQuery(image="new.png", image_path="old.png"), {"image": "new.png"}),
        (MediaQuery(audio=Path("a.ogg"), mesh=""), {"audio": Path("a.ogg")}),
        (
            MediaQuery("red", image="a.png", audio="a.ogg", mesh="a.obj"),
            {"text": "red", "image": "a.png", "audio": "a.ogg", "mesh": "a.obj"},
        ),
    ],
)
def test_parts(query, parts):
    assert parts_of(query) == parts


@pytest.mark.parametrize("query", [QueryBundle(""), QueryBundle(" \n\t"), MediaQuery(), MediaQuery(" ", image="", mesh=None)])
def test_an_empty_query(query):
    with pytest.raises(QueryError, match=r"^The query is empty: give words, a picture, a recording or a mesh\.$"):
        parts_of(query)


def test_a_media_query_is_a_query_bundle():
    query = MediaQuery("a red chair", modalities=["mesh"])
    assert isinstance(query, QueryBundle)
    assert (str(query), query.embedding_strs) == ("a red chair", ["a red chair"])
    assert (query.modalities, query.spaces, query.filters) == (["mesh"], (), None)


def test_an_unknown_modality():
    with pytest.raises(QueryError, match=r"^Unknown modality 'video'; there are: text, image, audio, mesh\.$"):
        MediaQuery("a", modalities=["mesh", "video"])
