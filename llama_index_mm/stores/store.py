"""The store of an index: one folder, SQLite for what is true, FAISS for what is fast."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import MetadataFilters
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import SpaceError, StoreError
from llama_index_mm.media import MODALITIES
from llama_index_mm.nodes import modality_of_node, moved
from llama_index_mm.stores import maintenance
from llama_index_mm.stores.approximate import ApproximateFacts
from llama_index_mm.stores.base import Among, NodeStore, SeqAmong, Seqs, seqs_of
from llama_index_mm.stores.database import Database
from llama_index_mm.stores.external import ExternalPartitions, VectorStores
from llama_index_mm.stores.facts import delete_facts, insert_facts, row_digest
from llama_index_mm.stores.filters import compile_filters
from llama_index_mm.stores.media_folder import MediaFolder
from llama_index_mm.stores.partitions import Partitions
from llama_index_mm.stores.records import Hit, Record, Source, StoredSpace, checked_query, evenly, settled, vector_bytes
from llama_index_mm.stores.rows import Changes, Row, chunks
from llama_index_mm.stores.schema import SEQ_BITS
from llama_index_mm.stores.spaces import drop_space, replace_space

if TYPE_CHECKING:
    from llama_index_mm.stores.vector_store import SpaceVectorStore

__all__ = ["MediaStore"]

logger = logging.getLogger(__name__)

_APPROXIMATE_ABOVE = 500_000  # vectors; reading all of them takes a tenth of a second
_RECALL = 0.99


class MediaStore(NodeStore):
    """Nodes, their vectors in several spaces, and the files that they come from.

    Every change is one transaction: after a crash it is there whole or not at all. FAISS indexes are derived. They are loaded
    when they are first searched, and follow whatever changes, here or in another process. One handle may write, and keeps that
    right from its first change until it is closed; any number may read, in threads and processes.

    Searches are exact. A (space, modality) of more vectors than ``approximate_above`` gets an approximate index when its files
    are written, if one reaches ``recall`` on the vectors themselves; `statistics` tells what was measured.

    Attributes:
        folder: where it is.
        temporary: removed when the store is closed, if set.

    Args:
        folder: made if it is missing.
        create: whether to start a new store where there is none.
        approximate_above: number of vectors above which a search may be approximate; None for never.
        recall: share of the true nearest that an approximate index must find, in (0, 1].
        vector_stores: gives for each space, by its name and the length of its vectors, a LlamaIndex vector store of its own,
            which searches in place of FAISS. What it holds can be made again from the folder: see `ExternalPartitions`.

    Raises:
        StoreError: there is no store, it is damaged, or of a version that can't be read.
        StoreLockedError: it is of an older version, and somebody else is writing, so that it can't be brought up to date.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        create: bool = True,
        approximate_above: int | None = _APPROXIMATE_ABOVE,
        recall: float = _RECALL,
        vector_stores: VectorStores | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.temporary: TemporaryDirectory[str] | None = None
        self._database = Database(self.folder, create=create)
        self._media = MediaFolder(self.folder)
        self._partitions = (
            Partitions(self._database, self.folder, approximate_above=approximate_above, recall=recall)
            if vector_stores is None
            else ExternalPartitions(self._database, self.folder, vector_stores)
        )

    def close(self) -> None:
        """Close the store; it can't be used any more. What was written through it goes into FAISS files first."""
        if self._database.is_writer and self.temporary is None:
            try:
                self.checkpoint()
            except StoreError as error:
                logger.warning("%s", error)
        self._database.close()
        self._partitions.unload()
        if self.temporary is not None:
            self.temporary.cleanup()

    def __enter__(self) -> "MediaStore":
        return self

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def media_folder(self) -> Path:
        """Where the files lie that belong to the store."""
        return self._media.folder

    def vector_store(self, space: str) -> "SpaceVectorStore":
        """One space as a LlamaIndex vector store."""
        from llama_index_mm.stores.vector_store import SpaceVectorStore

        return SpaceVectorStore(self, space)

    # -- what the index says of itself ------------------------------------------------------------------------------

    def meta(self, key: str) -> str | None:
        """Read an entry of the store's own notes."""
        rows = self._database.read("SELECT value FROM meta WHERE key = ?", [key])
        return rows[0][0] if rows else None

    def set_meta(self, key: str, value: str) -> None:
        """Write an entry of the store's own notes."""
        with self._database.writing() as database:
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, value])

    def spaces(self) -> dict[str, StoredSpace]:
        """What is known of every space."""
        rows = self._database.read("SELECT name, dimension, fingerprint, normalize FROM spaces ORDER BY name")
        return {name: StoredSpace(dimension, mark, bool(normalize)) for name, dimension, mark, normalize in rows}

    def declare_space(self, name: str, dimension: int, fingerprint: str, *, normalize: bool = True) -> None:
        """Add a space, or check that the one of this name is the same.

        Args:
            name: of the space.
            dimension: length of a vector.
            fingerprint: of its encoders.
            normalize: whether vectors and queries are scaled to unit length.

        Raises:
            SpaceError: the store holds vectors of another dimension or fingerprint under this name.
        """
        wanted = StoredSpace(dimension, fingerprint, normalize)
        if dimension < 1:
            raise SpaceError(f"Expected a dimension of at least 1 for space {name!r}, got {dimension}.")
        if name not in self.spaces():
            with self._database.writing() as database:  # another thread may come first
                database.execute("INSERT OR IGNORE INTO spaces VALUES (?, ?, ?, ?)", [name, *wanted])
        settled(name, self.spaces()[name], wanted, self.name)

    def replace_space(self, name: str, *, by: str) -> None:
        """Let another space take the name and the place of one, in one transaction. Nodes stay as they are.

        Args:
            name: of the space that goes; nothing goes if there is none.
            by: name of the space that takes its place.

        Raises:
            SpaceError: there is no space ``by``.
        """
        if by not in self.spaces():
            raise SpaceError(f"Space {by!r} is not in this store; it has {sorted(self.spaces())}.")
        with self._database.writing() as database:
            replace_space(database, name, by)
        self._partitions.forget(by)

    def drop_space(self, name: str) -> None:
        """Forget a space with all its vectors. Nodes stay, also those that are in no other space."""
        with self._database.writing() as database:
            drop_space(database, name)
        self._partitions.forget(name)

    def media_path(self, data: bytes, suffix: str) -> Path:
        """Keep bytes in the store's content-addressed folder.

        Args:
            data: content of the file.
            suffix: ending of its name, with the dot.
        """
        return self._media.keep(data, suffix)

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(self, records: Sequence[Record], sources: Sequence[Source] = (), replacing: Sequence[str] = ()) -> None:
        """Add nodes, in one transaction; a node with an id that is there already replaces the old one.

        The old one's vectors in spaces that ``records`` does not name are kept while text, media and metadata are the same.

        Args:
            records: nodes with their vectors.
            sources: files to note in the same transaction.
            replacing: ids of documents whose nodes go in the same transaction.

        Raises:
            SpaceError: a vector of an unknown space or of the wrong shape, not finite or of length 0.
            StoreError: an id that comes twice in ``records``; the disk is full. Nothing is changed then.
            StoreLockedError: somebody else is writing.
        """
        rows = self._rows(records)
        with self._database.writing() as database:
            changes = Changes(database, self._meaning)
            coming = {row.node_id for row in rows}
            changes.drop([seq for seq, node_id in changes.nodes("ref_doc_id", replacing) if node_id not in coming])
            changes.put(rows)
            self._note(database, sources)
            changes.finish()
        self._partitions.follow({number: len(seqs) for number, seqs in changes.touched.items()})

    def _meaning(self, body: str, class_name: str) -> str:
        return self._media.unpack(body, class_name).hash

    def _rows(self, records: Sequence[Record]) -> list[Row]:
        """Records, checked and ready to be written."""
        vectors = vector_bytes(records, self.spaces())
        return [self._row(record.node, given) for record, given in zip(records, vectors, strict=True)]

    def _row(self, node: BaseNode, vectors: Mapping[str, bytes]) -> Row:
        body, metadata = self._media.pack(node)
        modality = modality_of_node(node)
        return Row(node.node_id, node.ref_doc_id, modality, node.class_name(), body, metadata, lambda: node.hash, vectors)

    def delete(self, *, node_ids: Sequence[str] = (), ref_doc_ids: Sequence[str] = ()) -> int:
        """Delete nodes by their ids or by their documents'; unknown ids are passed over.

        Returns:
            How many nodes were deleted.
        """
        with self._database.writing() as database:
            changes = Changes(database, self._meaning)
            seqs = list(dict.fromkeys(changes.seqs("node_id", node_ids) + changes.seqs("ref_doc_id", ref_doc_ids)))
            changes.drop(seqs)
            database.executemany("DELETE FROM sources WHERE document_id = ?", [(one,) for one in ref_doc_ids])
            changes.finish()
        return len(seqs)

    def delete_from(self, space: str, seqs: Sequence[int] | NDArray[np.int64]) -> int:
        """Take nodes out of one space; a node that is in no other space is deleted.

        Args:
            space: name of the space.
            seqs: numbers of nodes, as `find` gives them.

        Returns:
            How many were in the space.
        """
        with self._database.writing() as database:
            changes = Changes(database, self._meaning)
            count = changes.drop_from(space, [int(seq) for seq in seqs])
            changes.finish()
        return count

    def clear(self) -> None:
        """Delete all nodes, and forget all files; spaces stay declared."""
        with self._database.writing() as database:
            changes = Changes(database, self._meaning)
            changes.drop([seq for (seq,) in database.execute("SELECT seq FROM nodes")])
            database.execute("DELETE FROM sources")
            changes.finish()

    # -- files ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _note(database: Any, sources: Sequence[Source]) -> None:
        rows = [(one.path, one.document_id, one.digest, one.status, one.reason) for one in sources]
        database.executemany("INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?)", rows)

    def release(self, path: str) -> None:
        """Forget a file. The nodes of its document go with it, unless another file holds the same: then they point there."""
        with self._database.writing() as database:
            note = self.source(path)
            database.execute("DELETE FROM sources WHERE path = ?", [path])
            if note is None or note.document_id is None:
                return
            changes = Changes(database, self._meaning)
            seqs = changes.seqs("ref_doc_id", [note.document_id])
            others = [one for one in self.sources(document_id=note.document_id) if one.path != path]
            if not others:
                changes.drop(seqs)
            local = next((Path(one.path) for one in others if "://" not in one.path), None)
            place = local or self._media.find(note.digest)  # what came from elsewhere was kept
            if others and place is not None:
                for seq, node in self.nodes(seqs).items():
                    self._rewrite(database, seq, node, moved(node, place))
            changes.finish()

    def _rewrite(self, database: Any, seq: int, old: BaseNode, new: BaseNode) -> None:
        """Change what a node says of its file, under its number."""
        delete_facts(database, [(seq, self._media.pack(old)[1])])
        body, metadata = self._media.pack(new)
        insert_facts(database, [(seq, metadata)])
        database.execute("UPDATE nodes SET body = ?, digest = ? WHERE seq = ?", [body, row_digest(body.encode()), seq])

    def note_sources(self, sources: Sequence[Source]) -> None:
        """Note what became of files; an older note on the same path is replaced."""
        with self._database.writing() as database:
            self._note(database, sources)

    def source(self, path: str) -> Source | None:
        """Give the note on a file."""
        rows = self._database.read("SELECT path, digest, status, reason, document_id FROM sources WHERE path = ?", [path])
        return Source(*rows[0]) if rows else None

    def sources(self, *, document_id: str | None = None, status: str | None = None) -> list[Source]:
        """Notes on files, by path; all of them, those of one document, or those of one status."""
        sql = "SELECT path, digest, status, reason, document_id FROM sources"
        given = [(name, value) for name, value in (("document_id", document_id), ("status", status)) if value is not None]
        if given:
            sql += " WHERE " + " AND ".join(f"{name} = ?" for name, _ in given)
        return [Source(*row) for row in self._database.read(sql + " ORDER BY path", [value for _, value in given])]

    # -- reading ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self._database.read("SELECT count(*) FROM nodes")[0][0])

    def counts(self) -> dict[str, int]:
        """How many nodes there are of each modality."""
        found = dict(self._database.read("SELECT modality, count(*) FROM nodes GROUP BY modality"))
        return {modality: found[modality] for modality in MODALITIES if modality in found}

    def partitions(self) -> dict[tuple[str, str], int]:
        """How many vectors there are in each (space, modality)."""
        rows = self._database.read("SELECT space, modality, vectors FROM partitions WHERE vectors > 0")
        return {(space, modality): count for space, modality, count in rows}

    def nodes(self, seqs: Sequence[int]) -> dict[int, BaseNode]:
        """Give nodes by their numbers, each of the class that it was; numbers that are gone are left out."""
        found = {}
        for part in chunks([int(seq) for seq in seqs]):
            sql = f"SELECT seq, class, body FROM nodes WHERE seq IN ({','.join('?' * len(part))})"
            found.update({seq: self._media.unpack(body, name) for seq, name, body in self._database.read(sql, part)})
        return found

    def find(
        self,
        *,
        node_ids: Sequence[str] | None = None,
        ref_doc_ids: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        filters: MetadataFilters | None = None,
        space: str | None = None,
    ) -> NDArray[np.int64]:
        """Give the numbers of the nodes that match everything given, ascending; None and [] restrict nothing.

        Args:
            node_ids: ids of nodes.
            ref_doc_ids: ids of documents.
            modalities: of the nodes.
            filters: on metadata.
            space: in which the nodes have a vector.

        Raises:
            FilterError: a filter that has no meaning.
        """
        where, values = list[str](), list[Any]()
        for column, wanted in (("node_id", node_ids), ("ref_doc_id", ref_doc_ids), ("modality", modalities)):
            if wanted:
                where.append(column + " IN (SELECT value FROM json_each(?))")
                values.append(json.dumps(list(wanted)))
        clause = compile_filters(filters)
        if clause is not None:
            where.append(f"seq IN ({clause[0]})")
            values += map(self._media.stand_in, clause[1])
        if space is not None:
            where.append(
                "EXISTS (SELECT 1 FROM partitions AS p JOIN vectors AS v "
                f"ON v.key = (p.id << {SEQ_BITS} | nodes.seq) WHERE p.space = ? AND p.modality = nodes.modality)"
            )
            values.append(space)
        sql = f"SELECT seq FROM nodes WHERE {' AND '.join(where) or 1} ORDER BY seq"
        if clause is not None and len(where) == 1:
            sql = f"SELECT seq FROM ({clause[0]}) ORDER BY seq"
        return np.array([row[0] for row in self._database.read(sql, values)], dtype=np.int64)

    def among(self, *, modalities: Sequence[str] | None = None, filters: MetadataFilters | None = None) -> SeqAmong:
        """Nodes to choose from in `search`: those that match everything given.

        Raises:
            FilterError: a filter that has no meaning.
        """
        return SeqAmong(self.find(modalities=modalities, filters=filters))

    def spread(self, most: int, *, modalities: Sequence[str] | None = None, space: str | None = None) -> Seqs:
        """At most so many numbers of nodes that match everything given, evenly spread over them, ascending."""
        seqs = self.find(modalities=modalities, space=space)
        return seqs[evenly(len(seqs), most)]

    # -- searching --------------------------------------------------------------------------------------------------

    def search(
        self,
        space: str,
        modality: str,
        query: Vectors,
        k: int,
        among: Among | Seqs | None = None,
        *,
        exact: bool = False,
        fingerprint: str | None = None,
    ) -> list[Hit]:
        """Find the nearest nodes of one modality in one space.

        Args:
            space: name of the space.
            modality: of the nodes.
            query: ``(d,)`` vector.
            k: how many; never fewer come back while there are that many.
            among: nodes to choose from, as `among` or `find` gives them; None for all. Exact, unless a vector store searches.
            exact: read all vectors, even where there is an approximate index.
            fingerprint: of the encoder that made the query; None if that is not known.

        Raises:
            SpaceError: the space is unknown, or the query has another dimension or fingerprint, numbers that are not finite, or
                length 0.
        """
        vector = self._query(space, query, fingerprint)
        allowed = seqs_of(among) if isinstance(among, Among) else among
        ids, similarities = self._partitions.get(space, modality).search(vector, k, allowed, exact=exact)
        return [Hit(int(seq), float(value)) for seq, value in zip(ids, similarities, strict=True)]

    def similarities(self, space: str, modality: str, query: Vectors, seqs: Sequence[int]) -> Vectors:
        """Inner products of the query with these nodes; NaN for a node that has no vector there.

        Raises:
            SpaceError: as in `search`.
        """
        vector = self._query(space, query)
        return self._partitions.get(space, modality).similarities(vector, np.asarray(seqs, dtype=np.int64))

    def sample(self, space: str, modality: str, size: int) -> Vectors:
        """At most ``size`` vectors of a partition, evenly spread: ``(m, d)``.

        Raises:
            SpaceError: the space is unknown.
        """
        return self._partitions.get(space, modality).sample(size)

    def vectors(self, space: str, modality: str, seqs: Sequence[int]) -> Vectors:
        """Vectors of nodes, ``(n, d)``; zeros for a node that has none there."""
        return self._partitions.get(space, modality).vectors(np.asarray(seqs, dtype=np.int64))

    def _query(self, space: str, query: Vectors, fingerprint: str | None = None) -> Vectors:
        """Check a query vector, and scale it where the space wants that."""
        known = self.spaces()
        if space not in known:
            raise SpaceError(f"Space {space!r} is not in this store; it has {sorted(known)}.")
        return checked_query(space, known[space], query, fingerprint)

    # -- care -------------------------------------------------------------------------------------------------------

    def checkpoint(self, *, everything: bool = False) -> None:
        """Write FAISS files for partitions that changed much since theirs were written, so that opening is quick.

        Nothing is lost without: the database is written at once, and a partition follows it when it is loaded.

        Args:
            everything: write those of every partition that changed at all.

        Raises:
            StoreError: the disk is full or fails; the older files are still good then.
            StoreLockedError: somebody else is writing.
        """
        self._partitions.checkpoint(everything=everything)

    def build_approximate(self, space: str, modality: str | None = None) -> dict[tuple[str, str], ApproximateFacts]:
        """Build approximate indexes whatever the number of vectors; they are kept up from then on.

        Args:
            space: name of the space.
            modality: of the nodes; None for each.

        Returns:
            What was measured, by space and modality. Where the recall was too low or nothing was gained, searches stay exact.
        """
        if space not in self.spaces():
            raise SpaceError(f"Space {space!r} is not in this store; it has {sorted(self.spaces())}.")
        return self._partitions.approximate(space, modality)

    def statistics(self) -> list[maintenance.PartitionStatistics]:
        """Size and kind of index of every partition, with the recall measured for approximate ones."""
        return maintenance.statistics(self._database, self._partitions)

    def check(self) -> maintenance.CheckReport:
        """Compare everything with everything: digests, counts, references, filters' rows, FAISS files, media files."""
        return maintenance.check(self._database, self._partitions, self._media)

    def repair(self) -> maintenance.CheckReport:
        """Make all that is derived anew from the nodes and vectors in the database, and check again."""
        maintenance.repair(self._database, self._partitions)
        return self.check()

    def compact(self) -> tuple[int, int]:
        """Give back the space of what was deleted; gives the folder's size in bytes before and after.

        Removes files in the store's media folder that no node points to.
        """
        return maintenance.compact(self._database, self._partitions, self._media)

    def copy_to(self, folder: Path | str) -> None:
        """Write a copy of the store, as it is at this moment, into an empty or missing folder."""
        maintenance.copy(self._database, self._media, Path(folder))
