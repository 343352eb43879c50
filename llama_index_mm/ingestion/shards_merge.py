"""Shards into a store."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from llama_index.core.schema import BaseNode
from tqdm import tqdm

from llama_index_mm.errors import SpaceError, StoreError
from llama_index_mm.ingestion.shards import Part, ShardStore, StoredNode
from llama_index_mm.nodes import node_from_json, node_to_json
from llama_index_mm.stores import NodeStore, Record, Source

__all__ = ["MergeReport", "merge_shards"]


@dataclass
class MergeReport:
    """What was brought into the store.

    Attributes:
        parts: that were read.
        documents: that were added.
        nodes: that were added.
        vectors: that were added, by space.
        duplicates: files with the content of a document that was there; they share its nodes.
        unchanged: files of which the store knew it all.
        failed: files noted as those that could not be taken.
        removed: files that are gone, and were taken out of the store.
        seconds: that it took.
    """

    parts: int = 0
    documents: int = 0
    nodes: int = 0
    vectors: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    unchanged: int = 0
    failed: int = 0
    removed: int = 0
    seconds: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        told = [f"{self.parts} parts: {self.documents} documents added ({self.nodes} nodes)", f"{self.unchanged} unchanged"]
        told += [f"{self.duplicates} duplicates"] if self.duplicates else []
        told += [f"{self.removed} removed"] if self.removed else []
        return ", ".join([*told, f"{self.failed} not taken"])


def merge_shards(shards: ShardStore | Path | str, store: NodeStore, *, show_progress: bool = False) -> MergeReport:
    """Load shards into a store: every document once, however many parts hold it, and what became of every file.

    What the shards say last of a file takes the place of what the store says. Parts come in order, each document from the first
    part that has it. Merging again changes nothing, so a merge that was stopped goes on where it stopped. The shards stay.

    It holds the path of every file in memory, some 0.3 KB each.

    Args:
        shards: or their folder.
        store: any store; it may hold other documents.
        show_progress: show a bar on standard error.

    Raises:
        SpaceError: the store was made with another preset or with other weights.
        StoreError: a part is damaged, or the store has not taken what it was given.
    """
    began = time.monotonic()
    merge = _Merge(shards if isinstance(shards, ShardStore) else ShardStore(shards), store)
    merge.declare()
    names = merge.shards.parts()
    last = merge.last(names)
    for at, name in enumerate(tqdm(names, desc="merge", unit="part", disable=not show_progress)):
        part = merge.shards.part(name)
        merge.take(part, {path for path in _paths(part) if last[path] == at})
    store.checkpoint()
    merge.report.seconds = time.monotonic() - began
    return merge.report


class _Merge:
    def __init__(self, shards: ShardStore, store: NodeStore) -> None:
        self.shards = shards
        self.store = store
        self.report = MergeReport()
        self._known = {one.path: one for one in store.sources()}
        self._files = Counter(one.document_id for one in self._known.values() if one.document_id)

    def declare(self) -> None:
        made = self.store.meta("preset")
        if made not in (None, self.shards.preset):
            raise SpaceError(
                f"The index in {self.store.name} was made with preset {made!r}, the shards in {self.shards.folder} with "
                f"{self.shards.preset!r}. Merge them into an index of their own."
            )
        for name, space in self.shards.spaces.items():
            self.store.declare_space(name, space.dimension, space.fingerprint, normalize=space.normalize)
        if made is None:
            self.store.set_meta("preset", self.shards.preset)

    def last(self, names: list[str]) -> dict[str, int]:
        """The last part that says something of each file."""
        return {path: at for at, name in enumerate(names) for path in _paths(self.shards.part(name))}

    def take(self, part: Part, current: set[str]) -> None:
        """Bring in what a part says of some files."""
        self.report.parts += 1
        for path in current.intersection(part.released) & set(self._known):
            self._release(path)
            self.report.removed += 1
        sources = [one for one in part.sources if one.path in current]
        coming = [one for one in sources if self._known.get(one.path) != one]
        self.report.unchanged += sum(one.status == "indexed" for one in sources) - sum(
            one.status == "indexed" for one in coming
        )
        for one in coming:
            if one.path in self._known:
                self._release(one.path)
        fresh = {one.document_id for one in coming if one.document_id and not self._files[one.document_id]}
        nodes = [one for one in self.shards.nodes(part) if one.document_id in fresh] if fresh else []
        if coming:
            self._add(nodes, coming, sorted(map(str, fresh)))
        self.report.failed += sum(one.status == "failed" for one in coming)
        self.report.duplicates += sum(one.document_id is not None for one in coming) - len(fresh)

    def _release(self, path: str) -> None:
        note = self._known.pop(path)
        self.store.release(path)
        if note.document_id:
            self._files[note.document_id] -= 1

    def _add(self, nodes: list[StoredNode], sources: list[Source], documents: list[str]) -> None:
        self.store.add([Record(self._node(one), one.vectors) for one in nodes], sources, documents)
        there = len(self.store.find(node_ids=[one.node_id for one in nodes])) if nodes else 0
        if there != len(nodes):
            raise StoreError(f"{self.store.name} was given {len(nodes)} nodes and has {there} of them. Merge again.")
        self._known.update({one.path: one for one in sources})
        self._files.update(one.document_id for one in sources if one.document_id)
        self.report.documents += len(documents)
        self.report.nodes += len(nodes)
        for space, count in Counter(space for one in nodes for space in one.vectors).items():
            self.report.vectors[space] = self.report.vectors.get(space, 0) + count

    def _node(self, stored: StoredNode) -> BaseNode:
        """A node whose files are those of the store."""
        node = self.shards.media.unpack(stored.body, stored.class_name)
        body = node_to_json(node)
        for file in (own := self.shards.media.named_in(stored.body)):
            place = self.store.media_path(file.read_bytes(), file.suffix)
            body = body.replace(json.dumps(str(file))[1:-1], json.dumps(str(place))[1:-1])
        return node_from_json(body, stored.class_name) if own else node


def _paths(part: Part) -> list[str]:
    return [*(one.path for one in part.sources), *part.released]
