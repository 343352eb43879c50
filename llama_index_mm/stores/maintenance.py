"""Care for a store: what is in it, whether it is sound, making it so again, giving space back, copying."""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import NodeRelationship

from llama_index_mm.errors import StoreError
from llama_index_mm.media import MODALITIES, digest_file
from llama_index_mm.media.files import INDEX_FILE
from llama_index_mm.stores.approximate import ApproximateFacts
from llama_index_mm.stores.checkpoints import DamagedFileError, load_checkpoint, paths_of
from llama_index_mm.stores.database import Database
from llama_index_mm.stores.facts import count_facts, insert_facts, row_digest
from llama_index_mm.stores.media_folder import MediaFolder
from llama_index_mm.stores.partitions import Partitions
from llama_index_mm.stores.rows import Changes
from llama_index_mm.stores.schema import SEQ_BITS

__all__ = ["CheckReport", "PartitionStatistics", "check", "compact", "copy", "repair", "statistics"]

_BATCH = 1000  # nodes looked at together
_DIGEST = 64  # characters of a SHA-256
_LISTED = 5  # problems of one kind that are told one by one


@dataclass(frozen=True)
class PartitionStatistics:
    """One (space, modality).

    Attributes:
        space: name of the space.
        modality: of the nodes.
        vectors: how many.
        dimension: length of each.
        pending: how many came, went or changed since the FAISS files were written, or the vector store was brought up to date.
        file_bytes: size of these files.
        approximate: what was measured when an approximate index was built; None if none was. Without settings in it, searches
            are exact.
        searched_by: class of the vector store that searches in place of FAISS; empty if none does.
    """

    space: str
    modality: str
    vectors: int
    dimension: int
    pending: int
    file_bytes: int
    approximate: ApproximateFacts | None = None
    searched_by: str = ""

    def __str__(self) -> str:
        if self.searched_by:
            return f"in {self.searched_by}"
        facts = self.approximate
        if facts is None:
            return "exact"
        if not facts.settings:
            return f"exact (no approximate index: {facts.why})"
        first = facts.settings[0]
        return (
            f"IVF{facts.lists},RaBitQ + exact re-rank: recall@{first.k} {first.recall:.3f} on {facts.queries} queries, "
            f"{first.faster:g} x as fast as exact"
        )


@dataclass(frozen=True)
class CheckReport:
    """What was looked at, and what is wrong.

    Attributes:
        nodes: how many were read.
        vectors: how many were read.
        files: how many FAISS and media files were read.
        problems: one sentence each; empty if all is well.
    """

    nodes: int
    vectors: int
    files: int
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class _Problems(list[str]):
    """Problems, of which those of one kind are told one by one only at first."""

    def tell(self, kind: str, which: list[str]) -> None:
        if which:
            more = f" and {len(which) - _LISTED} more" if len(which) > _LISTED else ""
            self.append(f"{kind}: {', '.join(which[:_LISTED])}{more}.")


def statistics(database: Database, partitions: Partitions) -> list[PartitionStatistics]:
    """One entry for each partition that is not empty."""
    checkpoints = partitions.checkpoints()
    rows = database.read(
        "SELECT p.id, p.space, p.modality, p.vectors, s.dimension FROM partitions AS p "
        "JOIN spaces AS s ON s.name = p.space WHERE p.vectors > 0 ORDER BY p.space, p.id"
    )
    found = []
    for number, space, modality, vectors, dimension in rows:
        one = checkpoints.get(number)
        paths = paths_of(partitions.folder, number, one.change) if one else ()
        size = sum(path.stat().st_size for path in paths if path.is_file())
        facts = one.approximate if one else None
        pending, by = partitions.pending(number), partitions.searched_by(space)
        found.append(PartitionStatistics(space, modality, vectors, dimension, pending, size, facts, by))
    return found


# -- check ------------------------------------------------------------------------------------------------------------


def check(database: Database, partitions: Partitions, media: MediaFolder) -> CheckReport:
    """Compare everything with everything."""
    problems = _Problems()
    nodes = vectors = files = 0
    try:
        with database.reading() as connection:
            told = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
            if told != ["ok"]:
                problems.tell("SQLite finds the database damaged (restore the store from a copy)", told)
            nodes = _check_nodes(connection, problems)
            vectors = _check_vectors(connection, problems)
        files = _check_faiss(database, partitions, problems)
    except StoreError as error:
        problems.tell(
            "Not everything could be read (restore the store from a copy)", [str(error.__cause__ or error).rstrip(".")]
        )
    files += _check_media(database, media, problems)
    return CheckReport(nodes, vectors, files, tuple(problems))


