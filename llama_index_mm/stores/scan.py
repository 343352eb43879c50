"""Inner products of a query with many rows, by FAISS's kernels, with as many threads as have proved fastest."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors

__all__ = ["ThreadChooser", "inner_products", "inner_products_of_rows", "one_thread"]

_LARGE = 2**25  # bytes; less is read sooner than other threads could begin
_AGAIN = 64  # calls after which the other choice is tried again
_kernels: Any = faiss  # whose functions for arrays are not declared


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS with one OpenMP thread in this thread of Python; others, and what was set before, are left alone.

    For one query a second one has nothing to do but to be waited for: 200 rows took 2 ms instead of 0.1 on an idle machine of
    two cores, and 10 on a busy one.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class ThreadChooser:
    """One thread or all of them, whichever was faster lately; the other is tried now and then, for machines get busy and idle.

    Args:
        most: threads there are.
    """

    def __init__(self, most: int) -> None:
        self._choices = sorted({1, max(1, most)})
        self._seconds: dict[int, float] = {}  # for a byte
        self._calls = 0
        self._lock = threading.Lock()

    def choose(self) -> int:
        """How many threads the next call should take."""
        with self._lock:
            self._calls += 1
            for choice in self._choices:
                if choice not in self._seconds:
                    return choice
            ranked = sorted(self._choices, key=self._seconds.__getitem__)
            return ranked[-1 if self._calls % _AGAIN == 0 else 0]

    def note(self, threads: int, size: int, seconds: float) -> None:
        """Tell how long a call over ``size`` bytes took."""
        with self._lock:
            known = self._seconds.get(threads, seconds / size)
            self._seconds[threads] = (known + seconds / size) / 2


_chooser = ThreadChooser(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _threads() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="llama-index-mm-scan")
        return _pool


def inner_products(query: Vectors, vectors: Vectors) -> Vectors:
    """With all rows.

    Equal rows may be rounded differently by their place.

    Args:
        query: ``(d,)`` float32, C-contiguous.
        vectors: ``(n, d)`` float32, C-contiguous.

    Returns:
        ``(n,)`` float32.
    """
    out = np.empty(len(vectors), np.float32)
    if not len(out):
        return out
    if vectors.nbytes < _LARGE:
        _scan(query, vectors, out)
        return out
    threads = _chooser.choose()
    start = time.perf_counter()
    size = -(-len(out) // threads)
    others = [
        _threads().submit(_scan, query, vectors[at : at + size], out[at : at + size]) for at in range(size, len(out), size)
    ]
    _scan(query, vectors[:size], out[:size])
    for other in others:
        other.result()
    _chooser.note(threads, vectors.nbytes, time.perf_counter() - start)
    return out


def _pointers(*arrays: NDArray[Any]) -> list[Any]:
    return [faiss.swig_ptr(array) for array in arrays]


def _scan(query: Vectors, vectors: Vectors, out: Vectors) -> None:
    dimension = vectors.shape[1]
    _kernels.fvec_inner_products_ny(*_pointers(out, query, vectors), dimension, len(out))


def inner_products_of_rows(query: Vectors, vectors: Vectors, rows: NDArray[np.int64]) -> Vectors:
    """With some rows, each taken by itself, so that equal rows give equal numbers.

    Args:
        query: ``(d,)`` float32, C-contiguous.
        vectors: ``(n, d)`` float32, C-contiguous.
        rows: ``(m,)``.

    Returns:
        ``(m,)`` float32.
    """
    out = np.empty(len(rows), np.float32)
    if len(out):
        pointers = _pointers(out, query, vectors, rows := np.ascontiguousarray(rows))
        with one_thread():
            _kernels.fvec_inner_products_by_idx(*pointers, vectors.shape[1], 1, len(rows))
    return out
