"""The store of an index in one PostgreSQL database, for many machines that read and write."""

import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import MetadataFilters
from platformdirs import user_cache_path

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import SpaceError
from llama_index_mm.media import MODALITIES
from llama_index_mm.stores import postgres_care as care
from llama_index_mm.stores import postgres_reading as reading
from llama_index_mm.stores import postgres_writing as writing
from llama_index_mm.stores.approximate import ApproximateFacts
from llama_index_mm.stores.base import Among, NodeStore, Seqs
from llama_index_mm.stores.maintenance import CheckReport, PartitionStatistics
from llama_index_mm.stores.postgres_connections import Connections, Plan, read_address
from llama_index_mm.stores.postgres_facts import from_stored, to_stored
from llama_index_mm.stores.postgres_filters import PostgresAmong, all_of, listed
from llama_index_mm.stores.postgres_media import PostgresMedia
from llama_index_mm.stores.postgres_plans import PostgresPlans
from llama_index_mm.stores.postgres_tables import Tables, identity_of, make_tables, tables_are_missing
from llama_index_mm.stores.records import Hit, Record, Source, StoredSpace, checked_query, evenly, settled

if TYPE_CHECKING:
    from llama_index_mm.stores.postgres_space import PostgresSpaceStore

__all__ = ["PostgresStore"]

_SCHEMA = "llama_index_mm"
_APPROXIMATE_ABOVE = 100_000  # vectors; reading all of them takes a tenth of a second
_RECALL = 0.95
_PATIENCE = 30.0  # seconds; a standby takes over in less


