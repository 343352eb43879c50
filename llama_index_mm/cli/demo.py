"""``llama-index-mm demo``: the whole way on a small real collection."""

import time
from pathlib import Path

from llama_index_mm import models
from llama_index_mm.answers import citations_of
from llama_index_mm.cli import show
from llama_index_mm.demo import write_collection
from llama_index_mm.display import Section, write_page
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.retrieval import MediaQuery

__all__ = ["run_demo"]

_QUESTIONS = (
    "How long does the bread stay in the oven with the lid on?",
    "How far can the lamp of the lighthouse be seen?",
)


def _searches(files: Path) -> list[tuple[str, MediaQuery]]:
    """Five searches across modalities, with the words for their headings."""
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


def run_demo(folder: Path, html: Path) -> None:
    """Write the collection, index it, run five searches and two questions, and write the page.

    Args:
        folder: gets the collection in ``files`` and the index in ``index``.
        html: the page of results.
    """
    began = time.monotonic()
    files = folder / "files"
    written = write_collection(files)
    models.pull()
    show.heading(f"Indexing {len(written)} files in {files}")
    sections: list[Section] = []
    with MultiModalIndex.open(folder / "index", preset="offline", create=True) as index:
        show.report(index.ingest(files, show_progress=True))
        retriever = index.as_retriever(similarity_top_k=3)
        for title, query in _searches(files):
            show.heading(f"Search by {title}")
            found = retriever.retrieve(query)
            show.results(found)
            asked = query.image or query.audio or query.mesh
            sections.append(Section(f"Search by {title}", found, Path(asked) if isinstance(asked, str | Path) else None, None))
        engine = index.as_query_engine()
        for question in _QUESTIONS:
            show.heading("Question")
            response = engine.query(question)
            show.answer(question, str(response), citations_of(response.source_nodes))
            sections.append(Section(question, response.source_nodes, None, str(response)))
    write_page(html, sections, title="llama-index-mm demo")
    show.heading(f"Done in {time.monotonic() - began:.0f} s. The page with pictures and players: {html}")
    show.note("Your own files:  llama-index-mm ingest FOLDER --store my-index")
    show.note('and then:        llama-index-mm search "words" --store my-index')
