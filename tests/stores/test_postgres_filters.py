"""Filters in PostgreSQL choose what they choose in SQLite: the same nodes in both stores, thousands of filters."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from postgres_server import postgres_server

from llama_index_mm.errors import FilterError
from llama_index_mm.stores import MediaStore, Record
from llama_index_mm.stores.postgres import PostgresStore

pytestmark = pytest.mark.distributed

AND, OR, NOT = FilterCondition.AND, FilterCondition.OR, FilterCondition.NOT
KEYS = ["a", "b", "it's", 'say "hi"', "x.y", "$.a", "größe", "日本", "tab\there", "", "[0]", "null", "100%", "what?"]
SPECIAL = ["document_id", "doc_id", "ref_doc_id", "_node_type"]
NODES = 400
BATCH = 25  # filters in one example

letters = st.text("aAbßÄİΣσ'\"%_?\\.é日😀 1\ud800", max_size=4)
integers = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53, 2**53 + 1, 10**17, 2**80, -(2**70)])
reals = st.sampled_from([0.0, 1.0, -2.0, 0.5, 0.1 + 0.2, 1e16, 1e17, 2.0**53, 1.2345678901234567e18]) | st.floats(
    allow_nan=False, allow_infinity=False
)
strange = st.sampled_from([math.nan, math.inf, -math.inf])
scalars = letters | integers | reals | st.booleans() | strange
small = st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 0.5]) | letters | st.booleans()
stored = (
    st.none()
    | scalars
    | st.lists(small | st.none(), max_size=3)
    | st.lists(st.lists(st.integers(0, 2), max_size=2) | small, max_size=3)
    | st.dictionaries(letters, small, max_size=2)
)
wanted = letters | integers | reals | st.none() | st.lists(letters, max_size=3) | st.lists(st.integers(-3, 3), max_size=3)
wanted |= st.lists(reals, max_size=3) | strange | st.lists(letters, min_size=17, max_size=20)
documents = st.none() | st.sampled_from(["d1", "d2", "Größe", "None", ""])


def a_filter():
    plain = st.builds(where, st.sampled_from(KEYS), st.sampled_from(FilterOperator), wanted)
    special = st.builds(
        where, st.sampled_from(SPECIAL), st.sampled_from(FilterOperator), wanted | documents | st.just(["d1", "Größe", "None"])
    )
    return plain | special


def where(key, operator, value=None):
    return MetadataFilter.model_construct(key=key, operator=operator, value=value)


def group(filters, condition=AND):
    return MetadataFilters.model_construct(filters=list(filters), condition=condition)


nested = st.recursive(
    a_filter(),
    lambda inner: st.builds(group, st.lists(inner, max_size=3), st.sampled_from([AND, OR, NOT, None])),
    max_leaves=6,
).map(lambda made: made if isinstance(made, MetadataFilters) else group([made]))


def chosen(store, filters):
    """Numbers of the nodes, which are the same in both stores, or the error."""
    try:
        return store.find(filters=filters).tolist()
    except FilterError as error:
        return str(error)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same nodes in both."""
    folder = tmp_path_factory.mktemp("stores")
    every = st.dictionaries(st.sampled_from(KEYS), stored, max_size=5)
    made = []

    @settings(max_examples=NODES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(every, documents)
    def generate(metadata, document):
        made.append((metadata, document))

    generate()
    records = [Record(node(f"n{at}", *one), {"s": np.eye(4, dtype=np.float32)[at % 4]}) for at, one in enumerate(made)]
    with postgres_server() as server:
        ours = PostgresStore(server.url, media_cache=folder / "cache")
        theirs = MediaStore(folder / "store")
        for store in (ours, theirs):
            store.declare_space("s", 4, "x")
            store.add(records)
        assert ours.nodes(ours.find().tolist()) == theirs.nodes(theirs.find().tolist())
        yield ours, theirs
        ours.close()
        theirs.close()


def node(name, metadata, document):
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)} if document is not None else {}
    return TextNode(id_=name, metadata=metadata, relationships=source)


