"""``llama-index-mm search``: what is like words, a picture, a recording, a mesh, or several of them at once."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import (
    DEFAULT_STORE,
    AsJson,
    FusionName,
    Html,
    Modalities,
    Quiet,
    Store,
    read_words,
)

__all__ = ["search", "seats_of", "span_of"]

_RESULTS = 5
_SECONDS = r"(?:\d+:)*\d+(?:\.\d+)?"
_SPAN = re.compile(rf"\s*({_SECONDS})?\s*-\s*({_SECONDS})?\s*")


def search(
    query: Annotated[str, typer.Argument(help="Words to ask with; - for standard input.")] = "",
    store: Store = DEFAULT_STORE,
    image: Annotated[Path | None, typer.Option("--image", help="Ask with a picture.")] = None,
    audio: Annotated[Path | None, typer.Option("--audio", help="Ask with a recording.")] = None,
    mesh: Annotated[Path | None, typer.Option("--mesh", help="Ask with a 3D model.")] = None,
    modality: Modalities = None,
    unwanted: Annotated[list[str] | None, typer.Option("--not", help="What results should not be like. Repeatable.")] = None,
    language: Annotated[
        list[str] | None, typer.Option("--language", help="Leave out other languages, such as de. Repeatable.")
    ] = None,
    between: Annotated[
        str | None, typer.Option("--between", help="Only recordings at this time, such as 10-20 or 1:05-1:20.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="How many results.")] = _RESULTS,
    fusion: Annotated[FusionName, typer.Option("--fusion", help="How spaces are made one ranking.")] = "convex",
    at_least: Annotated[
        list[str] | None, typer.Option("--at-least", help="Keep seats, such as image=2 or language:zh=1. Repeatable.")
    ] = None,
    at_most: Annotated[
        list[str] | None, typer.Option("--at-most", help="Take no more of a kind, such as image=2. Repeatable.")
    ] = None,
    cutoff: Annotated[float | None, typer.Option("--cutoff", min=0, max=1, help="Score below which nothing is given.")] = None,
    collapse: Annotated[bool, typer.Option("--collapse", help="Only the best of each file.")] = False,
    diversity: Annotated[
        float, typer.Option("--diversity", min=0, max=1, help="Above 0, what is like something better gives way.")
    ] = 0.0,
    as_json: AsJson = False,
    html: Html = None,
    quiet: Quiet = False,
) -> None:
    """Find things by words, by a picture, by a recording, by a mesh, or by several of them at once."""
    seats: Any = {"at_least": seats_of("--at-least", at_least), "at_most": seats_of("--at-most", at_most)}
    during = span_of(between)
    query = read_words(query, "QUERY")

    from llama_index_mm.cli import show
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
        between=during,
    )
    with MultiModalIndex.open(store) as index:
        retriever = index.as_retriever(
            similarity_top_k=k,
            fusion=fusion,
            similarity_cutoff=cutoff,
            collapse="document" if collapse else None,
            diversity=diversity,
            **seats,
        )
        found = retriever.retrieve(asked)
        if html is not None:
            given = [path for path in (image, audio, mesh) if path is not None]
            show.page(html, query or ", ".join(path.name for path in given), found, asked_with=next(iter(given), None))
        if as_json:
            output.print_json([show.as_dict(node, at) for at, node in enumerate(found, 1)])
        else:
            show.results(found)


def seats_of(option: str, given: Sequence[str] | None) -> dict[str, int]:
    """Read numbers of seats: ``["image=2", "language:zh=1"]``.

    Args:
        option: that they were given with.
        given: as typed.

    Raises:
        BadParameter: one is written in another way, or a kind comes twice.
    """
    seats: dict[str, int] = {}
    for one in given or ():
        kind, _, count = one.rpartition("=")
        if not kind or not count.strip().isdecimal() or kind.strip() in seats:
            raise typer.BadParameter(
                f"Expected each modality or language once, with a number, such as image=2 or language:zh=1, got {one!r}.",
                param_hint=option,
            )
        seats[kind.strip()] = int(count)
    return seats


def span_of(given: str | None) -> tuple[float, float] | None:
    """Read a span of time: ``"10-20"``, ``"1:05-1:20"``, ``"90-"`` and ``"-30"`` in seconds; None for None.

    Raises:
        BadParameter: it is written in another way, or is empty.
    """
    if given is None:
        return None
    written = _SPAN.fullmatch(given)
    start, end = (_seconds(written[1], 0.0), _seconds(written[2], math.inf)) if written else (0.0, 0.0)
    if not start < end:
        raise typer.BadParameter(
            f"Expected first and last second, such as 10-20, 1:05-1:20 or 90-, got {given!r}.", param_hint="--between"
        )
    return start, end


def _seconds(written: str | None, otherwise: float) -> float:
    if written is None:
        return otherwise
    *larger, last = written.split(":")
    return float(last) + sum(60.0**power * int(one) for power, one in enumerate(reversed(larger), 1))
