"""Whether what an answer cites is there."""

import re
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_mm.answers.sources import citations_of
from llama_index_mm.errors import QueryError

__all__ = ["CheckedQueryEngine", "CitationCheck", "Invented", "check_citations", "with_checked_citations"]

Invented: TypeAlias = Literal["keep", "flag", "strip"]
"""What becomes of citations that don't exist: left, marked as ``[7: no such source]``, or taken out."""

_ONE = r"(?:sources?\s+|no\.\s*)?\d{1,4}(?:†[^\[\]【】]{0,24})?"
_CITED = re.compile(rf"[\[【]\s*{_ONE}(?:\s*(?:[,;&–-]|and)\s*{_ONE})*\s*[\]】](?!\()", re.IGNORECASE)
_RANGE = re.compile(r"(\d+)(?:†[^,;]*?)?(?:\s*[–-]\s*(?:sources?\s+)?(\d+))?(?:†[^,;]*)?", re.IGNORECASE)
_LONGEST = 80  # characters of one citation
_WIDEST = 100  # numbers in one range


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
        return _mended(self.text, set(self.cited), invented)


def _numbers(citation: str) -> list[int]:
    """Numbers of one citation: ``[1, 3-5]`` gives 1, 3, 4, 5."""
    found: list[int] = []
    for first, last in _RANGE.findall(citation):
        low, high = int(first), int(last or first)
        found += range(low, high + 1) if low <= high < low + _WIDEST else [low, high]
    return found


def _mended(text: str, known: Collection[int], invented: Invented) -> str:
    def mend(found: re.Match[str]) -> str:
        numbers = _numbers(found[2])
        wrong = [number for number in numbers if number not in known]
        if invented == "keep" or not wrong:
            return found[0]
        right = f"[{', '.join(str(number) for number in numbers if number in known)}]"
        kept = "" if right == "[]" else found[1] + right
        if invented == "strip":
            return kept
        return f"{kept or found[1]}{' ' if kept else ''}[{', '.join(map(str, wrong))}: no such source]"

    return re.sub(rf"([^\S\n]*)({_CITED.pattern})", mend, text, flags=re.IGNORECASE)


def _known(nodes: Sequence[NodeWithScore]) -> list[int]:
    return [one.number for one in citations_of(nodes)] or list(range(1, len(nodes) + 1))


def check_citations(response: Any) -> CitationCheck:
    """Compare the numbers in an answer with its sources.

    Sources count by the number that `NumberSources` gave them, or, as in LlamaIndex's `CitationQueryEngine`, by their place.
    ``[1]``, ``[1, 3]``, ``[2-4]``, ``[Source 2]`` and ``【2】`` are citations; ``[1](address)`` is a link.

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
    said = dict.fromkeys(number for found in _CITED.finditer(text) for number in _numbers(found[0]))
    return CitationCheck(
        text=text,
        cited=tuple(number for number in said if number in known),
        invented=tuple(number for number in said if number not in known),
        uncited=tuple(number for number in known if number not in said),
    )


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
        return replace(response, response_gen=_flow(response.response_gen, known, invented))
    if isinstance(response, AsyncStreamingResponse):
        return replace(response, response_gen=_aflow(response.response_gen, known, invented))
    if isinstance(response, Response) and response.response is not None:
        return replace(response, response=_mended(response.response, known, invented))
    return response


def _mender(known: Collection[int], invented: Invented) -> Callable[[str], str]:
    """Takes pieces of a text and gives mended ones; an empty piece is the end. What may be a citation waits for the rest."""
    held = ""

    def take(piece: str) -> str:
        nonlocal held
        held += piece
        cut = len(held) if not piece else _safe(held)
        ready, held = held[:cut], held[cut:]
        return _mended(ready, known, invented)

    return take


def _safe(text: str) -> int:
    """Where the part ends that no later piece can change."""
    opened = max(text.rfind("["), text.rfind("【"))
    closed = max(text.rfind("]"), text.rfind("】"))
    open_still = opened > closed or (opened >= 0 and closed == len(text) - 1)  # "(" may follow, which makes it a link
    cut = opened if open_still and len(text) - opened <= _LONGEST else len(text)
    return len(text[:cut].rstrip())


def _flow(pieces: Any, known: Collection[int], invented: Invented) -> Generator[str, None, None]:
    take = _mender(known, invented)
    for piece in pieces:
        if piece and (ready := take(piece)):
            yield ready
    if ready := take(""):
        yield ready


async def _aflow(pieces: Any, known: Collection[int], invented: Invented) -> AsyncGenerator[str, None]:
    take = _mender(known, invented)
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