class PostgresStore(NodeStore):
    """Nodes, their vectors in several spaces, files and notes: everything in one schema of a PostgreSQL database.

    Any number of processes on any number of machines may read and write. Every change is one transaction; writers wait for one
    another. A connection that is lost is tried again, so that a store with a standby outlives its server: the address names
    both hosts, and the one that can be written is taken. What was written is then on the standby for sure only if the server
    waits for it: ``synchronous_standby_names`` must be set, and ``synchronous_commit`` be ``on`` or more. Without, the last
    changes before the loss may be gone.

    Searches are exact, with filters in the same statement. A (space, modality) of more vectors than ``approximate_above`` gets
    an HNSW index of pgvector at the next `checkpoint`, if one finds enough; `statistics` tells what was measured.

    Example:
        >>> store = PostgresStore("postgresql://me:secret@db1,db2/photos")

    Args:
        url: ``postgresql://user:password@host:5432/database``; several hosts with commas between them. Other parameters are
            libpq's, but for ``schema``.
        create: whether to start a new store where there is none.
        schema: where the tables are; default is that of the url's ``?schema=``, or ``llama_index_mm``.
        approximate_above: number of vectors above which a search may be approximate; None for never.
        recall: share of the true 10 nearest that an HNSW index must find, in (0, 1].
        patience: seconds for which a lost connection is tried again. A machine that is gone without a word takes 15 of them
            to be noticed.
        media_cache: folder for files that belong to the store, on this machine; default is one of the user's cache.

    Raises:
        MissingExtraError: the extra ``postgres`` is not installed.
        StoreError: the url is no such address; the server can't be reached, refuses, or has no pgvector; there is no store, or
            one of a version that can't be read.
    """

    def __init__(
        self,
        url: str,
        *,
        create: bool = True,
        schema: str | None = None,
        approximate_above: int | None = _APPROXIMATE_ABOVE,
        recall: float = _RECALL,
        patience: float = _PATIENCE,
        media_cache: Path | str | None = None,
    ) -> None:
        address = read_address(url, schema, _SCHEMA)
        self._name = address.name
        self._url = f"{address.url}{'&' if '?' in address.url else '?'}schema={address.schema}"
        self._above = approximate_above
        self._recall = recall
        tables = Tables(address.schema)
        connections = Connections(address, patience)
        try:
            if create and connections.run(lambda: tables_are_missing(tables)):
                connections.run(lambda: make_tables(tables, secrets.token_hex(8)), write=True)
            identity = connections.run(lambda: identity_of(tables, address.name))
        except BaseException:
            connections.close()
            raise
        folder = Path(media_cache) if media_cache else user_cache_path("llama-index-mm") / "media" / identity
        self.plans = PostgresPlans(tables, connections, PostgresMedia(tables, folder, address.name), address.name)

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The address without its password."""
        return self._name

    @property
    def address(self) -> str:
        """The address with its password, by which other processes open the same store; not for messages."""
        return self._url

    @property
    def media_folder(self) -> Path:
        """Where files that belong to the store lie on this machine; others are fetched when their nodes are."""
        return self.plans.media.folder

    def close(self) -> None:
        """Close the connections; the store can't be used any more."""
        self.plans.close()
        if self.temporary is not None:
            self.temporary.cleanup()

    def __enter__(self) -> "PostgresStore":
        return self

    def meta(self, key: str) -> str | None:
        """Read an entry of the store's own notes."""
        rows = self.plans.rows(f"SELECT value FROM {self.plans.tables.meta} WHERE key = ?", to_stored(key))
        return from_stored(rows[0][0]) if rows else None

    def set_meta(self, key: str, value: str) -> None:
        """Write an entry of the store's own notes."""
        self.plans.write(lambda: self.plans.set_meta(key, value))

    def spaces(self) -> dict[str, StoredSpace]:
        """What is known of every space."""
        return self.plans.read(self.plans.spaces)

    def declare_space(self, name: str, dimension: int, fingerprint: str, *, normalize: bool = True) -> None:
        """Add a space, or check that the one of this name is the same; see `NodeStore.declare_space`.

        Raises:
            SpaceError: the store holds vectors of another dimension or fingerprint under this name.
        """
        wanted = StoredSpace(dimension, fingerprint, normalize)
        if dimension < 1:
            raise SpaceError(f"Expected a dimension of at least 1 for space {name!r}, got {dimension}.")
        known = self.spaces().get(name)
        if known is None:
            self.plans.write(lambda: writing.declare_space(self.plans.tables, name, wanted))
            known = self.spaces()[name]
        settled(name, known, wanted, self._name)

    def replace_space(self, name: str, *, by: str) -> None:
        """Let another space take the name and the place of one, in one transaction. Nodes stay as they are.

        Raises:
            SpaceError: there is no space ``by``.
        """
        number = self.plans.read(lambda: writing.numbers_of_spaces(self.plans.tables)).get(by)
        self.plans.write(lambda: writing.replace_space(self.plans.tables, name, by, number))

    def drop_space(self, name: str) -> None:
        """Forget a space with all its vectors. Nodes stay, also those that are in no other space."""
        self.plans.write(lambda: writing.drop_space(self.plans.tables, name))

    def media_path(self, data: bytes, suffix: str) -> Path:
        """Keep bytes in the database, named by their digest, and give the file on this machine that holds them."""
        path = self.plans.media.keep(data, suffix)
        self.plans.media.stored(self.plans.write(lambda: self.plans.media.store([path])))
        return path

    def vector_store(self, space: str) -> "PostgresSpaceStore":
        """One space as a LlamaIndex vector store."""
        from llama_index_mm.stores.postgres_space import PostgresSpaceStore

        return PostgresSpaceStore(self, space)

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
            StoreError: an id that comes twice in ``records``; the server refuses. Nothing is changed then.
        """
        given = self.plans.prepared(records)
        self.plans.media.stored(self.plans.write(lambda: self.plans.add(given, sources, replacing)))

    def delete(self, *, node_ids: Sequence[str] = (), ref_doc_ids: Sequence[str] = ()) -> int:
        """Delete nodes by their ids or by their documents'; unknown ids are passed over. Gives how many were deleted."""
        return self.plans.write(lambda: self.plans.delete(node_ids, ref_doc_ids))

    def delete_from(self, space: str, seqs: Sequence[int] | Seqs) -> int:
        """Take nodes out of one space; a node that is in no other space is deleted. Gives how many were in the space."""
        return self.plans.write(lambda: self.plans.delete_from(space, listed(seqs)))

    def clear(self) -> None:
        """Delete all nodes, and forget all files; spaces stay declared."""
        self.plans.write(self.plans.clear)

    # -- files ------------------------------------------------------------------------------------------------------

    def release(self, path: str) -> None:
        """Forget a file. The nodes of its document go with it, unless another file holds the same: then they point there."""
        self.plans.write(lambda: self.plans.release(path))

    def note_sources(self, sources: Sequence[Source]) -> None:
        """Note what became of files; an older note on the same path is replaced."""
        self.plans.write(lambda: self.plans.note(sources))

    def source(self, path: str) -> Source | None:
        """Give the note on a file."""
        found = self.plans.read(lambda: reading.read_sources(self.plans.tables, path=path))
        return found[0] if found else None

    def sources(self, *, document_id: str | None = None, status: str | None = None) -> list[Source]:
        """Notes on files, by path; all of them, those of one document, or those of one status."""
        return self.plans.read(lambda: reading.read_sources(self.plans.tables, document_id=document_id, status=status))

    # -- reading ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(self.counts().values())

    def counts(self) -> dict[str, int]:
        """How many nodes there are of each modality."""
        sql = f"SELECT modality, vectors FROM {self.plans.tables.partitions} WHERE space = ? AND vectors > 0"
        found = dict(map(tuple, self.plans.rows(sql, writing.NODES)))
        return {modality: found[modality] for modality in MODALITIES if modality in found}

    def partitions(self) -> dict[tuple[str, str], int]:
        """How many vectors there are in each (space, modality); those of none are left out."""
        rows = self.plans.rows(
            f"SELECT s.name, p.modality, p.vectors FROM {self.plans.tables.partitions} AS p "
            f"JOIN {self.plans.tables.spaces} AS s ON s.number = p.space WHERE p.vectors > 0 ORDER BY s.number, p.modality"
        )
        return {(from_stored(space), modality): count for space, modality, count in rows}

    def nodes(self, seqs: Sequence[int]) -> dict[int, BaseNode]:
        """Give nodes by their numbers, each of the class that it was; numbers that are gone are left out.

        Files of theirs that belong to the store are fetched if they are not on this machine.
        """
        return self.plans.read(lambda: self.plans.nodes(seqs))

    def find(
        self,
        *,
        node_ids: Sequence[str] | None = None,
        ref_doc_ids: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        filters: MetadataFilters | None = None,
        space: str | None = None,
    ) -> Seqs:
        """Give the numbers of the nodes that match everything given, ascending; see `NodeStore.find`.

        Raises:
            FilterError: a filter that has no meaning.
        """
        wanted = all_of(
            self.plans.conditions(node_ids=node_ids, ref_doc_ids=ref_doc_ids, modalities=modalities, filters=filters)
        )
        return self.plans.read(lambda: reading.find(self.plans.tables, wanted, space))

    def among(self, *, modalities: Sequence[str] | None = None, filters: MetadataFilters | None = None) -> PostgresAmong:
        """Nodes to choose from in `search`: those that match everything given. They stay in the database.

        Raises:
            FilterError: a filter that has no meaning.
        """
        return PostgresAmong(
            self.plans.conditions(modalities=modalities, filters=filters),
            lambda wanted: self.plans.read(lambda: reading.find(self.plans.tables, wanted)),
        )

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

        Never fewer than ``k`` come back while there are that many; see `NodeStore.search`.

        Raises:
            SpaceError: the space is unknown, or the query has another dimension or fingerprint, numbers that are not finite, or
                length 0.
        """

        def plan() -> Plan[list[Hit]]:
            known = yield from reading.space_of(self.plans.tables, space, modality)
            vector = checked_query(space, known.facts, query, fingerprint)
            found = yield from reading.nearest(self.plans.tables, known, modality, vector, k, among, exact=exact)
            return [Hit(int(seq), float(value)) for seq, value in zip(found.seqs, found.similarities, strict=True)]

        return self.plans.read(plan)

    def similarities(self, space: str, modality: str, query: Vectors, seqs: Sequence[int]) -> Vectors:
        """Inner products of the query with these nodes; NaN for a node that has no vector there.

        Raises:
            SpaceError: as in `search`.
        """
        return self.plans.read(
            lambda: reading.similarities(
                self.plans.tables, space, modality, seqs, lambda known: checked_query(space, known, query)
            )
        )

    def sample(self, space: str, modality: str, size: int) -> Vectors:
        """At most ``size`` vectors of a partition, evenly spread: ``(m, d)``.

        Raises:
            SpaceError: the space is unknown.
        """
        return self.plans.read(lambda: reading.sample(self.plans.tables, space, modality, size))

    def vectors(self, space: str, modality: str, seqs: Sequence[int]) -> Vectors:
        """Vectors of nodes, ``(n, d)``; zeros for a node that has none there."""
        return self.plans.read(lambda: reading.vectors(self.plans.tables, space, modality, seqs))

    # -- care -------------------------------------------------------------------------------------------------------

    def checkpoint(self, *, everything: bool = False) -> None:
        """Build approximate indexes where there are many vectors and none yet; nothing is lost without.

        Args:
            everything: also bring up to date what PostgreSQL plans by.
        """
        if everything:
            self.plans.write(lambda: care.analyze(self.plans.tables))
        if self._above is not None:
            above = self._above
            for space, modality in self.plans.read(lambda: care.due(self.plans.tables, above)):
                self.build_approximate(space, modality)

    def build_approximate(self, space: str, modality: str | None = None) -> dict[tuple[str, str], ApproximateFacts]:
        """Build HNSW indexes whatever the number of vectors; they are kept up from then on. Others may read meanwhile.

        Args:
            space: name of the space.
            modality: of the nodes; None for each.

        Returns:
            Nothing: what was measured is in `statistics`. Where the recall is too low, searches stay exact.

        Raises:
            SpaceError: the space is unknown, or has vectors of more than the 2000 dimensions that HNSW takes.
        """
        if space not in (known := self.spaces()):
            raise SpaceError(f"Space {space!r} is not in this store; it has {sorted(known)}.")
        tables, target = self.plans.tables, self._recall
        for of in [modality] if modality else [of for name, of in self.partitions() if name == space]:
            self.plans.write(partial(care.build, tables, space, of))
            measured = self.plans.read(partial(care.measure, tables, space, of, target))
            if measured is not None:
                self.plans.write(partial(care.settle, tables, space, of, measured, target))
        return {}

    def statistics(self) -> list[PartitionStatistics]:
        """Size and kind of index of every partition."""
        return self.plans.read(lambda: care.statistics(self.plans.tables))

    def check(self) -> CheckReport:
        """Compare everything with everything, and tell what is wrong."""
        return self.plans.read(lambda: care.check(self.plans.tables, self.plans.media))
