"""Results that show themselves in a notebook."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

from llama_index.core.base.response.schema import AsyncStreamingResponse, PydanticResponse, Response, StreamingResponse
from llama_index.core.chat_engine.types import AgentChatResponse, StreamingAgentChatResponse
from llama_index.core.schema import BaseNode, NodeWithScore

from llama_index_mm.display.html import Section, results_page, write_page
from llama_index_mm.display.markup import element
from llama_index_mm.errors import QueryError
from llama_index_mm.nodes import AudioMedia, ImageMedia, MediaNode, MeshMedia

__all__ = ["NOTEBOOK_BYTES", "Shown", "load", "show", "unload"]

NOTEBOOK_BYTES = 8_000_000  # of embedded media in one output, which the notebook keeps
_LONGEST_TITLE = 200  # characters
_COLUMNS = 3  # of cards, guessed: the width of the output is not known here
_CARD, _HEAD, _LINE = 430, 110, 26  # pixels that a row of cards, a heading and a line of an answer are about high
_ASKED = 110  # pixels that a heading is higher with what was asked with beside it
_LEAST, _MOST = 200, 760  # pixels of an output; what is longer scrolls, and the corner can be dragged
_LINE_LETTERS = 90

AnyResponse = (
    Response | PydanticResponse | StreamingResponse | AsyncStreamingResponse | AgentChatResponse | StreamingAgentChatResponse
)
_RESPONSES = (
    *(Response, PydanticResponse, StreamingResponse, AsyncStreamingResponse),
    *(AgentChatResponse, StreamingAgentChatResponse),
)
_TYPES: tuple[type, ...] = (NodeWithScore, MediaNode, ImageMedia, AudioMedia, MeshMedia, list, *_RESPONSES)
_BEFORE: "WeakKeyDictionary[Any, dict[type, Any]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Shown:
    """Results that a notebook shows, each in a frame of its own: neither styles nor scripts get out of it.

    Attributes:
        sections: one for each query.
        title: of the page.
        max_bytes: bound on the embedded media.
        interactive: whether meshes can be turned.
    """

    sections: tuple[Section, ...]
    title: str = "Results"
    max_bytes: int = NOTEBOOK_BYTES
    interactive: bool = True

    def save(self, path: Path | str) -> Path:
        """Write the same as one HTML file, and give its path."""
        return write_page(path, self.sections, title=self.title, max_bytes=self.max_bytes, interactive=self.interactive)

    def _repr_html_(self) -> str:
        page = results_page(
            self.sections, title=self.title, max_bytes=self.max_bytes, interactive=self.interactive, framed=True
        )
        frame = element(
            "iframe",
            srcdoc=page,
            sandbox="allow-scripts" if self.interactive else "",
            title=self.title,
            style="display:block;width:100%;height:100%;border:0",
        )
        style = f"height:{_height(self.sections)}px;min-height:8rem;resize:vertical;overflow:hidden"
        return element("div", frame, style=style)

    def __repr__(self) -> str:
        count = sum(len(section.nodes) for section in self.sections)
        return f"Shown({self.title!r}, {count} results)"


def show(
    results: "BaseNode | NodeWithScore | AnyResponse | Section | Sequence[BaseNode | NodeWithScore | Section]",
    *,
    title: str | None = None,
    query_media: Path | str | None = None,
    max_bytes: int = NOTEBOOK_BYTES,
    interactive: bool = True,
) -> Shown:
    """Show what was found or answered: as the last line of a notebook's cell, or as a file by `Shown.save`.

    Args:
        results: what a retriever gave, a response of a query or chat engine, nodes, or sections of a page. A stream that was
            not read to its end is read; one that only an event loop can read has to be read before.
        title: what was asked.
        query_media: the picture, recording or mesh that was asked with.
        max_bytes: bound on the embedded media together, as base64.
        interactive: let meshes be turned.

    Raises:
        QueryError: it is nothing of these, or an asynchronous stream that was not read.

    Example:
        >>> show(retriever.retrieve("a boat"), title="a boat").save("boat.html")
    """
    if isinstance(results, StreamingResponse):
        results = results.get_response()
    elif isinstance(results, StreamingAgentChatResponse) and not _is_async(results):
        str(results) if results.is_done else list(results.response_gen)
    sections = _sections(results, title, None if query_media is None else Path(query_media))
    if sections is None:
        raise QueryError(
            f"Expected nodes, results of a retriever, sections or a finished response, got {type(results).__name__}. "
            "Read an asynchronous stream to its end first."
        )
    name = title or (sections[0].title if len(sections) == 1 else "Results")
    return Shown(sections, name[:_LONGEST_TITLE], max_bytes, interactive)


def _is_async(response: StreamingAgentChatResponse) -> bool:
    return response.achat_stream is not None


def _sections(results: Any, title: str | None, asked: Path | None) -> tuple[Section, ...] | None:
    """Results as sections of a page; None for what is no result, or is not finished."""
    if isinstance(results, Section):
        return (results,)
    if isinstance(results, _RESPONSES):
        answer = _answer(results)
        return None if answer is None else (Section(title or "Answer", results.source_nodes, asked, answer),)
    if isinstance(results, BaseNode | NodeWithScore):
        results = [results]
    if not isinstance(results, list | tuple):
        return None
    if results and all(isinstance(one, Section) for one in results):
        return tuple(results)
    if not _are_nodes(results):
        return None
    found = [one if isinstance(one, NodeWithScore) else NodeWithScore(node=one) for one in results]
    return (Section(title or "Results", found, asked),)


def _are_nodes(results: Sequence[Any]) -> "TypeGuard[Sequence[BaseNode | NodeWithScore]]":
    return all(isinstance(one, BaseNode | NodeWithScore) for one in results)


def _answer(response: Any) -> str | None:
    """Text of a response; None while it is not complete."""
    if isinstance(response, StreamingResponse):
        return response.response_txt
    if isinstance(response, AsyncStreamingResponse):
        return None if response._lock.locked() else response.response_txt
    if isinstance(response, StreamingAgentChatResponse):
        return response.response or None
    return "" if response.response is None else str(response)


def _height(sections: Sequence[Section]) -> int:
    """Guess of how high a page will be, in pixels."""
    height = 0
    for section in sections:
        lines = sum(math.ceil(len(line) / _LINE_LETTERS) for line in (section.answer or "").splitlines())
        height += _HEAD + math.ceil(len(section.nodes) / _COLUMNS) * _CARD + (lines + 2) * _LINE * (section.answer is not None)
        height += _ASKED * (section.query_media is not None)
    return min(_MOST, max(_LEAST, height))


def _html(value: Any) -> str | None:
    """What IPython shows in place of the plain text; None leaves it to IPython."""
    if isinstance(value, list) and not (value and all(isinstance(one, NodeWithScore | MediaNode) for one in value)):
        return None
    if isinstance(value, _RESPONSES) and not value.source_nodes:
        return None
    sections = _sections(value, None, None)
    return None if sections is None else Shown(sections, sections[0].title)._repr_html_()


def load(shell: Any) -> None:
    """Let an IPython shell show results, media nodes, lists of them, and responses with sources as HTML.

    Other lists, and responses that have no sources or are still being streamed, are shown as before.

    Args:
        shell: ``IPython.get_ipython()``.
    """
    if shell in _BEFORE:
        return
    formatter = shell.display_formatter.formatters["text/html"]
    _BEFORE[shell] = {kind: formatter.for_type(kind, _html) for kind in _TYPES}


def unload(shell: Any) -> None:
    """Take back what `load` did."""
    formatter = shell.display_formatter.formatters["text/html"]
    for kind, before in _BEFORE.pop(shell, {}).items():
        formatter.pop(kind, None)
        if before is not None:
            formatter.for_type(kind, before)
