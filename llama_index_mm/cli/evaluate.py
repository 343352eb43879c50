"""``llama-index-mm evaluate``: how well queries with known answers find them."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

__all__ = ["evaluate"]

_DEPTH = 3  # times the largest k are asked for: spans of one recording are one item
_WIDE = 110  # characters from which intervals stand beside their means


def evaluate(
    store: Annotated[Path, typer.Argument(help="Folder of the index.")],
    judgments: Annotated[Path, typer.Argument(help="CSV or JSON Lines of queries and what they should find.")],
    places: Annotated[str, typer.Option("--k", help="Places at which to score, with commas between.")] = "1,5,10",
    everywhere: Annotated[
        bool, typer.Option("--mixed/--targeted", help="Search everything, or only the modalities that each query names.")
    ] = False,
    by: Annotated[
        str, typer.Option("--by", help="What the judgments call items by: file_name, file_path, ref_doc_id or node_id.")
    ] = "file_name",
    fusion: Annotated[str, typer.Option("--fusion", help="convex or reciprocal_rank.")] = "convex",
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw R@k; the name ends in .png, .svg or .pdf.")] = None,
    fit: Annotated[
        bool, typer.Option("--fit-weights", help="Also find the weights of channels that rank these queries best.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Tell how well queries find what they should, by kind of query, with 95 % intervals.

    Exit status 1 if a row of the judgments can't be taken, if a query fails, or if there are too few to fit weights to.
    """
    from llama_index_mm.errors import QueryError
    from llama_index_mm.evaluation import evaluate as ask_all
    from llama_index_mm.evaluation import fit_weights, load_judgments, mixed
    from llama_index_mm.evaluation.tables import COLUMNS
    from llama_index_mm.index import MultiModalIndex

    k = _places(places)
    judged = load_judgments(judgments, by=by)  # type: ignore[arg-type]
    err = Console(stderr=True, highlight=False)
    for problem in judged.problems:
        err.print(f"[yellow]not taken[/yellow] {escape(str(problem))}")
    if judged.ignored:
        err.print(f"[dim]Columns that are not known: {escape(', '.join(judged.ignored))}. Known: {', '.join(COLUMNS)}.[/dim]")
    with MultiModalIndex.open(store) as index:
        retriever = index.as_retriever(similarity_top_k=_DEPTH * max(k), fusion=fusion)  # type: ignore[arg-type]
        queries = mixed(judged.queries) if everywhere else judged.queries
        report = ask_all(retriever, queries, k=k, by=judged.by, show_progress=sys.stderr.isatty())
        fitted, unfitted = None, ""
        if fit:
            try:
                options = {"metric": f"nDCG@{max(k)}", "by": judged.by, "show_progress": sys.stderr.isatty()}
                fitted = fit_weights(retriever, queries, **options)  # type: ignore[arg-type]
            except QueryError as error:  # the report is worth having
                unfitted = str(error)
    if as_json:
        problems = [{"row": one.row, "column": one.column, "reason": one.reason} for one in judged.problems]
        told = {**report.to_dict(), "not_taken": problems}
        if fit:
            told["weights"] = fitted.to_dict() if fitted is not None else {"error": unfitted}
        sys.stdout.write(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    else:
        out = Console(highlight=False)
        out.print(report.table(narrow=out.width < _WIDE))
        for note in report.notes:
            err.print(f"[dim]{escape(note)}[/dim]")
        if fitted is not None:
            out.print("", fitted.table(narrow=out.width < _WIDE), "", fitted.weights_table(), sep="\n")
            for note in fitted.notes:
                err.print(f"[dim]{escape(note)}[/dim]")
    if unfitted:
        err.print(f"[red]no weights[/red] {escape(unfitted)}")
    for failure in report.failures:
        err.print(f"[red]failed[/red] {escape(f'{failure.name} ({failure.kind}): {failure.error}')}")
    if plot is not None:
        report.plot(plot)
        err.print(f"[dim]Wrote {escape(str(plot))}[/dim]")
    if judged.problems or report.failures or unfitted:
        raise typer.Exit(1)


def _places(given: str) -> tuple[int, ...]:
    try:
        places = tuple(int(place) for place in given.split(","))
    except ValueError:
        places = ()
    if not places or min(places) < 1:
        raise typer.BadParameter(f"Expected numbers of at least 1 with commas between, such as 1,5,10, got {given!r}.")
    return places