def _check_nodes(connection: sqlite3.Connection, problems: _Problems) -> int:
    damaged: list[str] = []
    lacking: list[str] = []
    count = facts = 0
    for batch in _node_rows(connection):
        whole = []
        for seq, node_id, metadata in batch:
            if metadata is None:
                damaged.append(node_id)
            else:
                whole.append((seq, node_id, metadata))
        expected, there = count_facts(connection, [(seq, metadata) for seq, _, metadata in whole])
        facts += expected
        if expected != there:
            lacking += [node_id for seq, node_id, one in whole if len(set(count_facts(connection, [(seq, one)]))) > 1]
        count += len(batch)
    problems.tell("Nodes that are not what was written (restore the store from a copy, or index them again)", damaged)
    problems.tell("Nodes that filters may miss (repair)", lacking)
    (rows,) = connection.execute("SELECT count(*) FROM facts").fetchone()
    if not damaged and not lacking and rows != facts:
        problems.append(f"Filters' rows: {rows}, expected {facts} (repair).")
    return count


def _check_vectors(connection: sqlite3.Connection, problems: _Problems) -> int:
    known = {
        number: (space, modality, dimension, vectors)
        for number, space, modality, dimension, vectors in connection.execute(
            "SELECT p.id, p.space, p.modality, s.dimension, p.vectors FROM partitions AS p JOIN spaces AS s ON s.name = p.space"
        )
    }
    damaged: list[str] = []
    counts = dict.fromkeys(known, 0)
    for key, digest, vector in connection.execute("SELECT key, digest, vector FROM vectors"):
        number, seq = key >> SEQ_BITS, key & ((1 << SEQ_BITS) - 1)
        right = number in known and isinstance(vector, bytes) and len(vector) == 4 * known[number][2]
        if not right or row_digest(vector) != digest or not np.isfinite(np.frombuffer(vector, np.float32)).all():
            damaged.append(f"{'/'.join(known[number][:2]) if number in known else number} {seq}")
        if number in counts:
            counts[number] += 1
    problems.tell("Vectors that are not what was written (restore the store from a copy, or index them again)", damaged)
    orphans = connection.execute(
        f"SELECT v.key & {(1 << SEQ_BITS) - 1} FROM vectors AS v LEFT JOIN partitions AS p ON p.id = v.key >> {SEQ_BITS} "
        f"LEFT JOIN nodes AS n ON n.seq = v.key & {(1 << SEQ_BITS) - 1} AND n.modality = p.modality WHERE n.seq IS NULL"
    )
    problems.tell("Vectors without a node (repair)", [str(seq) for (seq,) in orphans])
    wrong = [
        f"{'/'.join(known[one][:2])} {counts[one]}, noted {known[one][3]}" for one in known if counts[one] != known[one][3]
    ]
    problems.tell("Counts of vectors (repair)", wrong)
    return sum(counts.values())


def _check_faiss(database: Database, partitions: Partitions, problems: _Problems) -> int:
    damaged: list[str] = []
    checkpoints = partitions.checkpoints()
    for number, one in checkpoints.items():
        (dimension,) = database.read(
            "SELECT dimension FROM spaces WHERE name = (SELECT space FROM partitions WHERE id = ?)", [number]
        )[0]
        wrong: list[str] = []
        try:
            partition = load_checkpoint(partitions.folder, one, dimension)
        except DamagedFileError as error:
            wrong.append(str(error).rstrip("."))
        else:
            if one.approximate is not None and one.approximate.settings and partition.approximate is None:
                wrong.append(f"{paths_of(partitions.folder, number, one.change)[2].name} can't be used")
            if not partitions.agrees(number, partition):
                wrong.append(f"{paths_of(partitions.folder, number, one.change)[0].name} has other vectors than the database")
        if wrong and partitions.checkpoints().get(number) == one:  # or somebody has just replaced these files
            damaged += wrong
    problems.tell("FAISS files (repair)", damaged)
    return len(checkpoints)


def _check_media(database: Database, media: MediaFolder, problems: _Problems) -> int:
    files = media.files()
    rows = database.read("SELECT node_id, body FROM nodes WHERE body LIKE '%mm-own-media:%'")
    lacking = [str(node_id) for node_id, body in rows if not all(path.is_file() for path in media.named_in(str(body)))]
    problems.tell("Nodes whose file in the store's media folder is gone (restore it from a copy, or index them again)", lacking)
    problems.tell(
        "Media files that are not what was written",
        [str(path.relative_to(media.store_folder.resolve())) for path in files if digest_file(path) != path.name.split(".")[0]],
    )
    return len(files)


