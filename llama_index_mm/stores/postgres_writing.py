"""What one transaction does to nodes and vectors in PostgreSQL. The rules are those of `llama_index_mm.stores.rows`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llama_index_mm.errors import SpaceError
from llama_index_mm.stores.facts import row_digest
from llama_index_mm.stores.postgres_connections import Plan, Statement
from llama_index_mm.stores.postgres_facts import Prepared, from_stored, to_stored
from llama_index_mm.stores.postgres_tables import (
    NODE_COLUMNS,
    SPACE_COLUMNS,
    Tables,
    as_big,
    integer,
    jsonb,
    lock,
    space_statements,
)
from llama_index_mm.stores.records import Source, StoredSpace

__all__ = ["Changes", "declare_space", "drop_space", "note", "numbers_of_spaces", "replace_space"]

_Vector = tuple[int, bytes]  # with its digest in front, as pgvector takes it
_BATCH = 20_000  # rows sent at once
NODES = 0  # in the table of partitions


class _Old(NamedTuple):
    seq: int
    modality: str
    class_name: str
    body: str | None  # None if it is not what was written


@dataclass
class Changes:
    """Changes nodes and vectors, and keeps count of them.

    Args:
        tables: of the store.
        meaning_of: gives ``meaning`` of a node as it was written: of body and class.
    """

    tables: Tables
    meaning_of: Callable[[str, str], str]
    spaces: dict[str, int] = field(default_factory=dict)
    counts: dict[tuple[int, str], int] = field(default_factory=dict)

    def begin(self) -> Plan[None]:
        """Wait until nobody else writes."""
        yield lock(self.tables)
        self.spaces = yield from numbers_of_spaces(self.tables)

    def finish(self) -> Plan[None]:
        """Write down how many there are."""
        for (space, modality), more in sorted(self.counts.items()):
            if more:
                yield Statement(
                    f"INSERT INTO {self.tables.partitions} AS p (space, modality, vectors) VALUES (?, ?, ?) "
                    "ON CONFLICT (space, modality) DO UPDATE SET vectors = p.vectors + excluded.vectors",
                    (space, modality, more),
                )

    def seqs(self, column: str, values: Sequence[str]) -> Plan[dict[int, str]]:
        """Numbers and ids of the nodes whose ``node_id`` or ``ref_doc_id`` is among ``values``."""
        if not values:
            return {}
        sql = f"SELECT seq, node_id FROM {self.tables.nodes} WHERE {column} = ANY(CAST(? AS text[]))"
        rows = yield Statement(sql, ([to_stored(value) for value in values],))
        return {seq: from_stored(node_id) for seq, node_id in rows}

    # -- adding -----------------------------------------------------------------------------------------------------

    def put(self, given: Sequence[Prepared]) -> Plan[None]:
        """Write nodes. One that is there already is replaced, under a new number unless nothing but vectors has changed."""
        old = yield from self._known([one.row.node_id for one in given])
        fresh: list[tuple[Prepared, dict[str, _Vector]]] = []
        same: dict[str, list[tuple[int, Prepared, _Vector]]] = {}
        replaced: list[int] = []
        for one in given:
            row, was = one.row, old.get(one.row.node_id)
            new = {space: (row_digest(vector), as_big(vector)) for space, vector in row.vectors.items()}
            if was is None:
                fresh.append((one, new))
            elif (was.body, was.class_name, was.modality) == (row.body, row.class_name, row.modality):
                for space, vector in new.items():
                    same.setdefault(space, []).append((was.seq, one, vector))
            else:
                keeps = was.body is not None and was.modality == row.modality
                keeps = keeps and self.meaning_of(was.body or "", was.class_name) == row.meaning()
                kept = (yield from self._vectors(was.seq)) if keeps else {}
                fresh.append((one, {**kept, **new}))
                replaced.append(was.seq)
        for space, entries in same.items():
            yield from self._take_vectors(self._number(space), [seq for seq, _, _ in entries])
            yield from self._insert_vectors(space, entries)
        yield from self.drop(replaced)
        for at in range(0, len(fresh), _BATCH):
            yield from self._insert(fresh[at : at + _BATCH])

    def _number(self, space: str) -> int:
        if space not in self.spaces:  # dropped since the vectors were looked at
            raise SpaceError(f"Space {space!r} is not declared in this store; it has {sorted(self.spaces)}.")
        return self.spaces[space]

    def _known(self, node_ids: Sequence[str]) -> Plan[dict[str, _Old]]:
        by_stored = {to_stored(one): one for one in node_ids}
        columns = "node_id, seq, modality, class, body, digest"
        sql = f"SELECT {columns} FROM {self.tables.nodes} WHERE node_id = ANY(CAST(? AS text[]))"
        rows = (yield Statement(sql, (list(by_stored),))) if by_stored else []
        return {
            by_stored[node_id]: _Old(seq, modality, class_name, body if row_digest(body.encode()) == digest else None)
            for node_id, seq, modality, class_name, body, digest in rows
        }

    def _vectors(self, seq: int) -> Plan[dict[str, _Vector]]:
        """A node's vectors in all spaces."""
        found = {}
        for space, number in self.spaces.items():
            sql = f"SELECT mm_digest, vector_send(embedding) FROM {self.tables.space(number)} WHERE id = ?"
            for digest, vector in (yield Statement(sql, (seq,))):
                found[space] = (digest, bytes(vector))
        return found

    def _insert(self, fresh: Sequence[tuple[Prepared, Mapping[str, _Vector]]]) -> Plan[None]:
        sql = "SELECT nextval(pg_get_serial_sequence(?, 'seq')) FROM generate_series(1, ?)"
        rows = yield Statement(sql, (self.tables.nodes, len(fresh)))
        seqs = sorted(row[0] for row in rows)
        vectors: dict[str, list[tuple[int, Prepared, _Vector]]] = {}
        lines = []
        for seq, (one, given) in zip(seqs, fresh, strict=True):
            lines.append(_node_line(seq, one))
            self._count(NODES, one.row.modality, 1)
            for space, vector in given.items():
                vectors.setdefault(space, []).append((seq, one, vector))
        yield self.tables.copy("nodes", NODE_COLUMNS, lines)
        for space, entries in vectors.items():
            yield from self._insert_vectors(space, entries)

    def _insert_vectors(self, space: str, entries: Sequence[tuple[int, Prepared, _Vector]]) -> Plan[None]:
        number = self._number(space)
        for _, one, _ in entries:
            self._count(number, one.row.modality, 1)
        yield self.tables.copy(f"data_space_{number}", SPACE_COLUMNS, (_space_line(*entry) for entry in entries))

    # -- taking away ------------------------------------------------------------------------------------------------

    def drop(self, seqs: Sequence[int]) -> Plan[None]:
        """Delete nodes with all their vectors."""
        if not seqs:
            return
        for number in self.spaces.values():
            yield from self._take_vectors(number, seqs)
        yield from self._delete(self.tables.nodes, "seq", "modality", NODES, seqs)

    def drop_from(self, space: str, seqs: Sequence[int]) -> Plan[int]:
        """Delete nodes' vectors in one space, and nodes that have none left; give how many had one."""
        if space not in self.spaces or not seqs:
            return 0
        had = yield from self._take_vectors(self.spaces[space], seqs)
        left: set[int] = set()
        for number in self.spaces.values():
            sql = f"SELECT id FROM {self.tables.space(number)} WHERE id = ANY(CAST(? AS bigint[]))"
            left |= {row[0] for row in (yield Statement(sql, (had,)))}
        yield from self.drop([seq for seq in had if seq not in left])
        return len(had)

    def clear(self) -> Plan[None]:
        """Delete all nodes."""
        for table in (self.tables.nodes, *map(self.tables.space, self.spaces.values())):
            yield Statement(f"DELETE FROM {table}")
        yield Statement(f"UPDATE {self.tables.partitions} SET vectors = 0")

    def _take_vectors(self, number: int, seqs: Sequence[int]) -> Plan[list[int]]:
        return (yield from self._delete(self.tables.space(number), "id", "mm_modality", number, seqs))

    def _delete(self, table: str, key: str, modality: str, space: int, seqs: Sequence[int]) -> Plan[list[int]]:
        sql = f"DELETE FROM {table} WHERE {key} = ANY(CAST(? AS bigint[])) RETURNING {key}, {modality}"
        rows = yield Statement(sql, (list(seqs),))
        for _, of in rows:
            self._count(space, of, -1)
        return [seq for seq, _ in rows]

    def _count(self, space: int, modality: str, more: int) -> None:
        self.counts[space, modality] = self.counts.get((space, modality), 0) + more

    # -- changing ---------------------------------------------------------------------------------------------------

    def rewrite(self, seq: int, one: Prepared) -> Plan[None]:
        """Change what a node says, under its number; its vectors stay."""
        sql = (
            f"UPDATE {self.tables.nodes} SET body = ?, digest = ?, facts = CAST(? AS jsonb), folded = CAST(? AS jsonb) "
            "WHERE seq = ?"
        )
        yield Statement(sql, (one.row.body, one.digest, one.facts, one.folded, seq))
        for number in self.spaces.values():
            sql = f"UPDATE {self.tables.space(number)} SET text = ?, metadata_ = CAST(? AS jsonb) WHERE id = ?"
            yield Statement(sql, (one.text, one.numbered(seq), seq))


