"""Retrieval metrics. Pure functions of a ranking and of what is relevant.

A ranking is a sequence of items, best first, and is taken as it stands: items of equal score keep the places that they were
given. Of an item that comes twice only the first place counts; what follows moves up. What is relevant is a collection, or a
mapping from items to grades of at least 0, where grade 0 was judged and is not relevant. Where nothing is relevant, nothing can
be found: every metric is 0.

Each metric is that of trec_eval of the same name: success, recall, P, recip_rank, map_cut and ndcg_cut.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "QueryScores",
    "average_precision",
    "hit_at",
    "ndcg_at",
    "precision_at",
    "recall_at",
    "reciprocal_rank_of",
    "summarise",
]

Ranking = Sequence[Hashable]
Relevant = Collection[Hashable]


@dataclass(frozen=True)
class QueryScores:
    """What one query came to.

    Attributes:
        ranking: items found, best first.
        relevant: items that should be found.
    """

    ranking: Ranking
    relevant: Collection[Hashable]


def hit_at(k: int, ranking: Ranking, relevant: Relevant) -> float:
    """1 if a relevant item is among the first ``k``, else 0. With one relevant item this is recall at k."""
    grades = _grades(relevant)
    return float(any(item in grades for item in _first(k, ranking)))


def recall_at(k: int, ranking: Ranking, relevant: Relevant) -> float:
    """Share of the relevant items that are among the first ``k``, in [0, 1]."""
    grades = _grades(relevant)
    return sum(item in grades for item in _first(k, ranking)) / len(grades) if grades else 0.0


def precision_at(k: int, ranking: Ranking, relevant: Relevant) -> float:
    """Share of the first ``k`` places that hold a relevant item, in [0, 1]; missing places count as wrong."""
    grades = _grades(relevant)
    return sum(item in grades for item in _first(k, ranking)) / k


def reciprocal_rank_of(ranking: Ranking, relevant: Relevant) -> float:
    """1 / rank of the first relevant item, 0 if there is none."""
    grades = _grades(relevant)
    return next((1 / rank for rank, item in enumerate(dict.fromkeys(ranking), 1) if item in grades), 0.0)


def average_precision(ranking: Ranking, relevant: Relevant, k: int | None = None) -> float:
    """Mean over the relevant items of the precision at each one's rank, in [0, 1]; items that are not found count 0.

    Args:
        ranking: items found, best first.
        relevant: items that should be found.
        k: places to look at; None for all. More relevant items than places can't all be found, and the best is then below 1.
    """
    grades = _grades(relevant)
    total, found = 0.0, 0
    for rank, item in enumerate(_first(k, ranking), 1):
        if item in grades:
            found += 1
            total += found / rank
    return total / len(grades) if grades else 0.0


def ndcg_at(k: int, ranking: Ranking, relevant: Relevant) -> float:
    """Normalised discounted cumulative gain of the first ``k``, in [0, 1] (Järvelin and Kekäläinen 2002).

    DCG = sum of grade(i) / log2(rank + 1) over the places; divided by the DCG of the best ranking that the grades allow. The
    gain is the grade itself; without grades each relevant item has 1.
    """
    grades = _grades(relevant)
    gained = _dcg([grades.get(item, 0.0) for item in _first(k, ranking)])
    best = _dcg(sorted(grades.values(), reverse=True)[:k])
    return gained / best if best else 0.0


def summarise(queries: Sequence[QueryScores], ks: Sequence[int] = (1, 5, 10)) -> Mapping[str, float]:
    """Means over queries: ``R@k`` for each k, ``P@5``, ``MRR``, and how many ``queries``.

    Raises:
        ValueError: there are no queries.
    """
    if not queries:
        raise ValueError("Expected at least one query, got none.")
    count = len(queries)
    means = {f"R@{k}": sum(hit_at(k, one.ranking, one.relevant) for one in queries) / count for k in ks}
    means["P@5"] = sum(precision_at(5, one.ranking, one.relevant) for one in queries) / count
    means["MRR"] = sum(reciprocal_rank_of(one.ranking, one.relevant) for one in queries) / count
    return {**means, "queries": float(count)}


def _first(k: int | None, ranking: Ranking) -> list[Hashable]:
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    return list(dict.fromkeys(ranking))[:k]


def _grades(relevant: Relevant) -> dict[Hashable, float]:
    """Relevant items with their grades, all above 0."""
    if not isinstance(relevant, Mapping):
        return dict.fromkeys(relevant, 1.0)
    if wrong := {item: grade for item, grade in relevant.items() if not 0 <= grade < math.inf}:
        raise ValueError(f"Grades must be numbers of at least 0, got {wrong}.")
    return {item: float(grade) for item, grade in relevant.items() if grade > 0}


def _dcg(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))
