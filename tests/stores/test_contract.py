"""What LlamaIndex's own vector store does, ours does: most tests run on both."""

import math

import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from llama_index.core.vector_stores.types import FilterOperator as Op

from llama_index_mm.errors import FilterError, QueryError
from llama_index_mm.stores import SpaceVectorStore

AND, OR, NOT = FilterCondition.AND, FilterCondition.OR, FilterCondition.NOT
# Each a little further from QUESTION than the one before it.
TREES = {
    "oak": ("forest", {"height": 30, "name": "English oak", "uses": ["beams", "barrels"], "note": "", "seen": [1, 2]}),
    "elm": ("forest", {"height": 25.5, "name": "wych elm", "uses": ["boats"], "note": None}),
    "fir": ("ridge", {"height": 60, "name": "Douglas fir", "uses": [], "note": "tall"}),
    "yew": ("ridge", {"height": -1, "name": "Irish yew", "uses": ["bows", "beams"], "seen": [2.0]}),
    "bay": (None, {"evergreen": True}),
}
ANGLES = dict(zip(TREES, (0.1, 0.4, 0.9, 1.7, 3.0), strict=True))
QUESTION = [2.0, 0.0]


def node(name, length=1.0):
    doc, metadata = TREES[name]
    return TextNode(
        id_=name,
        text=f"About {name}.",
        metadata=metadata,
        embedding=[length * math.cos(ANGLES[name]), length * math.sin(ANGLES[name])],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=doc)} if doc else {},
    )


def ask(k=10, **given):
    return VectorStoreQuery(query_embedding=QUESTION, similarity_top_k=k, **given)


def where(key, operator, value=None):
    return MetadataFilter(key=key, operator=operator, value=value)


def group(*filters, condition=AND):
    return MetadataFilters(filters=list(filters), condition=condition)


def found(store, filters=None, **given):
    return store.query(ask(filters=filters, **given)).ids


@pytest.fixture(params=["core", "ours"])
def empty(request, tmp_path):
    if request.param == "core":
        yield SimpleVectorStore()
        return
    store = SpaceVectorStore(tmp_path)
    yield store
    store.close()


@pytest.fixture
def store(empty):
    assert empty.add([node(name) for name in TREES]) == list(TREES)
    return empty


@pytest.fixture(params=["core", "ours"], scope="module")
def kept(request, tmp_path_factory):
    """For tests that only read."""
    store = SimpleVectorStore() if request.param == "core" else SpaceVectorStore(tmp_path_factory.mktemp("store"))
    store.add([node(name) for name in TREES])
    yield store
    if request.param == "ours":
        store.close()


@pytest.fixture
def ours(tmp_path):
    store = SpaceVectorStore(tmp_path)
    store.add([node(name) for name in TREES])
    yield store
    store.close()


# -- queries ------------------------------------------------------------------------------------------------------------


def test_the_nearest_come_first(kept):
    assert found(kept) == list(TREES)
    assert kept.query(ask(k=2)).ids == ["oak", "elm"]
    assert kept.query(ask(k=len(TREES))).ids == list(TREES)
    assert kept.query(ask(k=1000)).ids == list(TREES)


def test_similarities_are_cosines_whatever_the_lengths(empty):
    empty.add([node(name, length) for name, length in zip(TREES, (0.01, 5, 1, 300, 2), strict=True)])
    result = empty.query(ask())
    assert result.ids == list(TREES)
    assert result.similarities == pytest.approx([math.cos(angle) for angle in ANGLES.values()], abs=1e-6)


@pytest.mark.parametrize("mode", [VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR])
def test_an_empty_store(empty, mode):
    for filters in (None, group(where("name", Op.EQ, "a"))):
        result = empty.query(ask(mode=mode, filters=filters))
        assert (result.ids, result.similarities) == ([], [])
    empty.delete("forest")
    empty.delete_nodes(["oak"])
    empty.clear()
    assert empty.add([]) == []


