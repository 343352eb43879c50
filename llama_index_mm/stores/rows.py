"""What one transaction does to nodes and vectors."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from llama_index_mm.stores.facts import delete_facts, insert_facts, row_digest
from llama_index_mm.stores.schema import SEQ_BITS

__all__ = ["Changes", "Row", "chunks"]

_BATCH = 500  # values in one SQL list
_Vector = tuple[int, bytes]  # with its digest in front, as it was when the vector was written


class Row(NamedTuple):
    """A node, ready to be written.

    Attributes:
        node_id: its id.
        ref_doc_id: its document's.
        modality: text, image, ...
        class_name: of the node.
        body: the node as JSON.
        metadata: of the node, as its body has it.
        meaning: gives a digest of text, media and metadata; while that is the same, its vectors in other spaces hold.
        vectors: bytes of float32, by space.
    """

    node_id: str
    ref_doc_id: str | None
    modality: str
    class_name: str
    body: str
    metadata: Mapping[str, Any]
    meaning: Callable[[], str]
    vectors: Mapping[str, bytes]


@dataclass(frozen=True)
class _Old:
    seq: int
    modality: str
    class_name: str
    body: str | None  # None if it is not what was written


@dataclass
class Changes:
    """Changes nodes and vectors, and notes which partitions must follow.

    Args:
        database: within a transaction.
        meaning_of: gives ``meaning`` of a node as it was written: of body and class.
    """

    database: sqlite3.Connection
    meaning_of: Callable[[str, str], str]
    touched: dict[int, list[int]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)

    def seqs(self, column: str, values: Sequence[str]) -> list[int]:
        """Numbers of the nodes whose ``node_id`` or ``ref_doc_id`` is among ``values``."""
        return [seq for seq, _ in self.nodes(column, values)]

    def nodes(self, column: str, values: Sequence[str]) -> list[tuple[int, str]]:
        """The same with their ids."""
        sql = f"SELECT seq, node_id FROM nodes WHERE {column} IN (SELECT value FROM json_each(?))"
        return self.database.execute(sql, [json.dumps(list(values))]).fetchall() if values else []

    def partition(self, space: str, modality: str) -> int:
        """Number of a partition, which is made if need be."""
        if (space, modality) in self._numbers:
            return self._numbers[space, modality]
        find = "SELECT id FROM partitions WHERE space = ? AND modality = ?"
        row = self.database.execute(find, [space, modality]).fetchone()
        if row is None:
            insert = "INSERT INTO partitions (space, modality, change, vectors) VALUES (?, ?, 0, 0)"
            row = (self.database.execute(insert, [space, modality]).lastrowid,)
        self._numbers[space, modality] = int(row[0])
        return int(row[0])

    # -- adding -----------------------------------------------------------------------------------------------------

    def put(self, rows: Sequence[Row]) -> None:
        """Write nodes. One that is there already is replaced, under a new number unless nothing but vectors has changed."""
        old = self._known([row.node_id for row in rows])
        fresh: list[tuple[Row, Mapping[str, _Vector]]] = []
        vectors: dict[int, list[tuple[int, _Vector]]] = {}
        same: dict[int, list[int]] = {}
        replaced: list[int] = []
        for row in rows:
            was = old.get(row.node_id)
            new = {space: (row_digest(vector), vector) for space, vector in row.vectors.items()}
            if was is None:
                fresh.append((row, new))
            elif (was.body, was.class_name, was.modality) == (row.body, row.class_name, row.modality):
                for space, vector in new.items():
                    number = self.partition(space, row.modality)
                    vectors.setdefault(number, []).append((was.seq, vector))
                    same.setdefault(number, []).append(was.seq)
            else:
                keeps = was.body is not None and was.modality == row.modality
                keeps = keeps and self.meaning_of(was.body or "", was.class_name) == row.meaning()
                fresh.append((row, {**(self._vectors(was) if keeps else {}), **new}))
                replaced.append(was.seq)
        for number, seqs in same.items():
            self._take_vectors(number, seqs)
        self.drop(replaced)
        numbers = {}
        for seq, (row, given) in enumerate(fresh, start=self._next_seq()):
            numbers[seq] = row
            for space, vector in given.items():
                vectors.setdefault(self.partition(space, row.modality), []).append((seq, vector))
        self.database.executemany(
            "INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (seq, row.node_id, row.ref_doc_id, row.modality, row.class_name, row_digest(row.body.encode()), row.body)
                for seq, row in numbers.items()
            ],
        )
        insert_facts(self.database, [(seq, row.metadata) for seq, row in numbers.items()])
        for number, given_vectors in vectors.items():
            low = number << SEQ_BITS
            self.database.executemany(
                "INSERT INTO vectors VALUES (?, ?, ?)",
                [(low | seq, *vector) for seq, vector in sorted(given_vectors)],
            )
            self._note(number, [seq for seq, _ in given_vectors], len(given_vectors))

    def _known(self, node_ids: Sequence[str]) -> dict[str, _Old]:
        sql = (
            "SELECT node_id, seq, modality, class, CAST(body AS BLOB), digest FROM nodes "
            "WHERE node_id IN (SELECT value FROM json_each(?))"
        )
        return {
            node_id: _Old(seq, modality, class_name, body.decode() if row_digest(body) == digest else None)
            for node_id, seq, modality, class_name, body, digest in self.database.execute(sql, [json.dumps(list(node_ids))])
        }

    def _next_seq(self) -> int:
        row = self.database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'nodes'").fetchone()
        return (int(row[0]) if row else 0) + 1

    def _vectors(self, old: _Old) -> dict[str, _Vector]:
        """A node's vectors in all spaces."""
        sql = (
            f"SELECT p.space, v.digest, v.vector FROM partitions AS p JOIN vectors AS v ON v.key = (p.id << {SEQ_BITS} | ?) "
            "WHERE p.modality = ?"
        )
        return {space: (digest, vector) for space, digest, vector in self.database.execute(sql, [old.seq, old.modality])}

    # -- taking away ------------------------------------------------------------------------------------------------

    def drop(self, seqs: Sequence[int]) -> None:
        """Delete nodes with all their vectors."""
        for part in chunks(seqs):
            marks = ",".join("?" * len(part))
            sql = f"SELECT seq, modality, digest, CAST(body AS BLOB) FROM nodes WHERE seq IN ({marks})"
            rows = self.database.execute(sql, part).fetchall()
            by_modality: dict[str, list[int]] = {}
            for seq, modality, _, _ in rows:
                by_modality.setdefault(modality, []).append(seq)
            for modality, gone in by_modality.items():
                for (number,) in self._partitions_of(modality):
                    self._take_vectors(number, gone)
            whole = {seq: body for seq, _, digest, body in rows if row_digest(body) == digest}
            delete_facts(self.database, [(seq, json.loads(body)["metadata"]) for seq, body in whole.items()])
            damaged = [(seq,) for seq, *_ in rows if seq not in whole]  # their facts can't be told from them
            self.database.executemany("DELETE FROM facts WHERE seq = ?", damaged)
            self.database.execute(f"DELETE FROM nodes WHERE seq IN ({marks})", part)

    def drop_from(self, space: str, seqs: Sequence[int]) -> int:
        """Delete nodes' vectors in one space, and nodes that have none left; give how many had one."""
        before = sum(self.counts.values())
        for part in chunks(seqs):
            marks = ",".join("?" * len(part))
            by_modality: dict[str, list[int]] = {}
            for seq, modality in self.database.execute(f"SELECT seq, modality FROM nodes WHERE seq IN ({marks})", part):
                by_modality.setdefault(modality, []).append(seq)
            for modality, some in by_modality.items():
                had = self._take_vectors(self.partition(space, modality), some)
                left = {seq for (number,) in self._partitions_of(modality) for seq in self._having(number, had)}
                self.drop([seq for seq in had if seq not in left])
        return before - sum(self.counts.values())

    def drop_orphans(self) -> None:
        """Delete vectors that belong to no node."""
        mask = (1 << SEQ_BITS) - 1
        sql = (
            f"SELECT key >> {SEQ_BITS}, key & {mask} FROM vectors WHERE NOT EXISTS (SELECT 1 FROM nodes AS n "
            f"JOIN partitions AS p ON n.modality = p.modality WHERE n.seq = key & {mask} AND p.id = key >> {SEQ_BITS})"
        )
        orphans: dict[int, list[int]] = {}
        for number, seq in self.database.execute(sql):
            orphans.setdefault(number, []).append(seq)
        for number, seqs in orphans.items():
            self._take_vectors(number, seqs)

    def _partitions_of(self, modality: str) -> list[tuple[int]]:
        return self.database.execute("SELECT id FROM partitions WHERE modality = ?", [modality]).fetchall()

    def _having(self, number: int, seqs: Sequence[int]) -> list[int]:
        """Those of some nodes that have a vector in a partition."""
        low = number << SEQ_BITS
        found = []
        for part in chunks(seqs):
            sql = f"SELECT key FROM vectors WHERE key IN ({','.join('?' * len(part))})"
            found += [row[0] - low for row in self.database.execute(sql, [low | seq for seq in part])]
        return found

    def _take_vectors(self, number: int, seqs: Sequence[int]) -> list[int]:
        """Delete vectors of a partition; give the nodes that had one."""
        had = self._having(number, seqs)
        low = number << SEQ_BITS
        self.database.executemany("DELETE FROM vectors WHERE key = ?", [(low | seq,) for seq in had])
        if had:
            self._note(number, had, -len(had))
        return had

    # -- what follows -----------------------------------------------------------------------------------------------

    def _note(self, number: int, seqs: Iterable[int], more: int) -> None:
        self.touched.setdefault(number, []).extend(seqs)
        self.counts[number] = self.counts.get(number, 0) + more

    def finish(self) -> None:
        """List the changes, so that FAISS indexes can follow."""
        for number, seqs in self.touched.items():
            listed = np.unique(np.asarray(seqs, np.int64)).tobytes()
            change = self.database.execute("INSERT INTO changes (partition, seqs) VALUES (?, ?)", [number, listed]).lastrowid
            self.database.execute(
                "UPDATE partitions SET change = ?, vectors = vectors + ? WHERE id = ?", [change, self.counts[number], number]
            )


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Pieces that fit one SQL list."""
    for at in range(0, len(values), _BATCH):
        yield values[at : at + _BATCH]
