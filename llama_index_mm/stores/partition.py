"""The vectors of one (space, modality) in an exact FAISS index."""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors

__all__ = ["Partition"]

Ids = NDArray[np.int64]
_SLACK = 1e-6  # more than FAISS's rounding of a similarity, relative to it


class Partition:
    """Inner-product search over unit vectors, exact.

    Args:
        dimension: length of a vector.
        revision: of the partition in the database that this index shows.
    """

    def __init__(self, dimension: int, revision: int) -> None:
        self.revision = revision
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        self._ids: Ids | None = None

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def ids(self) -> Ids:
        """All ids, ascending: ``(n,)`` int64."""
        if self._ids is None:
            self._ids = np.sort(faiss.vector_to_array(self._index.id_map))
        return self._ids

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add ``(n, d)`` vectors under ids that are not there yet."""
        self._index.add_with_ids(np.ascontiguousarray(vectors), ids)
        self._ids = None

    def remove(self, ids: Ids) -> None:
        """Take ids out; ids that are not there are passed over."""
        self._index.remove_ids(ids)
        self._ids = None

    def search(self, query: Vectors, k: int, among: Ids | None = None) -> tuple[Ids, Vectors]:
        """Find the nearest.

        Args:
            query: ``(d,)`` float32.
            k: how many.
            among: only these ids; None for all.

        Returns:
            Ids and similarities, ``(min(k, matches),)`` each, best first; equal similarities by ascending id.
        """
        if among is not None:
            among = np.intersect1d(self.ids, among, assume_unique=False)
        found = len(self) if among is None else len(among)
        k = min(k, found)
        if k <= 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        if among is not None:
            ids, similarities = among, self.similarities(query, among)
        else:
            ids, similarities = self._nearest(query, k)
        order = np.lexsort((ids, -similarities))[:k]
        return ids[order], similarities[order]

    def _nearest(self, query: Vectors, k: int) -> tuple[Ids, Vectors]:
        """At least the ``k`` nearest. Of a tie at the cut FAISS keeps the highest ids; here the whole tie is given."""
        scores, labels = self._index.search(query[None], min(k + 1, len(self)))
        if k < len(self) and scores[0, k] == scores[0, k - 1]:
            tie = float(scores[0, k])
            _, scores, labels = self._index.range_search(query[None], tie - _SLACK * max(1.0, abs(tie)))
            return labels, scores
        return labels[0], scores[0]

    def similarities(self, query: Vectors, ids: Ids) -> Vectors:
        """Inner products of the query with these ids, ``(len(ids),)`` float32; NaN where an id is not here."""
        out = np.full(len(ids), np.nan, dtype=np.float32)
        here = np.isin(ids, self.ids)
        if here.any():
            # Not "@": BLAS rounds equal rows differently by their place, and ties would be torn.
            out[here] = np.einsum("ij,j->i", self._index.reconstruct_batch(ids[here]), query)
        return out

    def sample(self, size: int) -> Vectors:
        """At most ``size`` vectors, evenly spread over the ids: ``(m, d)`` float32."""
        ids = self.ids
        if len(ids) > size:
            ids = ids[np.linspace(0, len(ids) - 1, size).astype(np.int64)]
        vectors: Vectors = self._index.reconstruct_batch(ids) if len(ids) else np.zeros((0, self._index.d), np.float32)
        return vectors
