"""One ranking from several lists. Pure functions.

A list maps an item to its score in one channel. Every list has a weight, and a group: the kind of item that it can find at
all. An item is judged by the lists of its own group, so that a picture, which one list can find, and a recording, which three
can, compare.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["FUSIONS", "Fused", "Fusion", "convex", "logistic", "normalise", "reciprocal_rank"]

T = TypeVar("T", bound=Hashable)
Fusion = Literal["convex", "reciprocal_rank"]

_MIDDLE = 2.0  # deviations above the background at which a score is one half
_PRIOR = 8  # unrelated pairs that a known background counts for
_UNKNOWN = 0.25  # deviation of similarities where there is nothing to learn it from
_DIGITS = 5  # of a number of deviations; what differs less is float32's rounding, and a tie
_NOISE = 1e-6  # deviation that rounding of float32 similarities alone can make
_RANK_CONSTANT = 60.0  # Cormack et al. 2009


@dataclass(frozen=True)
class Fused:
    """Score of one item.

    Attributes:
        score: in [0, 1]; higher is better.
        contributions: share of the score by list, summing to it.
    """

    score: float
    contributions: Mapping[int, float]


def logistic(deviations: float) -> float:
    """Map deviations above the background to (0, 1): one half at 2, 0.12 at 0, 0.95 at 5."""
    return 0.5 * (1.0 + math.tanh((deviations - _MIDDLE) / 2))  # 1 / (1 + exp(2 - x)), which would overflow


def normalise(similarity: float, background: NDArray[np.floating], *, known: tuple[float, float] | None = None) -> float:
    """Turn a similarity into a score that compares across spaces and modalities.

    The similarity is counted in standard deviations above the mean similarity of the query to a sample of what is stored,
    and mapped to (0, 1) by `logistic`. Where the space's usual background is known it counts for 8 further samples, so that
    scores are steady in collections of a few items. Where the sample is empty or all alike there is nothing to learn from it:
    a mean of 0 and a deviation of 0.25 have to do.

    Args:
        similarity: inner product of the query and the item.
        background: ``(n,)`` inner products of the query and a sample of the items.
        known: mean and deviation of unrelated pairs in this space, if measured.
    """
    count = len(background)
    wide = background.astype(np.float64)
    mean = float(wide.mean()) if count else 0.0
    variance = float(wide.var()) if count else 0.0
    if known is not None:
        share = count / (count + _PRIOR)
        # Law of total variance over the sample and the prior.
        between = share * (1 - share) * (mean - known[0]) ** 2
        variance = share * variance + (1 - share) * known[1] ** 2 + between
        mean = share * mean + (1 - share) * known[0]
    deviation = math.sqrt(variance)
    if deviation > _NOISE:
        return logistic(round((similarity - mean) / deviation, _DIGITS))
    return logistic(similarity / _UNKNOWN)


def convex(lists: Sequence[Mapping[T, float]], weights: Sequence[float], groups: Mapping[T, Sequence[int]]) -> dict[T, Fused]:
    """Weighted mean of the scores over the lists that can find the item (Bruch et al. 2023).

    score(i) = sum over lists c of i's group of w_c s_c(i), divided by the sum of these w_c. A score that is missing counts 0.

    Args:
        lists: scores in [0, 1] by item.
        weights: of each list, at least 0.
        groups: for each item, the indices of the lists that can find it.
    """
    return _fuse(lists, weights, groups, lambda _at, score, _item: score)


def reciprocal_rank(
    lists: Sequence[Mapping[T, float]], weights: Sequence[float], groups: Mapping[T, Sequence[int]]
) -> dict[T, Fused]:
    """Weighted reciprocal rank fusion (Cormack et al. 2009): like `convex` over 61 / (60 + rank) in place of the score.

    The best of a list has rank 1; equal scores share the better rank. Ranks know nothing of how good the best is.
    """
    ranks = [_ranks(scores) for scores in lists]
    top = _RANK_CONSTANT + 1
    return _fuse(lists, weights, groups, lambda at, _score, item: top / (_RANK_CONSTANT + ranks[at][item]))


def _fuse(
    lists: Sequence[Mapping[T, float]],
    weights: Sequence[float],
    groups: Mapping[T, Sequence[int]],
    value: Callable[[int, float, T], float],
) -> dict[T, Fused]:
    fused: dict[T, Fused] = {}
    for item, members in groups.items():
        total = sum(weights[at] for at in members)
        parts = {
            at: weights[at] * value(at, lists[at][item], item) / total
            for at in members
            if total > 0 and weights[at] > 0 and item in lists[at]
        }
        if parts:
            fused[item] = Fused(min(1.0, math.fsum(parts.values())), parts)  # rounding may lead beyond 1
    return fused


def _ranks(scores: Mapping[T, float]) -> dict[T, int]:
    ordered = sorted(scores.values(), reverse=True)
    first = {score: len(ordered) - at for at, score in enumerate(reversed(ordered))}
    return {item: first[score] for item, score in scores.items()}


FUSIONS: Mapping[Fusion, Callable[..., dict[Any, Fused]]] = {"convex": convex, "reciprocal_rank": reciprocal_rank}
