"""Candidates from compressed vectors, re-ranked exactly.

Vectors are rotated at random, sorted into lists by k-means (an inverted file) and kept as RaBitQ codes of one bit a number. A
search reads the codes in the lists nearest to the query and compares the best candidates' true vectors with it. How many lists
and candidates it takes is measured on the vectors themselves, and so is whether it is worth it at all: on vectors without
clusters it is not, and then every search reads all of them.

RaBitQ: Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound", SIGMOD 2024.
"""

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.stores.partition import Approximate, Block, Partition

__all__ = ["ApproximateFacts", "ApproximateIndex", "Setting", "build_approximate", "load_approximate"]

logger = logging.getLogger(__name__)

_LISTS = (16, 4096)  # least and most; the square root of the number of vectors lies between
_TRAINED = 64  # vectors a list
_ITERATIONS = 10
_SEED = 20_240_521
_CHUNK = 65_536  # vectors added at a time
_PROBES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
_DEPTHS = (4, 16, 64)  # candidates for each result
_LEAST_DEPTH = 64
_QUERIES = 96
_TIMED = 16
_FASTER = 2.0  # times; below, reading everything is as good


@dataclass(frozen=True)
class Setting:
    """How a search for up to ``k`` results is done.

    Attributes:
        k: results.
        probes: lists that are read.
        depth: candidates that are compared exactly.
        recall: share of the true ``k`` nearest that it found.
        faster: how many times as fast as reading all vectors.
    """

    k: int
    probes: int
    depth: int
    recall: float
    faster: float


@dataclass(frozen=True)
class ApproximateFacts:
    """What was built and measured.

    Attributes:
        vectors: how many there were.
        lists: of the inverted file.
        target: recall asked for.
        queries: on how many the recall was measured.
        settings: by rising ``k``; empty if none reached the target fast enough, and the index is not used.
        best: the highest recall that was measured for 10 results.
        digest: CRC-32 of the file; None if there is none.
    """

    vectors: int
    lists: int
    target: float
    queries: int
    settings: tuple[Setting, ...]
    best: float
    digest: int | None = None

    def to_json(self) -> str:
        """As it is kept in the database."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ApproximateFacts":
        """Undo `to_json`."""
        fields = json.loads(text)
        return cls(**{**fields, "settings": tuple(Setting(**one) for one in fields["settings"])})


class ApproximateIndex:
    """An inverted file of RaBitQ codes over the rows of a block.

    Args:
        index: FAISS's.
        settings: by rising ``k``.
    """

    def __init__(self, index: Any, settings: tuple[Setting, ...]) -> None:
        self._index = index
        self._settings = settings

    @property
    def most(self) -> int:
        """Results up to which its recall was measured."""
        return self._settings[-1].k if self._settings else 0

    def candidates(self, query: Vectors, k: int, live: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Rows that probably hold the ``k`` nearest; at most `most`."""
        setting = next(one for one in self._settings if k <= one.k)
        return self.probe(query[None], setting.probes, setting.depth, live)[0]

    def probe(
        self, queries: Vectors, probes: int, depth: int, live: NDArray[np.bool_] | None = None
    ) -> list[NDArray[np.int64]]:
        """Rows of the best codes in the nearest lists, for ``(n, d)`` queries."""
        faiss_: Any = faiss  # whose classes take more arguments than they declare
        bits = None if live is None else np.packbits(live, bitorder="little")
        chosen = {} if bits is None else {"sel": faiss_.IDSelectorBitmap(bits)}
        inner = faiss_.IVFRaBitQSearchParameters(nprobe=probes, **chosen)
        outer = faiss_.SearchParametersPreTransform(index_params=inner)
        _, rows = self._index.search(np.ascontiguousarray(queries), min(depth, self._index.ntotal), params=outer)
        return [found[found >= 0] for found in rows]


