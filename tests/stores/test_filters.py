"""Our SQL against LlamaIndex's own filter function, and nested filters against a few lines of Python."""

import json
import math
import sqlite3
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from llama_index_mm.errors import FilterError
from llama_index_mm.nodes import node_to_json
from llama_index_mm.stores.facts import insert_facts
from llama_index_mm.stores.filters import compile_filters, register_functions
from llama_index_mm.stores.schema import statements

AND, OR, NOT = FilterCondition.AND, FilterCondition.OR, FilterCondition.NOT
KEYS = ["a", "b", "it's", 'say "hi"', "x.y", "$.a", "größe", "日本", "tab\there", "", "[0]", "null"]

letters = st.text("aAbß'\"%_\\.é日😀 1", max_size=4)
integers = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1)
reals = st.sampled_from([0.0, 1.0, -2.0, 0.5, 0.1 + 0.2, 1e16]) | st.floats(allow_nan=False, allow_infinity=False)
scalars = letters | integers | reals | st.booleans() | st.just(math.nan)
stored = st.none() | scalars | st.lists(scalars | st.none(), max_size=3) | st.lists(letters, max_size=3)
metadata = st.dictionaries(st.sampled_from(KEYS), stored, max_size=5)
wanted = (
    letters
    | integers
    | reals
    | st.none()
    | st.lists(letters, max_size=3)
    | st.lists(integers, max_size=3)
    | st.lists(reals, max_size=3)
)


@cache
def database() -> sqlite3.Connection:
    """A table of nodes as the store has it, without what filters do not look at."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    register_functions(connection)
    for statement in statements():
        connection.execute(statement)
    return connection


def selected(filters, *every):
    """Which of some metadata the SQL lets pass."""
    query, values = compile_filters(filters) or ("SELECT seq FROM nodes", [])
    entries = [(at, json.loads(node_to_json(TextNode(metadata=one)))["metadata"]) for at, one in enumerate(every)]
    database().execute("DELETE FROM nodes")
    database().execute("DELETE FROM facts")
    rows = [(at, str(at), f"d{at}", "text", "TextNode", 0, "") for at in range(len(every))]
    database().executemany("INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    insert_facts(database(), entries)
    return [row[0] for row in database().execute(f"SELECT seq FROM ({query}) ORDER BY seq", values)]


def answer_of_core(filters, one):
    """What LlamaIndex says; None where it raises."""
    try:
        return build_metadata_filter_fn(lambda _: one, filters)("")
    except TypeError:
        return None


def where(key, operator, value=None):
    return MetadataFilter(key=key, operator=operator, value=value)


def group(*filters, condition=AND):
    return MetadataFilters(filters=list(filters), condition=condition)


single = st.builds(where, st.sampled_from(KEYS), st.sampled_from(FilterOperator), wanted)


def meaningless(one):
    """Values that an operator can't have whatever is stored; for these the SQL is refused."""
    value, operator = one.value, one.operator
    if operator in (FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE):
        return value is None or isinstance(value, list)
    if operator in (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL):
        return not isinstance(value, list | str)
    if operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
        return not isinstance(value, str)
    return False


@settings(deadline=None, max_examples=400)
@given(st.lists(metadata, max_size=6), st.lists(single, min_size=1, max_size=3), st.sampled_from([None, AND, OR, NOT]))
@example([{}, {"a": None}, {"a": 1}], [where("a", FilterOperator.NE, None)], AND)
@example([{"a": ["é"]}, {"a": [1.0]}, {"a": [True]}], [where("a", FilterOperator.EQ, ["é"])], AND)
@example([{"a": [1.0]}, {"a": [True, 2]}, {"a": [1]}], [where("a", FilterOperator.EQ, [1])], AND)
@example([{"a": math.nan}, {"a": 1}], [where("a", FilterOperator.GT, 0)], AND)
@example([{"a": 0.1 + 0.2}, {"a": 5e-324}], [where("a", FilterOperator.IN, [0.1 + 0.2, 5e-324])], AND)
def test_selects_what_llama_index_selects(every, filters, condition):
    joined = group(*filters, condition=condition)
    if any(meaningless(one) for one in filters):
        with pytest.raises(FilterError):
            compile_filters(joined)
        return
    ours = selected(joined, *every)
    answers = {at: answer_of_core(joined, one) for at, one in enumerate(every)}
    assert [at for at in ours if answers[at] is not None] == [at for at, answer in answers.items() if answer]


@settings(deadline=None, max_examples=300)
@given(metadata, st.sampled_from(KEYS), st.sampled_from(FilterOperator), wanted)
def test_what_llama_index_would_raise_for_matches_only_nin(one, key, operator, value):
    alone = where(key, operator, value)
    if not meaningless(alone) and answer_of_core(group(alone), one) is None:
        assert selected(group(alone), one) == ([0] if operator == FilterOperator.NIN else [])


def evaluate(filters, one):
    """Nested filters in Python; True, False, or None for an empty group, which is left out."""
    if isinstance(filters, MetadataFilter):
        return answer_of_core(group(filters), one)
    parts = [answer for answer in (evaluate(part, one) for part in filters.filters) if answer is not None]
    if not parts:
        return None
    return {AND: all(parts), OR: any(parts), NOT: not any(parts)}[filters.condition or AND]


