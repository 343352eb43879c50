"""Whether what an answer cites is there."""

import re
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, TypeAlias

from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_mm.answers.cited import CLOSED, LONGEST, OPENED, numbers_of
from llama_index_mm.answers.sources import citations_of
from llama_index_mm.errors import QueryError

__all__ = ["CheckedQueryEngine", "CitationCheck", "Invented", "check_citations", "with_checked_citations"]

Invented: TypeAlias = Literal["keep", "flag", "strip"]
"""What becomes of citations that don't exist: left, marked as ``[7: no such source]``, or taken out."""

_CODE = r"```.*?(?:```|\Z)|`[^`\n]{1,78}`"
_BRACKETS = rf"((?<![^\S\n])[^\S\n]+|)[{OPENED}]([^{OPENED}{CLOSED}]{{1,{LONGEST}}})[{CLOSED}](?!\()"
_PIECE = re.compile(f"{_CODE}|{_BRACKETS}", re.DOTALL)  # code, or the space before brackets and what is in them
_BEGIN = re.compile(f"[`{OPENED}]")
# What a later piece may make one of these.
_OPEN = re.compile(rf"``?|```(?:(?!```).)*|`[^`\n]{{1,78}}|[{OPENED}][^{OPENED}{CLOSED}]{{0,{LONGEST}}}", re.DOTALL)


@dataclass(frozen=True)
class CitationCheck:
    """What an answer cites.

    Attributes:
        text: the answer.
        cited: numbers of sources that are cited, in the order of the answer, each once.
        invented: numbers that are cited and stand for no source.
        uncited: numbers of sources that the answer does not refer to.
    """

    text: str
    cited: tuple[int, ...]
    invented: tuple[int, ...]
    uncited: tuple[int, ...]

    @property
    def ok(self) -> bool:
        """Whether something is cited, and all of it exists."""
        return bool(self.cited) and not self.invented

    def mended(self, invented: Invented) -> str:
        """The answer with its invented citations flagged or taken out."""
        return _mended(self.text, self.invented.__contains__, invented)


def _cited(text: str) -> Iterator[int]:
    for found in _PIECE.finditer(text):
        yield from numbers_of(found[2] or "")


def _mended(text: str, is_wrong: Callable[[int], bool], invented: Invented) -> str:
    def mend(found: re.Match[str]) -> str:
        numbers = numbers_of(found[2] or "")
        wrong = [number for number in numbers if is_wrong(number)]
        if invented == "keep" or not wrong:
            return found[0]
        right = f"[{', '.join(str(number) for number in numbers if number not in wrong)}]"
        kept = "" if right == "[]" else found[1] + right
        if invented == "strip":
            return kept
        return f"{kept or found[1]}{' ' if kept else ''}[{', '.join(map(str, wrong))}: no such source]"

    return _PIECE.sub(mend, text)


def _known(nodes: Sequence[NodeWithScore]) -> list[int]:
    return [one.number for one in citations_of(nodes)] or list(range(1, len(nodes) + 1))


def check_citations(response: Any) -> CitationCheck:
    """Compare the numbers in an answer with its sources.

    Sources count by the number that `NumberSources` gave them, or, as in LlamaIndex's `CitationQueryEngine`, by their place.
    ``[1]``, ``[1, 3]``, ``[1, 2, and 4]``, ``[2-4]``, ``[Source 2]`` and ``【2】`` are citations; ``[1](address)`` is a link,
    and what stands between backticks is code. Of a structured answer its texts count, not its lists of numbers.

    Args:
        response: of a query or chat engine, as a whole; one that is still streaming is read to its end.

    Raises:
        QueryError: it is still streaming, asynchronously; await its ``get_response()`` first.
    """
    if isinstance(response, AsyncStreamingResponse) and response.response_txt is None:
        raise QueryError(
            "Expected an answer as a whole, got one that streams. Give what `await response.get_response()` gives."
        )
    text = response.response or "" if isinstance(response, Response) else str(response)
    known = _known(response.source_nodes)
    structured = response.response if isinstance(response, PydanticResponse) else None
    texts = [text] if structured is None else _texts(structured.model_dump())
    said = dict.fromkeys(number for one in texts for number in _cited(one))
    return CitationCheck(
        text=text,
        cited=tuple(number for number in said if number in known),
        invented=tuple(number for number in said if number not in known),
        uncited=tuple(number for number in known if number not in said),
    )


def _texts(value: Any) -> Iterator[str]:
    """The texts in an object."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_texts, value.values()))
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        yield from chain.from_iterable(map(_texts, value))


def with_checked_citations(response: RESPONSE_TYPE, invented: Invented) -> RESPONSE_TYPE:
    """Give a response whose text has no invented citations, or has them flagged; streams are mended as they flow.

    Args:
        response: of a query engine; structured answers come back as they are.
        invented: see `Invented`.
    """
    if invented == "keep":
        return response
    known = _known(response.source_nodes)
    if isinstance(response, StreamingResponse):
        return replace(response, response_gen=_flow(response.response_gen, _unless(known), invented))
    if isinstance(response, AsyncStreamingResponse):
        return replace(response, response_gen=_aflow(response.response_gen, _unless(known), invented))
    if isinstance(response, Response) and response.response is not None:
        return replace(response, response=_mended(response.response, _unless(known), invented))
    return response


def _unless(known: Collection[int]) -> Callable[[int], bool]:
    return lambda number: number not in known


def _mender(is_wrong: Callable[[int], bool], invented: Invented) -> Callable[[str], str]:
    """Takes pieces of a text and gives mended ones; an empty piece is the end. What may be a citation waits for the rest."""
    held = ""

    def take(piece: str) -> str:
        nonlocal held
        held += piece
        cut = len(held) if not piece else _safe(held)
        ready, held = held[:cut], held[cut:]
        return _mended(ready, is_wrong, invented)

    return take


def _safe(text: str) -> int:
    """Where the part ends that no later piece can change."""
    at, end = 0, len(text)
    while begun := _BEGIN.search(text, at):
        at = begun.start()
        if _OPEN.fullmatch(text, at) or (text[-1] in "]］】" and _PIECE.fullmatch(text, at)):  # "(" may follow: a link
            end = at
            break
        whole = _PIECE.match(text, at)
        at = whole.end() if whole else at + 1
    return len(text[:end].rstrip())


def _flow(pieces: Any, is_wrong: Callable[[int], bool], invented: Invented) -> Generator[str, None, None]:
    take = _mender(is_wrong, invented)
    for piece in pieces:
        if piece and (ready := take(piece)):
            yield ready
    if ready := take(""):
        yield ready


async def _aflow(pieces: Any, is_wrong: Callable[[int], bool], invented: Invented) -> AsyncGenerator[str, None]:
    take = _mender(is_wrong, invented)
    async for piece in pieces:
        if piece and (ready := take(piece)):
            yield ready
    if ready := take(""):
        yield ready


class CheckedQueryEngine(RetrieverQueryEngine):
    """LlamaIndex's `RetrieverQueryEngine`, whose answers cite nothing that is not there.

    Attributes:
        invented: what becomes of citations that don't exist.
    """

    invented: Invented = "keep"

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return with_checked_citations(super()._query(query_bundle), self.invented)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return with_checked_citations(await super()._aquery(query_bundle), self.invented)
