"""Retrieval metrics. Pure functions of a ranking and the set of relevant items."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["QueryScores", "hit_at", "precision_at", "reciprocal_rank_of", "summarise"]


@dataclass(frozen=True)
class QueryScores:
    """What one query came to.

    Attributes:
        ranking: items found, best first.
        relevant: items that should be found.
    """

    ranking: Sequence[Hashable]
    relevant: Collection[Hashable]


def hit_at(k: int, ranking: Sequence[Hashable], relevant: Collection[Hashable]) -> float:
    """1 if a relevant item is among the first ``k``, else 0. With one relevant item this is recall at k."""
    return float(any(item in relevant for item in ranking[:k]))


def precision_at(k: int, ranking: Sequence[Hashable], relevant: Collection[Hashable]) -> float:
    """Share of the first ``k`` places that hold a relevant item, in [0, 1]; missing places count as wrong."""
    return sum(item in relevant for item in ranking[:k]) / k


def reciprocal_rank_of(ranking: Sequence[Hashable], relevant: Collection[Hashable]) -> float:
    """1 / rank of the first relevant item, 0 if there is none."""
    return next((1 / rank for rank, item in enumerate(ranking, 1) if item in relevant), 0.0)


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
