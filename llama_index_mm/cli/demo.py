"""``llama-index-mm demo``: the whole way on a small real collection."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import AsJson, Quiet

if TYPE_CHECKING:
    from llama_index_mm.display import Section
    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.retrieval import MediaQuery

__all__ = ["demo", "run_demo"]

_QUESTIONS = (
    "How long does the bread stay in the oven with the lid on?",
    "How far can the lamp of the lighthouse be seen?",
)


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the collection and its index go.")] = Path("mm-demo"),
    html: Annotated[Path | None, typer.Option("--html", help="The page of results.", show_default="in the folder")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Index a small collection of pictures, speech, sounds, meshes and texts, search it and ask it."""
    told = run_demo(folder, html or folder / "results.html", silent=as_json)
    if as_json:
        output.print_json(told)


def run_demo(folder: Path, html: Path, *, silent: bool = False) -> dict[str, Any]:
    """Write the collection, index it, run five searches and two questions, and write the page.

    Args:
        folder: gets the collection in ``files`` and the index in ``index``.
        html: the page of results.
        silent: print no results.

    Returns:
        What was done and found, as ``demo --json`` tells it.
    """
    from llama_index_mm import models
    from llama_index_mm.cli import show
    from llama_index_mm.cli.ingest import as_dict
    from llama_index_mm.demo import write_collection
    from llama_index_mm.display import write_page
    from llama_index_mm.index import MultiModalIndex

    began = time.monotonic()
    files = folder / "files"
    written = write_collection(files)
    models.pull(progress=output.progress())
    if not silent:
        show.heading(f"Indexing {len(written)} files in {files}")
    sections: list[Section] = []
    with MultiModalIndex.open(folder / "index", preset="offline", create=True) as index:
        report = index.ingest(files, show_progress=output.progress())
        if not silent:
            show.report(report)
        searches = _search(index, files, sections, silent)
        questions = _ask(index, sections, silent)
    write_page(html, sections, title="llama-index-mm demo")
    seconds = time.monotonic() - began
    if not silent:
        show.heading(f"Done in {seconds:.0f} s. The page with pictures and players: {html}")
    output.note("Your own files:  llama-index-mm ingest FOLDER --store my-index")
    output.note('and then:        llama-index-mm search "words" --store my-index')
    done = {"folder": folder, "html": html, "seconds": seconds}
    return {**done, "ingested": as_dict(report), "searches": searches, "questions": questions}


def _searches(files: Path) -> "list[tuple[str, MediaQuery]]":
    """Five searches across modalities, with the words for their headings."""
    from llama_index_mm.retrieval import MediaQuery

    return [
        ('words, over everything: "a kitten"', MediaQuery("a kitten")),
        ('words, for recordings: "oil for the lamp"', MediaQuery("oil for the lamp", modalities=["audio"])),
        ('words, for 3D models: "something to sit on"', MediaQuery("something to sit on", modalities=["mesh"])),
        (
            "a picture (coffee.png), for pictures and 3D models",
            MediaQuery(image=files / "pictures" / "coffee.png", modalities=["image", "mesh"]),
        ),
        (
            "a recording (memo-garden.ogg), for recordings that say or sound like it",
            MediaQuery(audio=files / "audio" / "memo-garden.ogg", modalities=["audio"]),
        ),
    ]


def _search(index: "MultiModalIndex", files: Path, sections: "list[Section]", silent: bool) -> list[dict[str, Any]]:
    from llama_index_mm.cli import show
    from llama_index_mm.display import Section

    told: list[dict[str, Any]] = []
    retriever = index.as_retriever(similarity_top_k=3)
    for title, query in _searches(files):
        found = retriever.retrieve(query)
        if not silent:
            show.heading(f"Search by {title}")
            show.results(found)
        asked = query.image or query.audio or query.mesh
        sections.append(Section(f"Search by {title}", found, Path(asked) if isinstance(asked, str | Path) else None, None))
        told.append({"title": title, "results": [show.as_dict(one, rank) for rank, one in enumerate(found, 1)]})
    return told


def _ask(index: "MultiModalIndex", sections: "list[Section]", silent: bool) -> list[dict[str, Any]]:
    from llama_index_mm.answers import check_citations, citations_of
    from llama_index_mm.cli import show
    from llama_index_mm.cli.ask import as_dict
    from llama_index_mm.display import Section

    told: list[dict[str, Any]] = []
    engine = index.as_query_engine()
    for question in _QUESTIONS:
        if not silent:
            show.heading("Question")
        response = engine.query(question)
        answer = str(response)
        if not silent:
            show.asked(question)
            show.text(answer)
            show.sources(citations_of(response.source_nodes))
        sections.append(Section(question, response.source_nodes, None, answer))
        told.append(as_dict(question, answer, response.source_nodes, check_citations(response)))
    return told
