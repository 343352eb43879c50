"""One ranking from several lists. Pure functions.

A list maps an item to its score in one channel. Every list has a weight, and a group: the kind of item that it can find at
all. An item is judged by the lists of its own group, so that a picture, which one list can find, and a recording, which three
can, compare.

All of `FUSIONS` have one signature and keep these promises: scores are in [0, 1]; the contributions of an item sum to its
score; raising one score of an item never lowers it; the order of lists and items does not matter; a list of weight 0 is as if
it were not there; a score of None, NaN or infinity counts as missing, and an item that has no score in any list is left out.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FUSIONS",
    "Fused",
    "Fusion",
    "Ranking",
    "convex",
    "distribution_based",
    "logistic",
    "maximum",
    "normalise",
    "normalise_all",
    "reciprocal_rank",
    "spread",
    "subtract",
]

T = TypeVar("T", bound=Hashable)
Fusion = Literal["convex", "distribution_based", "maximum", "reciprocal_rank"]
Lists = Sequence[Mapping[T, float | None]]

_MIDDLE = 2.0  # deviations above the background at which a score is one half
_PRIOR = 8  # unrelated pairs that a known background counts for
_UNKNOWN = 0.25  # deviation of similarities where there is nothing to learn it from
_DIGITS = 5  # of a number of deviations; what differs less is float32's rounding, and a tie
_NOISE = 1e-6  # deviation that rounding of float32 similarities alone can make
_RANK_CONSTANT = 60.0  # Cormack et al. 2009
_WIDE = 3.0  # deviations from the mean at which a distribution-based score is 0 or 1
_EQUAL = 1e-9  # deviation below which the scores of a list are taken as equal


class Fused(NamedTuple):
    """Score of one item.

    Attributes:
        score: in [0, 1]; higher is better.
        contributions: share of the score by list, summing to it; negative for lists of what is not wanted.
    """

    score: float
    contributions: Mapping[int, float]


class Ranking(Mapping[T, Fused]):
    """Fused scores of items. What each list contributes to one is worked out when it is asked for.

    Args:
        scores: in [0, 1], by item.
        shares: gives the contributions to an item.
    """

    def __init__(self, scores: Mapping[T, float], shares: Callable[[T], Mapping[int, float]]) -> None:
        self.scores = scores
        self._shares = shares

    def __getitem__(self, item: T) -> Fused:
        return Fused(self.scores[item], self._shares(item))

    def __iter__(self) -> Iterator[T]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)


def logistic(deviations: float) -> float:
    """Map deviations above the background to (0, 1): one half at 2, 0.12 at 0, 0.95 at 5."""
    return 0.5 * (1.0 + math.tanh((deviations - _MIDDLE) / 2))  # 1 / (1 + exp(2 - x)), which would overflow


def normalise(similarity: float, background: NDArray[np.floating], *, known: tuple[float, float] | None = None) -> float:
    """Turn a similarity into a score that compares across spaces and modalities: `normalise_all` of one."""
    return float(normalise_all(np.array([similarity]), background, known=known)[0])


def normalise_all(
    similarities: NDArray[np.floating], background: NDArray[np.floating], *, known: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Turn similarities into scores that compare across spaces and modalities.

    A similarity is counted in standard deviations above the mean similarity of the query to a sample of what is stored,
    and mapped to (0, 1) by `logistic`. Where the space's usual background is known it counts for 8 further samples, so that
    scores are steady in collections of a few items. Where the sample is empty or all alike there is nothing to learn from it:
    a mean of 0 and a deviation of 0.25 have to do.

    Args:
        similarities: inner products of the query and items, of any shape; NaN gives NaN.
        background: ``(n,)`` inner products of the query and a sample of the items.
        known: mean and deviation of unrelated pairs in this space, if measured.
    """
    count = len(background)
    wide = background.astype(np.float64)
    mean = float(wide.sum()) / count if count else 0.0
    from_mean = wide - mean
    variance = float(from_mean @ from_mean) / count if count else 0.0
    if known is not None:
        share = count / (count + _PRIOR)
        # Law of total variance over the sample and the prior.
        between = share * (1 - share) * (mean - known[0]) ** 2
        variance = share * variance + (1 - share) * known[1] ** 2 + between
        mean = share * mean + (1 - share) * known[0]
    deviation = math.sqrt(variance)
    values = similarities.astype(np.float64)
    deviations = np.round((values - mean) / deviation, _DIGITS) if deviation > _NOISE else values / _UNKNOWN
    scores: NDArray[np.float64] = 0.5 * (1.0 + np.tanh((deviations - _MIDDLE) / 2))
    return scores


