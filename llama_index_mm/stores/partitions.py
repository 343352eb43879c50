"""The partitions of a store in memory: loaded, caught up with the database, and written to files."""

import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import SpaceError, StoreError
from llama_index_mm.stores.approximate import ApproximateFacts, build_approximate, load_approximate
from llama_index_mm.stores.checkpoints import (
    Checkpoint,
    DamagedFileError,
    file_digest,
    load_checkpoint,
    paths_of,
    remove_others,
    write_vectors,
)
from llama_index_mm.stores.database import Database
from llama_index_mm.stores.partition import BLOCK, Block, Ids, Partition
from llama_index_mm.stores.schema import SEQ_BITS

__all__ = ["Partitions"]

logger = logging.getLogger(__name__)

_FOLDER = "faiss"
_MANY = 100_000  # vectors; below, files are written anew after every change, above only after many
_STALE = 0.05  # share of changed vectors that is many
_SEQ_MASK = (1 << SEQ_BITS) - 1
_OTHERS = 48  # vectors of other modalities as queries, when recall is measured


class Searched(Protocol):
    """A (space, modality) as it is searched; what its methods do is told at `Partition`."""

    def search(self, query: Vectors, k: int, among: Ids | None = None, *, exact: bool = False) -> tuple[Ids, Vectors]:
        """Find the nearest."""

    def similarities(self, query: Vectors, ids: Ids) -> Vectors:
        """Inner products of the query with these ids."""

    def vectors(self, ids: Ids) -> Vectors:
        """Vectors of ids."""

    def sample(self, size: int) -> Vectors:
        """Some vectors, evenly spread over the ids."""


