"""``llama-index-mm ask``: answers with numbered sources."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import DEFAULT_STORE, AsJson, Html, Modalities, Quiet, Store, read_words

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

    from llama_index_mm.answers import CitationCheck, MediaBudget
    from llama_index_mm.index import MultiModalIndex

__all__ = ["as_dict", "ask"]


def ask(
    question: Annotated[str, typer.Argument(help="Words to ask with; - for standard input.")],
    store: Store = DEFAULT_STORE,
    modality: Modalities = None,
    k: Annotated[
        int | None, typer.Option("-k", "--top-k", min=1, help="How many sources; default is what the LLM can use.")
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="Print words as they come; default on a terminal.", show_default=False),
    ] = None,
    invented: Annotated[
        Literal["flag", "strip", "keep"], typer.Option("--invented", help="What becomes of cited numbers that are no source.")
    ] = "flag",
    max_images: Annotated[
        int | None, typer.Option("--max-images", min=0, help="Pictures that the LLM gets at most; 8 if it takes any.")
    ] = None,
    as_json: AsJson = False,
    html: Html = None,
    quiet: Quiet = False,
) -> None:
    """Answer a question from what is in the index, with numbered sources."""
    if stream and as_json:
        raise typer.BadParameter("JSON comes as a whole. Leave out --stream or --json.", param_hint="--stream")
    question = read_words(question, "QUESTION")

    from llama_index.core.base.response.schema import Response, StreamingResponse

    from llama_index_mm.answers import check_citations, citations_of, with_checked_citations
    from llama_index_mm.cli import show
    from llama_index_mm.index import MultiModalIndex

    flowing = not as_json and (output.results().is_terminal if stream is None else stream)
    with MultiModalIndex.open(store) as index:
        engine = index.as_query_engine(
            similarity_top_k=k,
            modalities=tuple(modality or ()),
            streaming=flowing,
            budget=None if max_images is None else _budget(index, max_images),
        )
        response = engine.query(question)
        nodes = response.source_nodes
        raw: list[str] = []
        if isinstance(response, StreamingResponse):
            response = replace(response, response_gen=_kept(response.response_gen, raw))
            mended: Any = with_checked_citations(response, invented)
            show.asked(question)
            text = show.flow(mended.response_gen)
            check = check_citations(Response("".join(raw), source_nodes=nodes))
        else:
            check = check_citations(response)
            text = check.mended(invented).strip()
        if html is not None:
            show.page(html, question, nodes, answer=text)
        if as_json:
            output.print_json(as_dict(question, text, nodes, check))
            return
        if not flowing:
            show.asked(question)
            show.text(text)
        show.sources(citations_of(nodes))
        _tell(check, nodes)


def as_dict(question: str, text: str, nodes: "Sequence[NodeWithScore]", check: "CitationCheck") -> dict[str, Any]:
    """An answer as plain data: its sources, what it cites of them, and what the LLM was not given."""
    from llama_index_mm.answers import citations_of, left_out_of

    return {
        "question": question,
        "answer": text,
        "sources": [{**asdict(one), "label": one.label} for one in citations_of(nodes)],
        "citations": {"ok": check.ok, "cited": check.cited, "invented": check.invented, "uncited": check.uncited},
        "left_out": [asdict(one) for one in left_out_of(nodes)],
    }


def _budget(index: "MultiModalIndex", max_images: int) -> "MediaBudget":
    """The budget that the index would take, with fewer or more pictures."""
    from llama_index_mm.answers import MediaBudget, adapt_to_llm

    return MediaBudget(max_images=max_images, max_tokens=adapt_to_llm(index._default_llm()).source_tokens)


def _kept(pieces: Iterable[str], into: list[str]) -> Generator[str, None, None]:
    for piece in pieces:
        into.append(piece)
        yield piece


def _tell(check: "CitationCheck", nodes: "Sequence[NodeWithScore]") -> None:
    from llama_index_mm.answers import left_out_of

    if check.invented:
        numbers = ", ".join(map(str, check.invented))
        output.error(f"The answer cites what is no source: {numbers}.", "invented", "yellow")
    elif not check.cited and nodes:
        output.note("The answer cites none of its sources.")
    for one in left_out_of(nodes):
        output.note(f"The LLM was not given the {one.part} of {one.node_id}: {one.reason}")
