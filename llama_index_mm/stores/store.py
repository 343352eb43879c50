"""The store of an index: one folder, SQLite for what is true, FAISS for what is fast."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import MetadataFilters
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import SpaceError, StoreError
from llama_index_mm.media import MODALITIES, digest_bytes
from llama_index_mm.media.files import INDEX_FILE
from llama_index_mm.nodes import modality_of_node, moved, node_from_json, node_to_json
from llama_index_mm.stores.filters import compile_filters, filterable, register_functions
from llama_index_mm.stores.partition import Partition
from llama_index_mm.stores.records import Hit, Record, Source
from llama_index_mm.stores.schema import SCHEMA, VERSION

__all__ = ["MediaStore"]

_MEDIA = "media"
_OWN = "mm-own-media://"  # stands for that folder in stored nodes
_BATCH = 500  # values in one SQL list
_NORM_TOLERANCE = 1e-3


class MediaStore:
    """Nodes, their vectors in several spaces, and the files that they come from.

    Every change is one transaction: after a crash it is there whole or not at all. FAISS indexes are built from SQLite when
    they are first searched and again when another process has changed their partition.

    Attributes:
        folder: where it is.
        temporary: removed when the store is closed, if set.

    Args:
        folder: made if it is missing.
        create: whether to start a new store where there is none.

    Raises:
        StoreError: there is no store, it is damaged, or of another version.
    """

    def __init__(self, folder: Path | str, *, create: bool = True) -> None:
        self.folder = Path(folder)
        self._lock = threading.RLock()
        self._partitions: dict[tuple[str, str], Partition] = {}
        self.temporary: TemporaryDirectory[str] | None = None
        path = self.folder / INDEX_FILE
        if not path.is_file() and not create:
            raise StoreError(f"There is no index in {self.folder} (no {INDEX_FILE}). Make one with: llama-index-mm ingest")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        except (OSError, sqlite3.DatabaseError) as error:
            raise StoreError(f"{path} can't be opened as a store: {error}. Is the folder writable?") from error
        try:
            version = self._prepare()
        except sqlite3.DatabaseError as error:
            self._db.close()
            if "locked" in str(error) or "readonly" in str(error):
                raise StoreError(
                    f"{path} can't be opened now: {error}. Is another process writing, or is it read-only?"
                ) from error
            raise StoreError(f"{path} can't be opened as a store: {error}. Restore it from a copy, or index again.") from error
        if version != str(VERSION):
            self._db.close()
            raise StoreError(f"{path} is a store of version {version}; this package reads version {VERSION}. Index again.")

    def _prepare(self) -> str | None:
        """Set the connection up and make the tables of a new store; give the version."""
        register_functions(self._db)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        if self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            return self.meta("version")
        with self._writing():
            if not self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():  # nobody came first
                for statement in SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO meta VALUES ('version', ?)", [str(VERSION)])
        return self.meta("version")

    def close(self) -> None:
        """Close the database; the store can't be used any more."""
        with self._lock:
            self._db.close()
            self._partitions.clear()
            if self.temporary is not None:
                self.temporary.cleanup()

    def __enter__(self) -> "MediaStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, alone."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite may have rolled back by itself, when the disk is full for one
                    self._db.execute("ROLLBACK")
                raise

    def _read(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # -- what the index says of itself ------------------------------------------------------------------------------

    def meta(self, key: str) -> str | None:
        """Read an entry of the store's own notes."""
        rows = self._read("SELECT value FROM meta WHERE key = ?", [key])
        return rows[0][0] if rows else None

    def set_meta(self, key: str, value: str) -> None:
        """Write an entry of the store's own notes."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, value])

    def spaces(self) -> dict[str, tuple[int, str]]:
        """Dimension and fingerprint of every space."""
        return {name: (dimension, mark) for name, dimension, mark in self._read("SELECT * FROM spaces ORDER BY name")}

    def declare_space(self, name: str, dimension: int, fingerprint: str) -> None:
        """Add a space, or check that the one of this name is the same.

        Raises:
            SpaceError: the store holds vectors of another dimension or fingerprint under this name.
        """
        if name not in self.spaces():
            with self._writing():  # another process may come first
                self._db.execute("INSERT OR IGNORE INTO spaces VALUES (?, ?, ?)", [name, dimension, fingerprint])
        known = self.spaces()[name]
        if known != (dimension, fingerprint):
            raise SpaceError(
                f"Space {name!r} of {self.folder} was made with fingerprint {known[1]} ({known[0]} dimensions); the encoders "
                f"at hand have {fingerprint} ({dimension}). Open it with the preset that it was made with, or index again."
            )

    def media_path(self, data: bytes, suffix: str) -> Path:
        """Keep bytes in the store's content-addressed folder.

        Args:
            data: content of the file.
            suffix: ending of its name, with the dot.
        """
        digest = digest_bytes(data)
        path = self.folder.resolve() / _MEDIA / digest[:2] / f"{digest}{suffix}"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".part{threading.get_ident()}")
            part.write_bytes(data)
            part.replace(path)
        return path

    def _pack(self, node: BaseNode) -> str:
        """A node as JSON, in which files of the store's own folder stay with the store when that is moved."""
        return node_to_json(node).replace(self._own_files(), _OWN)

    def _unpack(self, body: str, class_name: str) -> BaseNode:
        return node_from_json(body.replace(_OWN, self._own_files()), class_name)

    def _own_files(self) -> str:
        """Path of the media folder as it stands in JSON, with a slash behind it."""
        return json.dumps(str((self.folder / _MEDIA).resolve()) + "/")[1:-1]

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(self, records: Sequence[Record], sources: Sequence[Source] = (), replacing: Sequence[str] = ()) -> None:
        """Add nodes, in one transaction; a node with an id that is there already replaces the old one.

        Args:
            records: nodes with their vectors, which must be of unit length.
            sources: files to note in the same transaction.
            replacing: ids of documents whose nodes go in the same transaction.

        Raises:
            SpaceError: a vector of an unknown space or of the wrong shape, not finite or not of unit length.
            StoreError: an id that comes twice in ``records``.
        """
        self._check(records)
        with self._writing():
            old = self._seqs("node_id", [record.node.node_id for record in records]) + self._seqs("ref_doc_id", replacing)
            gone = self._drop(list(dict.fromkeys(old)))
            fresh: dict[tuple[str, str], tuple[list[int], list[Vectors]]] = {}
            for record in records:
                node, modality = record.node, modality_of_node(record.node)
                body = self._pack(node)
                row = [node.node_id, node.ref_doc_id, modality, node.class_name(), filterable(body), body]
                seq = self._db.execute(
                    "INSERT INTO nodes (node_id, ref_doc_id, modality, class, metadata, body) VALUES (?, ?, ?, ?, ?, ?)", row
                ).lastrowid
                for space, vector in record.vectors.items():
                    seqs, vectors = fresh.setdefault((space, modality), ([], []))
                    seqs.append(int(seq or 0))
                    vectors.append(np.ascontiguousarray(vector, dtype=np.float32))
            for (space, of), (seqs, vectors) in fresh.items():
                rows = [(space, of, seq, vector.tobytes()) for seq, vector in zip(seqs, vectors, strict=True)]
                self._db.executemany("INSERT INTO vectors VALUES (?, ?, ?, ?)", rows)
            before = self._touch([*gone, *fresh])
            self._note(sources)
        self._follow(before, gone, fresh)

    def _follow(
        self,
        before: Mapping[tuple[str, str], int],
        gone: Mapping[tuple[str, str], Sequence[int]],
        fresh: Mapping[tuple[str, str], tuple[Sequence[int], Sequence[Vectors]]],
    ) -> None:
        """Bring the FAISS indexes in memory to where the database is after a change."""
        with self._lock:
            for key, revision in before.items():
                partition = self._partitions.get(key)
                if partition is None or partition.revision != revision:
                    continue  # never loaded, or changed by another process: built anew at the next search
                if key in gone:
                    partition.remove(np.asarray(gone[key], dtype=np.int64))
                if key in fresh:
                    partition.add(np.asarray(fresh[key][0], dtype=np.int64), np.stack(fresh[key][1]))
                partition.revision = revision + 1

    def _check(self, records: Sequence[Record]) -> None:
        ids = [record.node.node_id for record in records]
        if len(set(ids)) != len(ids):
            twice = sorted({one for one in ids if ids.count(one) > 1})[:3]
            raise StoreError(f"Node ids must not repeat within one call of add; these do: {', '.join(twice)}.")
        spaces = self.spaces()
        for record in records:
            for space, vector in record.vectors.items():
                if space not in spaces:
                    raise SpaceError(f"Space {space!r} is not declared in this store; it has {sorted(spaces)}.")
                if vector.shape != (spaces[space][0],):
                    raise SpaceError(
                        f"Node {record.node.node_id}: expected a vector of shape ({spaces[space][0]},) for space {space!r}, "
                        f"got {vector.shape}."
                    )
                norm = float(np.linalg.norm(vector))
                if not abs(norm - 1) < _NORM_TOLERANCE:  # also catches NaN
                    raise SpaceError(
                        f"Node {record.node.node_id}: the vector for space {space!r} has length {norm:g}; expected 1."
                    )

    def _seqs(self, column: str, values: Sequence[str]) -> list[int]:
        """Numbers of the nodes whose ``node_id`` or ``ref_doc_id`` is among ``values``."""
        found: list[int] = []
        for at in range(0, len(values), _BATCH):
            part = values[at : at + _BATCH]
            marks = ",".join("?" * len(part))
            sql = f"SELECT seq FROM nodes WHERE {column} IN ({marks})"  # noqa: S608 - column is one of two constants
            found += [row[0] for row in self._read(sql, part)]
        return found

    def _drop(self, seqs: Sequence[int]) -> dict[tuple[str, str], list[int]]:
        """Delete nodes within a transaction; give what was taken from which partition."""
        gone: dict[tuple[str, str], list[int]] = {}
        for seq in seqs:
            for space, modality in self._read("SELECT space, modality FROM vectors WHERE seq = ?", [seq]):
                gone.setdefault((space, modality), []).append(seq)
        self._db.executemany("DELETE FROM vectors WHERE seq = ?", [(seq,) for seq in seqs])
        self._db.executemany("DELETE FROM nodes WHERE seq = ?", [(seq,) for seq in seqs])
        return gone

    def _touch(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Count up the revision of partitions within a transaction; give the revisions before."""
        before = {}
        for space, modality in set(keys):
            before[space, modality] = self._revision(space, modality)
            self._db.execute(
                "INSERT OR REPLACE INTO partitions VALUES (?, ?, ?)", [space, modality, before[space, modality] + 1]
            )
        return before

    def _revision(self, space: str, modality: str) -> int:
        rows = self._read("SELECT revision FROM partitions WHERE space = ? AND modality = ?", [space, modality])
        return int(rows[0][0]) if rows else 0

    def delete(self, *, node_ids: Sequence[str] = (), ref_doc_ids: Sequence[str] = ()) -> int:
        """Delete nodes by their ids or by their documents'; unknown ids are passed over.

        Returns:
            How many nodes were deleted.
        """
        with self._writing():
            seqs = list(dict.fromkeys(self._seqs("node_id", node_ids) + self._seqs("ref_doc_id", ref_doc_ids)))
            gone = self._drop(seqs)
            before = self._touch(gone)
            self._db.executemany("DELETE FROM sources WHERE document_id = ?", [(one,) for one in ref_doc_ids])
        self._follow(before, gone, {})
        return len(seqs)

    # -- files ------------------------------------------------------------------------------------------------------

    def _note(self, sources: Sequence[Source]) -> None:
        rows = [(one.path, one.document_id, one.digest, one.status, one.reason) for one in sources]
        self._db.executemany("INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?)", rows)

    def release(self, path: str) -> None:
        """Forget a file. The nodes of its document go with it, unless another file holds the same: then they point there."""
        with self._writing():
            note = self.source(path)
            self._db.execute("DELETE FROM sources WHERE path = ?", [path])
            if note is None or note.document_id is None:
                return
            seqs = self._seqs("ref_doc_id", [note.document_id])
            others = self.sources(document_id=note.document_id)
            gone = {} if others else self._drop(seqs)
            before = self._touch(gone)
            for seq, node in self.nodes(seqs).items() if others else ():
                body = self._pack(moved(node, Path(others[0].path)))
                self._db.execute("UPDATE nodes SET body = ?, metadata = ? WHERE seq = ?", [body, filterable(body), seq])
        self._follow(before, gone, {})

    def note_sources(self, sources: Sequence[Source]) -> None:
        """Note what became of files; an older note on the same path is replaced."""
        with self._writing():
            self._note(sources)

    def source(self, path: str) -> Source | None:
        """Give the note on a file."""
        rows = self._read("SELECT path, digest, status, reason, document_id FROM sources WHERE path = ?", [path])
        return Source(*rows[0]) if rows else None

    def sources(self, *, document_id: str | None = None, status: str | None = None) -> list[Source]:
        """Notes on files, by path; all of them, those of one document, or those of one status."""
        sql = "SELECT path, digest, status, reason, document_id FROM sources"
        given = [(name, value) for name, value in (("document_id", document_id), ("status", status)) if value is not None]
        if given:
            sql += " WHERE " + " AND ".join(f"{name} = ?" for name, _ in given)
        return [Source(*row) for row in self._read(sql + " ORDER BY path", [value for _, value in given])]

    # -- reading ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self._read("SELECT count(*) FROM nodes")[0][0])

    def counts(self) -> dict[str, int]:
        """How many nodes there are of each modality."""
        found = dict(self._read("SELECT modality, count(*) FROM nodes GROUP BY modality"))
        return {modality: found[modality] for modality in MODALITIES if modality in found}

    def partitions(self) -> dict[tuple[str, str], int]:
        """How many vectors there are in each (space, modality)."""
        rows = self._read("SELECT space, modality, count(*) FROM vectors GROUP BY space, modality")
        return {(space, modality): count for space, modality, count in rows}

    def nodes(self, seqs: Sequence[int]) -> dict[int, BaseNode]:
        """Give nodes by their numbers, each of the class that it was; numbers that are gone are left out."""
        found = {}
        for at in range(0, len(seqs), _BATCH):
            part = [int(seq) for seq in seqs[at : at + _BATCH]]
            sql = f"SELECT seq, class, body FROM nodes WHERE seq IN ({','.join('?' * len(part))})"  # noqa: S608 - marks only
            found.update({seq: self._unpack(body, name) for seq, name, body in self._read(sql, part)})
        return found

    def find(
        self,
        *,
        node_ids: Sequence[str] | None = None,
        ref_doc_ids: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        filters: MetadataFilters | None = None,
    ) -> NDArray[np.int64]:
        """Give the numbers of the nodes that match everything given, ascending; None and [] restrict nothing.

        Raises:
            FilterError: a filter that has no meaning.
        """
        where, values = ["1"], list[Any]()
        for column, wanted in (("node_id", node_ids), ("ref_doc_id", ref_doc_ids), ("modality", modalities)):
            if wanted:
                where.append(column + " IN (SELECT value FROM json_each(?))")  # noqa: S608 - column is a constant
                values.append(json.dumps(list(wanted)))
        clause = compile_filters(filters)
        if clause is not None:
            where.append(f"({clause[0]})")
            values += clause[1]
        sql = f"SELECT seq FROM nodes WHERE {' AND '.join(where)} ORDER BY seq"  # noqa: S608 - values are parameters
        return np.array([row[0] for row in self._read(sql, values)], dtype=np.int64)

    def search(self, space: str, modality: str, query: Vectors, k: int, among: NDArray[np.int64] | None = None) -> list[Hit]:
        """Find the nearest nodes of one modality in one space, exactly.

        Args:
            space: name of the space.
            modality: of the nodes.
            query: ``(d,)`` unit vector.
            k: how many; never fewer come back while there are that many.
            among: numbers to choose from, as `find` gives them; None for all.

        Raises:
            SpaceError: the space is unknown, or the query has another dimension or numbers that are not finite.
        """
        vector = self._query(space, query)
        with self._lock:
            ids, similarities = self._partition(space, modality).search(vector, k, among)
        return [Hit(int(seq), float(value)) for seq, value in zip(ids, similarities, strict=True)]

    def similarities(self, space: str, modality: str, query: Vectors, seqs: Sequence[int]) -> Vectors:
        """Inner products of the query with these nodes; NaN for a node that has no vector there.

        Raises:
            SpaceError: as in `search`.
        """
        vector = self._query(space, query)
        with self._lock:
            return self._partition(space, modality).similarities(vector, np.asarray(seqs, dtype=np.int64))

    def sample(self, space: str, modality: str, size: int) -> Vectors:
        """At most ``size`` vectors of a partition, evenly spread: ``(m, d)``.

        Raises:
            SpaceError: the space is unknown.
        """
        with self._lock:
            return self._partition(space, modality).sample(size)

    def _query(self, space: str, query: Vectors) -> Vectors:
        """Check a query vector."""
        dimension = self._dimension(space)
        if query.shape != (dimension,):
            raise SpaceError(f"Expected a query of shape ({dimension},) for space {space!r}, got {query.shape}.")
        if not np.isfinite(query).all():
            raise SpaceError(f"The query for space {space!r} has numbers that are not finite.")
        return np.asarray(query, dtype=np.float32)

    def _dimension(self, space: str) -> int:
        spaces = self.spaces()
        if space not in spaces:
            raise SpaceError(f"Space {space!r} is not in this store; it has {sorted(spaces)}.")
        return spaces[space][0]

    def _partition(self, space: str, modality: str) -> Partition:
        """The FAISS index of a partition, built or built anew if need be."""
        revision = self._revision(space, modality)
        partition = self._partitions.get((space, modality))
        if partition is None or partition.revision != revision:
            dimension = self._dimension(space)
            partition = Partition(dimension, revision)
            rows = self._read("SELECT seq, vector FROM vectors WHERE space = ? AND modality = ?", [space, modality])
            if rows:
                ids = np.array([row[0] for row in rows], dtype=np.int64)
                vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.float32).reshape(len(rows), dimension)
                partition.add(ids, vectors)
            self._partitions[space, modality] = partition
        return partition