FILTERS = [
    (where("name", Op.EQ, "Douglas fir"), "fir"),
    (where("height", Op.EQ, 30), "oak"),
    (where("height", Op.EQ, 30.0), "oak"),
    (where("height", Op.EQ, "30"), ""),
    (where("uses", Op.EQ, ["boats"]), "elm"),
    (where("name", Op.NE, "Douglas fir"), "oak elm yew bay"),
    (where("height", Op.NE, 30), "elm fir yew bay"),
    (where("height", Op.GT, 25.5), "oak fir"),
    (where("height", Op.GTE, 25.5), "oak elm fir"),
    (where("height", Op.LT, 25.5), "yew"),
    (where("height", Op.LTE, 25.5), "elm yew"),
    (where("name", Op.GT, "Irish"), "elm yew"),
    (where("name", Op.LTE, "English oak"), "oak fir"),
    (where("name", Op.IN, ["wych elm", "Irish yew", "other"]), "elm yew"),
    (where("height", Op.IN, [60, -1]), "fir yew"),
    (where("height", Op.IN, []), ""),
    (where("name", Op.NIN, ["wych elm", "Irish yew"]), "oak fir bay"),
    (where("height", Op.NIN, [60, -1]), "oak elm bay"),
    (where("uses", Op.CONTAINS, "beams"), "oak yew"),
    (where("seen", Op.CONTAINS, 2), "oak yew"),
    (where("name", Op.CONTAINS, "oak"), "oak"),
    (where("uses", Op.ANY, ["boats", "bows"]), "elm yew"),
    (where("uses", Op.ANY, []), ""),
    (where("uses", Op.ALL, ["beams", "bows"]), "yew"),
    (where("uses", Op.ALL, []), "oak elm fir yew"),
    (where("name", Op.TEXT_MATCH, "oak"), "oak"),
    (where("name", Op.TEXT_MATCH, "irish"), ""),
    (where("name", Op.TEXT_MATCH_INSENSITIVE, "iRISH"), "yew"),
    (where("note", Op.IS_EMPTY), "oak elm yew bay"),
    (where("uses", Op.IS_EMPTY), "fir bay"),
    (where("height", Op.IS_EMPTY), "bay"),
    (where("nowhere", Op.EQ, "a"), ""),
    (where("nowhere", Op.NE, "a"), "oak elm fir yew bay"),
    (where("nowhere", Op.GT, 0), ""),
    (where("nowhere", Op.IN, ["a"]), ""),
    (where("nowhere", Op.NIN, ["a"]), "oak elm fir yew bay"),
    (where("nowhere", Op.CONTAINS, "a"), ""),
    (where("nowhere", Op.TEXT_MATCH, ""), ""),
    (where("nowhere", Op.IS_EMPTY), "oak elm fir yew bay"),
    # LlamaIndex puts these into the metadata of every node.
    (where("doc_id", Op.EQ, "ridge"), "fir yew"),
    (where("ref_doc_id", Op.IN, ["ridge", "other"]), "fir yew"),
    (where("document_id", Op.NE, "ridge"), "oak elm bay"),
    (where("doc_id", Op.EQ, "None"), "bay"),
    (where("ref_doc_id", Op.TEXT_MATCH, "for"), "oak elm"),
    (where("_node_type", Op.EQ, "TextNode"), "oak elm fir yew bay"),
]


@pytest.mark.parametrize(("one", "names"), FILTERS, ids=[f"{one.key} {one.operator.value} {one.value}" for one, _ in FILTERS])
def test_every_operator(kept, one, names):
    assert found(kept, group(one)) == names.split()
    assert found(kept, group(one), k=1) == names.split()[:1]
    assert found(kept, group(one, condition=NOT)) == [name for name in TREES if name not in names.split()]


@pytest.mark.parametrize(
    ("condition", "names"),
    [(AND, "yew"), (None, "yew"), (OR, "oak fir yew"), (NOT, "elm bay")],
    ids=["and", "none", "or", "not"],
)
def test_conditions(kept, condition, names):
    beams, ridge = where("uses", Op.CONTAINS, "beams"), where("doc_id", Op.EQ, "ridge")
    assert found(kept, group(beams, ridge, condition=condition)) == names.split()
    assert found(kept, group(condition=condition)) == list(TREES)


def test_filters_with_node_ids(kept):
    tall = group(where("height", Op.GT, 20))
    assert found(kept, node_ids=["yew", "oak", "nobody"]) == ["oak", "yew"]
    assert found(kept, tall, node_ids=["yew", "oak", "nobody"]) == ["oak"]
    assert found(kept, tall, node_ids=["yew"]) == []


def test_doc_ids(ours):
    """`SimpleVectorStore` passes over them."""
    tall = group(where("height", Op.GT, 20))
    assert found(ours, doc_ids=["ridge", "nowhere"]) == ["fir", "yew"]
    assert found(ours, tall, doc_ids=["ridge"]) == ["fir"]
    assert found(ours, tall, doc_ids=["ridge"], node_ids=["oak", "yew"]) == []
    assert found(ours, doc_ids=["nowhere"]) == []


def test_nested_filters(ours):
    """`SimpleVectorStore` refuses them."""
    tall, beams, ridge = where("height", Op.GT, 20), where("uses", Op.CONTAINS, "beams"), where("doc_id", Op.EQ, "ridge")
    assert found(ours, group(tall, group(beams, ridge, condition=OR))) == ["oak", "fir"]
    assert found(ours, group(group(tall, beams), group(ridge, condition=NOT), condition=OR)) == ["oak", "elm", "bay"]
    assert found(ours, group(tall, group(), group(group(condition=NOT), condition=OR))) == ["oak", "elm", "fir"]