class Partitions:
    """FAISS's side of a store. All of it can be made again from the database.

    Args:
        database: of the store.
        folder: of the store.
        approximate_above: number of vectors from which a partition gets an approximate index; None for never.
        recall: that an approximate index must reach.
    """

    def __init__(self, database: Database, folder: Path, *, approximate_above: int | None, recall: float) -> None:
        self._database = database
        self.folder = folder / _FOLDER
        self._above = approximate_above
        self._recall = recall
        self._loaded: dict[int, Partition] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._guard = threading.Lock()
        self._followed: dict[int, int] = {}

    # -- for searching ----------------------------------------------------------------------------------------------

    def get(self, space: str, modality: str) -> Searched:
        """The partition as it is now in the database.

        Raises:
            SpaceError: the space is unknown.
        """
        number, change, dimension = self._state(space, modality)
        if number is None:
            return Partition(dimension)
        loaded = self._loaded.get(number)
        if loaded is not None and loaded.change >= change:
            return loaded
        with self._guard:
            lock = self._locks.setdefault(number, threading.Lock())
        with lock, self._database.reading() as database:
            row = database.execute("SELECT change FROM partitions WHERE id = ?", [number]).fetchone()
            if row is None:  # another space has just taken its place
                return Partition(dimension)
            change = row[0]
            loaded = self._loaded.get(number)
            if loaded is None or loaded.change < change:
                loaded = self._caught_up(database, number, dimension, change, loaded)
                self._loaded[number] = loaded
            return loaded

    def _state(self, space: str, modality: str) -> tuple[int | None, int, int]:
        """Number and last change of a partition, None and 0 if there is none, and the dimension of its space."""
        rows = self._database.read(
            "SELECT p.id, p.change, s.dimension FROM spaces AS s "
            "LEFT JOIN partitions AS p ON p.space = s.name AND p.modality = ? WHERE s.name = ?",
            [modality, space],
        )
        if not rows:
            known = [name for (name,) in self._database.read("SELECT name FROM spaces ORDER BY name")]
            raise SpaceError(f"Space {space!r} is not in this store; it has {known}.")
        number, change, dimension = rows[0]
        return number, change or 0, dimension

    def _caught_up(
        self, database: sqlite3.Connection, number: int, dimension: int, change: int, loaded: Partition | None
    ) -> Partition:
        """What is loaded, or else the last checkpoint, with all later changes."""
        (listed,) = database.execute("SELECT listed_after FROM partitions WHERE id = ?", [number]).fetchone()
        if loaded is None or loaded.change < listed:
            loaded = None
            if (checkpoint := _checkpoint(database, number)) is not None:
                try:
                    loaded = load_checkpoint(self.folder, checkpoint, dimension)
                except DamagedFileError as error:
                    logger.warning("%s Vectors are read from the database instead. Run: llama-index-mm repair", error)
        if loaded is None:
            return Partition(dimension, change, tuple(all_blocks(database, number, dimension)))
        touched = changed_since(database, number, loaded.change)
        for at in range(0, len(touched), BLOCK):
            some = touched[at : at + BLOCK]
            loaded = loaded.changed(loaded.change, some, *vectors_of(database, number, dimension, some))
        return Partition(dimension, change, loaded.blocks, loaded.approximate)

    def agrees(self, number: int, partition: Partition) -> bool:
        """Whether what was in files, with all later changes, is what the database has."""
        with self._database.reading() as database:
            (change,) = database.execute("SELECT change FROM partitions WHERE id = ?", [number]).fetchone()
            partition = self._caught_up(database, number, partition.dimension, change, partition)
            count = 0
            for block in all_blocks(database, number, partition.dimension):
                count += len(block)
                if not np.array_equal(partition.vectors(block.ids), block.vectors):
                    return False
            return count == len(partition)

    def unload(self) -> None:
        """Let go of everything in memory."""
        self._loaded.clear()

    def pending(self, number: int) -> int:
        """How many vectors of a partition came, went or changed since the files were written."""
        ((size,),) = self._database.read("SELECT total(length(seqs)) FROM changes WHERE partition = ?", [number])
        return int(size) // 8

    def searched_by(self, space: str) -> str:
        """What searches a space in place of FAISS; nothing does."""
        return ""

    def forget(self, space: str) -> None:
        """Let go of what is kept of a space that has gone; files are removed when others are written."""

    # -- files ------------------------------------------------------------------------------------------------------

    def checkpoints(self) -> dict[int, Checkpoint]:
        """What the database says of the files, by partition."""
        with self._database.reading() as database:
            numbers = database.execute("SELECT partition FROM checkpoints").fetchall()
            return {number: one for (number,) in numbers if (one := _checkpoint(database, number))}

    def checkpoint(self, *, everything: bool = False) -> None:
        """Write the files of partitions that changed: of all of these, or of those that changed much.

        Raises:
            StoreError: the disk is full or fails.
            StoreLockedError: somebody else is writing.
        """
        with self._database.reading() as database:
            due = [
                number
                for number, vectors in database.execute("SELECT id, vectors FROM partitions ORDER BY id").fetchall()
                if _is_due(database, number, vectors, everything)
            ]
        for number in due:
            self.write(number)

    def follow(self, changed: Mapping[int, int]) -> None:
        """Note how many vectors of which partition changed, and write files when there are many more than are in them."""
        for number, count in changed.items():
            self._followed[number] = self._followed.get(number, 0) + count
            if self._followed[number] > _MANY:
                known = self.checkpoints().get(number)
                if known is None or self._followed[number] > known.vectors:
                    try:
                        self.write(number)
                    except StoreError as error:  # what was added is safe, and must not seem refused
                        self._followed[number] = 0
                        logger.warning("%s", error)

    def approximate(self, space: str, modality: str | None) -> dict[tuple[str, str], ApproximateFacts]:
        """Build approximate indexes for the partitions of a space; give what was measured."""
        rows = self._database.read(
            "SELECT id, modality FROM partitions WHERE space = ? AND ifnull(? = modality, 1) AND vectors > 0", [space, modality]
        )
        built = {(space, of): self.write(number, approximate=True).approximate for number, of in rows}
        return {key: facts for key, facts in built.items() if facts is not None}

    def rebuild(self) -> None:
        """Write all files from the database.

        Raises:
            StoreError: the disk is full or fails.
            StoreLockedError: somebody else is writing.
        """
        self.unload()
        for (number,) in self._database.read("SELECT id FROM partitions ORDER BY id"):
            self.write(number)

    def write(self, number: int, *, approximate: bool | None = None) -> Checkpoint:
        """Write the files of a partition, with an approximate index if it is large or ``approximate`` is set.

        Raises:
            StoreError: the disk is full or fails; the older files are still good then.
        """
        with self._database.writer():  # nobody else writes meanwhile; readers go on
            try:
                try:
                    return self._write(number, approximate)
                finally:
                    self._tidy()
            except OSError as error:
                raise StoreError(
                    f"{self.folder} can't be written: {error}. All nodes and vectors are safe in the database."
                ) from error

    def _write(self, number: int, approximate: bool | None) -> Checkpoint:
        with self._database.reading() as database:
            space, modality, change, count, dimension = database.execute(
                "SELECT p.space, p.modality, p.change, p.vectors, s.dimension FROM partitions AS p "
                "JOIN spaces AS s ON s.name = p.space WHERE p.id = ?",
                [number],
            ).fetchone()
            old = _checkpoint(database, number)
            blocks = all_blocks(database, number, dimension)
            digest = write_vectors(self.folder, number, change, (count, dimension), blocks)
        checkpoint = Checkpoint(number, change, count, digest)
        if approximate is None:
            asked = old is not None and old.approximate is not None
            approximate = asked or (self._above is not None and count > self._above)
        if approximate and count:
            facts = self._approximate(checkpoint, dimension, self._queries(space, modality))
            checkpoint = Checkpoint(number, change, count, digest, facts)
        self._record(checkpoint)
        self._loaded.pop(number, None)
        self._followed[number] = 0
        return checkpoint

    def _approximate(self, checkpoint: Checkpoint, dimension: int, others: Vectors) -> ApproximateFacts:
        (block,) = load_checkpoint(self.folder, checkpoint, dimension, verify=False).blocks
        path = paths_of(self.folder, checkpoint.partition, checkpoint.change)[2]
        part = path.with_suffix(".part")
        try:
            facts, index = build_approximate(block, part, target=self._recall, others=others)
            if index is None:
                return facts
            load_approximate(part, facts)  # FAISS does not tell when the last bytes found no room
        except RuntimeError as error:  # which FAISS raises when the disk is full
            raise OSError(str(error)) from error
        part.replace(path)
        return ApproximateFacts(**{**facts.__dict__, "digest": file_digest(path)})

    def _queries(self, space: str, modality: str) -> Vectors:
        """Some vectors of the space's other modalities."""
        others = self._database.read(
            "SELECT modality FROM partitions WHERE space = ? AND modality != ? AND vectors > 0", [space, modality]
        )
        samples = [self.get(space, other).sample(_OTHERS // len(others)) for (other,) in others]
        return np.concatenate(samples) if samples else np.zeros((0, 0), np.float32)

    def _record(self, checkpoint: Checkpoint) -> None:
        facts = checkpoint.approximate
        row = [checkpoint.partition, checkpoint.change, checkpoint.vectors, checkpoint.digest]
        with self._database.writing() as database:
            database.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?)", [*row, None if facts is None else facts.to_json()]
            )
            database.execute("DELETE FROM changes WHERE partition = ? AND change <= ?", row[:2])
            database.execute("UPDATE partitions SET listed_after = ? WHERE id = ?", [checkpoint.change, checkpoint.partition])

    def _tidy(self) -> list[Path]:
        return remove_others(self.folder, self.checkpoints().values())