safe = st.builds(where, st.sampled_from(["a", "b"]), st.sampled_from([FilterOperator.EQ, FilterOperator.NE]), st.integers(0, 2))
nested = st.recursive(
    safe,
    lambda inner: st.builds(MetadataFilters, filters=st.lists(inner, max_size=3), condition=st.sampled_from([AND, OR, NOT])),
    max_leaves=8,
).filter(lambda made: isinstance(made, MetadataFilters))
GRID = [{"a": a, "b": b} for a in (0, 1, 2) for b in (0, 1, 2)] + [{}, {"a": 0}, {"b": None}]


@settings(deadline=None, max_examples=200)
@given(nested)
def test_nested_filters(filters):
    try:
        ours = selected(filters, *GRID)
    except FilterError:
        assert depth(filters) > 8
    else:
        assert ours == [at for at, one in enumerate(GRID) if evaluate(filters, one) in (True, None)]


def depth(filters):
    return 1 + max((depth(one) for one in filters.filters), default=0) if isinstance(filters, MetadataFilters) else 0


@pytest.mark.parametrize("filters", [None, group(), group(group(), group(group()))])
def test_nothing_to_filter(filters):
    assert compile_filters(filters) is None


@pytest.mark.parametrize(
    ("operator", "value", "message"),
    [
        (FilterOperator.GT, [1], "Operator '>' on 'a' needs a number or a text, got [1]."),
        (FilterOperator.LTE, None, "Operator '<=' on 'a' needs a number or a text, got None."),
        (FilterOperator.IN, 1, "Operator 'in' on 'a' needs a list, got 1."),
        (FilterOperator.NIN, None, "Operator 'nin' on 'a' needs a list, got None."),
        (FilterOperator.ANY, 2.5, "Operator 'any' on 'a' needs a list, got 2.5."),
        (FilterOperator.ALL, None, "Operator 'all' on 'a' needs a list, got None."),
        (FilterOperator.TEXT_MATCH, 1, "Operator 'text_match' on 'a' needs a text, got 1."),
        (FilterOperator.TEXT_MATCH_INSENSITIVE, ["a"], "Operator 'text_match_insensitive' on 'a' needs a text, got ['a']."),
    ],
)
def test_values_without_meaning(operator, value, message):
    with pytest.raises(FilterError) as caught:
        compile_filters(group(where("a", operator, value)))
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [{"b": 1}, b"bytes", [{1, 2}], [[math.inf]], object()])
def test_values_that_no_filter_can_have(value):
    made = MetadataFilter.model_construct(key="a", operator=FilterOperator.EQ, value=value)
    with pytest.raises(FilterError):
        compile_filters(MetadataFilters.model_construct(filters=[made], condition=AND))


def test_unknown_operator():
    made = MetadataFilter.model_construct(key="a", operator="near", value=1)
    with pytest.raises(FilterError, match=r"^Unknown filter operator 'near' on 'a'\.$"):
        compile_filters(MetadataFilters.model_construct(filters=[made], condition=AND))


def test_as_many_and_as_deep_as_allowed():
    equal = where("a", FilterOperator.EQ, 1)
    wide = group(*[where("a", FilterOperator.ALL, ["x"])] * 255, equal, condition=OR)
    deep = wide
    for _ in range(7):
        deep = group(deep, equal, condition=AND)
    assert selected(deep, {"a": 1}, {"a": 2}) == [0]
    with pytest.raises(FilterError, match="8 deep"):
        compile_filters(group(deep))
    with pytest.raises(FilterError, match=r"^At most 256 filters"):
        compile_filters(group(*[equal] * 257))


@pytest.mark.parametrize("operator", [FilterOperator.IN, FilterOperator.ANY])
def test_many_values_in_one_filter(operator):
    values = [f"file {at}" for at in range(50_000)]
    assert selected(group(where("a", operator, values)), {"a": "file 49999"}, {"a": "other"}) == [0]


def test_infinity_is_the_largest():
    every = [{"a": math.inf}, {"a": -math.inf}, {"a": 1e300}, {"a": math.nan}]
    assert selected(group(where("a", FilterOperator.GT, 1e301)), *every) == [0]
    assert selected(group(where("a", FilterOperator.LT, math.inf)), *every) == [1, 2]
    assert selected(group(where("a", FilterOperator.LT, -1e301)), *every) == [1]
    assert selected(group(where("a", FilterOperator.EQ, math.nan)), *every) == []
    assert selected(group(where("a", FilterOperator.ALL, [math.nan])), {"a": [None, math.nan]}) == []


def test_integers_of_any_size():
    every = [{"a": 2**80}, {"a": 2**53 + 1}, {"a": -(2**70)}]
    assert selected(group(where("a", FilterOperator.GT, 2**63)), *every) == [0]
    assert selected(group(where("a", FilterOperator.EQ, 2**53)), *every) == []
    assert selected(group(where("a", FilterOperator.LT, -(2**69))), *every) == [2]
