"""LlamaIndex metadata filters to SQL.

The meaning is that of LlamaIndex's ``SimpleVectorStore``: a key that is missing or null matches only ``!=``, ``nin`` and
``is_empty``; ``not`` matches where none of its filters does. Nested filters, which ``SimpleVectorStore`` refuses, are taken.
Where it would raise for a value of the wrong type (``>`` between a number and a text), nothing matches here.
"""

import json
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.errors import FilterError

__all__ = ["Clause", "compile_filters"]

Clause = tuple[str, list[Any]]

_COMPARISONS = {
    FilterOperator.GT: ">",
    FilterOperator.GTE: ">=",
    FilterOperator.LT: "<",
    FilterOperator.LTE: "<=",
}
_JOINS = {FilterCondition.AND: " AND ", FilterCondition.OR: " OR ", FilterCondition.NOT: " OR "}
_NUMBERS = "('integer', 'real', 'true', 'false')"


def compile_filters(filters: MetadataFilters | None) -> Clause | None:
    """Turn filters into an SQL condition on table ``nodes`` and its parameters; None if there is nothing to filter.

    Raises:
        FilterError: an operator or a value that has no meaning.
    """
    if filters is None or not filters.filters:
        return None
    parts: list[str] = []
    values: list[Any] = []
    for one in filters.filters:
        clause = compile_filters(one) if isinstance(one, MetadataFilters) else _compile(one)
        if clause is not None:
            parts.append(f"({clause[0]})")
            values += clause[1]
    if not parts:
        return None
    condition = filters.condition or FilterCondition.AND
    joined = _JOINS[condition].join(parts)
    return (f"NOT ({joined})" if condition == FilterCondition.NOT else joined), values


def _compile(one: MetadataFilter) -> Clause:
    # A path parameter can't hold a quote in the key, so the key is found by comparison in json_each instead.
    inside = "FROM json_each(nodes.body, '$.metadata') AS m WHERE m.key = ?"
    operator, key, value = one.operator, one.key, one.value
    if operator == FilterOperator.IS_EMPTY:
        empty = "(m.type = 'text' AND m.value = '') OR (m.type = 'array' AND m.value = '[]')"
        return f"NOT EXISTS (SELECT 1 {inside} AND m.type != 'null' AND NOT ({empty}))", [key]
    if operator in (FilterOperator.NE, FilterOperator.NIN):
        equal = FilterOperator.EQ if operator == FilterOperator.NE else FilterOperator.IN
        test, values = _test(equal, key, value)
        return f"NOT EXISTS (SELECT 1 {inside} AND {test})", [key, *values]
    test, values = _test(operator, key, value)
    return f"EXISTS (SELECT 1 {inside} AND m.type != 'null' AND {test})", [key, *values]


def _test(operator: FilterOperator, key: str, value: Any) -> Clause:
    if operator == FilterOperator.EQ:
        return _equal("m", value)
    if operator in _COMPARISONS:
        if isinstance(value, str):
            return f"(m.type = 'text' AND m.value {_COMPARISONS[operator]} ?)", [value]
        if isinstance(value, int | float):
            return f"(m.type IN {_NUMBERS} AND m.value {_COMPARISONS[operator]} ?)", [value]
        raise FilterError(f"Operator {operator.value!r} on {key!r} needs a number or a text, got {value!r}.")
    if operator == FilterOperator.IN:
        if isinstance(value, str):  # Python's "in" on a text: the stored text is part of the value
            return "(m.type = 'text' AND instr(?, m.value) > 0)", [value]
        return _any_equal("m", _items(operator, key, value))
    if operator == FilterOperator.CONTAINS:
        return _contains(value)
    if operator in (FilterOperator.ANY, FilterOperator.ALL):
        clauses = [_contains(item) for item in _items(operator, key, value)]
        if not clauses:
            return ("0" if operator == FilterOperator.ANY else "1"), []
        joined = (" OR " if operator == FilterOperator.ANY else " AND ").join(clause for clause, _ in clauses)
        return f"({joined})", [item for _, values in clauses for item in values]
    if operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
        if not isinstance(value, str):
            raise FilterError(f"Operator {operator.value!r} on {key!r} needs a text, got {value!r}.")
        if operator == FilterOperator.TEXT_MATCH:
            return "(m.type = 'text' AND instr(m.value, ?) > 0)", [value]
        return "(m.type = 'text' AND instr(mm_lower(m.value), ?) > 0)", [value.lower()]
    raise FilterError(f"Unknown filter operator {operator!r} on {key!r}.")


def _items(operator: FilterOperator, key: str, value: Any) -> list[Any]:
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, str):  # iterating over a text gives its characters, as in Python
        return list(value)
    raise FilterError(f"Operator {operator.value!r} on {key!r} needs a list, got {value!r}.")


def _equal(row: str, value: Any) -> Clause:
    if isinstance(value, str):
        return f"({row}.type = 'text' AND {row}.value = ?)", [value]
    if isinstance(value, int | float):
        return f"({row}.type IN {_NUMBERS} AND {row}.value = ?)", [value]
    if value is None:
        return f"({row}.type = 'null')", []
    if isinstance(value, list | tuple):
        return f"({row}.type = 'array' AND json({row}.value) = json(?))", [json.dumps(value, ensure_ascii=False)]
    raise FilterError(f"A filter value must be a text, a number or a list, got {value!r}.")


def _any_equal(row: str, items: list[Any]) -> Clause:
    clauses = [_equal(row, item) for item in items]
    if not clauses:
        return "0", []
    return "(" + " OR ".join(clause for clause, _ in clauses) + ")", [item for _, values in clauses for item in values]


def _contains(value: Any) -> Clause:
    """Python's ``value in stored``: member of a list, or part of a text."""
    test, values = _equal("e", value)
    member = f"(m.type = 'array' AND EXISTS (SELECT 1 FROM json_each(m.value) AS e WHERE {test}))"  # noqa: S608 - no values in it
    if isinstance(value, str):
        return f"({member} OR (m.type = 'text' AND instr(m.value, ?) > 0))", [*values, value]
    return member, values
