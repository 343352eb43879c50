"""Asking judged queries and scoring what comes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore
from tqdm import tqdm

from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation.intervals import bootstrap_intervals
from llama_index_mm.evaluation.judgments import Identity, Judged, check_identity, item_of
from llama_index_mm.evaluation.metrics import average_precision, hit_at, ndcg_at, precision_at, recall_at, reciprocal_rank_of
from llama_index_mm.evaluation.report import EvaluationReport, KindScores, QueryOutcome
from llama_index_mm.evaluation.tables import Judgments

__all__ = ["aevaluate", "ask_each", "evaluate", "score_ranking", "taken"]

T = TypeVar("T")
_OVERALL = "all"


def evaluate(
    retriever: BaseRetriever,
    judged: Judgments | Sequence[Judged],
    *,
    k: Sequence[int] = (1, 5, 10),
    by: Identity | None = None,
    show_progress: bool = False,
    seed: int = 0,
) -> EvaluationReport:
    """Ask every query, and tell how well each kind of query finds what it should.

    A query that fails is named in the report and left out of the means; the rest goes on.

    Args:
        retriever: any LlamaIndex retriever. Give it a ``similarity_top_k`` of several times the largest k: spans of one
            recording are one item, and the file that is asked with does not count. The report tells how many queries got fewer
            than k items.
        judged: queries with what they should find; see `load_judgments` and `mixed`.
        k: places at which to score. Rankings are cut at the largest, for MRR and mAP as well.
        by: what items are called by, see `item_of`; default is what the file of judgments was read with, else file names.
        show_progress: show a bar on standard error.
        seed: of the bootstrap; the same rankings give the same report.

    Raises:
        QueryError: there are no queries, or the options make no sense.

    Example:
        >>> retriever = index.as_retriever(similarity_top_k=30)
        >>> print(evaluate(retriever, load_judgments("judgments.csv")))
    """
    queries, by, places = _checked(judged, by, k)
    outcomes: list[QueryOutcome] = []
    for one in tqdm(queries, desc="evaluate", unit="query", disable=not show_progress):
        began = time.perf_counter()
        try:
            found: list[NodeWithScore] | Exception = retriever.retrieve(one.query)
        except Exception as error:  # whatever it is, the other queries are worth asking
            found = error
        outcomes.append(_outcome(one, found, time.perf_counter() - began, by, places))
    return _report(outcomes, by, places, seed)


async def aevaluate(
    retriever: BaseRetriever,
    judged: Judgments | Sequence[Judged],
    *,
    k: Sequence[int] = (1, 5, 10),
    by: Identity | None = None,
    show_progress: bool = False,
    seed: int = 0,
    workers: int = 4,
) -> EvaluationReport:
    """Like `evaluate`, by ``aretrieve``, with at most ``workers`` queries under way.

    The time of a query then holds what it waited for the others; take times from `evaluate`.
    """
    queries, by, places = _checked(judged, by, k)

    async def outcome(one: Judged) -> QueryOutcome:
        began = time.perf_counter()
        try:
            found: list[NodeWithScore] | Exception = await retriever.aretrieve(one.query)
        except Exception as error:  # as in `evaluate`
            found = error
        return _outcome(one, found, time.perf_counter() - began, by, places)

    outcomes = await ask_each(queries, outcome, what="evaluate", workers=workers, show_progress=show_progress)
    return _report(outcomes, by, places, seed)


async def ask_each(
    queries: Sequence[Judged], ask: Callable[[Judged], Awaitable[T]], *, what: str, workers: int, show_progress: bool
) -> list[T]:
    """What each query comes to, in their order, with at most so many ``workers`` under way.

    Raises:
        QueryError: there are no workers.
    """
    if workers < 1:
        raise QueryError(f"Expected at least one worker, got {workers}.")
    told: dict[int, T] = {}
    waiting = iter(enumerate(queries))
    with tqdm(total=len(queries), desc=what, unit="query", disable=not show_progress) as bar:

        async def work() -> None:
            for at, one in waiting:
                told[at] = await ask(one)
                bar.update()

        await asyncio.gather(*(work() for _ in range(min(workers, len(queries)))))
    return [told[at] for at in range(len(queries))]


def taken(judged: Judgments | Sequence[Judged], by: Identity | None) -> tuple[Sequence[Judged], Identity]:
    """Queries, and what their items are called by: as is said, else as they were read, else by file names.

    Raises:
        QueryError: items can't be called so.
    """
    queries: Sequence[Judged] = judged.queries if isinstance(judged, Judgments) else list(judged)
    by = by or (judged.by if isinstance(judged, Judgments) else "file_name")
    check_identity(by)
    return queries, by


def score_ranking(ranking: Sequence[str], relevant: Judged, k: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Every metric of one ranking: ``R@k`` (1 if a relevant item is among the first k), ``recall@k``, ``P@k`` and ``nDCG@k``
    for each k, ``MRR`` and ``mAP``, both over the first max(k) places; all in [0, 1].
    """  # noqa: D205
    grades, cut = relevant.grades, list(dict.fromkeys(ranking))[: max(k)]
    return {
        **{f"R@{at}": hit_at(at, cut, grades) for at in k},
        **{f"recall@{at}": recall_at(at, cut, grades) for at in k},
        **{f"P@{at}": precision_at(at, cut, grades) for at in k},
        **{f"nDCG@{at}": ndcg_at(at, cut, grades) for at in k},
        "MRR": reciprocal_rank_of(cut, grades),
        "mAP": average_precision(cut, grades),
    }


