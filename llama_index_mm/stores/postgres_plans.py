"""What a store in PostgreSQL does, as plans: each a transaction, carried out with or without an event loop."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import MetadataFilters

from llama_index_mm.errors import StoreError
from llama_index_mm.nodes import modality_of_node, moved
from llama_index_mm.stores import postgres_reading as reading
from llama_index_mm.stores import postgres_writing as writing
from llama_index_mm.stores.postgres_connections import Connections, Plan, Statement, T
from llama_index_mm.stores.postgres_facts import Prepared, from_stored, prepare, to_stored
from llama_index_mm.stores.postgres_filters import Condition, compile_condition
from llama_index_mm.stores.postgres_media import PostgresMedia
from llama_index_mm.stores.postgres_tables import Tables, lock
from llama_index_mm.stores.records import Record, Source, StoredSpace, vector_bytes
from llama_index_mm.stores.rows import Row

__all__ = ["PostgresPlans"]


class PostgresPlans:
    """Plans over the tables of one store, and the two ways to carry them out.

    Args:
        tables: of the store.
        connections: to the server.
        media: files of the store.
        name: of the store, for messages.
    """

    def __init__(self, tables: Tables, connections: Connections, media: PostgresMedia, name: str) -> None:
        self.tables = tables
        self.media = media
        self._connections = connections
        self._name = name
        self._open = True
        self._process = os.getpid()

    def close(self) -> None:
        """Close the connections; nothing can be carried out any more."""
        self._open = False
        self._connections.close()

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError(f"The store in {self._name} is closed. Open it again.")
        if self._process != os.getpid():  # after a fork; what is connected belongs to the process that went on
            self._connections.engine.dispose(close=False)
            self._process = os.getpid()

    def read(self, make: Callable[[], Plan[T]]) -> T:
        """Carry out a plan that reads; all of it sees the store as of one moment."""
        self._check_open()
        return self._connections.run(make)

    async def aread(self, make: Callable[[], Plan[T]]) -> T:
        """Like `read`."""
        self._check_open()
        return await self._connections.arun(make)

    def write(self, make: Callable[[], Plan[T]]) -> T:
        """Carry out a plan that changes something, in one transaction."""
        self._check_open()
        return self._connections.run(make, write=True)

    async def awrite(self, make: Callable[[], Plan[T]]) -> T:
        """Like `write`."""
        self._check_open()
        return await self._connections.arun(make, write=True)

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """Read the rows of one statement."""

        def plan() -> Plan[list[Any]]:
            return (yield Statement(sql, values))

        return self.read(plan)

    # -- nodes to write ---------------------------------------------------------------------------------------------

    def prepared(self, records: Sequence[Record]) -> list[Prepared]:
        """Records, checked and ready to be written.

        Raises:
            SpaceError: a vector of an unknown space or of the wrong shape, not finite or of length 0.
            StoreError: an id that comes twice.
        """
        spaces = self.read(self.spaces) if any(record.vectors for record in records) else {}
        vectors = vector_bytes(records, spaces)
        return [self._prepared(record.node, given) for record, given in zip(records, vectors, strict=True)]

    def _prepared(self, node: BaseNode, vectors: Mapping[str, bytes]) -> Prepared:
        body, metadata = self.media.pack(node)
        modality = modality_of_node(node)
        row = Row(node.node_id, node.ref_doc_id, modality, node.class_name(), body, metadata, lambda: node.hash, vectors)
        return prepare(row, node)

    # -- plans that write -------------------------------------------------------------------------------------------

    def _changes(self) -> writing.Changes:
        return writing.Changes(self.tables, lambda body, class_name: self.media.unpack(body, class_name).hash)

    def add(self, given: Sequence[Prepared], sources: Sequence[Source] = (), replacing: Sequence[str] = ()) -> Plan[list[str]]:
        """Add nodes. Gives the names of their media files that are in the database then."""
        changes = self._changes()
        yield from changes.begin()
        coming = {one.row.node_id for one in given}
        old = yield from changes.seqs("ref_doc_id", replacing)
        yield from changes.drop([seq for seq, node_id in old.items() if node_id not in coming])
        yield from changes.put(given)
        files = yield from self.media.store([path for one in given for path in self.media.named_in(one.row.body)])
        yield from writing.note(self.tables, sources)
        yield from changes.finish()
        return files

    def delete(self, node_ids: Sequence[str], ref_doc_ids: Sequence[str]) -> Plan[int]:
        """Delete nodes and what is noted of the files of documents; give how many nodes."""
        changes = self._changes()
        yield from changes.begin()
        found = yield from changes.seqs("node_id", node_ids)
        found |= yield from changes.seqs("ref_doc_id", ref_doc_ids)
        yield from changes.drop(list(found))
        sql = f"DELETE FROM {self.tables.sources} WHERE document_id = ANY(CAST(? AS text[]))"
        yield Statement(sql, ([to_stored(one) for one in ref_doc_ids],))
        yield from changes.finish()
        return len(found)

    def delete_from(self, space: str, wanted: Condition) -> Plan[int]:
        """Take the nodes that pass a test out of a space; give how many were in it."""
        changes = self._changes()
        yield from changes.begin()
        seqs = yield from reading.find(self.tables, wanted, space)
        count = yield from changes.drop_from(space, seqs.tolist())
        yield from changes.finish()
        return count

    def clear(self) -> Plan[None]:
        """Delete all nodes, and forget all files."""
        changes = self._changes()
        yield from changes.begin()
        yield from changes.clear()
        yield Statement(f"DELETE FROM {self.tables.sources}")

    def release(self, path: str) -> Plan[None]:
        """Forget a file, with the nodes of its document unless another file holds the same."""
        changes = self._changes()
        yield from changes.begin()
        noted = yield from reading.read_sources(self.tables, path=path)
        yield Statement(f"DELETE FROM {self.tables.sources} WHERE path = ?", (to_stored(path),))
        document = noted[0].document_id if noted else None
        if document is None:
            return
        found = yield from changes.seqs("ref_doc_id", [document])
        others = yield from reading.read_sources(self.tables, document_id=document)
        if not others:
            yield from changes.drop(list(found))
        local = next((Path(one.path) for one in others if "://" not in one.path), None)
        place = local or (yield from self.media.place(noted[0].digest))  # what came from elsewhere was kept
        if others and place is not None:
            nodes = yield from self.nodes(list(found))
            for seq, node in nodes.items():
                yield from changes.rewrite(seq, self._prepared(moved(node, place), {}))
        yield from changes.finish()

    def note(self, sources: Sequence[Source]) -> Plan[None]:
        """Note what became of files."""
        yield lock(self.tables)
        yield from writing.note(self.tables, sources)

    def set_meta(self, key: str, value: str) -> Plan[None]:
        """Write an entry of the store's own notes."""
        yield lock(self.tables)
        sql = f"INSERT INTO {self.tables.meta} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        yield Statement(sql, (to_stored(key), to_stored(value)))

    # -- plans that read --------------------------------------------------------------------------------------------

    def spaces(self) -> Plan[dict[str, StoredSpace]]:
        """What is known of every space."""
        sql = f'SELECT name, dimension, fingerprint, normalize FROM {self.tables.spaces} ORDER BY name COLLATE "C"'
        rows = yield Statement(sql)
        return {from_stored(name): StoredSpace(*facts) for name, *facts in rows}

    def nodes(self, seqs: Sequence[int]) -> Plan[dict[int, BaseNode]]:
        """Nodes by their numbers, ascending; their files are fetched."""
        sql = f"SELECT seq, class, body FROM {self.tables.nodes} WHERE seq = ANY(CAST(? AS bigint[])) ORDER BY seq"
        rows = yield Statement(sql, ([int(seq) for seq in seqs],))
        yield from self.media.fetch([path for _, _, body in rows for path in self.media.named_in(body)])
        return {seq: self.media.unpack(body, class_name) for seq, class_name, body in rows}

    def conditions(
        self,
        *,
        node_ids: Sequence[str] | None = None,
        ref_doc_ids: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        filters: MetadataFilters | None = None,
    ) -> tuple[Condition, ...]:
        """Tests of nodes that all hold for what is asked for; None and [] restrict nothing.

        Raises:
            FilterError: a filter that has no meaning.
        """
        compiled = compile_condition(filters, self.media.stand_in)
        return reading.conditions_of(node_ids=node_ids, ref_doc_ids=ref_doc_ids, modalities=modalities, filters=compiled)
