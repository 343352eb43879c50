"""LlamaIndex metadata filters to SQL.

The meaning is that of LlamaIndex's ``SimpleVectorStore``: a key that is missing or null matches only ``!=``, ``nin`` and
``is_empty``; ``not`` matches where none of its filters does. Nested filters, which ``SimpleVectorStore`` refuses, are taken;
an empty group of them is left out. Where ``SimpleVectorStore`` would raise because what is stored is of the wrong type (``>``
between a number and a text), the node does not match, and so matches ``nin``.
"""

import json
import math
import sqlite3
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.errors import FilterError
from llama_index_mm.stores.facts import LIST, NUMBER, TEXT, as_number, as_text

__all__ = ["Clause", "compile_filters", "register_functions"]

Clause = tuple[str, list[Any]]

_COMPARISONS = {
    FilterOperator.GT: ">",
    FilterOperator.GTE: ">=",
    FilterOperator.LT: "<",
    FilterOperator.LTE: "<=",
}
_JOINS = {FilterCondition.AND: " INTERSECT ", FilterCondition.OR: " UNION ", FilterCondition.NOT: " UNION "}
_MOST = 256  # filters side by side; SQLite joins up to 500
_DEEPEST = 8  # groups within groups
_NUMBERS = "('integer', 'real', 'true', 'false')"
# Wanted values go through JSON as the stored ones did, so that both are parsed alike. ``e`` is an element, ``w`` is wanted.
_SAME = (
    f"CASE WHEN e.type IN {_NUMBERS} THEN w.type IN {_NUMBERS} AND e.value = w.value "
    "WHEN e.type != w.type THEN 0 WHEN e.type = 'text' THEN e.value = w.value "
    "WHEN e.type = 'array' THEN mm_same(e.value, w.value) ELSE e.type = 'null' END"
)
_FOUND = (  # Python's "wanted in stored": member of a list, or part of a text
    f"CASE WHEN m.kind = {LIST} THEN EXISTS (SELECT 1 FROM json_each(m.value) AS e WHERE {_SAME}) "
    f"WHEN m.kind = {TEXT} AND w.type = 'text' THEN instr(m.value, w.value) > 0 ELSE 0 END"
)
# Names that SimpleVectorStore puts into the metadata of every node.
_OF_THE_NODE = dict.fromkeys(("document_id", "doc_id", "ref_doc_id"), "coalesce(ref_doc_id, 'None')") | {"_node_type": "class"}
_MEMBER = "{}EXISTS (SELECT 1 FROM json_each(?) AS w WHERE {})"


def register_functions(database: sqlite3.Connection) -> None:
    """Give a connection the functions that the conditions call."""
    database.create_function("mm_lower", 1, lambda text: str(text).lower(), deterministic=True)
    database.create_function("mm_same", 2, lambda a, b: json.loads(a) == json.loads(b), deterministic=True)
    database.create_function("mm_number", 1, json.loads, deterministic=True)  # SQLite may read a number one bit off


def compile_filters(filters: MetadataFilters | None) -> Clause | None:
    """Turn filters into an SQL query for the numbers of nodes, and its parameters; None if there is nothing to filter.

    Args:
        filters: what to match.

    Raises:
        FilterError: an operator or a value that has no meaning, or too many filters.
    """
    tables: list[Clause] = []
    whole = None if filters is None else _group(filters, tables, depth=0)
    if whole is None or not tables:
        return whole
    named = ", ".join(f"g{at} AS ({query})" for at, (query, _) in enumerate(tables))
    return f"WITH {named} {whole[0]}", [value for _, values in (*tables, whole) for value in values]


def _group(filters: MetadataFilters, tables: list[Clause], *, depth: int) -> Clause | None:
    """The query of a group, None if there is nothing in it. Groups within it are added to ``tables``, and go by their names.

    Within one another they would overflow the stack of SQLite's parser.
    """
    if not filters.filters:
        return None
    if len(filters.filters) > _MOST or depth >= _DEEPEST:
        raise FilterError(
            f"At most {_MOST} filters side by side and groups {_DEEPEST} deep are taken, got {len(filters.filters)} at depth "
            f"{depth + 1}. Many values of one key go into one filter with operator 'in'."
        )
    parts: list[str] = []
    values: list[Any] = []
    for one in filters.filters:
        if isinstance(one, MetadataFilters):
            inner = _group(one, tables, depth=depth + 1)
            if inner is not None:
                parts.append(f"SELECT seq FROM g{len(tables)}")
                tables.append(inner)
        else:
            query, wanted = _compile(one)
            parts.append(query)
            values += wanted
    if not parts:
        return None
    condition = filters.condition or FilterCondition.AND
    joined = _JOINS[condition].join(f"SELECT seq FROM ({part})" for part in parts) if len(parts) > 1 else parts[0]
    return (_but(joined) if condition == FilterCondition.NOT else joined), values


def _but(query: str) -> str:
    """All nodes but those that a query gives."""
    return f"SELECT seq FROM nodes WHERE seq NOT IN ({query})"