def convex(lists: Lists[T], weights: Sequence[float], groups: Mapping[T, Sequence[int]]) -> Ranking[T]:
    """Weighted mean of the scores over the lists that can find the item (Bruch et al. 2023).

    score(i) = sum over lists c of i's group of w_c s_c(i), divided by the sum of these w_c. A score that is missing counts 0.

    Args:
        lists: scores in [0, 1] by item.
        weights: of each list, at least 0.
        groups: for each item, the indices of the lists that can find it.
    """
    return _mean(_known(lists), weights, groups)


def reciprocal_rank(lists: Lists[T], weights: Sequence[float], groups: Mapping[T, Sequence[int]]) -> Ranking[T]:
    """Weighted reciprocal rank fusion (Cormack et al. 2009): like `convex` over 61 / (60 + rank) in place of the score.

    The best of a list has rank 1; equal scores share the better rank. Ranks know nothing of how good the best is.
    """
    top = _RANK_CONSTANT + 1
    return _mean(
        [{item: top / (_RANK_CONSTANT + rank) for item, rank in _ranks(scores).items()} for scores in _known(lists)],
        weights,
        groups,
    )


def distribution_based(lists: Lists[T], weights: Sequence[float], groups: Mapping[T, Sequence[int]]) -> Ranking[T]:
    """Distribution-based score fusion (Mazzeschi 2023): like `convex` over the scores of each list scaled by `spread`."""
    known = _known(lists)
    return _mean(
        [dict(zip(scores, spread(list(scores.values())), strict=True)) for scores in known],
        weights,
        groups,
    )


def maximum(lists: Lists[T], weights: Sequence[float], groups: Mapping[T, Sequence[int]]) -> Ranking[T]:
    """The greatest weighted score over the lists that can find the item.

    score(i) = maximum over lists c of i's group of w_c s_c(i), divided by the greatest of these w_c. So the list that weighs
    most counts in full, one of half its weight up to one half. The score is the contribution of the list that gave it; several
    that gave it share it, and the others contribute 0.
    """
    known = _known(lists)
    shares: dict[T, dict[int, float]] = {}
    for items, members in _grouped(weights, groups, max):
        for item in items:
            values = {at: weight * known[at][item] for at, weight in members if item in known[at]}
            if values:
                top = max(values.values())
                share = top / sum(value == top for value in values.values())
                shares[item] = {at: share if value == top else 0.0 for at, value in values.items()}
    return Ranking({item: min(1.0, math.fsum(parts.values())) for item, parts in shares.items()}, shares.__getitem__)


def subtract(fused: Mapping[T, Fused], unwanted: Mapping[int, Mapping[T, float]], weights: Mapping[int, float]) -> Ranking[T]:
    """Take away from what is like something that is not wanted: a soft AND NOT by the product t-norm.

    score'(i) = score(i) times the product of (1 - w_c s_c(i)) over the unwanted lists c in which i has a score. The
    contribution of c is what was taken away, as a negative number, shared out in the ratio of the w_c s_c(i).

    Args:
        fused: what the wanted lists make.
        unwanted: scores in [0, 1] by list and item; None, NaN and infinity count as missing.
        weights: of these lists; beyond 1 it counts as 1, and 0 as if the list were not there.
    """
    out: dict[T, Fused] = {}
    heavy = {at: min(1.0, weights[at]) for at in unwanted if weights[at] > 0}
    for item, one in fused.items():
        shares = {
            at: heavy[at] * score for at in heavy if (score := unwanted[at].get(item)) is not None and math.isfinite(score)
        }
        kept = one.score * math.prod(1.0 - share for share in sorted(shares.values()))
        total = math.fsum(shares.values())
        lost = {at: (kept - one.score) * share / total if total > 0 else 0.0 for at, share in shares.items()}
        out[item] = Fused(kept, {**one.contributions, **lost}) if shares else one
    return Ranking({item: one.score for item, one in out.items()}, lambda item: out[item].contributions)


