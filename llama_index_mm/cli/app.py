"""Commands of ``llama-index-mm``. Results go to standard output, progress and errors to standard error.

Exit status: 0 done; 1 an error of this package, told in one line; 2 a wrong call.
"""

import json
import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from llama_index.core.schema import NodeWithScore

from llama_index_mm.cli import show
from llama_index_mm.cli.align import align
from llama_index_mm.cli.calibrate import calibrate
from llama_index_mm.cli.evaluate import evaluate
from llama_index_mm.cli.map import map_space
from llama_index_mm.cli.mcp import mcp
from llama_index_mm.cli.models import models_app
from llama_index_mm.cli.presets import presets
from llama_index_mm.cli.search import seats_of, span_of
from llama_index_mm.cli.train_gcn import train_gcn
from llama_index_mm.errors import DecodeError, MultiModalError
from llama_index_mm.media import MODALITIES

__all__ = ["app", "main"]

app = typer.Typer(
    name="llama-index-mm",
    help="Find images, 3D meshes, sound and speech next to text, and answer from what is found.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(models_app, name="models")
app.command()(presets)
app.command()(evaluate)
app.command()(calibrate)
app.command()(align)
app.command()(mcp)
app.command("map")(map_space)
app.command("train-gcn")(train_gcn)

Store = Annotated[Path, typer.Option("--store", "-s", envvar="LLAMA_INDEX_MM_STORE", help="Folder of the index.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Html = Annotated[Path | None, typer.Option("--html", help="Also write one page with photos, players and mesh views.")]
Asked = Annotated[list[str] | None, typer.Option("--modality", "-m", help=f"Only these: {', '.join(MODALITIES)}. Repeatable.")]
Picture = Annotated[Path | None, typer.Option("--image", help="Ask with a picture.")]
Sound = Annotated[Path | None, typer.Option("--audio", help="Ask with a recording.")]
Shape = Annotated[Path | None, typer.Option("--mesh", help="Ask with a 3D model.")]
Words = Annotated[str, typer.Argument(help="Words to ask with.")]
Count = Annotated[int | None, typer.Option("-k", "--top-k", min=1, help="How many results.")]
Blend = Annotated[str, typer.Option("--fusion", help="convex, reciprocal_rank, distribution_based or maximum.")]
Unwanted = Annotated[list[str] | None, typer.Option("--not", help="What results should not be like. Repeatable.")]
Spoken = Annotated[list[str] | None, typer.Option("--language", help="Leave out other languages, such as de. Repeatable.")]
Between = Annotated[str | None, typer.Option("--between", help="Only recordings at this time, such as 10-20 or 1:05-1:20.")]
AtLeast = Annotated[list[str] | None, typer.Option("--at-least", help="Keep seats, such as image=2 or language:zh=1.")]
AtMost = Annotated[list[str] | None, typer.Option("--at-most", help="Take no more of a kind, such as image=2. Repeatable.")]
Cutoff = Annotated[float | None, typer.Option("--cutoff", min=0, max=1, help="Score below which nothing is given.")]
Collapse = Annotated[bool, typer.Option("--collapse", help="Only the best of each file.")]
Diversity = Annotated[
    float, typer.Option("--diversity", min=0, max=1, help="Above 0, what is like something better gives way.")
]

_DEFAULT_STORE = Path("mm-index")
_RESULTS = 5


def main() -> None:
    """Run the command line; errors of this package become one line on standard error and exit status 1."""
    try:
        app()
    except (MultiModalError, OSError, sqlite3.Error) as error:
        show.error(str(error))
        sys.exit(1)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the collection and its index go.")] = Path("mm-demo"),
    html: Annotated[Path | None, typer.Option("--html", help="The page of results.")] = None,
) -> None:
    """Index a small collection of pictures, speech, sounds, meshes and texts, search it and ask it."""
    from llama_index_mm.cli.demo import run_demo

    run_demo(folder, html or folder / "results.html")


@app.command()
def ingest(
    source: Annotated[list[str], typer.Argument(help="Files, folders, and addresses (https://..., s3://...).")],
    store: Store = _DEFAULT_STORE,
    preset: Annotated[str | None, typer.Option("--preset", help="For a new index; see: llama-index-mm presets.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Take out files of these folders that are gone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Also try files again that could not be decoded before.")] = False,
    links: Annotated[bool, typer.Option("--follow-links", help="Take what links in folders lead to.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Processes that decode; one on each core.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take files into an index. What is there already is skipped; what can't be read is reported, and the rest goes on."""
    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.readers.remote import is_remote

    if missing := [one for one in source if not is_remote(one) and not Path(one).exists()]:
        raise DecodeError(f"There is no file or folder {missing[0]}.")
    with MultiModalIndex.open(store, preset=preset, create=True) as index:
        report = index.ingest(
            source,
            show_progress=True,
            prune=prune,
            dry_run=dry_run,
            retry_failed=retry,
            follow_links=links,
            num_workers=workers,
        )
    if as_json:
        problems = [{"path": one.name, "reason": one.reason} for one in report.problems]
        _print_json({**asdict(report), "problems": problems})
    else:
        show.report(report)


@app.command()
def reembed(
    store: Store = _DEFAULT_STORE,
    preset: Annotated[str | None, typer.Option("--preset", help="Bring the index to this preset; default is its own.")] = None,
    space: Annotated[list[str] | None, typer.Option("--space", help="Encode this space anew in any case. Repeatable.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Processes that decode; one on each core.")] = None,
    as_json: AsJson = False,
) -> None:
    """Encode anew the spaces whose encoders are others than those that the index was made with. The rest is not touched."""
    from llama_index_mm.index import MultiModalIndex

    report = MultiModalIndex.reembed(store, preset=preset, spaces=space or (), show_progress=True, num_workers=workers)
    if as_json:
        problems = [{"path": one.name, "reason": one.reason} for one in report.problems]
        _print_json({**asdict(report), "problems": problems})
    else:
        show.reembedded(report)


@app.command()
def search(
    query: Words = "",
    store: Store = _DEFAULT_STORE,
    image: Picture = None,
    audio: Sound = None,
    mesh: Shape = None,
    modality: Asked = None,
    unwanted: Unwanted = None,
    language: Spoken = None,
    between: Between = None,
    k: Count = None,
    fusion: Blend = "convex",
    at_least: AtLeast = None,
    at_most: AtMost = None,
    cutoff: Cutoff = None,
    collapse: Collapse = False,
    diversity: Diversity = 0.0,
    as_json: AsJson = False,
    html: Html = None,
) -> None:
    """Find things by words, by a picture, by a recording, by a mesh, or by several of them at once."""
    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.retrieval import MediaQuery

    asked = MediaQuery(
        query,
        image=image,
        audio=audio,
        mesh=mesh,
        modalities=tuple(modality or ()),  # type: ignore[arg-type]
        negative=unwanted,
        language=language,
        between=span_of(between),
    )
    options: Any = {
        "similarity_top_k": k or _RESULTS,
        "fusion": fusion,
        "at_least": seats_of("--at-least", at_least),
        "at_most": seats_of("--at-most", at_most),
        "similarity_cutoff": cutoff,
        "collapse": "document" if collapse else None,
        "diversity": diversity,
    }
    with MultiModalIndex.open(store) as index:
        retriever = index.as_retriever(**options)
        found = retriever.retrieve(asked)
        if as_json:
            _print_json([show.as_dict(node, at) for at, node in enumerate(found, 1)])
        else:
            show.results(found)
        if html is not None:
            _write_html(html, query or _title(image, audio, mesh), found, image or audio or mesh)


@app.command()
def ask(
    question: Words,
    store: Store = _DEFAULT_STORE,
    modality: Asked = None,
    k: Count = None,
    as_json: AsJson = False,
    html: Html = None,
) -> None:
    """Answer a question from what is in the index, with numbered sources."""
    from llama_index_mm.answers import citations_of
    from llama_index_mm.index import MultiModalIndex

    with MultiModalIndex.open(store) as index:
        engine = index.as_query_engine(similarity_top_k=k, modalities=tuple(modality or ()))
        response = engine.query(question)
        sources = citations_of(response.source_nodes)
        if as_json:
            listed = [{**asdict(one), "file": str(one.file) if one.file else None, "label": one.label} for one in sources]
            _print_json({"question": question, "answer": str(response), "sources": listed})
        else:
            show.answer(question, str(response), sources)
        if html is not None:
            _write_html(html, question, response.source_nodes, None, answer=str(response))


@app.command()
def info(store: Store = _DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Tell what is in an index: preset, spaces, counts, files that could not be taken."""
    from llama_index_mm.stores import MediaStore

    with MediaStore(store, create=False) as opened:
        told = show.store_facts(opened)
    if as_json:
        _print_json(told)
    else:
        show.facts(told)


@app.command()
def check(store: Store = _DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Look whether an index is sound: every row, count, FAISS file and media file of its own. Exit status 1 if it is not."""
    from llama_index_mm.stores import MediaStore

    with MediaStore(store, create=False) as opened:
        _tell_checked(opened.check(), as_json)


@app.command()
def repair(store: Store = _DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Make FAISS files and what filters look at anew from the nodes and vectors in the database, and check again."""
    from llama_index_mm.stores import MediaStore

    with MediaStore(store, create=False) as opened:
        _tell_checked(opened.repair(), as_json)


def _tell_checked(report: Any, as_json: bool) -> None:
    if as_json:
        _print_json({**asdict(report), "ok": report.ok})
    else:
        show.checked(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def compact(store: Store = _DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Give back the space of what was deleted."""
    from llama_index_mm.stores import MediaStore

    with MediaStore(store, create=False) as opened:
        before, after = opened.compact()
    if as_json:
        _print_json({"bytes_before": before, "bytes_after": after})
    else:
        show.note(f"{store}: {before / 1e6:.1f} MB, now {after / 1e6:.1f} MB")


@app.command()
def optimize(
    space: Annotated[str, typer.Argument(help="Name of the space, as info tells it.")],
    store: Store = _DEFAULT_STORE,
    modality: Annotated[str | None, typer.Option("--modality", "-m", help="Only this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build approximate indexes for a space, where they find nearly all that exact ones find and are faster."""
    from llama_index_mm.stores import MediaStore

    with MediaStore(store, create=False) as opened:
        opened.build_approximate(space, modality)
        told = show.store_facts(opened)
    if as_json:
        _print_json([one for one in told["vectors"] if one["space"] == space])
    else:
        show.facts(told)


def _title(*paths: Path | None) -> str:
    return ", ".join(path.name for path in paths if path is not None)


def _write_html(
    path: Path, title: str, nodes: list[NodeWithScore], asked_with: Path | None, *, answer: str | None = None
) -> None:
    from llama_index_mm.display import Section, write_page

    write_page(path, [Section(title, nodes, asked_with, answer)], title=title)
    show.note(f"Wrote {path}")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
