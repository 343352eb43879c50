"""LlamaIndex metadata filters to SQL of PostgreSQL, with the meaning that `llama_index_mm.stores.filters` gives them."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.stores.base import Among, Seqs
from llama_index_mm.stores.facts import as_text
from llama_index_mm.stores.filters import compile_filters
from llama_index_mm.stores.postgres_facts import as_json, to_stored

__all__ = ["Condition", "PostgresAmong", "all_of", "compile_condition", "listed"]

_COMPARISONS = {FilterOperator.GT: ">", FilterOperator.GTE: ">=", FilterOperator.LT: "<", FilterOperator.LTE: "<="}
_FEW = 16  # values that are looked up one by one in the index on facts
_BEYOND = 10**309  # infinity as a member of a list: larger than any number that is stored
# Names that SimpleVectorStore puts into the metadata of every node.
_OF_THE_NODE = dict.fromkeys(("document_id", "doc_id", "ref_doc_id"), "n.ref_doc_id") | {"_node_type": "n.class"}


class Condition(NamedTuple):
    """A test of a node ``n``, true or false and never null.

    Attributes:
        sql: with ``?`` for each value.
        values: in their order.
    """

    sql: str
    values: tuple[Any, ...] = ()


_NEVER = Condition("false")


def all_of(conditions: Sequence[Condition]) -> Condition:
    """The test that all of these hold."""
    if not conditions:
        return Condition("true")
    return Condition(" AND ".join(f"({one.sql})" for one in conditions), tuple(v for one in conditions for v in one.values))


def listed(seqs: Seqs | Sequence[int]) -> Condition:
    """The test that a node is one of these."""
    return Condition("n.seq = ANY(CAST(? AS bigint[]))", ([int(seq) for seq in seqs],))


class PostgresAmong(Among):
    """Nodes of a database that pass some tests; nothing is read before they are searched.

    Args:
        conditions: all of which hold.
        find: gives the numbers of nodes that pass a test, ascending.
        empty: whether it is known that none does.
    """

    def __init__(self, conditions: tuple[Condition, ...], find: Callable[[Condition], Seqs], *, empty: bool = False) -> None:
        self.conditions = conditions
        self._find = find
        self._empty = empty

    def _with(self, *more: Condition, empty: bool = False) -> "PostgresAmong":
        return PostgresAmong((*self.conditions, *more), self._find, empty=self._empty or empty)

    def __and__(self, other: Among) -> "PostgresAmong":
        if not isinstance(other, PostgresAmong):
            raise TypeError(f"Expected nodes of the same store, got {type(other).__name__}.")
        return self._with(*other.conditions, empty=other.is_empty)

    def without(self, seqs: Seqs) -> "PostgresAmong":
        """All but some."""
        sql, values = listed(seqs)
        return self._with(Condition(f"NOT {sql}", values)) if len(seqs) else self

    def but(self, other: Among) -> "PostgresAmong":
        """What is here and not there."""
        if not isinstance(other, PostgresAmong):
            raise TypeError(f"Expected nodes of the same store, got {type(other).__name__}.")
        if other.is_empty:
            return self
        sql, values = all_of(other.conditions)
        return self._with(Condition(f"NOT ({sql})", values), empty=not other.conditions)

    def only(self, seqs: Seqs) -> Seqs:
        """Those of some that are here, ascending."""
        if self._empty or not len(seqs):
            return np.zeros(0, np.int64)
        return np.unique(seqs) if not self.conditions else self._find(all_of((*self.conditions, listed(seqs))))

    @property
    def is_empty(self) -> bool:
        """Whether it is known that nothing is left."""
        return self._empty


def compile_condition(
    filters: MetadataFilters | None, stand_in: Callable[[Any], Any] = lambda value: value
) -> Condition | None:
    """Turn filters into a test of nodes; None if there is nothing to filter.

    Args:
        filters: what to match.
        stand_in: gives what a value is in stored nodes.

    Raises:
        FilterError: an operator or a value that has no meaning, or too many filters.
    """
    if filters is None or compile_filters(filters) is None:  # which refuses what has no meaning
        return None
    made = _group(filters)
    if made is None:
        return None
    values = [[stand_in(one) for one in value] if isinstance(value, list) else stand_in(value) for value in made.values]
    return Condition(made.sql, tuple(values))


def _group(filters: MetadataFilters) -> Condition | None:
    parts = [_group(one) if isinstance(one, MetadataFilters) else _single(one) for one in filters.filters]
    given = [part for part in parts if part is not None]
    if not given:
        return None
    condition = filters.condition or FilterCondition.AND
    join = " AND " if condition == FilterCondition.AND else " OR "
    sql = join.join(f"({one.sql})" for one in given)
    return Condition(f"NOT ({sql})" if condition == FilterCondition.NOT else sql, tuple(v for one in given for v in one.values))


class _Stored(NamedTuple):
    """What SQL calls a stored value: as JSON, as text, in lower case, and which column it is if it is no metadata."""

    key: str
    fact: Condition
    text: Condition
    lower: Condition
    column: str | None


def _stored(key: str) -> _Stored:
    if key in _OF_THE_NODE:
        column = _OF_THE_NODE[key]
        text = Condition(f"coalesce({column}, 'None') COLLATE \"C\"")
        lower = f"coalesce(n.folded ->> '{column[2:]}', lower({text.sql}))"
        return _Stored(key, Condition(f"to_jsonb(coalesce({column}, 'None'))"), text, Condition(lower), column)
    name = to_stored(as_text(key))
    text = Condition('(n.facts ->> ?) COLLATE "C"', (name,))
    lower = f"coalesce(n.folded ->> ?, lower({text.sql}))"
    return _Stored(name, Condition("(n.facts -> ?)", (name,)), text, Condition(lower, (name, name)), None)


def _sql(*parts: str | Condition) -> Condition:
    """Pieces of SQL, and conditions with their values, one after the other."""
    sql = "".join(part if isinstance(part, str) else part.sql for part in parts)
    return Condition(sql, tuple(value for part in parts if isinstance(part, Condition) for value in part.values))


def _sure(*parts: str | Condition) -> Condition:
    """A test that is false where it would be null: where there is no such entry."""
    return _sql("coalesce(", *parts, ", false)")


def _json(value: Any) -> Condition:
    return Condition("CAST(? AS jsonb)", (json.dumps(value),))


def _text(value: str) -> Condition:
    return Condition('CAST(? AS text) COLLATE "C"', (to_stored(as_text(value)),))


def _single(one: MetadataFilter) -> Condition:
    stored, operator, value = _stored(one.key), one.operator, cast("Any", one.value)
    if operator == FilterOperator.IS_EMPTY:
        return _sql("coalesce(", stored.fact, " IN ('\"\"', '[]'), true)")
    if operator in (FilterOperator.EQ, FilterOperator.IN):
        return _equal(stored, operator, value)
    if operator in (FilterOperator.NE, FilterOperator.NIN):
        same = FilterOperator.EQ if operator == FilterOperator.NE else FilterOperator.IN
        return _sql("NOT (", _equal(stored, same, value), ")")
    if operator in _COMPARISONS:
        return _compared(stored, _COMPARISONS[operator], value)
    if operator in (FilterOperator.CONTAINS, FilterOperator.ANY, FilterOperator.ALL):
        return _found(stored, operator, [value] if operator == FilterOperator.CONTAINS else list(value))
    if operator == FilterOperator.TEXT_MATCH:
        return _sure(_is(stored, "string"), " AND strpos(", stored.text, ", ", _text(value), ") > 0")
    return _sure(_is(stored, "string"), " AND strpos(", stored.lower, ", ", _text(value.lower()), ") > 0")


def _is(stored: _Stored, kind: str) -> Condition:
    return _sql("jsonb_typeof(", stored.fact, f") = '{kind}'")


def _equal(stored: _Stored, operator: FilterOperator, value: Any) -> Condition:
    if operator == FilterOperator.EQ and isinstance(value, list):
        return _sure(stored.fact, " = ", _json(as_json(value)))
    if operator == FilterOperator.IN and isinstance(value, str):  # the stored text is part of the value
        return _sure(_is(stored, "string"), " AND strpos(", _text(value), ", ", stored.text, ") > 0")
    given = [value] if operator == FilterOperator.EQ else list(value)
    wanted = [as_json(one) for one in given if isinstance(one, str | int | float) and one == one]
    if not wanted:
        return _NEVER
    if stored.column is not None:
        texts = [one for one in wanted if isinstance(one, str)]
        if "None" in texts:
            return _sure(stored.text, " = ANY(", Condition("CAST(? AS text[])", (texts,)), ")")
        return _sql(f"{stored.column} IS NOT NULL AND {stored.column} = ANY(", Condition("CAST(? AS text[])", (texts,)), ")")
    if len(wanted) > _FEW:
        return _sure(stored.fact, " = ANY(", Condition("CAST(? AS jsonb[])", ([json.dumps(one) for one in wanted],)), ")")
    tests = [_sql("n.facts @> ", _json({stored.key: one})) for one in wanted]
    return _sql(*[part for test in tests for part in (" OR ", test)][1:])


def _compared(stored: _Stored, sign: str, value: Any) -> Condition:
    if isinstance(value, str):
        return _sure(_is(stored, "string"), " AND ", stored.text, f" {sign} ", _text(value))
    if value != value:
        return _NEVER
    return _sure(_is(stored, "number"), " AND ", stored.fact, f" {sign} ", _json(as_json(value)))


def _found(stored: _Stored, operator: FilterOperator, values: list[Any]) -> Condition:
    """Python's "wanted in stored": member of a list, or part of a text; of one of some values, or of all."""
    wanted = [_BEYOND * (1 if one > 0 else -1) if _is_infinite(one) else as_json(one) for one in values if one == one]
    texts = Condition("unnest(CAST(? AS text[])) AS w(value)", ([one for one in wanted if isinstance(one, str)],))
    members = Condition("CAST(? AS jsonb[])", ([json.dumps(one) for one in wanted],))
    is_part = _sql("strpos(", stored.text, ', w.value COLLATE "C") > 0')
    # Which kind it is, is asked again within, as nothing says what is computed first.
    elements = _sql(
        "jsonb_array_elements(CASE WHEN ", _is(stored, "array"), " THEN ", stored.fact, " ELSE '[]' END) AS e(value)"
    )
    if operator == FilterOperator.ALL:
        if len(wanted) < len(values):  # NaN is in nothing
            return _NEVER
        in_list = _sql("NOT EXISTS (SELECT unnest(", members, ") EXCEPT SELECT e.value FROM ", elements, ")")
        in_text = _sql("NOT EXISTS (SELECT 1 FROM ", texts, " WHERE NOT ", is_part, ")")
        if not all(isinstance(one, str) for one in wanted):
            in_text = _NEVER
        other = "false" if wanted else "true"
    else:
        in_list = _sql("EXISTS (SELECT 1 FROM ", elements, " WHERE e.value = ANY(", members, "))")
        in_text = _sql("EXISTS (SELECT 1 FROM ", texts, " WHERE ", is_part, ")")
        other = "false"
    kinds = _sql("CASE jsonb_typeof(", stored.fact, ") WHEN 'array' THEN ", in_list, " WHEN 'string' THEN ", in_text)
    return _sql(stored.fact, " IS NOT NULL AND ", kinds, f" ELSE {other} END")


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)
