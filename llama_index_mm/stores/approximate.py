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
from llama_index_mm.stores.scan import one_thread

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
_MOST = 100  # results; for more, all vectors are read
_TIMED = 16
_FASTER = 2.0  # times; below, reading everything is as good
_FEWEST = 1000  # vectors


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
        why: it is not used, if it is not.
        digest: CRC-32 of the file; None if there is none.
    """

    vectors: int
    lists: int
    target: float
    queries: int
    settings: tuple[Setting, ...]
    best: float
    why: str = ""
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
        with one_thread():
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
    if count < _FEWEST:
        return ApproximateFacts(count, 0, target, 0, (), 0.0, f"needs {_FEWEST} vectors"), None
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

    others = np.zeros((0, dimension), np.float32) if others is None or not len(others) else others[: _QUERIES // 2]
    itself = np.sort(rng.choice(count, min(count, _QUERIES - len(others)), replace=False))
    queries = np.concatenate([block.vectors[itself], others])
    itself = np.concatenate([itself, np.full(len(others), -1)])
    settings, best, why = _settings(ApproximateIndex(index, ()), block, queries, itself, target)
    facts = ApproximateFacts(count, lists, target, len(queries), settings, best, why)
    if not settings:
        logger.info("The approximate index is not used: %s.", why)
        return facts, None
    faiss.write_index(index, str(path))
    return facts, ApproximateIndex(index, settings)


def _settings(
    index: ApproximateIndex, block: Block, queries: Vectors, itself: NDArray[np.int64], target: float
) -> tuple[tuple[Setting, ...], float, str]:
    """The fastest settings that reach the target for 10 and for 100 results, the best recall for 10, and why there are none."""
    _, rows = faiss.knn(np.ascontiguousarray(queries), block.vectors, _MOST + 1, metric=faiss.METRIC_INNER_PRODUCT)
    partition = Partition(queries.shape[1], 0, (block,))
    everything = _seconds(lambda query: partition.search(query, 10), queries[:: len(queries) // _TIMED + 1])
    settings: list[Setting] = []
    best = 0.0
    for k in (10, _MOST):
        # A vector of the block finds itself, which says nothing: one more is looked for, and it is left out.
        known = [row[row != own][:k] for row, own in zip(rows, itself, strict=True)]
        probes, depth, recall = _first_that_reaches(index, block, queries, itself, known, target)
        best = recall if k != _MOST else best
        if recall < target:
            return tuple(settings), round(best, 4), f"recall@{k} was at most {recall:.3f}, {target:g} is asked for"
        quick = Partition(queries.shape[1], 0, (block,), _Fixed(index, probes, depth))
        faster = everything / _seconds(lambda query, quick=quick, k=k: quick.search(query, k), queries[:_TIMED])
        if faster < _FASTER:
            why = f"with recall@{k} {recall:.3f} it was {faster:.1f} x as fast as reading all vectors"
            return tuple(settings), round(best, 4), why
        settings.append(Setting(k, probes, depth, round(recall, 4), round(faster, 1)))
    return tuple(settings), round(best, 4), ""


class _Fixed:
    """An approximate index with one setting."""

    most = _MOST

    def __init__(self, index: ApproximateIndex, probes: int, depth: int) -> None:
        self._index, self._probes, self._depth = index, probes, depth

    def candidates(self, query: Vectors, k: int, live: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """As the protocol says."""
        with one_thread():
            return self._index.probe(query[None], self._probes, self._depth, live)[0]


def _first_that_reaches(
    index: ApproximateIndex,
    block: Block,
    queries: Vectors,
    itself: NDArray[np.int64],
    known: list[NDArray[np.int64]],
    target: float,
) -> tuple[int, int, float]:
    """Probes, depth and recall of the cheapest setting that reaches the target, or of the one that came nearest."""
    best = (_PROBES[0], _LEAST_DEPTH, 0.0)
    for probes in _PROBES:
        for factor in _DEPTHS:
            depth = max(_LEAST_DEPTH, factor * len(known[0]))
            recalls = []
            for query, own, true, rows in zip(queries, itself, known, index.probe(queries, probes, depth), strict=True):
                rows = rows[rows != own]
                order = rows[np.argsort(-block.scores(query, rows), kind="stable")][: len(true)]
                recalls.append(len(np.intersect1d(order, true)) / len(true))
            recall = float(np.mean(recalls))
            if recall > best[2]:
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