def _is_due(database: sqlite3.Connection, number: int, vectors: int, everything: bool) -> bool:
    """Whether the files of a partition lag behind, and far enough for the work of writing them."""
    (size,) = database.execute("SELECT total(length(seqs)) FROM changes WHERE partition = ?", [number]).fetchone()
    pending = size / 8
    if _checkpoint(database, number) is None:  # changes need not be listed then: not in a copy, nor in a store of version 1
        return bool(pending > 0 or vectors > 0)
    return bool(pending > 0 and (everything or vectors < _MANY or pending >= _STALE * vectors))


def _checkpoint(database: sqlite3.Connection, number: int) -> Checkpoint | None:
    row = database.execute("SELECT * FROM checkpoints WHERE partition = ?", [number]).fetchone()
    if row is None:
        return None
    number, change, vectors, digest, facts = row
    return Checkpoint(number, change, vectors, digest, ApproximateFacts.from_json(facts) if facts else None)


def changed_since(database: sqlite3.Connection, number: int, change: int) -> Ids:
    """The nodes of a partition that came, went or changed after a change, ascending."""
    rows = database.execute("SELECT seqs FROM changes WHERE partition = ? AND change > ?", [number, change])
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(np.frombuffer(row[0], np.int64) for row in rows)]))


def _vector(blob: Any, dimension: int) -> Vectors:
    """A vector as the database has it."""
    if not isinstance(blob, bytes) or len(blob) != 4 * dimension:
        raise StoreError("A vector in the database is damaged. Run: llama-index-mm check")
    return np.frombuffer(blob, np.float32)


def all_blocks(database: sqlite3.Connection, number: int, dimension: int) -> Iterator[Block]:
    """All vectors of a partition, in order."""
    low = number << SEQ_BITS
    (left,) = database.execute("SELECT vectors FROM partitions WHERE id = ?", [number]).fetchone()
    rows = database.execute("SELECT key, vector FROM vectors WHERE key BETWEEN ? AND ? ORDER BY key", [low, low | _SEQ_MASK])
    while left > 0:
        size = min(BLOCK, left)
        ids, vectors = np.empty(size, np.int64), np.empty((size, dimension), np.float32)
        at = -1
        for at, (key, blob) in zip(range(size), rows, strict=False):
            ids[at] = key & _SEQ_MASK
            vectors[at] = _vector(blob, dimension)
        if at + 1:
            yield Block(ids[: at + 1], vectors[: at + 1])
        left = left - size if at + 1 == size else 0


def vectors_of(database: sqlite3.Connection, number: int, dimension: int, seqs: Ids) -> tuple[Ids, Vectors]:
    """Those of some nodes that have a vector, ascending."""
    low = number << SEQ_BITS
    ids, vectors = np.empty(len(seqs), np.int64), np.empty((len(seqs), dimension), np.float32)
    at = 0
    for seq in seqs.tolist():
        row = database.execute("SELECT vector FROM vectors WHERE key = ?", [low | seq]).fetchone()
        if row is not None:
            ids[at], vectors[at] = seq, _vector(row[0], dimension)
            at += 1
    return ids[:at], vectors[:at]
