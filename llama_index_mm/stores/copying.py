"""An index from one store into another, without encoding anything again."""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from llama_index.core.schema import BaseNode
from tqdm import tqdm

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import StoreError
from llama_index_mm.nodes import modality_of_node, node_from_json, node_to_json
from llama_index_mm.stores.base import NodeStore
from llama_index_mm.stores.records import Record

__all__ = ["CopyReport", "StoreDigest", "copy_store", "digest_store"]

_BATCH = 500  # nodes that are read and written together
_NOTES = ("preset", "calibration")  # what an index says of itself, and what it learned
_OF = "copy_of"  # the note that says of which store this is a copy
_OWN = "mm-own-media://"  # stands for the folder of a store's own files
_RING = 1 << 128


@dataclass(frozen=True)
class StoreDigest:
    """What is in a store, whatever kind of store that is and in which order it was filled.

    Attributes:
        nodes: how many.
        vectors: how many, by ``space/modality``.
        sources: how many files are noted.
        digest: 32 hexadecimal digits: the sum of the SHA-256 of every node, every vector with its node's id, and every note.
    """

    nodes: int
    vectors: dict[str, int]
    sources: int
    digest: str


@dataclass
class CopyReport:
    """What was copied.

    Attributes:
        copied: nodes that were written; those that were there as they are in the source are left alone.
        removed: nodes of an earlier copy that the source has no more.
        missing: files of the source's own that are gone; their nodes were copied.
        source: what is in the source.
        target: what is in the target.
        seconds: that it took.
    """

    copied: int
    removed: int
    missing: list[str]
    source: StoreDigest
    target: StoreDigest
    seconds: float = field(compare=False)

    @property
    def ok(self) -> bool:
        """Whether both hold the same, to the bit."""
        return self.source == self.target


@dataclass(frozen=True)
class _Entry:
    """A node with its vectors, and what it adds to a digest."""

    node: BaseNode
    vectors: dict[str, Vectors]

    def sums(self, media: Path) -> int:
        own = node_to_json(self.node).replace(_as_json(media), _OWN)
        total = _sum("node", self.node.node_id, self.node.class_name(), own)
        for space, vector in self.vectors.items():
            total += _sum("vector", space, self.node.node_id, vector.tobytes())
        return total


def _as_json(folder: Path) -> str:
    return json.dumps(f"{folder}/")[1:-1]


def _sum(*parts: str | bytes) -> int:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest()[:16], "little")


def _entries(store: NodeStore, seqs: Sequence[int], spaces: Sequence[str]) -> Iterator[_Entry]:
    """Nodes with their vectors, in the order of their numbers; those that are gone are left out."""
    nodes = store.nodes(seqs)
    vectors: dict[int, dict[str, Vectors]] = {seq: {} for seq in nodes}
    for modality in {modality_of_node(node) for node in nodes.values()}:
        some = [seq for seq in sorted(nodes) if modality_of_node(nodes[seq]) == modality]
        for space in spaces:
            for seq, vector in zip(some, store.vectors(space, modality, some), strict=True):
                if vector.any():  # a vector of length 0 is in no store
                    vectors[seq][space] = np.ascontiguousarray(vector, np.float32)
    for seq in sorted(nodes):
        yield _Entry(nodes[seq], vectors[seq])


def _batches(store: NodeStore, spaces: Sequence[str], what: str, show_progress: bool) -> Iterator[list[_Entry]]:
    seqs = store.find()
    with tqdm(total=len(seqs), desc=what, unit="node", disable=not show_progress) as bar:
        for at in range(0, len(seqs), _BATCH):
            some = seqs[at : at + _BATCH].tolist()
            yield list(_entries(store, some, spaces))
            bar.update(len(some))


def digest_store(store: NodeStore, *, show_progress: bool = False) -> StoreDigest:
    """Read all of a store.

    Args:
        store: whose nodes, vectors and notes on files are read.
        show_progress: show a bar on standard error.
    """
    spaces = sorted(store.spaces())
    count, total, vectors = 0, 0, Counter[str]()
    for entries in _batches(store, spaces, "read", show_progress):
        for entry in entries:
            count += 1
            total += entry.sums(store.media_folder)
            vectors.update(f"{space}/{modality_of_node(entry.node)}" for space in entry.vectors)
    sources = store.sources()
    for one in sources:
        total += _sum("source", one.path, one.digest, one.status, one.reason, one.document_id or "")
    return StoreDigest(count, dict(sorted(vectors.items())), len(sources), f"{total % _RING:032x}")


