"""Whether what judgments name is in the index, over a real store."""

import pytest
from llama_index.core.schema import Document, TextNode

from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation import ItemCheck, Judged, Judgments, check_items, evaluate
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.testing import tiny_preset


@pytest.fixture(scope="module")
def index(make_once):
    pytest.importorskip("av")
    make_once.picture("one/red.png", (255, 0, 0))
    make_once.picture("two/red.png", (250, 0, 0))
    make_once.picture("two/lime.png", (0, 255, 0))
    make_once.tone("two/low.wav", 200, 40)  # several spans of one file
    with MultiModalIndex.open(make_once.folder / "index", preset=tiny_preset(), create=True) as made:
        assert made.ingest([make_once.folder / "one", make_once.folder / "two"], num_workers=0).problems == []
        made.insert_nodes([TextNode(id_="alone", text="a text without a file"), Document(doc_id="whole", text="a b " * 2000)])
        yield made


def test_what_is_there_and_what_is_not(index):
    judged = [
        Judged("a", {"lime.png": 2, "gone.png": 1, "never.png": 0}),
        Judged("b", ["gone.png", "lost.png"]),
        Judged("c", ["low.wav", "alone", "whole"]),
        Judged("d", ["red.png"]),
    ]
    told = check_items(index.store, judged)
    assert told == ItemCheck(items=7, absent=("gone.png", "lost.png"), hopeless=1, shared=("red.png",))
    assert told.notes == (
        "2 of 7 items that should be found are not in the index, and count as not found: gone.png, lost.png. "
        "Queries that seek nothing else: 1.",
        "1 of 7 items that should be found are names of several files in the index, any of which counts as found: red.png. "
        "Call items by file_path.",
    )
    hopeless = evaluate(index.as_retriever(similarity_top_k=30), judged).outcomes[1]
    assert set(hopeless.scores.values()) == {0.0}


def test_the_other_ways_to_call_items(index, make_once):
    red = str(make_once.folder / "one" / "red.png")
    nodes = index.store.nodes(index.store.find(modalities=["image"]).tolist()).values()
    node = next(one for one in nodes if one.metadata["file_path"] == red)
    for by, item in (("file_path", red), ("ref_doc_id", node.ref_doc_id), ("node_id", node.node_id)):
        judged = Judgments((Judged("a", [item, "red.png"]),), (), (), by)
        assert check_items(index.store, judged) == ItemCheck(2, ("red.png",), 0, ())
        assert check_items(index.store, judged.queries, by=by) == check_items(index.store, judged)
    with pytest.raises(QueryError, match="Unknown identity 'name'"):
        check_items(index.store, [], by="name")


def test_more_items_than_go_into_one_question(index):
    judged = [Judged(f"q{at}", [f"{at}.png"]) for at in range(1200)]
    told = check_items(index.store, [*judged, Judged("x", ["lime.png"])])
    assert (told.items, len(told.absent), told.hopeless) == (1201, 1200, 1200)
    assert ": 0.png, 1.png, 2.png, .... Queries that seek nothing else: 1200." in told.notes[0]
    assert check_items(index.store, []).notes == ()
