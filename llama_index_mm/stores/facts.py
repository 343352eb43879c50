"""Metadata of nodes as rows that SQL can search."""

import json
import sqlite3
import sys
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from llama_index_mm.nodes import plain

__all__ = ["LIST", "NUMBER", "OTHER", "TEXT", "as_number", "as_text", "delete_facts", "facts_of", "insert_facts", "row_digest"]

TEXT, NUMBER, LIST, OTHER = 1, 2, 3, 4
Fact = tuple[str, int, Any]
_PLAIN = (str, int, float, bool, type(None))
_LARGEST_INTEGER = 2**63 - 1  # that SQLite takes
_LARGEST = sys.float_info.max
_STAND_INS: dict[str, Any] = {"NaN": {}, "Infinity": _LARGEST, "-Infinity": -_LARGEST}


def row_digest(data: bytes) -> int:
    """CRC-32 of what a row holds, by which a check sees that it has changed by itself."""
    return zlib.crc32(data)


def facts_of(metadata: Mapping[str, Any]) -> list[Fact]:
    """The metadata of a node as (name, kind, value).

    null is left out. NaN, which equals nothing, becomes an empty object, and infinity the largest number.
    """
    facts: list[Fact] = []
    for name, value in metadata.items():
        kind = type(value)
        if kind is str and value.isascii() and name.isascii():
            facts.append((name, TEXT, value))
        elif kind is int and -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER and name.isascii():
            facts.append((name, NUMBER, value))
        else:
            if kind not in _PLAIN:  # as it comes back from JSON
                value = json.loads(json.dumps(value, default=plain))
            if value is not None:
                facts.append((as_text(name), *_as_value(value)))
    return facts


def as_text(text: str) -> str:
    """A text as SQLite takes it: half of a surrogate pair, which a file's name can hold, becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def as_number(value: float) -> float:
    """A number as SQLite takes it, whatever its size."""
    if isinstance(value, int) and -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
        return int(value)
    try:
        return max(-_LARGEST, min(_LARGEST, float(value)))
    except OverflowError:
        return _LARGEST if value > 0 else -_LARGEST


def _as_value(value: Any) -> tuple[int, Any]:
    if isinstance(value, str):
        return TEXT, as_text(value)
    if isinstance(value, int | float):
        return (OTHER, "{}") if value != value else (NUMBER, as_number(value))
    return (LIST if isinstance(value, list) else OTHER), _strict_json(value)


def _strict_json(value: Any) -> str:
    """JSON as SQLite reads it: Python writes NaN and Infinity as they are."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=_STAND_INS.get))


def _rows(database: sqlite3.Connection, entries: Iterable[tuple[int, Mapping[str, Any]]]) -> list[tuple[int, int, Any, int]]:
    known: dict[str, Any] = dict(database.execute("SELECT name, id FROM names"))
    rows = []
    for seq, metadata in entries:
        for name, kind, value in facts_of(metadata):
            if name not in known:
                known[name] = database.execute("INSERT INTO names (name) VALUES (?)", [name]).lastrowid
            rows.append((known[name], kind, value, seq))
    return rows


def insert_facts(database: sqlite3.Connection, entries: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Add the facts of nodes, given as number and metadata, within a transaction."""
    database.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?, ?, ?)", _rows(database, entries))


def delete_facts(database: sqlite3.Connection, entries: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Take the facts of nodes away, within a transaction."""
    rows = _rows(database, entries)
    database.executemany("DELETE FROM facts WHERE name = ? AND kind = ? AND value = ? AND seq = ?", rows)


def count_facts(database: sqlite3.Connection, entries: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[int, int]:
    """How many facts the nodes should have, and how many of these are there."""
    facts = {(*fact, seq) for seq, metadata in entries for fact in facts_of(metadata)}
    sql = "SELECT 1 FROM facts WHERE name = (SELECT id FROM names WHERE name = ?) AND kind = ? AND value = ? AND seq = ?"
    return len(facts), sum(database.execute(sql, fact).fetchone() is not None for fact in facts)