@settings(max_examples=160, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(nested, min_size=BATCH, max_size=BATCH))
def test_filters_choose_the_same_as_in_sqlite(stores, every):
    ours, theirs = stores
    for filters in every:
        assert chosen(ours, filters) == chosen(theirs, filters), filters


def test_every_stored_value_finds_itself(stores):
    ours, theirs = stores
    values = {
        (key, repr(value)): value
        for one in theirs.nodes(theirs.find().tolist()).values()
        for key, value in one.metadata.items()
    }
    for (key, _), value in values.items():
        if isinstance(value, str | int | float | list):
            for operator in (FilterOperator.EQ, FilterOperator.NE, FilterOperator.CONTAINS):
                filters = group([where(key, operator, value)])
                assert chosen(ours, filters) == chosen(theirs, filters), filters


@pytest.mark.parametrize("operator", [FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY])
def test_many_values_in_one_filter(stores, operator):
    filters = group([where("a", operator, [f"file {at}" for at in range(20_000)] + ["a"])])
    assert chosen(stores[0], filters) == chosen(stores[1], filters)


def test_what_was_chosen_is_searched(stores):
    ours, theirs = stores
    query = np.array([1, 2, 3, 4], np.float32)
    filters = group([where("a", FilterOperator.NE, 1), where("doc_id", FilterOperator.IN, ["d1", "d2"])])
    others = group([where("b", FilterOperator.IS_EMPTY)])
    few = np.arange(5, 60)
    for store in stores:
        assert store.among(filters=filters).only(few).tolist() == sorted(
            set(few.tolist()) & set(store.find(filters=filters).tolist())
        )
    for make in (
        lambda store: store.among(filters=filters),
        lambda store: store.among(filters=filters) & store.among(filters=others),
        lambda store: store.among(filters=filters).but(store.among(filters=others)),
        lambda store: store.among(filters=filters).without(few),
        lambda store: store.among().but(store.among()),
        lambda store: store.find(filters=filters),
    ):
        for k in (1, 7, 1000):
            assert ours.search("s", "text", query, k, make(ours)) == theirs.search("s", "text", query, k, make(theirs))


def test_paths_of_files_that_belong_to_the_store(stores):
    for store in stores:
        path = store.media_path(b"some sound", ".wav")
        entry = TextNode(id_=f"of {type(store).__name__}", metadata={"file_path": str(path), "parts": [str(path), "x"]})
        store.add([Record(entry, {})])
        for one in (
            where("file_path", FilterOperator.EQ, str(path)),
            where("file_path", FilterOperator.IN, [str(path), "elsewhere"]),
            where("parts", FilterOperator.CONTAINS, str(path)),
            where("file_path", FilterOperator.TEXT_MATCH, f"{store.media_folder}/"),
        ):
            assert chosen(store, group([one])) == store.find(node_ids=[entry.node_id]).tolist() != []
        assert store.delete(node_ids=[entry.node_id]) == 1


@pytest.mark.parametrize(
    ("operator", "value", "names"),
    [
        (FilterOperator.EQ, "a\x00", "x"),
        (FilterOperator.GT, "a", "x y z"),
        (FilterOperator.LT, "a\x00b", "w x"),
        (FilterOperator.CONTAINS, "\x00b", "y"),
        (FilterOperator.ANY, ["\x00b", "\x01"], "y z"),
        (FilterOperator.TEXT_MATCH, "\x00", "x y"),
        (FilterOperator.IN, ["a\x01", "a"], "w z"),
    ],
)
def test_the_character_that_postgresql_has_not(stores, operator, value, names):
    ours, _ = stores
    texts = {"w": "a", "x": "a\x00", "y": "a\x00b", "z": "a\x01"}
    ours.add([Record(TextNode(id_=name, text=text, metadata={"nul": text}), {}) for name, text in texts.items()])
    found = ours.nodes(ours.find(filters=group([where("nul", operator, value)])).tolist())
    assert [one.node_id for one in found.values()] == names.split()
    assert {one.node_id: one.text for one in ours.nodes(ours.find(node_ids=list(texts)).tolist()).values()} == texts
    ours.delete(node_ids=list(texts))
