"""Weights of channels, learned from queries of which it is known what they should find."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table
from tqdm import tqdm

from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation.asking import ask_each, taken
from llama_index_mm.evaluation.intervals import Interval, bootstrap_interval, paired_interval
from llama_index_mm.evaluation.judgments import Identity, Judged
from llama_index_mm.evaluation.report import as_text, html_table, percent, text_table
from llama_index_mm.evaluation.tables import Judgments
from llama_index_mm.evaluation.weighing import Block, Case, Metric, blocks_of, find_weights, metric_of
from llama_index_mm.retrieval import FusionRetriever
from llama_index_mm.retrieval.candidates import Candidates

__all__ = ["WeightFit", "afit_weights", "fit_weights"]

logger = logging.getLogger(__name__)

_FEWEST = 10  # queries that weights can decide
_ENOUGH = 50
_RESTARTS = 3
_DEFAULTS = "the retriever's own"
_EQUAL = "equal weights"
_RANKS = "reciprocal rank"
_FITTED = "fitted, held out"


@dataclass(frozen=True)
class WeightFit:
    """Weights that were fitted, and what they are worth.

    Each query's figure with fitted weights is from weights that were fitted without it: so are the queries that will come.

    Attributes:
        metric: that was maximised.
        weights: to give to a retriever: those proposed if they gain, else the retriever's own.
        proposed: fitted to all queries, by ``part:space:modality``.
        defaults: the retriever's own, of the same keys.
        by_fold: what each part of the queries was scored with: where these differ much, there are too few queries.
        gained: whether the interval of the gain over the retriever's own weights lies above 0.
        scores: mean of the metric by system: the retriever's own weights, equal ones, reciprocal rank fusion with equal ones,
            and those fitted, all over the same candidates.
        gains: of the fitted weights over each other system, with paired bootstrap intervals of 95 %.
        queries: that were answered, over which the figures are.
        decided: those of them that weights can decide: something relevant is among the candidates, and candidates are judged
            by several channels.
        left_out: queries that failed: name and error.
        seed: of the folds, the search and the bootstrap; the same scores give the same fit.
    """

    metric: str
    weights: Mapping[str, float]
    proposed: Mapping[str, float]
    defaults: Mapping[str, float]
    by_fold: tuple[Mapping[str, float], ...]
    gained: bool
    scores: Mapping[str, Interval]
    gains: Mapping[str, Interval]
    queries: int
    decided: int
    left_out: tuple[tuple[str, str], ...]
    seed: int

    @property
    def gain(self) -> Interval:
        """Of the fitted weights over the retriever's own."""
        return self.gains[_DEFAULTS]

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know when reading the figures."""
        gain = f"{100 * self.gain.mean:+.1f} points, 95 % interval {100 * self.gain.low:+.1f} to {100 * self.gain.high:+.1f}"
        if self.gained:
            notes = [f"The fitted weights gain {self.metric} on queries that they were not fitted to: {gain}."]
        elif self.gain.high < 0:
            notes = [
                f"Fitted weights lose {self.metric} on queries that they were not fitted to: {gain}. The retriever's own stay."
            ]
        else:
            notes = [f"No gain in {self.metric} beyond the noise ({gain}): the retriever's own weights stay."]
        if self.decided < _ENOUGH:
            notes.append(_few(self.decided))
        if self.left_out:
            notes.append(f"{len(self.left_out)} queries failed and are left out.")
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that JSON can hold."""
        return {
            **asdict(self),
            "by_fold": [dict(one) for one in self.by_fold],
            "left_out": [{"name": name, "error": error} for name, error in self.left_out],
            "notes": list(self.notes),
        }

    def table(self, *, narrow: bool = False) -> Table:
        """Make a table for a terminal: the metric of each system in per cent, and what fitting gains over it in points.

        Args:
            narrow: put the intervals on lines of their own, for a terminal of 80 characters.
        """
        return text_table(self._head, self._rows, narrow=narrow)

    def weights_table(self) -> Table:
        """Make a table for a terminal: each weight as it is, as it was fitted, and between which it lies over the folds."""
        return text_table(["weight", "own", "fitted", "folds"], self._weight_rows)

    @property
    def _head(self) -> list[str]:
        return ["weights", self.metric, "gain"]

    @property
    def _rows(self) -> list[list[str]]:
        rows = []
        for name, score in self.scores.items():
            gain = self.gains.get(name)
            told = "" if gain is None else f"{100 * gain.mean:+.1f} ±{50 * (gain.high - gain.low):.1f}"
            rows.append([name, percent(score), told + ("*" if gain is not None and 0 not in gain else "")])
        return rows

    @property
    def _weight_rows(self) -> list[list[str]]:
        rows = []
        for key, own in self.defaults.items():
            folds = [one[key] for one in self.by_fold]
            rows.append([key, f"{own:.3g}", f"{self.proposed[key]:.3g}", f"{min(folds):.3g} to {max(folds):.3g}"])
        return rows

    def _repr_html_(self) -> str:
        weights = html_table(["weight", "own", "fitted", "folds"], self._weight_rows, ())
        return weights + html_table(self._head, self._rows, self.notes)

    def __str__(self) -> str:
        return "\n".join([as_text(self.table()), "", as_text(self.weights_table()), "", *self.notes])