def _node_line(seq: int, one: Prepared) -> tuple[bytes | None, ...]:
    row = one.row
    return (
        integer(seq),
        to_stored(row.node_id).encode(),
        None if row.ref_doc_id is None else to_stored(row.ref_doc_id).encode(),
        row.modality.encode(),
        row.class_name.encode(),
        integer(one.digest),
        row.body.encode(),
        jsonb(one.facts),
        None if one.folded is None else jsonb(one.folded),
    )


def _space_line(seq: int, one: Prepared, vector: _Vector) -> tuple[bytes, ...]:
    return (
        integer(seq),
        one.text.encode(),
        jsonb(one.numbered(seq)),
        to_stored(one.row.node_id).encode(),
        vector[1],
        one.row.modality.encode(),
        integer(vector[0]),
    )


# -- spaces and files --------------------------------------------------------------------------------------------------


def declare_space(tables: Tables, name: str, wanted: StoredSpace) -> Plan[None]:
    """Add a space where there is none of its name."""
    yield lock(tables)
    rows = yield Statement(f"SELECT number FROM {tables.spaces} WHERE name = ?", (to_stored(name),))
    if rows:
        return
    sql = f"INSERT INTO {tables.spaces} (name, dimension, fingerprint, normalize) VALUES (?, ?, ?, ?) RETURNING number"
    rows = yield Statement(sql, (to_stored(name), *wanted))
    for statement in space_statements(tables, rows[0][0], wanted.dimension):
        yield Statement(statement)


