"""How well held-out pairs find one another."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.alignment.pairs import Encoded
from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.evaluation.intervals import Interval, bootstrap_intervals

__all__ = ["DIRECTIONS", "METRICS", "Ranks", "figures", "ranks_of"]

DIRECTIONS = ("space_to_new", "new_to_space")
METRICS = ("R@1", "R@5", "R@10", "MRR")


@dataclass(frozen=True)
class Ranks:
    """Rank of the first thing that belongs to each query, among those that were held out.

    Attributes:
        space_to_new: ``(t,)``, of what is in the space asking for items of the new modality.
        new_to_space: ``(i,)``, the other way round.
        chance: R@1 that guessing gives, by direction.
    """

    space_to_new: NDArray[np.int64]
    new_to_space: NDArray[np.int64]
    chance: Mapping[str, float]

    @property
    def score(self) -> float:
        """MRR and R@1, averaged over both directions: what decides when fitting stops."""
        both = (self.space_to_new, self.new_to_space)
        return float(np.mean([((1 / ranks).mean() + (ranks == 1).mean()) / 2 for ranks in both]))

    def mean(self, metric: str) -> float:
        """R@1 or MRR or another of `METRICS`, averaged over both directions."""
        return float(np.mean([_values(ranks, metric).mean() for ranks in (self.space_to_new, self.new_to_space)]))


def ranks_of(vectors: Vectors, data: Encoded) -> Ranks:
    """Rank held-out pairs.

    What is as similar as the right thing counts as before it: where all vectors are the same, everything comes last.

    Args:
        vectors: ``(i, d)`` of the items.
        data: the held-out pairs.
    """
    similar = vectors @ data.targets.T
    together = data.together(np.arange(len(vectors)), np.arange(len(data.targets)))
    chance = {"space_to_new": float(together.mean(0).mean()), "new_to_space": float(together.mean(1).mean())}
    return Ranks(_ranks(similar.T, together.T), _ranks(similar, together), chance)


def figures(ranks: Ranks) -> dict[str, dict[str, Interval]]:
    """Means with 95 % intervals over the queries, by direction and metric."""
    out = {}
    for direction in DIRECTIONS:
        values = np.stack([_values(getattr(ranks, direction), metric) for metric in METRICS], 1)
        out[direction] = dict(zip(METRICS, bootstrap_intervals(values), strict=True))
    return out


def _values(ranks: NDArray[np.int64], metric: str) -> NDArray[np.float64]:
    return 1 / ranks if metric == "MRR" else (ranks <= int(metric.removeprefix("R@"))).astype(np.float64)


def _ranks(similar: NDArray[np.float32], together: NDArray[np.bool_]) -> NDArray[np.int64]:
    best = np.where(together, similar, -np.inf).max(1, keepdims=True)
    ranks: NDArray[np.int64] = 1 + ((similar >= best) & ~together).sum(1)
    return ranks
