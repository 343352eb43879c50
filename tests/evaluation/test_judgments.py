import pytest
from llama_index.core.schema import NodeRelationship, QueryBundle, RelatedNodeInfo, TextNode
from PIL import Image

from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation import Judged, item_of, mixed
from llama_index_mm.media import MODALITIES
from llama_index_mm.retrieval import MediaQuery


@pytest.mark.parametrize(
    ("query", "kind", "name"),
    [
        ("a  boat\n", "text -> anything", "a boat"),
        (QueryBundle("a boat", image_path="photos/x.png"), "text+image -> anything", "a boat + x.png"),
        (MediaQuery("a boat", modalities=["image"]), "text -> image", "a boat"),
        (MediaQuery(image="photos/x.png", modalities=["image", "mesh"]), "image -> image+mesh", "x.png"),
        (MediaQuery(image=["x.png", Image.new("RGB", (2, 2))], modalities=["image"]), "image -> image", "x.png + (image)"),
        (MediaQuery(audio="a.wav", mesh="b.obj"), "audio+mesh -> anything", "a.wav + b.obj"),
    ],
)
def test_kind_and_name_are_told_by_the_query(query, kind, name):
    one = Judged(query, ["a"])
    assert (one.kind, one.name) == (kind, name)
    assert Judged(query, ["a"], language="zh").kind == f"{kind} (zh)"
    own = Judged(query, ["a"], language="zh", kind="mine", name="first")
    assert (own.kind, own.name) == ("mine", "first")


def test_grades():
    assert Judged("q", ["a", "b"]).grades == {"a": 1.0, "b": 1.0}
    assert Judged("q", {"a": 2, "b": 0}).grades == {"a": 2, "b": 0}
    assert Judged("q", {"a": 2, "b": 0}, excluded=["b"]).excluded == ["b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relevant": "a.jpg"}, "got the text 'a.jpg'"),
        ({"relevant": ["a"], "excluded": "b"}, "got the text 'b'"),
        ({"relevant": []}, "at least one relevant"),
        ({"relevant": {"a": 0}}, "at least one relevant"),
        ({"relevant": {"a": -1}}, "at least 0"),
        ({"relevant": {"a": float("nan")}}, "at least 0"),
        ({"relevant": ["a", "b"], "excluded": ["b"]}, "excluded: b"),
    ],
)
def test_what_can_not_be_judged_is_refused(options, message):
    with pytest.raises(QueryError, match=message):
        Judged("q", **options)


def test_what_items_are_called_by():
    node = TextNode(id_="node", metadata={"file_name": "a.txt", "file_path": "/x/a.txt"})
    node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="document")
    assert item_of(node) == "a.txt"
    assert [item_of(node, by) for by in ("file_path", "ref_doc_id", "node_id")] == ["/x/a.txt", "document", "node"]
    node.metadata.clear()
    assert [item_of(node, by) for by in ("file_name", "file_path")] == ["document", "document"]
    assert [item_of(TextNode(id_="node"), by) for by in ("file_name", "ref_doc_id")] == ["node", "node"]


def test_mixed_asks_the_same_over_everything():
    asked = [
        Judged(MediaQuery("boat", image="x.png", modalities=["mesh"], spaces=["text"]), {"a": 2}, ["x.png"], language="en"),
        Judged("boat", ["a"]),
        Judged(QueryBundle("boat", image_path="x.png", custom_embedding_strs=["ship"], embedding=[1.0]), ["a"]),
        Judged("boat", ["a"], kind="mine"),
    ]
    told = mixed(asked)
    assert [one.kind for one in told] == [
        "text+image -> anything (mesh (en))",
        "text -> anything",
        "text+image -> anything",
        "mine, anything",
    ]
    assert told[0].query == MediaQuery("boat", image="x.png", modalities=MODALITIES, spaces=["text"])
    assert told[1].query == told[3].query == MediaQuery("boat", modalities=MODALITIES)
    bundle = told[2].query
    assert (bundle.query_str, bundle.image_path, bundle.custom_embedding_strs, bundle.embedding) == (
        "boat",
        "x.png",
        ["ship"],
        [1.0],
    )
    assert [(one.relevant, one.excluded, one.name) for one in told] == [(one.relevant, one.excluded, one.name) for one in asked]
    assert asked[0].query.modalities == ["mesh"]
    assert mixed(told) == told