def drop_space(tables: Tables, name: str) -> Plan[None]:
    """Forget a space with all its vectors; nodes stay."""
    yield lock(tables)
    yield from _drop_space(tables, name)


def _drop_space(tables: Tables, name: str) -> Plan[None]:
    rows = yield Statement(f"DELETE FROM {tables.spaces} WHERE name = ? RETURNING number", (to_stored(name),))
    for (number,) in rows:
        yield Statement(f"DROP TABLE {tables.space(number)}")
        yield Statement(f"DELETE FROM {tables.partitions} WHERE space = ?", (number,))


def numbers_of_spaces(tables: Tables) -> Plan[dict[str, int]]:
    """Numbers of all spaces, by name."""
    rows = yield Statement(f'SELECT name, number FROM {tables.spaces} ORDER BY name COLLATE "C"')
    return {from_stored(name): number for name, number in rows}


def replace_space(tables: Tables, name: str, by: str, number: int | None) -> Plan[None]:
    """Give the space ``by``, which has this number, the name ``name``, in place of the one that had it."""
    yield lock(tables)
    known = yield from numbers_of_spaces(tables)
    if number is not None and known.get(name) == number:  # done already, before the connection was lost
        return
    if by not in known:
        raise SpaceError(f"Space {by!r} is not in this store; it has {list(known)}.")
    if by != name:
        yield from _drop_space(tables, name)
        yield Statement(f"UPDATE {tables.spaces} SET name = ? WHERE name = ?", (to_stored(name), to_stored(by)))


def note(tables: Tables, sources: Sequence[Source]) -> Plan[None]:
    """Note what became of files; an older note on the same path is replaced."""
    last: dict[str, list[Any]] = {}
    for one in sources:
        last[one.path] = [one.path, one.document_id, one.digest, one.status, one.reason]
    if last:
        columns = [
            [None if value is None else to_stored(value) for value in column] for column in zip(*last.values(), strict=True)
        ]
        arrays = ", ".join(["CAST(? AS text[])"] * len(columns))
        yield Statement(
            f"INSERT INTO {tables.sources} (path, document_id, digest, status, reason) SELECT * FROM unnest({arrays}) "
            "ON CONFLICT (path) DO UPDATE SET document_id = excluded.document_id, digest = excluded.digest, "
            "status = excluded.status, reason = excluded.reason",
            tuple(columns),
        )
