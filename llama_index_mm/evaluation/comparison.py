"""Whether one system is better than another, or only luckier with its queries."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation.intervals import Interval, difference_intervals
from llama_index_mm.evaluation.report import EvaluationReport, QueryOutcome, as_text, html_table, text_table

__all__ = ["ComparedKind", "Comparison", "compare"]

_NO_DIFFERENCE = "no difference beyond the noise"


@dataclass(frozen=True)
class ComparedKind:
    """Two systems on the queries of one kind.

    Attributes:
        kind: of query, as the first report calls it.
        queries: that both answered.
        differences: second minus first with its 95 % interval, see `difference_intervals`, by metric; empty if there are no
            such queries.
    """

    kind: str
    queries: int
    differences: Mapping[str, Interval]

    def verdict(self, metric: str) -> str:
        """Say which is better: ``"second is better"``, ``"first is better"``, or ``"no difference beyond the noise"``.

        Raises:
            QueryError: there is no such metric.
        """
        if metric not in self.differences:
            raise QueryError(f"Unknown metric {metric!r}; there are: {', '.join(self.differences) or '(none)'}.")
        interval = self.differences[metric]
        if 0 in interval:
            return _NO_DIFFERENCE
        return "second is better" if interval.mean > 0 else "first is better"


@dataclass(frozen=True)
class Comparison:
    """Two systems over the same queries.

    Attributes:
        kinds: one for each kind of query.
        overall: over all queries.
        headline: metrics that the table shows.
        left_out: queries that one of the two did not answer.
    """

    kinds: tuple[ComparedKind, ...]
    overall: ComparedKind
    headline: tuple[str, ...]
    left_out: int

    @property
    def rows(self) -> tuple[ComparedKind, ...]:
        """Rows of the table: the kinds, and all together if there is more than one."""
        return (*self.kinds, self.overall) if len(self.kinds) > 1 else self.kinds

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that JSON can hold, verdicts included."""
        return {
            "kinds": [_as_dict(row) for row in self.kinds],
            "overall": _as_dict(self.overall),
            "left_out": self.left_out,
        }

    def table(self, *, narrow: bool = False) -> Table:
        """Make a table for a terminal: differences in points with half of the interval's width; ``*`` if it leaves out 0.

        Args:
            narrow: put the intervals on lines of their own, for a terminal of 80 characters.
        """
        return text_table(self._head, [self._cells(row) for row in self.rows], narrow=narrow)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know when reading the figures."""
        decided = [name for name in self.headline if self.overall.differences and 0 not in self.overall.differences[name]]
        found = [f"{name}: {self.overall.verdict(name)}" for name in decided]
        notes = ["Overall, " + ("; ".join(found) if found else _NO_DIFFERENCE) + "."]
        if self.left_out:
            notes.append(f"{self.left_out} queries are left out, because one of the two did not answer them.")
        return tuple(notes)

    @property
    def _head(self) -> list[str]:
        return ["kind", "queries", *self.headline]

    def _cells(self, row: ComparedKind) -> list[str]:
        told = [row.differences.get(name) for name in self.headline]
        return [row.kind, str(row.queries), *(_points(one) if one else "-" for one in told)]

    def _repr_html_(self) -> str:
        return html_table(self._head, [self._cells(row) for row in self.rows], self.notes)

    def __str__(self) -> str:
        return "\n".join([as_text(self.table()), *self.notes])


def compare(first: EvaluationReport, second: EvaluationReport) -> Comparison:
    """Compare two systems by a paired bootstrap over the queries that both answered.

    Many metrics and kinds at once find a difference by chance in one of twenty: look at the metric that was chosen before.

    Args:
        first: report of one system, such as the one in use.
        second: report of the other, over the same queries in the same order, with the same k.

    Raises:
        QueryError: the reports are over other queries, other k, or items called in another way.
    """
    if (first.k, first.by) != (second.k, second.by):
        raise QueryError(
            f"Expected reports of the same k and names of items, got k={first.k} by {first.by} and k={second.k} by {second.by}."
        )
    pairs = list(zip(first.outcomes, second.outcomes, strict=False))
    differing = [one.name for one, two in pairs if (one.name, one.grades) != (two.name, two.grades)]
    if differing or len(first.outcomes) != len(second.outcomes):
        where = f", and the first that differs is {differing[0]!r}" if differing else ""
        raise QueryError(
            "Expected reports over the same queries in the same order, "
            f"got {len(first.outcomes)} and {len(second.outcomes)} queries{where}."
        )
    both = [(one, two) for one, two in pairs if not one.error and not two.error]
    kinds = [
        _compared(kind, [pair for pair in both if pair[0].kind == kind], first.seed)
        for kind in dict.fromkeys(one.kind for one, _ in pairs)
    ]
    overall = _compared(first.overall.kind, both, first.seed)
    return Comparison(tuple(kinds), overall, first.headline, len(pairs) - len(both))


def _compared(kind: str, pairs: Sequence[tuple[QueryOutcome, QueryOutcome]], seed: int) -> ComparedKind:
    if not pairs:
        return ComparedKind(kind, 0, {})
    names = list(pairs[0][0].scores)
    gains = np.array([[two.scores[name] - one.scores[name] for name in names] for one, two in pairs])
    return ComparedKind(kind, len(pairs), dict(zip(names, difference_intervals(gains, seed=seed), strict=True)))


def _points(interval: Interval) -> str:
    return f"{100 * interval.mean:+.1f} ±{50 * (interval.high - interval.low):.1f}{'' if 0 in interval else '*'}"


def _as_dict(row: ComparedKind) -> dict[str, Any]:
    told = {name: {**asdict(one), "verdict": row.verdict(name)} for name, one in row.differences.items()}
    return {"kind": row.kind, "queries": row.queries, "differences": told}
