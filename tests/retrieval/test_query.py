import copy
import dataclasses
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters
from PIL import Image

from llama_index_mm.errors import QueryError
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.media import Mesh, Waveform
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.retrieval import FusionRetriever, MediaQuery
from llama_index_mm.retrieval.parts import Part
from llama_index_mm.retrieval.query import filters_of, parts_of
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import tiny_preset

PICTURE = ImageMedia.create("a.png", digest="0" * 64, id_="picture")
SOUND = AudioMedia.create("a.wav", digest="1" * 64, id_="sound", text="a bell")
MESH = MeshMedia.create("a.obj", digest="2" * 64, id_="mesh")
WORDS = TextNode(id_="words", text="a red chair", metadata={"year": 1999})
EMPTY = r"^The query is empty: give words, a picture, a recording or a mesh\.$"


def whole(parts):
    return [(part.name, part.value, part.weight, part.negative) for part in parts]


# -- parts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        (QueryBundle("a red chair"), {"text": ("a red chair",)}),
        (QueryBundle("  a red chair\n"), {"text": ("a red chair",)}),
        (QueryBundle("red", image_path="a.png"), {"text": ("red",), "image": "a.png"}),
        (QueryBundle("", image_path="a.png"), {"image": "a.png"}),
        (QueryBundle("red", custom_embedding_strs=["a red thing ", "", "red"]), {"text": ("a red thing", "red")}),
        (QueryBundle("", custom_embedding_strs=["a red thing"]), {"text": ("a red thing",)}),
        (QueryBundle("red", custom_embedding_strs=[""], image_path="a.png"), {"image": "a.png"}),
        (QueryBundle("red", embedding=[1.0, 0.0]), {"text": ("red",)}),
        (MediaQuery("red"), {"text": ("red",)}),
        (MediaQuery(image="a.png"), {"image": "a.png"}),
        (MediaQuery(image=["a.png"]), {"image": "a.png"}),
        (MediaQuery(image=("a.png", Path("b.png"))), {"image": "a.png", "image 2": Path("b.png")}),
        (MediaQuery(image=[None, "", "a.png"]), {"image": "a.png"}),
        (MediaQuery(image_path="a.png"), {"image": "a.png"}),
        (MediaQuery(image="new.png", image_path="old.png"), {"image": "new.png"}),
        (MediaQuery(audio=Path("a.ogg"), mesh=""), {"audio": Path("a.ogg")}),
        (
            MediaQuery("red", image="a.png", audio="a.ogg", mesh="a.obj"),
            {"text": ("red",), "image": "a.png", "audio": "a.ogg", "mesh": "a.obj"},
        ),
        (MediaQuery(image=NodeWithScore(node=PICTURE, score=0.5)), {"image": PICTURE}),
    ],
)
def test_parts(query, parts):
    assert {part.name: part.value for part in parts_of(query)} == parts


@pytest.mark.parametrize("query", [QueryBundle(""), QueryBundle(" \n\t"), MediaQuery(), MediaQuery(" ", image="", mesh=None)])
def test_an_empty_query(query):
    with pytest.raises(QueryError, match=EMPTY):
        parts_of(query)


def test_several_parts_of_a_kind_share_its_weight():
    query = MediaQuery("red", image=["a", "b"], audio="c", mesh=["d"] * 3, part_weights={"image": 0.5, "audio": 2, "speech": 3})
    assert parts_of(query) == (
        Part("text", "text", ("red",)),
        Part("image", "image", "a", 0.25),
        Part("image", "image 2", "b", 0.25),
        Part("audio", "audio", "c", 2, 3),
        Part("mesh", "mesh", "d", 1 / 3),
        Part("mesh", "mesh 2", "d", 1 / 3),
        Part("mesh", "mesh 3", "d", 1 / 3),
    )


