"""The store that a run writes to where its nodes go into shards: one part at a time, in memory until it is whole."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index_mm.errors import StoreError
from llama_index_mm.ingestion.shards import ShardStore, StoredNode
from llama_index_mm.stores import Record, Source
from llama_index_mm.stores.records import scale

__all__ = ["ShardSink"]


class ShardSink:
    """What `Run` asks of a store, for the files of one part.

    It knows what was noted on these files before, and what this run does. Whether another part has the same content is found
    out when the parts are merged.

    Args:
        shards: where the part goes.
        known: earlier notes on the files.
    """

    def __init__(self, shards: ShardStore, known: Iterable[Source] = ()) -> None:
        self._shards = shards
        self._known = {one.path: one for one in known}
        self._notes: dict[str, Source] = {}
        self._released: set[str] = set()
        self._nodes: dict[str, StoredNode] = {}

    @property
    def folder(self) -> Path:
        """Where the shards are."""
        return self._shards.folder

    @property
    def identity(self) -> str:
        """By which the shards are known."""
        return self._shards.identity

    def media_path(self, data: bytes, suffix: str) -> Path:
        """Keep bytes with the shards."""
        return self._shards.keep(data, suffix)

    def source(self, path: str) -> Source | None:
        """Give the note on a file."""
        return self._notes.get(path) or self._known.get(path)

    def sources(self, *, document_id: str | None = None, status: str | None = None) -> list[Source]:
        """Notes on files by path: earlier ones and those of this run, or only this run's on one document."""
        notes = self._notes if document_id is not None else {**self._known, **self._notes}
        return [
            one for _, one in sorted(notes.items()) if document_id in (None, one.document_id) and status in (None, one.status)
        ]

    def note_sources(self, sources: Sequence[Source]) -> None:
        """Note what became of files; an older note on the same path is replaced."""
        self._notes.update({one.path: one for one in sources})
        self._released -= {one.path for one in sources}

    def release(self, path: str) -> None:
        """Forget a file, and the nodes of its document unless another file of this part holds the same."""
        note = self._notes.pop(path, None)
        if self._known.pop(path, None) or note:
            self._released.add(path)
        if note is not None and note.document_id and not self.sources(document_id=note.document_id):
            self._drop([note.document_id])

    def add(self, records: Sequence[Record], sources: Sequence[Source] = (), replacing: Sequence[str] = ()) -> None:
        """Add nodes, with vectors scaled as a store scales them; as `NodeStore.add`.

        Raises:
            SpaceError: a vector of an unknown space or of the wrong shape, not finite or of length 0.
            StoreError: an id that comes twice.
        """
        ids = [record.node.node_id for record in records]
        if len(set(ids)) != len(ids):
            raise StoreError(f"Node ids must not repeat within one call of add; these do: {sorted(ids)[:3]}.")
        vectors: list[dict[str, Any]] = [{} for _ in records]
        for space in dict.fromkeys(name for record in records for name in record.vectors):
            having = [at for at, record in enumerate(records) if space in record.vectors]
            given = [records[at].vectors[space] for at in having]
            for at, vector in zip(having, scale(given, [ids[at] for at in having], space, self._shards.spaces), strict=True):
                vectors[at][space] = vector
        self._drop(replacing)
        for record, own in zip(records, vectors, strict=True):
            node = record.node
            body, _ = self._shards.media.pack(node)
            self._nodes.pop(node.node_id, None)
            document_id = node.ref_doc_id or node.node_id
            self._nodes[node.node_id] = StoredNode(node.node_id, document_id, node.class_name(), body, own)
        self.note_sources(sources)

    def _drop(self, document_ids: Sequence[str]) -> None:
        gone = set(document_ids)
        self._nodes = {key: one for key, one in self._nodes.items() if one.document_id not in gone}

    def write(self, name: str, report: Mapping[str, Any]) -> None:
        """Write the part, if there is anything to write.

        Raises:
            StoreError: the disk is full or fails.
        """
        if self._nodes or self._notes or self._released:
            notes = [one for _, one in sorted(self._notes.items())]
            self._shards.write(name, list(self._nodes.values()), notes, sorted(self._released), report)