def _node_rows(connection: sqlite3.Connection) -> Iterator[list[tuple[int, str, dict[str, Any] | None]]]:
    """Number, id and metadata of all nodes, in batches; None where the row is not what was written."""
    texts = ("body", "node_id", "modality", "class", "ref_doc_id")
    rows = connection.execute(  # as bytes: what is damaged may be no UTF-8
        f"SELECT seq, digest, {', '.join(f'CAST({name} AS BLOB)' for name in texts)} FROM nodes"
    )
    while batch := rows.fetchmany(_BATCH):
        found = []
        for seq, digest, body, *row in batch:
            columns = [None if one is None else one.decode(errors="replace") for one in row]
            found.append((seq, columns[0] or str(seq), _metadata(digest, body, columns)))
        yield found


def _metadata(digest: int, body: bytes | None, columns: list[str | None]) -> dict[str, Any] | None:
    """Metadata of a node, if its row is what was written."""
    if body is None or row_digest(body) != digest or columns[1] not in MODALITIES:
        return None
    fields = json.loads(body)
    source = fields["relationships"].get(NodeRelationship.SOURCE.value)
    if [fields["id_"], columns[1], fields["class_name"], source["node_id"] if source else None] != columns:
        return None
    metadata: dict[str, Any] = fields["metadata"]
    return metadata


# -- repair, compact, copy ---------------------------------------------------------------------------------------------


def repair(database: Database, partitions: Partitions) -> None:
    """Make anew what filters and FAISS look at. Nodes and vectors themselves are left as they are.

    Raises:
        StoreLockedError: somebody else is writing.
    """
    with database.writing() as connection:
        damaged = [seq for batch in _node_rows(connection) for seq, _, metadata in batch if metadata is None]
        connection.execute("DELETE FROM facts WHERE seq NOT IN (SELECT value FROM json_each(?))", [json.dumps(damaged)])
        for batch in _node_rows(connection):
            insert_facts(connection, [(seq, metadata) for seq, _, metadata in batch if metadata is not None])
        changes = Changes(connection, lambda body, class_name: "")
        changes.drop_orphans()
        changes.finish()
        connection.execute(
            f"UPDATE partitions SET vectors = (SELECT count(*) FROM vectors "
            f"WHERE key BETWEEN id << {SEQ_BITS} AND (id << {SEQ_BITS} | {(1 << SEQ_BITS) - 1}))"
        )
    partitions.rebuild()


def compact(database: Database, partitions: Partitions, media: MediaFolder) -> tuple[int, int]:
    """Give back what deleted nodes took.

    Raises:
        StoreLockedError: somebody else is writing.
    """
    before = _size(media.store_folder)
    with database.writer() as connection:
        partitions.checkpoint(everything=True)
        there = {path.name[:_DIGEST] for path in media.files()}
        named: set[str] = set()  # however a node points to a file: its name is its digest
        for (body,) in connection.execute("SELECT body FROM nodes"):
            named |= there.intersection(re.findall(f"[0-9a-f]{{{_DIGEST}}}", body))
        for path in media.files():
            if path.name[:_DIGEST] not in named:
                path.unlink()
        connection.execute("DELETE FROM names WHERE NOT EXISTS (SELECT 1 FROM facts WHERE facts.name = names.id)")
        try:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError as error:
            raise StoreError(f"{database.path} was not made smaller: {error}. Close its readers, or free some disk.") from error
    return before, _size(media.store_folder)


def copy(database: Database, media: MediaFolder, folder: Path) -> None:
    """Write the database, as it is at one moment, and the media files into another folder; FAISS files are made anew there.

    Raises:
        StoreError: the folder is not empty, or can't be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder} is not empty; a copy of a store needs a folder of its own.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{INDEX_FILE}.part"
        with database.reading() as connection:
            target = sqlite3.connect(part)
            try:
                connection.backup(target)
                target.execute("DELETE FROM checkpoints")
                target.commit()
            finally:
                target.close()
        if media.folder.is_dir():
            shutil.copytree(media.folder, folder / media.folder.name)
        part.replace(folder / INDEX_FILE)
    except (OSError, sqlite3.DatabaseError) as error:
        raise StoreError(f"{folder} can't be written: {error}.") from error


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