def test_parts_of_weight_nothing():
    query = MediaQuery("red", image="a", audio="b", part_weights={"text": 0, "image": 0.0, "audio": 0, "speech": 1})
    assert parts_of(query) == (Part("audio", "audio", "b", 0, 1),)
    with pytest.raises(QueryError, match=r"^All parts of the query have weight 0 \(\{'text': 0\}\): give one of them more\.$"):
        parts_of(MediaQuery("red", part_weights={"text": 0}))


@pytest.mark.parametrize(
    ("negative", "parts"),
    [
        (None, []),
        ("", []),
        ([], []),
        ("dark", [("text", ("dark",), 1.0, True)]),
        (["dark", "wide"], [("text", ("dark",), 1.0, True), ("text 2", ("wide",), 1.0, True)]),
        (
            MediaQuery("dark", image="b", part_weights={"image": 0.5}),
            [("text", ("dark",), 1.0, True), ("image", "b", 0.5, True)],
        ),
        (
            [QueryBundle("", image_path="b"), MediaQuery(image=["c", "d"])],
            [("image", "b", 1.0, True), ("image 2", "c", 0.5, True), ("image 3", "d", 0.5, True)],
        ),
        ([NodeWithScore(node=SOUND), WORDS], [("audio", SOUND, 1.0, True), ("text", ("a red chair",), 1.0, True)]),
    ],
)
def test_what_is_not_wanted(negative, parts):
    assert whole(parts_of(MediaQuery("red", negative=negative))) == [("text", ("red",), 1.0, False), *parts]


def test_only_what_is_not_wanted():
    with pytest.raises(QueryError, match="only tells what is not wanted: also give words, a picture"):
        parts_of(MediaQuery(negative="dark"))
    with pytest.raises(QueryError, match=EMPTY):
        parts_of(MediaQuery(negative=" "))


def test_more_like_nodes():
    query = MediaQuery.like(
        NodeWithScore(node=PICTURE, score=1.0), WORDS, SOUND, PICTURE, MESH, text="soft", modalities=["mesh"]
    )
    assert query == MediaQuery("soft\na red chair", image=[PICTURE, PICTURE], audio=[SOUND], mesh=[MESH], modalities=["mesh"])
    assert MediaQuery.like(WORDS) == MediaQuery("a red chair")


# -- it is a QueryBundle --------------------------------------------------------------------------------------------------


def test_a_media_query_is_a_query_bundle():
    query = MediaQuery("a red chair", modalities=["mesh"])
    assert isinstance(query, QueryBundle)
    assert (str(query), query.embedding_strs) == ("a red chair", ["a red chair"])
    assert (query.modalities, query.spaces, query.filters) == (["mesh"], (), None)


def everything():
    """A query with all that can be given, made anew each time."""
    rng = np.random.default_rng(0)
    return MediaQuery(
        "a red chair",
        image=[rng.integers(0, 256, (4, 5, 3), np.uint8), Image.new("RGB", (3, 2), "red"), b"\x89PNG", PICTURE],
        audio=Waveform(np.linspace(-1, 1, 9, dtype=np.float32)),
        mesh=Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]])),
        negative=["dark", MediaQuery(image=rng.random((2, 2)))],
        part_weights={"image": 0.5},
        modalities=["image", "mesh"],
        spaces=("text",),
        filters=MetadataFilters(filters=[MetadataFilter(key="year", value=1999)]),
        language=["de", "zh"],
        between=(1, math.inf),
        custom_embedding_strs=["chair"],
    )


def test_equal_queries_are_equal():
    assert everything() == everything()
    assert MediaQuery("a") == MediaQuery("a") != QueryBundle("a")
    with pytest.raises(TypeError, match="unhashable"):
        hash(MediaQuery("a"))


@pytest.mark.parametrize(
    "change",
    [
        {"query_str": "a blue chair"},
        {"image": None},
        {"image": np.zeros((4, 5, 3), np.uint8)},
        {"audio": Waveform(np.linspace(-1, 0.5, 9, dtype=np.float32))},
        {"audio": Waveform(np.linspace(-1, 1, 9, dtype=np.float32), rate=8000)},
        {"mesh": Mesh(2 * np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]))},
        {"negative": "dark"},
        {"part_weights": {}},
        {"spaces": ["text"]},
        {"between": (1, 2)},
    ],
)
def test_queries_that_differ_are_not_equal(change):
    assert dataclasses.replace(everything(), **change) != everything()