def _checked(
    judged: Judgments | Sequence[Judged], by: Identity | None, k: Sequence[int]
) -> tuple[Sequence[Judged], Identity, tuple[int, ...]]:
    queries, by = taken(judged, by)
    if not queries:
        raise QueryError("Expected at least one judged query, got none.")
    if not k or min(k) < 1:
        raise QueryError(f"Expected places k of at least 1, got {list(k)}.")
    return queries, by, tuple(sorted(set(k)))


def _outcome(
    one: Judged, found: list[NodeWithScore] | Exception, seconds: float, by: Identity, k: Sequence[int]
) -> QueryOutcome:
    if isinstance(found, Exception):
        return QueryOutcome(one.name, one.kind, dict(one.grades), (), seconds, {}, f"{type(found).__name__}: {found}")
    items = dict.fromkeys(item_of(result.node, by) for result in found)
    ranking = [item for item in items if item not in one.excluded][: max(k)]
    return QueryOutcome(one.name, one.kind, dict(one.grades), tuple(ranking), seconds, score_ranking(ranking, one, k))


def _report(outcomes: Sequence[QueryOutcome], by: Identity, k: tuple[int, ...], seed: int) -> EvaluationReport:
    kinds = dict.fromkeys(one.kind for one in outcomes)
    rows = [_row(kind, [one for one in outcomes if one.kind == kind], k, seed) for kind in kinds]
    return EvaluationReport(tuple(rows), _row(_OVERALL, outcomes, k, seed), tuple(outcomes), k, by, seed)


def _row(kind: str, outcomes: Sequence[QueryOutcome], k: Sequence[int], seed: int) -> KindScores:
    answered = [one for one in outcomes if not one.error]
    failed = len(outcomes) - len(answered)
    if not answered:
        return KindScores(kind, 0, failed, 0, None, {})
    names = list(answered[0].scores)
    intervals = bootstrap_intervals([[one.scores[name] for name in names] for one in answered], seed=seed)
    short = sum(len(one.ranking) < max(k) for one in answered)
    median = 1000 * float(np.median([one.seconds for one in answered]))
    return KindScores(kind, len(answered), failed, short, median, dict(zip(names, intervals, strict=True)))
