"""Which weights rank judged queries best. Pure functions of the scores that channels gave."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation.judgments import Identity, Judged, item_of
from llama_index_mm.evaluation.metrics import average_precision, hit_at, ndcg_at, precision_at, recall_at, reciprocal_rank_of
from llama_index_mm.retrieval.candidates import CandidateList, Candidates
from llama_index_mm.retrieval.fusion import FUSIONS, Fusion

__all__ = ["Block", "Case", "Metric", "blocks_of", "find_weights", "metric_of"]

Weighing = Mapping[str, float]
"""Weight by ``part:space:modality``."""

_PLACES = 10  # that MRR and mAP look at
_STEPS = 20  # of a share from 0 to 1
_LEAST = 0.01  # share of a channel without which a part of a query could find nothing
_SHARE_DIGITS = 3
_WEIGHT_DIGITS = 6
_SWEEPS = 10
_EQUAL = 1e-9  # what differs less is rounding
_METRICS: Mapping[str, Callable[..., float]] = {
    "R": hit_at,
    "recall": recall_at,
    "P": precision_at,
    "nDCG": ndcg_at,
}


@dataclass(frozen=True)
class Metric:
    """A figure of one ranking.

    Attributes:
        name: as `score_ranking` calls it.
        places: that it looks at.
        of: gives it for a ranking, cut at the places, and the grades of what is relevant.
    """

    name: str
    places: int
    of: Callable[[Sequence[str], Mapping[str, float]], float]


def metric_of(name: str) -> Metric:
    """Find a metric by its name: R@k, recall@k, P@k, nDCG@k, or MRR or mAP, both over the first 10 places.

    Raises:
        QueryError: there is no such metric.
    """
    if name == "MRR":
        return Metric(name, _PLACES, reciprocal_rank_of)
    if name == "mAP":
        return Metric(name, _PLACES, average_precision)
    match = re.fullmatch(r"(R|recall|P|nDCG)@([1-9]\d{0,5})", name)
    if match is None:
        raise QueryError(f"Unknown metric {name!r}; there are: nDCG@k, R@k, recall@k, P@k with a number for k, MRR, mAP.")
    measure, k = _METRICS[match[1]], int(match[2])
    return Metric(name, k, lambda ranking, grades: measure(k, ranking, grades))


class Case:
    """A judged query with what was said of its candidates, to be ranked by any weights, as `FusionRetriever` would.

    Args:
        one: the query.
        candidates: of it.
        by: what items are called by.
        metric: to rank for.
        fusion: default is that of the candidates.
    """

    def __init__(self, one: Judged, candidates: Candidates, by: Identity, metric: Metric, fusion: Fusion | None = None) -> None:
        self.judged = one
        self._metric = metric
        self._fusion = fusion or candidates.fusion
        names = {item: item_of(node, by) for item, node in candidates.nodes.items()}
        items = [item for item, name in names.items() if name not in one.excluded]
        rows = {item: at for at, item in enumerate(items)}
        self._names = [names[item] for item in items]
        self._lists = candidates.lists
        size = (len(items), len(self._lists))
        self._terms, self._there, self._member = np.zeros(size), np.zeros(size, bool), np.zeros(size, bool)
        for at, told in enumerate(self._lists):
            # A fusion of one list gives the scores as it takes them; several lists make a weighted mean, or maximum, of these.
            alone = FUSIONS[self._fusion]([told.scores], [1.0], dict.fromkeys(told.scores, (0,)))
            terms = told.scores if told.negative else {item: fused.score for item, fused in alone.items()}
            for item in told.scores.keys() & rows.keys():
                self._terms[rows[item], at] = terms[item]
                self._there[rows[item], at] = True
        for item, row in rows.items():
            self._member[row, list(candidates.groups[item])] = True
        self._unwanted = np.array([told.negative for told in self._lists], bool)
        self._share = np.array([told.share for told in self._lists])
        self._keys = tuple(dict.fromkeys(told.key for told in self._lists))
        self._known: dict[tuple[float, ...], float] = {}

    @property
    def lists(self) -> tuple[CandidateList, ...]:
        """Who said something."""
        return self._lists

    @property
    def rivals(self) -> list[frozenset[str]]:
        """Keys of those who judge the same candidates, where there are several; each set once."""
        heavy = [told.weight > 0 and told.share > 0 for told in self._lists]
        sets = {
            frozenset(self._lists[at].key for at in np.flatnonzero(group & heavy).tolist())
            for group in np.unique(self._member, axis=0)
        }
        return sorted((one for one in sets if len(one) > 1), key=sorted)

    @property
    def found(self) -> bool:
        """Whether anything relevant is among the candidates."""
        return any(self.judged.grades.get(name, 0) > 0 for name in self._names)

    def ranking(self, weights: Weighing) -> list[str]:
        """Names of the items, best first, each once, as many as the metric looks at."""
        heavy = self._share * [weights[told.key] for told in self._lists]
        wanted = np.where(self._member & ~self._unwanted, heavy, 0.0)
        alive = np.any(self._there & (wanted > 0), axis=1)
        if self._fusion == "maximum":
            scores = (self._terms * (wanted / _divisor(wanted.max(axis=1, initial=0.0)))).max(axis=1, initial=0.0)
        else:
            scores = np.minimum(1.0, (self._terms * (wanted / _divisor(wanted.sum(axis=1)))).sum(axis=1))
        if self._unwanted.any():
            loss = np.where(self._there & self._unwanted, np.minimum(1.0, heavy) * self._terms, 0.0)
            scores = scores * (1.0 - loss).prod(axis=1)
        order = np.argsort(-scores, kind="stable")  # of equal scores the older node comes first
        names = dict.fromkeys(self._names[row] for row in order.tolist() if alive[row])
        return list(names)[: self._metric.places]

    def value(self, weights: Weighing) -> float:
        """The metric of the ranking by some weights."""
        known = tuple(weights[key] for key in self._keys)
        if known not in self._known:
            self._known[known] = self._metric.of(self.ranking(weights), self.judged.grades)
        return self._known[known]


def _divisor(whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(whole > 0, whole, 1.0)[:, None]


@dataclass(frozen=True)
class Block:
    """Weights of which the ratio decides: of one modality, and linked by queries in which they judge the same candidates.

    Attributes:
        keys: sorted.
        weights: of the retriever.
        cases: share of the queries in which two of them meet, in (0, 1].
        steady: keys that answer whenever their part is asked.
    """

    keys: tuple[str, ...]
    weights: tuple[float, ...]
    cases: float
    steady: frozenset[str]

    def moved(self, weights: Weighing) -> float:
        """Share of the weight that stands elsewhere than in the retriever, in [0, 1]: half the sum of the differences."""
        now = np.array([weights[key] for key in self.keys])
        before = np.array(self.weights)
        return 0.5 * float(np.abs(now / now.sum() - before / before.sum()).sum())

    def at(self, shares: NDArray[np.float64]) -> dict[str, float]:
        """Weights for shares ``(n,)``, with the sum that they have in the retriever.

        0 becomes a little more where a part of a query might be left without a channel to the modality.
        """
        held = np.round(shares / shares.sum(), _SHARE_DIGITS)
        for at in np.flatnonzero(held == 0):
            part = _part(self.keys[at])
            others = [key for key, share in zip(self.keys, held, strict=True) if share > 0 and key in self.steady]
            if part not in map(_part, others):
                held[at] = _LEAST
        total = sum(self.weights)
        return {key: round(float(share) * total, _WEIGHT_DIGITS) for key, share in zip(self.keys, held, strict=True)}

    def line(self, weights: Weighing, key: str) -> Iterable[dict[str, float]]:
        """Weights in which one key has every share from 0 to 1, and the others keep their ratios."""
        at = self.keys.index(key)
        shares = np.array([weights[one] for one in self.keys])
        if shares.sum() - shares[at] <= 0:  # it has everything, and the others have no ratio
            shares = np.array(self.weights)
        rest = np.delete(shares, at) / (shares.sum() - shares[at])
        for step in range(_STEPS + 1):
            share = step / _STEPS
            yield self.at(np.insert((1 - share) * rest, at, share))


def _part(key: str) -> str:
    part = key.partition(":")[0]
    return "text" if part == "query" else part  # other retrievers are asked with the words


def blocks_of(cases: Sequence[Case]) -> list[Block]:
    """The weights that can change the ranking of any of these queries, by what has to be weighed together."""
    linked: list[set[str]] = []
    for rivals in dict.fromkeys(one for case in cases for one in case.rivals):
        touching = [block for block in linked if block & rivals]
        linked = [block for block in linked if not block & rivals] + [set(rivals).union(*touching)]
    told = {one.key: one for case in cases for one in case.lists}
    steady = frozenset(key for key, one in told.items() if one.steady)
    blocks = []
    for keys in sorted(map(sorted, linked)):
        meeting = sum(any(one <= set(keys) for one in case.rivals) for case in cases)
        weights = tuple(told[key].weight for key in keys)
        blocks.append(Block(tuple(keys), weights, meeting / len(cases), steady & set(keys)))
    return blocks


def find_weights(
    cases: Sequence[Case], blocks: Sequence[Block], defaults: Weighing, *, pull: float, restarts: int, seed: int
) -> dict[str, float]:
    """Find the weights for which the mean of the metric, less the pull of the defaults, is greatest.

    Goal: mean over the queries of metric - pull times the share of the weight that is moved. It is climbed one weight after
    the other, each time over all shares from 0 to 1 in steps of 0.05 with the ratios of the others kept, until no step helps;
    from the defaults, from equal weights, and from random ones. Of equally good weights the first found stay: the defaults.

    Args:
        cases: queries to fit to.
        blocks: weights that are fitted.
        defaults: weights of all keys.
        pull: what a query's metric has to gain for all of its weight to move.
        restarts: random starts.
        seed: of these.
    """

    def goal(weights: Weighing) -> float:
        kept = sum(block.cases * block.moved(weights) for block in blocks)
        return float(np.mean([case.value(weights) for case in cases])) - pull * kept

    rng = np.random.default_rng(seed)
    starts = [dict(defaults), {**defaults, **_joined(block.at(np.ones(len(block.keys))) for block in blocks)}]
    for _ in range(restarts):
        starts.append({**defaults, **_joined(block.at(rng.dirichlet(np.ones(len(block.keys)))) for block in blocks)})
    best, height = dict(defaults), goal(defaults)
    for start in starts:
        weights, reached = start, goal(start)
        for _ in range(_SWEEPS):
            before = reached
            for block in blocks:
                back = dict(zip(block.keys, block.weights, strict=True))
                for key in block.keys:
                    for step in (back, *block.line(weights, key)):
                        tried = {**weights, **step}
                        if (value := goal(tried)) > reached + _EQUAL:
                            weights, reached = tried, value
            if reached <= before + _EQUAL:
                break
        if reached > height + _EQUAL:
            best, height = weights, reached
    return best


def _joined(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    return {key: value for part in parts for key, value in part.items()}