@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, dataclasses.replace, lambda query: pickle.loads(pickle.dumps(query))]
)
def test_copies_are_equal(way):
    query = everything()
    made = way(query)
    assert type(made) is MediaQuery
    assert made == query == everything()
    assert repr(made) == repr(query)


def test_lists_that_were_given_are_left_alone():
    images = [NodeWithScore(node=PICTURE, score=0.5), "", "a.png"]
    given = list(images)
    assert MediaQuery(image=images).image == [PICTURE, "a.png"]
    assert all(one is other for one, other in zip(images, given, strict=True))


def test_repr_is_short():
    assert repr(MediaQuery("red", image="a.png")) == "MediaQuery(query_str='red', image='a.png')"
    assert repr(MediaQuery()) == "MediaQuery()"
    assert repr(dataclasses.replace(everything(), filters=None)) == (
        "MediaQuery(query_str='a red chair', custom_embedding_strs=['chair'], image=[<array (4, 5, 3) uint8>, <picture 3 x 2>, "
        "<4 bytes>, <ImageMedia picture>], audio=<sound of 0.0005625 s>, mesh=<mesh of 1 faces>, modalities=['image', 'mesh'], "
        "spaces=('text',), negative=['dark', MediaQuery(image=<array (2, 2) float64>)], part_weights={'image': 0.5}, "
        "language=['de', 'zh'], between=(1, inf))"
    )


# -- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_str": None}, "Expected words for query_str, got NoneType. Use image, audio or mesh."),
        ({"modalities": ["mesh", "video"]}, "Unknown modality 'video'; there are: text, image, audio, mesh."),
        ({"modalities": "mesh"}, "Expected a list of modalities, got 'mesh'. Write ['mesh']."),
        ({"spaces": "text"}, "Expected a list of spaces, got 'text'. Write ['text']."),
        ({"filters": []}, "Expected MetadataFilters for filters, got list. Write MetadataFilters(filters=[...])."),
        ({"negative": 3}, "Expected words, a node or a query for negative, got int. "),
        ({"negative": [Path("a.png")]}, "Put a file into a query: negative=MediaQuery(image=...)."),
        ({"negative": MediaQuery("b", negative="c")}, "Expected a negative query without a negative part of its own"),
        (
            {"negative": MediaQuery("b", modalities=["image"], language="de")},
            "got one with modalities, language. Give these to",
        ),
        ({"part_weights": 0.5}, "Expected part_weights by kind of part, got 0.5. Give {'image': 0.5}."),
        (
            {"part_weights": {"video": 1}},
            "Unknown kind of part 'video' in part_weights; there are: text, image, audio, mesh, spe",
        ),
        ({"part_weights": {"text": -1}}, "Expected a number of at least 0 for the weight of text, got -1."),
        ({"part_weights": {"text": math.nan}}, "Expected a number of at least 0 for the weight of text, got nan."),
        ({"part_weights": {"text": math.inf}}, "Expected a number of at least 0 for the weight of text, got inf."),
        ({"part_weights": {"text": "much"}}, "Expected a number of at least 0 for the weight of text, got 'much'."),
        ({"language": "german"}, "Expected an ISO 639-1 code such as 'de' or 'zh' for language, got 'german'."),
        ({"language": ["de", "zh-CN"]}, "for language, got 'zh-CN'."),
        ({"language": [1]}, "for language, got 1."),
        *(
            ({"between": wrong}, f"the last greater, got {wrong!r}.")
            for wrong in [5, (1,), (2, 1), (1, 1), (-1, 2), (0, math.nan), (math.nan, 2), ("0", "1"), (0, 1, 2)]
        ),
    ],
)
def test_what_has_no_meaning_is_refused_at_once(options, message):
    with pytest.raises(QueryError) as refused:
        MediaQuery(**options)
    assert message in str(refused.value)