def build_approximate(
    block: Block, path: Path, *, target: float, others: Vectors | None = None
) -> tuple[ApproximateFacts, Approximate | None]:
    """Build an index over a block, find the fastest settings that reach a recall, and write it to a file if there are any.

    Args:
        block: all its rows live.
        path: where to write it.
        target: recall to reach, in (0, 1].
        others: further queries than the block's own vectors, ``(m, d)``: those of another modality lie elsewhere in a space.
    """
    count, dimension = block.vectors.shape
    lists = int(np.clip(2 ** round(np.log2(np.sqrt(count))), *_LISTS))
    lists = min(lists, max(1, count // 39))  # FAISS wants 39 vectors a list
    logger.info("Building an approximate index of %d lists over %d vectors.", lists, count)
    quantizer = faiss.IndexFlatIP(dimension)
    inverted = faiss.IndexIVFRaBitQ(quantizer, dimension, lists, faiss.METRIC_INNER_PRODUCT)
    inverted.cp.niter, inverted.cp.seed = _ITERATIONS, _SEED
    inverted.cp.max_points_per_centroid = _TRAINED
    rotation = faiss.RandomRotationMatrix(dimension, dimension)
    rotation.init(_SEED)
    index = faiss.IndexPreTransform(rotation, inverted)
    rng = np.random.default_rng(_SEED)
    index.train(block.vectors[np.sort(rng.choice(count, min(count, _TRAINED * lists), replace=False))])
    for at in range(0, count, _CHUNK):
        index.add(np.ascontiguousarray(block.vectors[at : at + _CHUNK]))

    own = block.vectors[np.sort(rng.choice(count, min(count, _QUERIES), replace=False))]
    queries = own if others is None or not len(others) else np.concatenate([own[: _QUERIES // 2], others[: _QUERIES // 2]])
    settings, best = _settings(ApproximateIndex(index, ()), block, queries, target)
    facts = ApproximateFacts(count, lists, target, len(queries), settings, best)
    if not settings:
        logger.info("Not used: its recall for 10 results was at most %.3f, or it was not faster.", best)
        return facts, None
    faiss.write_index(index, str(path))
    return facts, ApproximateIndex(index, settings)


def _settings(index: ApproximateIndex, block: Block, queries: Vectors, target: float) -> tuple[tuple[Setting, ...], float]:
    """The fastest settings that reach the target for 10 and for 100 results, and the best recall for 10."""
    most = min(100, len(block.ids) - 1)
    scores, rows = faiss.knn(np.ascontiguousarray(queries), block.vectors, most + 1, metric=faiss.METRIC_INNER_PRODUCT)
    partition = Partition(queries.shape[1], 0, (block,))
    everything = _seconds(lambda query: partition.search(query, 10), queries[: _TIMED // 4])
    settings: list[Setting] = []
    best = 0.0
    for k in (10, 100):
        # A vector that is in the block finds itself first, which says nothing: one more is looked for, and it is left out.
        known = [_without_itself(row, score, k) for row, score in zip(rows, scores, strict=True)] if most >= k else []
        found = _first_that_reaches(index, block, queries, known, k, target) if known else None
        if found is None:
            break
        probes, depth, recall = found
        best = max(best, recall) if k == 10 else best
        if recall < target:
            break
        quick = Partition(queries.shape[1], 0, (block,), _Fixed(index, probes, depth))
        faster = everything / _seconds(lambda query, quick=quick, k=k: quick.search(query, k), queries[:_TIMED])
        if faster < _FASTER:
            break
        settings.append(Setting(k, probes, depth, round(recall, 4), round(faster, 1)))
    return tuple(settings), round(best, 4)


class _Fixed:
    """An approximate index with one setting."""

    most = 100

    def __init__(self, index: ApproximateIndex, probes: int, depth: int) -> None:
        self._index, self._probes, self._depth = index, probes, depth

    def candidates(self, query: Vectors, k: int, live: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """As the protocol says."""
        return self._index.probe(query[None], self._probes, self._depth, live)[0]


def _without_itself(rows: NDArray[np.int64], scores: Vectors, k: int) -> NDArray[np.int64]:
    return rows[1 : k + 1] if scores[0] > 1 - 1e-5 else rows[:k]


def _first_that_reaches(
    index: ApproximateIndex, block: Block, queries: Vectors, known: list[NDArray[np.int64]], k: int, target: float
) -> tuple[int, int, float] | None:
    """Probes, depth and recall of the cheapest setting that reaches the target, or of the one that came nearest."""
    best: tuple[int, int, float] | None = None
    for probes in _PROBES:
        for factor in _DEPTHS:
            depth = max(_LEAST_DEPTH, factor * k)
            recalls = []
            for query, true, rows in zip(queries, known, index.probe(queries, probes, depth), strict=True):
                order = rows[np.argsort(-block.scores(query, rows), kind="stable")][: k + 1]
                recalls.append(len(np.intersect1d(order, true)) / k)
            recall = float(np.mean(recalls))
            if best is None or recall > best[2]:
                best = (probes, depth, recall)
            if recall >= target:
                return best
    return best


def _seconds(search: Any, queries: Vectors) -> float:
    """Median time of a search."""
    times = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def load_approximate(path: Path, facts: ApproximateFacts) -> ApproximateIndex:
    """Read an index back; its file must have been checked."""
    return ApproximateIndex(faiss.read_index(str(path)), facts.settings)
