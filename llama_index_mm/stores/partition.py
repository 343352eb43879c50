"""The vectors of one (space, modality) in memory, searched by FAISS."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.stores.records import evenly
from llama_index_mm.stores.scan import inner_products, inner_products_of_rows

__all__ = ["BLOCK", "Approximate", "Block", "Ids", "Partition"]

Ids = NDArray[np.int64]
BLOCK = 16_384  # rows; smaller blocks are merged as they come
_SPARSE = 0.25  # share of a block's rows below which only these are read
_SLACK = 2e-6  # more than the kernels' rounding, relative to the largest similarity


class Approximate(Protocol):
    """An index that gives candidates out of a block faster than reading all of it."""

    @property
    def most(self) -> int:
        """Results up to which its recall was measured."""

    def candidates(self, query: Vectors, k: int, live: NDArray[np.bool_] | None) -> Ids:
        """Rows of the block that probably hold the ``k`` nearest, of those that are live."""


@dataclass(frozen=True)
class Block:
    """Vectors side by side. Never changed, so that a search can go on while others write.

    Attributes:
        ids: ascending, ``(n,)`` int64.
        vectors: ``(n, d)`` float32, C-contiguous; may be a mapped file.
        live: ``(n,)``, which rows still count; None if all do.
    """

    ids: Ids
    vectors: Vectors
    live: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.ids) if self.live is None else int(np.count_nonzero(self.live))

    def rows(self, ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where ids are: ``(m,)`` rows, and ``(m,)`` whether they are here and live."""
        rows = np.minimum(np.searchsorted(self.ids, ids), max(len(self.ids) - 1, 0))
        here = self.ids[rows] == ids if len(self.ids) else np.zeros(len(ids), bool)
        if self.live is not None and len(self.ids):
            here &= self.live[rows]
        return rows, here

    def without(self, ids: Ids) -> "Block":
        """The block when these ids are gone."""
        rows, here = self.rows(ids)
        if not here.any():
            return self
        live = np.ones(len(self.ids), bool) if self.live is None else self.live.copy()
        live[rows[here]] = False
        return replace(self, live=live)

    def packed(self) -> "Block":
        """The block without rows that no longer count."""
        return self if self.live is None else Block(self.ids[self.live], self.vectors[self.live])

    def scores(self, query: Vectors, rows: NDArray[np.int64] | None = None) -> Vectors:
        """Inner products with all rows, or with some: ``(n,)`` float32."""
        return inner_products(query, self.vectors) if rows is None else inner_products_of_rows(query, self.vectors, rows)


@dataclass(frozen=True)
class Partition:
    """Inner-product search over some blocks.

    Attributes:
        dimension: length of a vector.
        change: number of the last change in the database that these blocks show.
        blocks: disjoint in their live ids.
        approximate: over the first block.
    """

    dimension: int
    change: int = 0
    blocks: tuple[Block, ...] = ()
    approximate: Approximate | None = None

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def ids(self) -> Ids:
        """All ids, ascending: ``(n,)`` int64."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *(block.packed().ids for block in self.blocks)]))

    def changed(self, change: int, touched: Ids, ids: Ids, vectors: Vectors) -> "Partition":
        """The partition after some changes.

        Args:
            change: the number of the last of them.
            touched: ids that came, went or got another vector.
            ids: those of them that are there now, ascending.
            vectors: theirs, ``(len(ids), d)``.
        """
        blocks = [block.without(touched) for block in self.blocks]
        kept = blocks[:1] if self.approximate is not None else []  # its rows are those that the approximate index knows
        for block in blocks[len(kept) :]:
            kept.append(block if 2 * len(block) > len(block.ids) or len(block.ids) > BLOCK else block.packed())
        fresh = Block(ids, np.ascontiguousarray(vectors, np.float32))
        least = 1 if self.approximate is not None else 0
        while len(kept) > least and len(kept[-1].ids) <= 2 * len(fresh.ids) and len(kept[-1].ids) + len(fresh.ids) <= BLOCK:
            last = kept.pop().packed()
            joined = np.concatenate([last.ids, fresh.ids])
            order = np.argsort(joined, kind="stable")
            fresh = Block(joined[order], np.concatenate([last.vectors, fresh.vectors])[order])
        blocks = [*kept, fresh] if len(fresh.ids) else kept
        return replace(self, change=change, blocks=tuple(blocks))

    def search(self, query: Vectors, k: int, among: Ids | None = None, *, exact: bool = False) -> tuple[Ids, Vectors]:
        """Find the nearest.

        Args:
            query: ``(d,)`` float32.
            k: how many.
            among: only these ids; None for all. Always exact.
            exact: leave the approximate index aside.

        Returns:
            Ids and similarities, ``(min(k, matches),)`` each, best first; equal similarities by ascending id.
        """
        if k <= 0 or not self.blocks:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        query = np.ascontiguousarray(query, np.float32)
        if among is not None and not (np.diff(among) > 0).all():
            among = np.asarray(sorted(set(among.tolist())), np.int64)
        found: list[tuple[Ids, Vectors]] = []
        for at, block in enumerate(self.blocks):
            quick = self.approximate if at == 0 and among is None and not exact else None
            found.append(_nearest(block, query, k, among, quick))
        ids = np.concatenate([np.zeros(0, np.int64), *(some for some, _ in found)])
        scores = np.concatenate([np.zeros(0, np.float32), *(some for _, some in found)])
        if k < len(ids):
            kept = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
            ids, scores = ids[kept], scores[kept]
        order = np.lexsort((ids, -scores))[:k]
        return ids[order], scores[order]

    def similarities(self, query: Vectors, ids: Ids) -> Vectors:
        """Inner products of the query with these ids, ``(len(ids),)`` float32; NaN where an id is not here."""
        out = np.full(len(ids), np.nan, dtype=np.float32)
        query = np.ascontiguousarray(query, np.float32)
        for block in self.blocks:
            rows, here = block.rows(ids)
            if here.any():
                out[here] = block.scores(query, rows[here])
        return out

    def vectors(self, ids: Ids) -> Vectors:
        """Vectors of ids that are here: ``(len(ids), d)``."""
        out = np.zeros((len(ids), self.dimension), np.float32)
        for block in self.blocks:
            rows, here = block.rows(ids)
            out[here] = block.vectors[rows[here]]
        return out

    def sample(self, size: int) -> Vectors:
        """At most ``size`` vectors, evenly spread over the ids: ``(m, d)`` float32."""
        ids = self.ids
        ids = ids[evenly(len(ids), size)]
        return self.vectors(ids)


def _nearest(block: Block, query: Vectors, k: int, among: Ids | None, quick: Approximate | None) -> tuple[Ids, Vectors]:
    """Ids and similarities of a block's rows that can be among the ``k`` nearest, of ties at the end all."""
    rows = None
    if quick is not None and k <= quick.most:
        rows = quick.candidates(query, k, block.live)
        if len(rows) < min(k, len(block)):
            rows = None
    live = block.live
    if among is not None:
        found, here = block.rows(among)
        if np.count_nonzero(here) < _SPARSE * len(block.ids):
            rows = found[here]
        else:
            live = np.zeros(len(block.ids), bool)
            live[found[here]] = True
    if rows is None:
        scores = block.scores(query)
        rows = np.arange(len(scores)) if live is None else np.flatnonzero(live)
        scores = scores if live is None else scores[live]
        if k < len(rows):
            last = np.partition(scores, len(scores) - k)[len(scores) - k]
            rows = rows[scores >= last - _SLACK * max(1.0, float(np.abs(scores).max()))]
    return block.ids[rows], block.scores(query, rows)
