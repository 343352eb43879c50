"""``llama-index-mm calibrate``: learn from an index what similarities mean in it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import DEFAULT_STORE, AsJson, Quiet, Store, StoreArgument, store_of

if TYPE_CHECKING:
    from llama_index_mm.retrieval import CalibrationReport

__all__ = ["calibrate"]


def calibrate(
    ctx: typer.Context,
    folder: StoreArgument = None,
    store: Store = DEFAULT_STORE,
    anew: Annotated[bool, typer.Option("--anew", help="Keep nothing of what was learned before.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw it; the name ends in .png, .svg or .pdf.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make scores comparable between modalities and spaces; `ingest` does it where the index has changed much.

    The table tells, for queries that ask for nothing that is there, who takes the first ten places by raw similarity and by
    score.
    """
    store = store_of(ctx, folder, store)

    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.retrieval.plots import check_plot

    if plot is not None:
        check_plot(plot)  # not after all has been asked
    with MultiModalIndex.open(store) as index:
        report = index.calibrate(show_progress=output.progress(), anew=anew)
    if plot is not None and report.channels:
        report.plot(plot)
        output.note(f"Wrote {plot}")
    if as_json:
        output.print_json(report.to_dict())
    else:
        _show(report)


def _show(report: "CalibrationReport") -> None:
    from rich.markup import escape
    from rich.table import Table

    if not report.channels:
        output.results().print(escape(str(report)))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("asked with", "space", "finds"):
        table.add_column(column)
    for column in ("nodes", "share of nodes", "first places, raw", "by score"):
        table.add_column(column, justify="right")
    for one in report.channels:
        shares = (f"{share:.0%}" for share in (one.fair, one.before, one.after))
        table.add_row(one.part, escape(one.space), one.modality, str(one.items), *shares)
    output.results().print(table)