@pytest.mark.parametrize("condition", [AND, OR, NOT])
def test_groups_as_deep_as_allowed(ours, condition):
    filters = group(where("uses", Op.ALL, ["beams"]))
    for _ in range(7):
        filters = group(filters, where("height", Op.GT, 20 if condition == OR else -100), condition=condition)
    assert found(ours, filters) == {AND: ["oak", "yew"], OR: ["oak", "elm", "fir", "yew"], NOT: ["bay"]}[condition]


def test_where_stored_and_wanted_can_not_be_compared(ours):
    """`SimpleVectorStore` raises a `TypeError` of Python's."""
    assert found(ours, group(where("name", Op.GT, 3))) == []
    assert found(ours, group(where("height", Op.TEXT_MATCH, "3"))) == []
    with pytest.raises(FilterError):
        found(ours, group(where("height", Op.IN, 3)))


def test_nodes_come_whole(ours):
    """`SimpleVectorStore` keeps no nodes: its results have ids only, and it has no ``get_nodes``."""
    for one in (*ours.query(ask()).nodes, *ours.get_nodes()):
        assert one == node(one.node_id).model_copy(update={"embedding": None})


def test_modes_that_fit_a_model_to_the_query_are_refused(ours):
    """`SimpleVectorStore` answers these with scikit-learn."""
    with pytest.raises(QueryError):
        ours.query(ask(mode=VectorStoreQueryMode.SVM))


def test_none_at_all(ours):
    """`SimpleVectorStore` takes a ``similarity_top_k`` of 0 for all."""
    for mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
        assert ours.query(ask(k=0, mode=mode)).ids == []


# -- changes ------------------------------------------------------------------------------------------------------------


def test_delete_a_document(store):
    store.delete("nowhere")
    assert found(store) == list(TREES)
    store.delete("forest")
    assert found(store) == ["fir", "yew", "bay"]
    store.delete("forest")
    assert found(store, group(where("uses", Op.CONTAINS, "beams"))) == ["yew"]


def test_nodes_without_a_document_have_none_of_that_name(ours):
    """`SimpleVectorStore` notes their document as ``"None"``, and would delete them."""
    ours.delete("None")
    assert found(ours) == list(TREES)


TALL = group(where("height", Op.GT, 20))
DELETIONS = [
    ({"node_ids": ["elm", "bay", "nobody"]}, "oak fir yew"),
    ({"node_ids": ["nobody"]}, "oak elm fir yew bay"),
    ({"filters": TALL}, "yew bay"),
    ({"filters": group(where("doc_id", Op.EQ, "ridge"), where("name", Op.EQ, "wych elm"), condition=OR)}, "oak bay"),
    ({"filters": group(where("height", Op.GT, 20), condition=NOT)}, "oak elm fir"),
    ({"node_ids": ["elm", "yew"], "filters": TALL}, "oak fir yew bay"),
]


@pytest.mark.parametrize(("given", "names"), DELETIONS)
def test_delete_nodes(store, given, names):
    store.delete_nodes(**given)
    assert found(store) == names.split()


@pytest.mark.parametrize("filters", [None, group(), group(group(), group(group(condition=NOT), condition=OR))])
@pytest.mark.parametrize("node_ids", [None, []])
def test_nothing_given_deletes_nothing(ours, node_ids, filters):
    """`SimpleVectorStore` takes no filter for a filter that all match, and deletes everything."""
    ours.delete_nodes(node_ids, filters)
    assert found(ours) == list(TREES)


def test_clear(store):
    store.clear()
    assert found(store) == []
    assert store.add([node("yew")]) == ["yew"]
    assert found(store) == ["yew"]


def test_adding_an_id_again_replaces_it(store):
    store.add([TextNode(id_="oak", text="new", metadata={"name": "cork oak"}, embedding=[-1.0, 0.0])])
    assert found(store) == ["elm", "fir", "yew", "bay", "oak"]
    assert found(store, group(where("height", Op.EQ, 30))) == []
    assert found(store, group(where("name", Op.EQ, "cork oak"), where("doc_id", Op.EQ, "None"))) == ["oak"]
    store.delete("forest")
    assert found(store) == ["fir", "yew", "bay", "oak"]


async def test_the_same_without_blocking(empty):
    assert await empty.async_add([node(name) for name in TREES]) == list(TREES)
    await empty.adelete("forest")
    await empty.adelete_nodes(["bay"])
    assert (await empty.aquery(ask())).ids == ["fir", "yew"]
    await empty.aclear()
    assert (await empty.aquery(ask())).ids == []
