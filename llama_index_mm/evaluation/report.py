"""What an evaluation came to: figures, table, page and plot."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation.intervals import Interval
from llama_index_mm.retrieval.plots import check_plot

__all__ = ["EvaluationReport", "KindScores", "QueryOutcome"]

_COLOURS = ("#3b77bd", "#d0752b", "#3f8f5b", "#8a3a78", "#8a4b14", "#5a5d62")
_HALF = " ±"
_WIDTH = 140  # characters of a table that is made into text
_FEW = 10  # queries of which a bootstrap interval covers far less than it says


@dataclass(frozen=True)
class QueryOutcome:
    """What one query came to.

    Attributes:
        name: of the query.
        kind: of the query.
        grades: what should be found.
        ranking: items found, best first, each once, without those that are excluded; at most max(k).
        seconds: that retrieving took.
        scores: by metric; empty if it failed.
        error: why it failed; empty if it did not.
    """

    name: str
    kind: str
    grades: Mapping[str, float]
    ranking: tuple[str, ...]
    seconds: float
    scores: Mapping[str, float]
    error: str = ""


@dataclass(frozen=True)
class KindScores:
    """What the queries of one kind came to.

    Attributes:
        kind: of query.
        queries: that were answered; the metrics are means over these.
        failed: how many were not.
        short: how many got fewer than max(k) items: in a large index a sign that the retriever's ``similarity_top_k`` is too
            small.
        p50_ms: median time of a query in milliseconds; None if all failed.
        metrics: mean with its 95 % bootstrap interval, by metric; empty if all failed.
    """

    kind: str
    queries: int
    failed: int
    short: int
    p50_ms: float | None
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class EvaluationReport:
    """How well queries find what they should.

    Attributes:
        kinds: one for each kind of query, in the order in which they came.
        overall: over all queries, each counting the same.
        outcomes: of each query, in their order.
        k: places at which was scored.
        by: what items are called by.
        seed: of the bootstrap.
    """

    kinds: tuple[KindScores, ...]
    overall: KindScores
    outcomes: tuple[QueryOutcome, ...]
    k: tuple[int, ...]
    by: str
    seed: int

    @property
    def failures(self) -> tuple[QueryOutcome, ...]:
        """Queries that failed."""
        return tuple(one for one in self.outcomes if one.error)

    @property
    def headline(self) -> tuple[str, ...]:
        """Metrics that the table shows: R@k, and nDCG at the largest k, MRR and mAP."""
        return (*(f"R@{k}" for k in self.k), f"nDCG@{max(self.k)}", "MRR", "mAP")

    @property
    def rows(self) -> tuple[KindScores, ...]:
        """Rows of the table: the kinds, and all together if there is more than one."""
        return (*self.kinds, self.overall) if len(self.kinds) > 1 else self.kinds

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know when reading the figures: queries that failed, too few of a kind, and rankings that are too short."""
        notes = []
        if self.failures:
            notes.append(f"{len(self.failures)} of {len(self.outcomes)} queries failed and are left out.")
        if few := [f"{row.kind} ({row.queries})" for row in self.kinds if 0 < row.queries < _FEW]:
            notes.append(f"Intervals of fewer than {_FEW} queries are too narrow: {', '.join(few)}.")
        if self.overall.short:
            notes.append(
                f"{self.overall.short} of {self.overall.queries} queries got fewer than {max(self.k)} items: "
                "if the index holds more, raise the retriever's similarity_top_k."
            )
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that JSON can hold."""
        return {
            "k": list(self.k),
            "by": self.by,
            "seed": self.seed,
            "kinds": [asdict(row) for row in self.kinds],
            "overall": asdict(self.overall),
            "queries": [{**asdict(one), "ranking": list(one.ranking)} for one in self.outcomes],
        }

    def table(self, *, narrow: bool = False) -> Table:
        """Make a table for a terminal: means in per cent with half of the interval's width.

        Args:
            narrow: put the intervals on lines of their own, for a terminal of 80 characters.
        """
        return text_table(self._head, [self._cells(row) for row in self.rows], narrow=narrow)

    def plot(self, path: Path | str) -> None:
        """Draw R@k with intervals for each kind, and write it as PNG, SVG or PDF.

        Raises:
            MissingExtraError: matplotlib is not installed.
            QueryError: every query failed, or there is no such folder, or the name ends in no format that can be written.
        """
        figures = check_plot(path)
        rows = [row for row in self.rows if row.metrics]
        if not rows:
            raise QueryError("There is nothing to draw: every query failed.")
        names = [f"R@{k}" for k in self.k]
        figure = figures.Figure(figsize=(8, 1.3 + 0.5 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for at, name in enumerate(names):
            told = [row.metrics[name] for row in rows]
            shift = 0.5 * ((at + 0.5) / len(names) - 0.5)
            axes.errorbar(
                [100 * one.mean for one in told],
                [place + shift for place in range(len(rows))],
                xerr=[[100 * (one.mean - one.low) for one in told], [100 * (one.high - one.mean) for one in told]],
                fmt="o",
                color=_COLOURS[at % len(_COLOURS)],
                capsize=3,
                label=name,
            )
        labels = [f"{row.kind}  n={row.queries}" for row in rows]
        axes.set_yticks(range(len(rows)), labels, parse_math=False)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("queries that find it among the first k, in %, with 95 % interval")
        axes.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
        figure.savefig(path)

    @property
    def _head(self) -> list[str]:
        return ["kind", "queries", *self.headline, "p50 ms"]

    def _cells(self, row: KindScores) -> list[str]:
        queries = f"{row.queries} ({row.failed} failed)" if row.failed else str(row.queries)
        figures = [percent(row.metrics[name]) if name in row.metrics else "-" for name in self.headline]
        return [row.kind, queries, *figures, "-" if row.p50_ms is None else f"{row.p50_ms:.1f}"]

    def _repr_html_(self) -> str:
        return html_table(self._head, [self._cells(row) for row in self.rows], self.notes)

    def __str__(self) -> str:
        return "\n".join([as_text(self.table()), *self.notes])


def percent(interval: Interval) -> str:
    """A share in per cent, with half of the interval's width: ``76.0 ±8.4``."""
    return f"{100 * interval.mean:.1f}{_HALF}{50 * (interval.high - interval.low):.1f}"


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, narrow: bool = False) -> Table:
    """A table for a terminal: words to the left, figures to the right; if narrow, with intervals on lines of their own."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0) if narrow else (0, 1), header_style="bold")
    table.add_column(head[0])  # the one that is folded if there is no room
    for name in head[1:]:
        table.add_column(name.replace(" ", "\n") if narrow else name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(cell.replace(_HALF, _HALF.replace(" ", "\n")) if narrow else cell) for cell in row))
    return table


def as_text(table: Table) -> str:
    """A table without colours, lines without blanks at their ends."""
    # In Jupyter, rich would show an empty output besides.
    console = Console(width=_WIDTH, color_system=None, force_terminal=False, force_jupyter=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A table for a notebook."""

    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    said = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>{said}"