def _compile(one: MetadataFilter) -> Clause:
    operator, key, value = one.operator, one.key, one.value
    source, given = "facts AS m WHERE m.name = (SELECT id FROM names WHERE name = ?)", [as_text(key)]
    if key in _OF_THE_NODE:
        source, given = f"(SELECT seq, {TEXT} AS kind, {_OF_THE_NODE[key]} AS value FROM nodes) AS m WHERE 1", []
    if operator == FilterOperator.IS_EMPTY:
        empty = f"(m.kind = {TEXT} AND m.value = '') OR (m.kind = {LIST} AND m.value = '[]')"
        return _but(f"SELECT m.seq AS seq FROM {source} AND NOT ({empty})"), given
    tests = _tests(operator, key, value)
    chosen = " UNION ALL ".join(f"SELECT m.seq AS seq FROM {source} AND {test}" for test, _ in tests)
    chosen = chosen or "SELECT seq FROM nodes WHERE 0"
    query = _but(chosen) if operator in (FilterOperator.NE, FilterOperator.NIN) else chosen
    return query, [one for _, wanted in tests for one in (*given, *wanted)]


def _tests(operator: FilterOperator, key: str, value: Any) -> list[Clause]:
    """Tests of a stored value ``m``, of which one must hold; those of the opposite for ``!=`` and ``nin``."""
    if operator in (FilterOperator.EQ, FilterOperator.NE):
        if isinstance(value, list):
            return [(f"m.kind = {LIST} AND mm_same(m.value, ?)", [_to_json(key, value)])]
        return _among(key, [value])
    if operator in (FilterOperator.IN, FilterOperator.NIN):
        if isinstance(value, str):  # Python's "in" on a text: the stored text is part of the value
            return [(f"m.kind = {TEXT} AND instr(?, m.value) > 0", [as_text(value)])]
        return _among(key, _items(operator, key, value))
    if operator in _COMPARISONS:
        if not isinstance(value, str | int | float):
            raise FilterError(f"Operator {operator.value!r} on {key!r} needs a number or a text, got {value!r}.")
        if isinstance(value, str):
            return [(f"m.kind = {TEXT} AND m.value {_COMPARISONS[operator]} ?", [as_text(value)])]
        return [(f"m.kind = {NUMBER} AND m.value {_COMPARISONS[operator]} ?", [_bound(value)])]
    if operator == FilterOperator.CONTAINS:
        return [(_MEMBER.format("", _FOUND), [_to_json(key, [value])])]
    if operator in (FilterOperator.ANY, FilterOperator.ALL):
        test = _MEMBER.format("", _FOUND) if operator == FilterOperator.ANY else _MEMBER.format("NOT ", f"NOT ({_FOUND})")
        return [(test, [_to_json(key, _items(operator, key, value))])]
    if operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
        if not isinstance(value, str):
            raise FilterError(f"Operator {operator.value!r} on {key!r} needs a text, got {value!r}.")
        if operator == FilterOperator.TEXT_MATCH:
            return [(f"m.kind = {TEXT} AND instr(m.value, ?) > 0", [as_text(value)])]
        return [(f"m.kind = {TEXT} AND instr(mm_lower(m.value), ?) > 0", [as_text(value.lower())])]
    raise FilterError(f"Unknown filter operator {operator!r} on {key!r}.")


def _items(operator: FilterOperator, key: str, value: Any) -> list[Any]:
    if isinstance(value, list | tuple | set | str):  # iterating over a text gives its characters, as in Python
        return list(value)
    raise FilterError(f"Operator {operator.value!r} on {key!r} needs a list, got {value!r}.")


def _among(key: str, values: list[Any]) -> list[Clause]:
    """Equal to one of some texts and numbers: one test a kind, so that each can use the index."""
    for value in values:
        _one_to_json(key, value)  # refuses what can't be stored
    texts = [as_text(value) for value in values if isinstance(value, str)]
    numbers = [value for value in values if isinstance(value, int | float)]
    tests: list[Clause] = []
    if len(texts) == 1:
        tests.append((f"m.kind = {TEXT} AND m.value = ?", texts))
    elif texts:
        tests.append((f"m.kind = {TEXT} AND m.value IN (SELECT value FROM json_each(?))", [json.dumps(texts)]))
    if len(numbers) == 1:
        tests.append((f"m.kind = {NUMBER} AND m.value = ?", [_bound(numbers[0])]))
    elif numbers:
        given = json.dumps([json.dumps(bound) for bound in map(_bound, numbers) if bound is not None])
        tests.append((f"m.kind = {NUMBER} AND m.value IN (SELECT mm_number(value) FROM json_each(?))", [given]))
    return tests


def _bound(value: float) -> float | None:
    """A number as a parameter; None, as which nothing compares, for NaN."""
    return None if value != value else as_number(value)


def _to_json(key: str, values: list[Any]) -> str:
    return "[" + ",".join(_one_to_json(key, value) for value in values) + "]"


def _one_to_json(key: str, value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "{}"  # equals nothing that can be stored
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    if isinstance(value, str):
        return json.dumps(as_text(value))
    if value is None or isinstance(value, int | float | list):
        try:
            return json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise FilterError(f"The filter value for {key!r} has no meaning: {error}.") from error
    raise FilterError(f"A filter value must be a text, a number or a list, got {value!r} for {key!r}.")