def copy_store(source: NodeStore, target: NodeStore, *, show_progress: bool = False) -> CopyReport:
    """Copy an index: nodes, vectors, the store's own files, notes on files, and what was learned of its similarities.

    Nothing is encoded. A copy that was stopped goes on when it is called again, and one that is older is brought up to date.
    At the end all of both stores is read and compared.

    Args:
        source: nobody should be writing to it.
        target: empty, or an earlier copy of the same store.
        show_progress: show bars on standard error.

    Raises:
        StoreError: the target holds another index.
        SpaceError: a space of the target is another than that of the same name in the source.
    """
    began = time.monotonic()
    mark = source.meta(_OF) or source.identity
    if target.identity == source.identity and target.name == source.name:
        raise StoreError(f"Expected two stores, got {source.name} twice.")
    of = target.meta(_OF)
    if of is None and len(target):
        raise StoreError(f"{target.name} holds another index. Give an empty folder or database to copy {source.name} to.")
    if of not in (None, mark):
        raise StoreError(f"{target.name} holds a copy of another index. Give an empty folder or database.")
    target.set_meta(_OF, mark)
    spaces = source.spaces()
    for name, space in spaces.items():
        target.declare_space(name, space.dimension, space.fingerprint, normalize=space.normalize)
    sources = {one.path: one for one in source.sources()}
    before = len(target)
    for path in [one.path for one in target.sources() if one.path not in sources]:
        target.release(path)
    removed = before - len(target)
    copied, missing = 0, dict[str, None]()
    stays: set[str] = set()
    for entries in _batches(source, sorted(spaces), "copy", show_progress):
        stays.update(entry.node.node_id for entry in entries)
        ids = [entry.node.node_id for entry in entries]
        old = target.find(node_ids=ids).tolist()
        there = {one.node.node_id: one.sums(target.media_folder) for one in _entries(target, old, sorted(spaces))}
        fresh = [one for one in entries if there.get(one.node.node_id) != one.sums(source.media_folder)]
        if gone := [one.node.node_id for one in fresh if one.node.node_id in there]:
            target.delete(node_ids=gone)  # so that no vector stays that the source has not
        target.add([Record(_rehomed(one.node, source, target, missing), one.vectors) for one in fresh])
        copied += len(fresh)
    seqs = target.find().tolist()
    extra = [
        node.node_id
        for at in range(0, len(seqs), _BATCH)
        for node in target.nodes(seqs[at : at + _BATCH]).values()
        if node.node_id not in stays
    ]
    removed += target.delete(node_ids=extra) if extra else 0
    noted = {one.path: one for one in target.sources()}
    target.note_sources([one for path, one in sources.items() if noted.get(path) != one])
    for key in _NOTES:
        if (value := source.meta(key)) is not None:
            target.set_meta(key, value)
    target.checkpoint(everything=True)
    told = [digest_store(one, show_progress=show_progress) for one in (source, target)]
    return CopyReport(copied, removed, list(missing), told[0], told[1], time.monotonic() - began)


def _rehomed(node: BaseNode, source: NodeStore, target: NodeStore, missing: dict[str, None]) -> BaseNode:
    """A node whose files of the source's own are the target's own."""
    own, body = _as_json(source.media_folder), node_to_json(node)
    if own not in body:
        return node
    for told in sorted(set(re.findall(re.escape(own) + r"(?:[^\"\\]|\\.)*", body)), key=len, reverse=True):
        file = Path(json.loads(f'"{told}"'))
        try:
            kept = str(target.media_path(file.read_bytes(), file.suffix))
        except FileNotFoundError:
            missing[str(file)] = None
            kept = str(target.media_folder / file.relative_to(source.media_folder))
        body = body.replace(told, json.dumps(kept)[1:-1])
    return node_from_json(body, node.class_name())
