"""``llama-index-mm evaluate``: how well queries with known answers find them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import DEFAULT_STORE, AsJson, FusionName, Quiet, Store, among, store_of

if TYPE_CHECKING:
    from llama_index_mm.evaluation import EvaluationReport, ItemCheck, Judgments, WeightFit

__all__ = ["evaluate"]

_DEPTH = 3  # times the largest k are asked for: spans of one recording are one item
_SHOWN = 20  # rows and queries that are told of one by one
_WIDE = 110  # characters from which intervals stand beside their means


def evaluate(
    ctx: typer.Context,
    judgments: Annotated[
        list[str],
        typer.Argument(
            metavar="[STORE] JUDGMENTS", help="CSV or JSON Lines of queries and what they should find; the index before it."
        ),
    ],
    store: Store = DEFAULT_STORE,
    places: Annotated[str, typer.Option("--k", help="Places at which to score, with commas between.")] = "1,5,10",
    everywhere: Annotated[
        bool, typer.Option("--mixed/--targeted", help="Search everything, or only the modalities that each query names.")
    ] = False,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="What the judgments call items by: file_name, file_path, ref_doc_id or node_id.",
            autocompletion=among("file_name", "file_path", "ref_doc_id", "node_id"),
        ),
    ] = "file_name",
    fusion: Annotated[FusionName, typer.Option("--fusion", help="How spaces are made one ranking.")] = "convex",
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw R@k; the name ends in .png, .svg or .pdf.")] = None,
    fit: Annotated[
        bool, typer.Option("--fit-weights", help="Also find the weights of channels that rank these queries best.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Tell how well queries find what they should, by kind of query, with 95 % intervals.

    Items that should be found and are not in the index are told, and count as not found. Exit status 1 if a row of the
    judgments can't be taken, if a query fails, or if there are too few to fit weights to.
    """
    from llama_index_mm.errors import QueryError
    from llama_index_mm.evaluation import check_items, fit_weights, load_judgments, mixed
    from llama_index_mm.evaluation import evaluate as ask_all
    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.retrieval.plots import check_plot

    k = _places(places)
    *folders, file = judgments
    if len(folders) > 1:
        raise typer.BadParameter(f"Expected at most an index, and one file of judgments, got {len(judgments)} paths.")
    store = store_of(ctx, folders[0] if folders else None, store)
    if plot is not None:
        check_plot(plot)  # not after all has been asked
    judged = load_judgments(Path(file), by=by)  # type: ignore[arg-type]
    _tell_problems(judged)
    fitted: WeightFit | str | None = None
    with MultiModalIndex.open(store) as index:
        checked = check_items(index.store, judged)
        for note in checked.notes:
            output.error(note, "note:", "yellow")
        retriever = index.as_retriever(similarity_top_k=_DEPTH * max(k), fusion=fusion)
        queries = mixed(judged.queries) if everywhere else judged.queries
        report = ask_all(retriever, queries, k=k, by=judged.by, show_progress=output.progress())
        if fit:
            try:
                options = {"metric": f"nDCG@{max(k)}", "by": judged.by, "show_progress": output.progress()}
                fitted = fit_weights(retriever, queries, **options)  # type: ignore[arg-type]
            except QueryError as error:  # the report is worth having
                fitted = str(error)
    if as_json:
        told = {**report.to_dict(), **_as_dict(judged, checked)}
        if fitted is not None:
            told["weights"] = {"error": fitted} if isinstance(fitted, str) else fitted.to_dict()
        output.print_json(told)
    else:
        _print_tables(report, fitted)
    if isinstance(fitted, str):
        output.error(fitted, "no weights")
    _tell_some([f"{one.name} ({one.kind}): {one.error}" for one in report.failures], "failed", "red")
    if plot is not None:
        report.plot(plot)
        output.note(f"Wrote {plot}")
    if judged.problems or report.failures or isinstance(fitted, str):
        raise typer.Exit(1)


def _tell_problems(judged: "Judgments") -> None:
    from llama_index_mm.evaluation.tables import COLUMNS

    _tell_some([str(problem) for problem in judged.problems], "not taken", "yellow")
    if judged.ignored:
        output.note(f"Columns that are not known: {', '.join(judged.ignored)}. Known: {', '.join(COLUMNS)}.")


def _tell_some(messages: Sequence[str], what: str, style: str) -> None:
    """Say what is not as it should be, of very much only the first."""
    for message in messages[:_SHOWN]:
        output.error(message, what, style)
    if len(messages) > _SHOWN:
        output.note(f"... and {len(messages) - _SHOWN} more; --json tells all.")


def _as_dict(judged: "Judgments", checked: "ItemCheck") -> dict[str, Any]:
    return {
        "not_taken": [asdict(one) for one in judged.problems],
        "not_in_index": list(checked.absent),
        "shared_names": list(checked.shared),
    }


def _print_tables(report: "EvaluationReport", fitted: "WeightFit | str | None") -> None:
    out = output.results()
    narrow = out.width < _WIDE
    out.print(report.table(narrow=narrow))
    notes = report.notes
    if fitted is not None and not isinstance(fitted, str):
        out.print("", fitted.table(narrow=narrow), "", fitted.weights_table(), sep="\n")
        notes += fitted.notes
    for note in notes:
        output.note(note)


def _places(given: str) -> tuple[int, ...]:
    try:
        places = tuple(int(place) for place in given.split(","))
    except ValueError:
        places = ()
    if not places or min(places) < 1:
        raise typer.BadParameter(f"Expected numbers of at least 1 with commas between, such as 1,5,10, got {given!r}.")
    return places
