"""What a set of vectors looks like: whether it fills its space, or has collapsed into a corner of it. Pure functions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import unit
from llama_index_mm.errors import AlignmentError

__all__ = ["Geometry", "alignment_of", "effective_rank", "geometry_of", "uniformity"]

_MOST = 2000  # vectors whose pairs are taken


@dataclass(frozen=True)
class Geometry:
    """How vectors lie.

    Attributes:
        rank: effective rank, about its mean, of the vectors; 0 where all are the same.
        uniformity: at most 0; the lower, the more evenly they are spread over the sphere, 0 where all are the same.
        alignment: mean squared distance of what belongs together, in [0, 4].
    """

    rank: float
    uniformity: float
    alignment: float


def effective_rank(vectors: NDArray[Any]) -> float:
    """Number of directions that vectors take up about their mean: ``exp(entropy of s / sum(s))``.

    With s the singular values of the centred vectors. It is 1 for a line, d for a cloud that is round in d dimensions, and 0
    where all vectors are the same. Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007;
    Garrido et al., "RankMe", ICML 2023, arXiv:2210.02885, use it, without centring, to tell collapse.

    Args:
        vectors: ``(n, d)``, at least one.
    """
    wide = _checked(vectors)
    values = np.linalg.svd(wide - wide.mean(0), compute_uv=False)
    if values.sum() <= 1e-9 * max(1.0, np.abs(wide).max()) * len(wide):
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def uniformity(vectors: NDArray[Any], *, t: float = 2.0) -> float:
    """Logarithm of the mean of ``exp(-t ||x - y||^2)`` over all pairs of different rows.

    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere",
    ICML 2020, arXiv:2005.10242. 0 where all vectors are the same; the least is about -t 2 for unit vectors. Of more than 2,000
    rows every so-manyth is taken.

    Args:
        vectors: ``(n, d)`` unit vectors; 0 for one alone.
        t: how sharply near pairs count.
    """
    wide = _checked(vectors)
    wide = wide[:: -(-len(wide) // _MOST)]
    if len(wide) < 2:
        return 0.0
    squared = np.maximum(((wide**2).sum(1)[:, None] + (wide**2).sum(1)) - 2 * wide @ wide.T, 0)
    return float(np.log(np.exp(-t * squared[np.triu_indices(len(wide), 1)]).mean()))


def alignment_of(source: NDArray[Any], target: NDArray[Any]) -> float:
    """Mean squared distance of pairs (Wang and Isola 2020, with alpha = 2), in [0, 4] for unit vectors.

    Args:
        source: ``(n, d)``.
        target: ``(n, d)``, row for row what it belongs with.
    """
    one, two = _checked(source), _checked(target)
    if one.shape != two.shape:
        raise AlignmentError(f"Expected two sets of vectors of the same shape, got {one.shape} and {two.shape}.")
    return float(((one - two) ** 2).sum(1).mean())


def geometry_of(source: NDArray[Any], target: NDArray[Any]) -> Geometry:
    """All three, of the source, whose rows belong with the target's; both are scaled to unit length."""
    vectors = unit(source)
    return Geometry(effective_rank(vectors), uniformity(vectors), alignment_of(vectors, unit(target)))


def _checked(vectors: NDArray[Any]) -> NDArray[np.float64]:
    wide = np.asarray(vectors, np.float64)
    if wide.ndim != 2 or not len(wide) or not np.isfinite(wide).all():
        raise AlignmentError(f"Expected finite vectors (n, d), at least one; got an array of shape {wide.shape}.")
    return wide