# -- constraints ----------------------------------------------------------------------------------------------------------


SPACE = tiny_preset().spaces[0]  # holds the text of everything


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    home = tmp_path_factory.mktemp("constraints")
    path = home / "a.wav"
    path.write_bytes(b"sound")

    def span(name, language=None, **facts):
        metadata = {"year": 2020 if name.endswith("new") else 1990}
        return AudioMedia.create(path, digest="3" * 64, id_=name, text=name, language=language, metadata=metadata, **facts)

    nodes = [
        TextNode(id_="text", text="text"),
        TextNode(id_="zh text", text="zh text", metadata={"mm_language": "zh"}),
        ImageMedia.create(path, digest="4" * 64, id_="picture"),
        span("de 0-10", "de", start=0.0, end=10.0, seconds=30.0),
        span("de 10-20 new", "de", start=10.0, end=20.0, seconds=30.0),
        span("zh 20-30", "zh", start=20.0, end=30.0, seconds=30.0),
        span("bell 5-15", start=5.0, end=15.0, seconds=30.0),
        span("en whole of 12 s new", "en", seconds=12.0),
        span("en from 6", "en", start=6.0, seconds=12.0),
        span("en until 4", "en", end=4.0, seconds=12.0),
        span("en no length", "en"),
    ]
    with MediaStore(home / "index") as made:
        made.declare_space(SPACE.name, SPACE.dimension, SPACE.fingerprint)
        made.add(encode_nodes(nodes, [SPACE]))
        yield made


WITHOUT = {"text", "picture", "bell 5-15"}
GERMAN = {"de 0-10", "de 10-20 new"}
CHINESE = {"zh text", "zh 20-30"}
ENGLISH = {"en whole of 12 s new", "en from 6", "en until 4", "en no length"}
NEW = MetadataFilters(filters=[MetadataFilter(key="year", value=2000, operator=FilterOperator.GT)])
OLD_OR_NEW = MetadataFilters(
    filters=[MetadataFilter(key="year", value=1990), MetadataFilter(key="year", value=2020)], condition="or"
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"language": "de"}, WITHOUT | GERMAN),
        ({"language": "DE"}, WITHOUT | GERMAN),
        ({"language": ["de", "zh"]}, WITHOUT | GERMAN | CHINESE),
        ({"language": "fr"}, WITHOUT),
        ({"language": []}, WITHOUT | GERMAN | CHINESE | ENGLISH),
        ({"between": (0, 4)}, {"de 0-10", "en whole of 12 s new", "en until 4"}),
        ({"between": (4, 5)}, {"de 0-10", "en whole of 12 s new"}),
        ({"between": (4, 5.5)}, {"de 0-10", "en whole of 12 s new", "bell 5-15"}),
        ({"between": (10, 20)}, {"de 10-20 new", "bell 5-15", "en whole of 12 s new", "en from 6"}),
        ({"between": (12, math.inf)}, {"de 10-20 new", "bell 5-15", "zh 20-30"}),
        ({"between": (30, 99)}, set()),
        ({"between": (10, 20), "language": "de"}, {"de 10-20 new", "bell 5-15"}),
        ({"between": (0, 20), "filters": NEW}, {"de 10-20 new", "en whole of 12 s new"}),
        ({"language": "de", "filters": OLD_OR_NEW}, GERMAN | {"bell 5-15"}),
        ({"language": "de", "between": (0, 15), "filters": NEW}, {"de 10-20 new"}),
    ],
)
def test_language_and_time(store, options, expected):
    query = MediaQuery("text", **options)
    assert {store.nodes([seq])[seq].node_id for seq in store.find(filters=filters_of(query)).tolist()} == expected
    found = FusionRetriever(store, [SPACE], similarity_top_k=20).retrieve(query)
    assert {one.node.node_id for one in found} == expected


def test_no_constraint():
    assert filters_of(QueryBundle("a")) is filters_of(MediaQuery("a")) is None
    assert filters_of(MediaQuery("a", filters=NEW)) is NEW
