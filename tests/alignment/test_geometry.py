import math

import numpy as np
import pytest
from planted import cloud

from llama_index_mm.alignment.geometry import alignment_of, effective_rank, geometry_of, uniformity
from llama_index_mm.errors import AlignmentError


def test_effective_rank_by_hand():
    axes = np.concatenate([np.eye(4), -np.eye(4)])
    assert effective_rank(axes) == pytest.approx(4)
    assert effective_rank(np.array([[1.0, 0], [-1, 0], [3, 0]])) == pytest.approx(1)
    shares = np.array([2, 1]) / 3  # singular values of the centred rows are 2 sqrt 2 and sqrt 2
    skew = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    assert effective_rank(skew) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_effective_rank_of_the_same_is_0(scale):
    assert effective_rank(scale * np.repeat(cloud(1, 64), 50, axis=0)) == 0.0


def test_uniformity_by_hand():
    square = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    expected = math.log((2 * math.exp(-2 * 4) + 4 * math.exp(-2 * 2)) / 6)
    assert uniformity(square) == pytest.approx(expected)
    assert uniformity(np.repeat(square[:1], 9, axis=0)) == 0.0
    assert uniformity(square[:1]) == 0.0
    assert uniformity(cloud(5000, 64)) == pytest.approx(uniformity(cloud(1500, 64, 1)), abs=0.01)


def test_alignment_by_hand():
    assert alignment_of(np.eye(2), np.eye(2)) == 0
    assert alignment_of(np.eye(2), np.eye(2)[::-1]) == pytest.approx(2)
    assert alignment_of(np.eye(2), -np.eye(2)) == pytest.approx(4)


def test_all_three_take_vectors_of_any_length():
    found = geometry_of(3 * cloud(30, 5), cloud(30, 5))
    assert found.alignment == pytest.approx(0, abs=1e-10)
    assert found.rank == pytest.approx(effective_rank(cloud(30, 5)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(AlignmentError, match=r"finite vectors \(n, d\)"):
        effective_rank(np.array([[np.nan, 1]]))
    with pytest.raises(AlignmentError, match=r"same shape, got \(2, 2\) and \(3, 3\)"):
        alignment_of(np.eye(2), np.eye(3))