def fit_weights(
    retriever: FusionRetriever,
    judged: Judgments | Sequence[Judged],
    *,
    metric: str = "nDCG@10",
    folds: int = 5,
    pull: float = 0.02,
    by: Identity | None = None,
    show_progress: bool = False,
    seed: int = 0,
) -> WeightFit:
    """Find the weights with which a retriever ranks judged queries best, and tell whether they are worth having.

    Each query is asked once; then weights are sought over what the channels said of its candidates. A score is divided by the
    weights of the channels that judge the item, so that only their ratios within one modality decide, and only these are
    fitted: no weight lifts one modality over another. Weights that never meet in a query stay, as do those of 0, for which no
    channel is asked: give such a weight a small value to have it tried. A weight becomes 0 only where the same part of the
    query has another channel to the modality. Fitted weights keep the sum that they had.

    The search climbs the mean of the metric, less ``pull`` for what is moved, from several starts; see `find_weights`. The
    queries are split into folds, kind by kind. Each fold is scored with weights fitted to the others, and these scores are
    compared with those of the retriever's own weights by a paired bootstrap over the queries.

    Args:
        retriever: its seats, cutoff, collapse and diversity are passed over.
        judged: some 50 queries or more, of the kinds that will be asked; see `load_judgments`.
        metric: nDCG@k, R@k, recall@k, P@k for any k, or MRR or mAP over the first 10 places.
        folds: into how many parts the queries are split.
        pull: towards the retriever's own weights: what the metric has to gain for all of the weight to move, in [0, 1].
        by: what items are called by, see `item_of`; default is what the file of judgments was read with, else file names.
        show_progress: show a bar on standard error.
        seed: of the folds, the search and the bootstrap.

    Raises:
        QueryError: weights can decide fewer than 10 of the queries, or the options make no sense.

    Example:
        >>> fit = fit_weights(index.as_retriever(), load_judgments("judgments.csv"))
        >>> retriever = index.as_retriever(weights=fit.weights)
    """
    queries, by, measure = _checked(judged, by, metric, folds, pull)
    found: list[Candidates | Exception] = []
    for one in tqdm(queries, desc="fit weights", unit="query", disable=not show_progress):
        try:
            found.append(retriever.candidates(one.query))
        except Exception as error:  # whatever it is, the other queries are worth asking
            found.append(error)
    return _fit(queries, found, by, measure, folds, pull, seed)


async def afit_weights(
    retriever: FusionRetriever,
    judged: Judgments | Sequence[Judged],
    *,
    metric: str = "nDCG@10",
    folds: int = 5,
    pull: float = 0.02,
    by: Identity | None = None,
    show_progress: bool = False,
    seed: int = 0,
    workers: int = 4,
) -> WeightFit:
    """Like `fit_weights`, off the event loop, with at most ``workers`` queries under way."""
    queries, by, measure = _checked(judged, by, metric, folds, pull)

    async def candidates(one: Judged) -> Candidates | Exception:
        try:
            return await retriever.acandidates(one.query)
        except Exception as error:  # as in `fit_weights`
            return error

    found = await ask_each(queries, candidates, what="fit weights", workers=workers, show_progress=show_progress)
    return await asyncio.to_thread(_fit, queries, found, by, measure, folds, pull, seed)


