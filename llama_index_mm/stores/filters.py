"""LlamaIndex metadata filters to SQL.

The meaning is that of LlamaIndex's ``SimpleVectorStore``: a key that is missing or null matches only ``!=``, ``nin`` and
``is_empty``; ``not`` matches where none of its filters does. Nested filters, which ``SimpleVectorStore`` refuses, are taken;
an empty group of them is left out. Where ``SimpleVectorStore`` would raise because what is stored is of the wrong type (``>``
between a number and a text), the node does not match, and so matches ``nin``.
"""

import json
import math
import sqlite3
import sys
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.errors import FilterError

__all__ = ["Clause", "compile_filters", "filterable", "register_functions"]

Clause = tuple[str, list[Any]]

_COMPARISONS = {
    FilterOperator.GT: ">",
    FilterOperator.GTE: ">=",
    FilterOperator.LT: "<",
    FilterOperator.LTE: "<=",
}
_JOINS = {FilterCondition.AND: " AND ", FilterCondition.OR: " OR ", FilterCondition.NOT: " OR "}
_MOST = 256  # filters side by side; SQLite takes expressions up to a depth of 1000
_DEEPEST = 8  # groups within groups; SQLite's parser has a stack of 100
_NUMBERS = "('integer', 'real', 'true', 'false')"
# Wanted values go through JSON as the stored ones did, so that both are parsed alike. ``e`` is an element, ``w`` is wanted.
_SAME = (
    f"CASE WHEN e.type IN {_NUMBERS} THEN w.type IN {_NUMBERS} AND e.value = w.value "
    "WHEN e.type != w.type THEN 0 WHEN e.type = 'text' THEN e.value = w.value "
    "WHEN e.type = 'array' THEN mm_same(e.value, w.value) ELSE e.type = 'null' END"
)
_FOUND = (  # Python's "wanted in stored": member of a list, or part of a text
    f"CASE WHEN m.type = 'array' THEN EXISTS (SELECT 1 FROM json_each(m.value) AS e WHERE {_SAME}) "  # noqa: S608 - constants
    "WHEN m.type = 'text' AND w.type = 'text' THEN instr(m.value, w.value) > 0 ELSE 0 END"
)
_MEMBER = "{}EXISTS (SELECT 1 FROM json_each(?) AS w WHERE {})"


def register_functions(database: sqlite3.Connection) -> None:
    """Give a connection the functions that the conditions call."""
    database.create_function("mm_lower", 1, lambda text: str(text).lower(), deterministic=True)
    database.create_function("mm_same", 2, lambda a, b: json.loads(a) == json.loads(b), deterministic=True)


def filterable(body: str) -> str:
    """Metadata of a serialised node as strict JSON, which Python's is not.

    NaN becomes an empty object, which like NaN equals nothing, and infinity the largest number.
    """
    stand_ins: dict[str, Any] = {"NaN": {}, "Infinity": sys.float_info.max, "-Infinity": -sys.float_info.max}
    return json.dumps(json.loads(body, parse_constant=stand_ins.get)["metadata"])


def compile_filters(filters: MetadataFilters | None, *, depth: int = 0) -> Clause | None:
    """Turn filters into an SQL condition on table ``nodes`` and its parameters; None if there is nothing to filter.

    Args:
        filters: what to match.
        depth: of the group within others.

    Raises:
        FilterError: an operator or a value that has no meaning, or too many filters.
    """
    if filters is None or not filters.filters:
        return None
    if len(filters.filters) > _MOST or depth >= _DEEPEST:
        raise FilterError(
            f"At most {_MOST} filters side by side and groups {_DEEPEST} deep are taken, got {len(filters.filters)} at depth "
            f"{depth + 1}. Many values of one key go into one filter with operator 'in'."
        )
    parts: list[str] = []
    values: list[Any] = []
    for one in filters.filters:
        clause = compile_filters(one, depth=depth + 1) if isinstance(one, MetadataFilters) else _compile(one)
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
    inside = "FROM json_each(nodes.metadata) AS m WHERE m.key = ? AND m.type != 'null'"
    operator, key, value = one.operator, one.key, one.value
    if operator == FilterOperator.IS_EMPTY:
        empty = "(m.type = 'text' AND m.value = '') OR (m.type = 'array' AND m.value = '[]')"
        return f"NOT EXISTS (SELECT 1 {inside} AND NOT ({empty}))", [key]
    negated = operator in (FilterOperator.NE, FilterOperator.NIN)
    test, values = _test(operator, key, value)
    return f"{'NOT ' if negated else ''}EXISTS (SELECT 1 {inside} AND {test})", [key, *values]


