"""A partition that is searched by a LlamaIndex vector store. It gives candidates; the database says what is true of them."""

import math
from typing import TYPE_CHECKING

import numpy as np

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import StoreError
from llama_index_mm.stores.partition import Block, Ids, Partition
from llama_index_mm.stores.partitions import changed_since, vectors_of
from llama_index_mm.stores.records import evenly
from llama_index_mm.stores.schema import SEQ_BITS

if TYPE_CHECKING:
    from llama_index_mm.stores.external import ExternalPartitions

__all__ = ["ExternalPartition"]

_MORE = 10  # candidates above those that are wanted
_SLACK = 2.0  # as many as would do, if those that are allowed lay evenly among all
_GROWTH = 4
_MOST = 10_000  # candidates of one question; Milvus gives at most 16,384
_TIE = 2e-6  # similarities nearer than this may be in another order there
_LAST = 3  # candidates at the end, which say how far the vector store went
_TRIES = 10


class ExternalPartition:
    """What `Partition` is, over a vector store.

    Candidates are those that the vector store gives and all nodes that changed since it was brought up to date. Their vectors
    are read from the database, so that nothing deleted, replaced or forbidden comes out, whatever the vector store still has,
    and similarities are exact. Where few nodes are allowed their vectors are read, and the vector store is not asked: so it is
    where it would have to give more candidates than there are nodes to read, or gave too few.

    Args:
        side: to which it belongs.
        space: name of the space.
        modality: of the nodes.
        number: of the partition, None if there is none yet.
        dimension: length of a vector.
    """

    def __init__(self, side: "ExternalPartitions", space: str, modality: str, number: int | None, dimension: int) -> None:
        self._side = side
        self._space = space
        self._modality = modality
        self._number = number
        self._dimension = dimension

    def search(self, query: Vectors, k: int, among: Ids | None = None, *, exact: bool = False) -> tuple[Ids, Vectors]:
        """As `Partition.search`.

        Raises:
            StoreError: the vector store can't be asked.
        """
        if k <= 0 or self._number is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        query = np.ascontiguousarray(query, np.float32)
        among = None if among is None else np.unique(among)
        count = self._count()
        few = count if among is None else min(len(among), count)
        fetch = math.ceil(_SLACK * k * count / max(few, 1)) if few < count else k
        fetch += _MORE
        while not exact and fetch < few and fetch <= _MOST:
            found, given, worst = self._asked(query, k, among, fetch)
            if found is None:
                break
            full = len(found[0]) == k
            if full and (given < fetch or worst < found[1][-1] - _TIE):
                return found
            if full and _GROWTH * fetch > _MOST:  # so many of the same similarity that their order does not matter
                return found
            if given < fetch:
                break
            fetch *= _GROWTH
        if among is None or len(among) >= count:
            return self._side.local(self._space, self._modality).search(query, k, among)
        return self._read(among).search(query, k)

    def _asked(self, query: Vectors, k: int, among: Ids | None, fetch: int) -> tuple[tuple[Ids, Vectors] | None, int, float]:
        """The nearest of so many candidates, how many the vector store gave, and how similar the last of these are.

        None if the vector store does not hold this partition.
        """
        number = self._number or 0
        for _ in range(_TRIES):
            held = self._side.held(self._space, number)
            if held is None:
                return None, 0, 0.0
            ranked, given = self._side.at(self._space).nearest(query, self._modality, fetch)
            seqs = np.unique(ranked) if among is None else np.intersect1d(ranked, among)
            with self._side.database.reading() as database:
                row = database.execute("SELECT listed_after FROM partitions WHERE id = ?", [number]).fetchone()
                if row is None or row[0] > held:  # changes were sent and forgotten meanwhile
                    continue
                changed = changed_since(database, number, held)
                known = ranked[~np.isin(ranked, changed)]  # others may be there with vectors that they no longer have
                last = Block(*vectors_of(database, number, self._dimension, np.unique(known[-_LAST:])))
                if among is not None:
                    changed = np.intersect1d(changed, among)
                ids, vectors = vectors_of(database, number, self._dimension, np.union1d(seqs, changed))
            found = Partition(self._dimension, 0, (Block(ids, vectors),)).search(query, k)
            return found, given, float(last.scores(query).min()) if len(last) else math.inf
        raise StoreError("Nodes are being changed faster than they can be read. Try again.")

    def _count(self) -> int:
        rows = self._side.database.read("SELECT vectors FROM partitions WHERE id = ?", [self._number])
        return int(rows[0][0]) if rows else 0

    def _read(self, seqs: Ids) -> Partition:
        """A partition of those of some nodes that are there."""
        if self._number is None:
            return Partition(self._dimension)
        with self._side.database.reading() as database:
            return Partition(self._dimension, 0, (Block(*vectors_of(database, self._number, self._dimension, seqs)),))

    def similarities(self, query: Vectors, ids: Ids) -> Vectors:
        """As `Partition.similarities`."""
        return self._read(np.unique(ids)).similarities(query, ids)

    def vectors(self, ids: Ids) -> Vectors:
        """As `Partition.vectors`."""
        return self._read(np.unique(ids)).vectors(ids)

    def sample(self, size: int) -> Vectors:
        """As `Partition.sample`."""
        if self._number is None:
            return np.zeros((0, self._dimension), np.float32)
        low = self._number << SEQ_BITS
        rows = self._side.database.read(
            "SELECT key FROM vectors WHERE key >= ? AND key < ? ORDER BY key", [low, low + (1 << SEQ_BITS)]
        )
        ids = np.array([key - low for (key,) in rows], np.int64)
        ids = ids[evenly(len(ids), size)]
        return self._read(ids).vectors(ids)