def _checked(
    judged: Judgments | Sequence[Judged], by: Identity | None, metric: str, folds: int, pull: float
) -> tuple[Sequence[Judged], Identity, Metric]:
    queries, by = taken(judged, by)
    measure = metric_of(metric)
    if not 2 <= folds <= _FEWEST:
        raise QueryError(f"Expected 2 to {_FEWEST} folds, got {folds}.")
    if not 0 <= pull <= 1:
        raise QueryError(f"Expected a pull in [0, 1], got {pull}.")
    return queries, by, measure


def _fit(
    queries: Sequence[Judged],
    found: Sequence[Candidates | Exception],
    by: Identity,
    metric: Metric,
    folds: int,
    pull: float,
    seed: int,
) -> WeightFit:
    answered = [(one, told) for one, told in zip(queries, found, strict=True) if isinstance(told, Candidates)]
    left_out = tuple(
        (one.name, f"{type(told).__name__}: {told}")
        for one, told in zip(queries, found, strict=True)
        if isinstance(told, Exception)
    )
    cases = [Case(one, told, by, metric) for one, told in answered]
    decided = sum(bool(case.found and case.rivals) for case in cases)
    if decided < _FEWEST:
        raise QueryError(
            f"Expected at least {_FEWEST} judged queries that weights can decide, got {decided} of {len(queries)} "
            f"({len(left_out)} failed). Of such a query something relevant is among the candidates, and candidates are judged "
            "by several channels. Judge more queries, or look whether relevant items are called as the index calls them."
        )
    if decided < _ENOUGH:
        logger.warning("fit_weights: %s", _few(decided))
    blocks = blocks_of(cases)
    own = {told.key: told.weight for case in cases for told in case.lists}
    fold_of = _folds(cases, folds, seed)
    by_fold = [
        _found([case for case, at in zip(cases, fold_of, strict=True) if at != fold], blocks, own, pull, seed)
        for fold in range(folds)
    ]
    proposed = _found(cases, blocks, own, pull, seed)
    equal = {key: float(weight > 0) for key, weight in own.items()}
    ranked = [Case(one, told, by, metric, "reciprocal_rank") for one, told in answered]
    values = {
        _DEFAULTS: [case.value(own) for case in cases],
        _EQUAL: [case.value(equal) for case in cases],
        _RANKS: [case.value(equal) for case in ranked],
        _FITTED: [case.value(by_fold[fold]) for case, fold in zip(cases, fold_of, strict=True)],
    }
    fitted = values[_FITTED]
    gains = {name: paired_interval(one, fitted, seed=seed) for name, one in values.items() if name != _FITTED}
    keys = sorted(key for block in blocks for key in block.keys)
    defaults = {key: own[key] for key in keys}
    proposal = {key: proposed[key] for key in keys}
    gained = gains[_DEFAULTS].low > 0 and proposal != defaults
    return WeightFit(
        metric=metric.name,
        weights=proposal if gained else dict(defaults),
        proposed=proposal,
        defaults=defaults,
        by_fold=tuple({key: one[key] for key in keys} for one in by_fold),
        gained=gained,
        scores={name: bootstrap_interval(one, seed=seed) for name, one in values.items()},
        gains=gains,
        queries=len(cases),
        decided=decided,
        left_out=left_out,
        seed=seed,
    )


def _found(
    cases: Sequence[Case], blocks: Sequence[Block], own: Mapping[str, float], pull: float, seed: int
) -> dict[str, float]:
    return find_weights(cases, blocks, own, pull=pull, restarts=_RESTARTS, seed=seed)


def _folds(cases: Sequence[Case], folds: int, seed: int) -> list[int]:
    """Fold of each query: drawn by chance, but as many of each kind in each fold as can be."""
    drawn = np.random.default_rng(seed).permutation(len(cases)).tolist()
    order = sorted(range(len(cases)), key=lambda at: (cases[at].judged.kind, drawn[at]))
    place = {at: position % folds for position, at in enumerate(order)}
    return [place[at] for at in range(len(cases))]


def _few(decided: int) -> str:
    return f"Weights decide only {decided} of the queries; with fewer than {_ENOUGH} a gain is easily missed, or luck."