def _test(operator: FilterOperator, key: str, value: Any) -> Clause:
    """The test of a stored value ``m``; the one of the opposite for ``!=`` and ``nin``."""
    if operator in (FilterOperator.EQ, FilterOperator.NE):
        if isinstance(value, list):
            return "CASE WHEN m.type = 'array' THEN mm_same(m.value, ?) ELSE 0 END", [_to_json(key, value)]
        return _among(key, [value])
    if operator in (FilterOperator.IN, FilterOperator.NIN):
        if isinstance(value, str):  # Python's "in" on a text: the stored text is part of the value
            return "(m.type = 'text' AND instr(?, m.value) > 0)", [value]
        return _among(key, _items(operator, key, value))
    if operator in _COMPARISONS:
        kinds = "('text')" if isinstance(value, str) else _NUMBERS
        if not isinstance(value, str | int | float):
            raise FilterError(f"Operator {operator.value!r} on {key!r} needs a number or a text, got {value!r}.")
        wanted = f"(SELECT w.value FROM json_each(?) AS w WHERE w.type IN {kinds})"  # noqa: S608 - kinds is a constant
        return f"(m.type IN {kinds} AND m.value {_COMPARISONS[operator]} {wanted})", [_to_json(key, [value])]
    if operator == FilterOperator.CONTAINS:
        return _MEMBER.format("", _FOUND), [_to_json(key, [value])]
    if operator in (FilterOperator.ANY, FilterOperator.ALL):
        test = _MEMBER.format("", _FOUND) if operator == FilterOperator.ANY else _MEMBER.format("NOT ", f"NOT ({_FOUND})")
        return test, [_to_json(key, _items(operator, key, value))]
    if operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
        if not isinstance(value, str):
            raise FilterError(f"Operator {operator.value!r} on {key!r} needs a text, got {value!r}.")
        if operator == FilterOperator.TEXT_MATCH:
            return "(m.type = 'text' AND instr(m.value, ?) > 0)", [value]
        return "(m.type = 'text' AND instr(mm_lower(m.value), ?) > 0)", [value.lower()]
    raise FilterError(f"Unknown filter operator {operator!r} on {key!r}.")


def _items(operator: FilterOperator, key: str, value: Any) -> list[Any]:
    if isinstance(value, list | tuple | set | str):  # iterating over a text gives its characters, as in Python
        return list(value)
    raise FilterError(f"Operator {operator.value!r} on {key!r} needs a list, got {value!r}.")


def _among(key: str, values: list[Any]) -> Clause:
    """Equal to one of some texts and numbers."""
    wanted = "(SELECT w.value FROM json_each(?) AS w WHERE w.type IN {})"
    texts, numbers = wanted.format("('text')"), wanted.format(_NUMBERS)
    given = _to_json(key, values)
    return f"(m.type = 'text' AND m.value IN {texts} OR m.type IN {_NUMBERS} AND m.value IN {numbers})", [given, given]


def _to_json(key: str, values: list[Any]) -> str:
    return "[" + ",".join(_one_to_json(key, value) for value in values) + "]"


def _one_to_json(key: str, value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "{}"  # equals nothing that can be stored
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    if value is None or isinstance(value, str | int | float | list):
        try:
            return json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise FilterError(f"The filter value for {key!r} has no meaning: {error}.") from error
    raise FilterError(f"A filter value must be a text, a number or a list, got {value!r} for {key!r}.")
