"""``llama-index-mm calibrate``: learn from an index what similarities mean in it."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["calibrate"]


def calibrate(
    store: Annotated[Path, typer.Argument(help="Folder of the index.")],
    anew: Annotated[bool, typer.Option("--anew", help="Keep nothing of what was learned before.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw it; the name ends in .png, .svg or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Make scores comparable between modalities and spaces; `ingest` does it where the index has changed much.

    The table tells, for queries that ask for nothing that is there, who takes the first ten places by raw similarity and by
    score.
    """
    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.retrieval.plots import check_plot

    if plot is not None:
        check_plot(plot)  # not after all has been asked
    with MultiModalIndex.open(store) as index:
        report = index.calibrate(show_progress=sys.stderr.isatty(), anew=anew)
    if plot is not None and report.channels:
        report.plot(plot)
        Console(stderr=True, highlight=False).print(f"[dim]Wrote {escape(str(plot))}[/dim]")
    if as_json:
        sys.stdout.write(json.dumps(report.to_dict(), indent=2) + "\n")
        return
    out = Console(highlight=False)
    if not report.channels:
        out.print(escape(str(report)))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("asked with", "space", "finds"):
        table.add_column(column)
    for column in ("nodes", "share of nodes", "first places, raw", "by score"):
        table.add_column(column, justify="right")
    for one in report.channels:
        shares = (f"{share:.0%}" for share in (one.fair, one.before, one.after))
        table.add_row(one.part, escape(one.space), one.modality, str(one.items), *shares)
    out.print(table)
