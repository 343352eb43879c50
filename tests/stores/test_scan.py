"""FAISS's kernels against NumPy, and the choice of threads."""

import faiss
import numpy as np
import pytest

from llama_index_mm.stores import scan
from llama_index_mm.stores.scan import ThreadChooser, inner_products, inner_products_of_rows, one_thread


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_inner_products_however_many_threads(threads, monkeypatch):
    monkeypatch.setattr(scan, "_LARGE", 1)
    monkeypatch.setattr(scan, "_chooser", ThreadChooser(threads))
    rng = np.random.default_rng(0)
    for count in (0, 1, 6, 7, 8, 1000):
        vectors, query = rng.normal(size=(count, 24)).astype(np.float32), rng.normal(size=24).astype(np.float32)
        for _ in range(3):  # each choice once, then the better one
            np.testing.assert_allclose(inner_products(query, vectors), vectors @ query, rtol=1e-4, atol=1e-5)


def test_inner_products_of_rows():
    rng = np.random.default_rng(1)
    vectors, query = rng.normal(size=(50, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    rows = np.array([49, 0, 7, 7])
    np.testing.assert_allclose(inner_products_of_rows(query, vectors, rows), vectors[rows] @ query, rtol=1e-5)
    assert inner_products_of_rows(query, vectors, rows[:0]).shape == (0,)


def test_the_faster_choice_is_taken_and_the_other_tried_again():
    chooser = ThreadChooser(4)
    seconds = {1: 1.0, 4: 3.0}
    taken = []
    for at in range(200):
        threads = chooser.choose()
        chooser.note(threads, 100, seconds[threads])
        taken.append(threads)
        if at == 99:
            seconds = {1: 5.0, 4: 1.0}  # others went home
    assert taken[:2] == [1, 4]
    assert taken[2:63] == [1] * 61
    assert set(taken[-60:-10]) == {4}
    assert ThreadChooser(1).choose() == 1


def test_the_number_of_threads_is_left_alone():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        with one_thread():
            assert faiss.omp_get_max_threads() == 1
        inner_products_of_rows(np.ones(4, np.float32), np.ones((9, 4), np.float32), np.arange(9))
        assert faiss.omp_get_max_threads() == 3
        with pytest.raises(ZeroDivisionError), one_thread():
            1 / 0  # noqa: B018 - raises
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)