def spread(scores: Sequence[float]) -> list[float]:
    """Scale the scores of one list: 0 at three standard deviations below their mean, 1 at three above, cut off beyond.

    One score alone, and scores that are all equal, get 0.5, as the mean of any list does: nothing tells whether they are good.

    Args:
        scores: finite, of any range.
    """
    if not scores:
        return []
    values = np.array(scores, dtype=np.float64)
    largest = float(np.abs(values).max())
    values = values / largest if largest > 1 else values  # else the square of a large score might overflow
    ordered = np.sort(values)  # so that rounding does not depend on the order
    deviation = float(ordered.std())
    if deviation <= _EQUAL:
        return [0.5] * len(scores)
    scaled = np.clip(0.5 + (values - ordered.mean()) / (2 * _WIDE * deviation), 0.0, 1.0)
    return [float(value) for value in scaled]


def _known(lists: Lists[T]) -> list[dict[T, float]]:
    return [{item: score for item, score in scores.items() if score is not None and math.isfinite(score)} for scores in lists]


def _mean(lists: Sequence[Mapping[T, float]], weights: Sequence[float], groups: Mapping[T, Sequence[int]]) -> Ranking[T]:
    totals: dict[T, float] = {}
    judges: dict[T, list[tuple[int, float]]] = {}
    for items, members in _grouped(weights, groups, math.fsum):
        known: set[T] = set()
        known.update(*(lists[at] for at, _ in members))
        found = [item for item in items if item in known]
        shares = [[weight * lists[at].get(item, 0.0) for item in found] for at, weight in members]
        sums = map(math.fsum, zip(*shares, strict=True))
        totals.update(zip(found, [one if one < 1.0 else 1.0 for one in sums], strict=True))  # rounding may lead beyond 1
        judges.update(dict.fromkeys(found, members))

    def contributions(item: T) -> dict[int, float]:
        return {at: weight * lists[at][item] for at, weight in judges[item] if item in lists[at]}

    return Ranking(totals, contributions)


def _grouped(
    weights: Sequence[float], groups: Mapping[T, Sequence[int]], whole: Callable[[Iterable[float]], float]
) -> Iterator[tuple[list[T], list[tuple[int, float]]]]:
    """Items that are judged by the same lists, and these lists with their shares of the weight; those of weight 0 are left out.

    Args:
        weights: of each list.
        groups: indices of lists by item.
        whole: of the weights of a group, gives what these are divided by.
    """
    together: dict[int, tuple[Sequence[int], list[T]]] = {}  # by identity: most items have one of a few groups
    for item, group in groups.items():
        if (known := together.get(id(group))) is None:
            known = together[id(group)] = (group, [])
        known[1].append(item)
    for group, items in together.values():
        heavy = [(at, weights[at]) for at in group if weights[at] > 0]
        total = whole(weight for _, weight in heavy) if heavy else 1.0
        yield items, [(at, weight / total) for at, weight in heavy]


def _ranks(scores: Mapping[T, float]) -> dict[T, int]:
    ordered = sorted(scores.values(), reverse=True)
    first = {score: len(ordered) - at for at, score in enumerate(reversed(ordered))}
    return {item: first[score] for item, score in scores.items()}


FUSIONS: Mapping[Fusion, Callable[..., Ranking[Any]]] = {
    "convex": convex,
    "distribution_based": distribution_based,
    "maximum": maximum,
    "reciprocal_rank": reciprocal_rank,
}
