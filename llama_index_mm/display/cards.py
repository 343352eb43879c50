"""One result as a card of the page."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llama_index.core.schema import BaseNode, NodeWithScore

from llama_index_mm.display.embed import TROUBLE, Embedder, OverBudget
from llama_index_mm.display.markup import Markup, element, escape, join
from llama_index_mm.media import modality_of
from llama_index_mm.nodes import PREFIX, AudioMedia, MediaNode, MeshMedia, format_seconds, modality_of_node, retype
from llama_index_mm.retrieval.reasons import ChannelReason, reasons_of
from llama_index_mm.retrieval.rerank import rerank_reason_of

__all__ = ["Desk", "card", "paragraphs", "query_figure"]

_CLIP = 600  # characters of a text shown at once
_MOST_TEXT = 20_000  # characters of a text shown at all
_ROUNDING = 0.005  # of a score that is shown with two digits
_QUERY_LONGEST = 320  # pixels of a picture that was asked with
_WRAPPED = re.compile(r"(?m)^(.{60,})\n(?=[^\W\d_])")  # a full line, then one that starts with a letter
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}")
_BADGES = {"text": "Text", "image": "Image", "audio": "Audio", "mesh": "Mesh"}


class Desk:
    """What cards need to show media.

    Args:
        max_bytes: bound on everything embedded.
        folder: where the page will lie, if known: links to files under it are relative.
        interactive: whether meshes can be turned, which takes the page's script.

    Attributes:
        turned: whether a mesh was shown that the script has to turn.
    """

    def __init__(self, max_bytes: int, folder: Path | None, *, interactive: bool = False) -> None:
        self.embedder = Embedder(max_bytes)
        self.turned = False
        self._folder = folder
        self._interactive = interactive

    def show(self, path: Path, make: Callable[[Embedder], Markup], *, part: str = "") -> Markup:
        """Show media, or say in its place why it is not there; then ``part`` is the fragment of the link to the file."""
        try:
            return make(self.embedder)
        except OverBudget:
            return _notice(
                f"Not in this page, whose limit is {_bytes(self.embedder.max_bytes)} of media. Open the file: ",
                element("a", element("bdi", path.name), href=self._link(path, part)),
            )
        except TROUBLE as error:
            return _notice("Can't be shown. ", str(error).replace(str(path), path.name))

    def turning(self, path: Path, still: Markup) -> Markup:
        """Put a mesh to turn behind what stands for it where scripts are off; just the latter if it can't be had."""
        if not self._interactive:
            return still
        try:
            solid = self.embedder.solid(path)
        except (OverBudget, *TROUBLE):  # told by what stands for it, where that is missing too
            return still
        self.turned = True
        told = {"data_mesh": solid.data, "data_vertices": solid.vertices, "data_name": path.name}
        return element("div", still, class_="turn", **told)

    def _link(self, path: Path, part: str) -> str | None:
        try:
            whole = path.resolve()
            if self._folder is not None and whole.is_relative_to(self._folder.resolve()):
                below = whole.relative_to(self._folder.resolve()).as_posix()
                return "./" + quote(os.fsencode(below), safe="/") + part
            return whole.as_uri() + part
        except (OSError, RuntimeError, ValueError):
            return None


def card(found: NodeWithScore, number: int, anchor: str, desk: Desk) -> Markup:
    """Make the card of one result.

    Args:
        found: the node and its score.
        number: shown on the card.
        anchor: id of the card in the page.
        desk: embeds media.
    """
    try:
        node = retype(found.node)
        modality = modality_of_node(node)
        content = _content(node, desk)
    except TROUBLE as error:
        node, modality = found.node, "text"
        content = _notice(f"This result can't be shown. Its metadata is not what it should be: {type(error).__name__}: {error}")
    heading = anchor + "-title"
    return element(
        "article",
        element(
            "header",
            element("span", number, class_="number"),
            element("h3", element("bdi", _name(node)), id=heading),
            element("span", _BADGES[modality], class_=f"badge {modality}"),
            _score(found.score),
        ),
        content,
        _rerank(node),
        _reasons(node, found.score),
        class_="card",
        id=anchor,
        aria_labelledby=heading,
    )


def query_figure(path: Path, desk: Desk) -> Markup:
    """The picture, recording or mesh that was asked with, small."""

    def make(embedder: Embedder) -> Markup:
        modality = modality_of(path)
        label = f"Asked with: {path.name}"
        if modality == "audio":
            return _player(embedder.sound(path).uri, label)
        if modality == "mesh":
            return element("img", src=embedder.mesh(path, None, longest=_QUERY_LONGEST), alt=label)
        return element("img", src=embedder.picture(path, longest=_QUERY_LONGEST), alt=label)

    caption = element("figcaption", "Asked with ", element("bdi", path.name))
    return element("figure", desk.show(path, make), caption, class_="asked")


def _name(node: BaseNode) -> str:
    file = node.metadata.get(PREFIX + "path") or node.metadata.get("file_path")
    name = Path(str(file)).name if file else ""
    return name or str(node.metadata.get("file_name") or "A text without a file")


def _content(node: BaseNode, desk: Desk) -> Markup:
    if isinstance(node, AudioMedia):
        return _audio(node, desk)
    if isinstance(node, MediaNode):
        return _picture(node, desk)
    return _text(node.get_content(), "div")


def _picture(node: MediaNode, desk: Desk) -> Markup:
    """A picture, or the six views of a mesh."""
    path = node.path
    if isinstance(node, MeshMedia):
        views, alt = node.views, f"Six views of {path.name}"
        shown = desk.turning(path, desk.show(path, lambda embedder: element("img", src=embedder.mesh(path, views), alt=alt)))
    else:
        shown = desk.show(path, lambda embedder: element("img", src=embedder.picture(path), alt=f"Picture {path.name}"))
    text = _text(node.text, "figcaption") if node.text and node.text != node.title else None
    return element("figure", shown, text, class_="sheet" if isinstance(node, MeshMedia) else "picture")


def _audio(node: AudioMedia, desk: Desk) -> Markup:
    path, start, end = node.path, _number(node.start), _number(node.end)
    span = _span(start, end, _number(node.seconds))
    part = "" if end is None else f"#t={start or 0.0:g},{end:g}"  # browsers play that span of the file
    label = f"{path.name}, {span}"
    shown = desk.show(path, lambda embedder: _player(embedder.sound(path, start, end).uri, label), part=part)
    said = str(node.language or "")
    facts = [span, "speech" if node.speech else "no speech heard", f"language: {said}" if said else ""]
    text = None
    if node.text and node.text != node.title:
        text = _text(node.text, "blockquote", said if _LANGUAGE.fullmatch(said) else None)
    told = element("p", " · ".join(fact for fact in facts if fact), class_="facts")
    return element("figure", shown, element("figcaption", told, text), class_="sound")


def _player(uri: str, label: str) -> Markup:
    return element("audio", src=uri, controls=True, preload="metadata", aria_label=label)


def _span(start: float | None, end: float | None, seconds: float | None) -> str:
    """The seconds of a span, as ``0:48-1:02 of 5:10``."""
    last = end if end is not None else seconds
    if last is None:
        return "whole recording" if start is None else f"from {format_seconds(start)}"
    span = f"{format_seconds(start or 0.0)}-{format_seconds(last)}"
    return span if seconds is None else f"{span} of {format_seconds(seconds)}"


def _number(value: Any) -> float | None:
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None


def _text(text: str, name: str, language: str | None = None) -> Markup:
    """A text, what is beyond a few lines folded away."""
    head, rest = _clip(text.strip(), _CLIP)
    rest, dropped = _clip(rest, _MOST_TEXT)
    more = None
    if rest:
        left_out = element("p", f"{len(dropped):,} more characters are not in this page.") if dropped else None
        summary = element("summary", f"Show the rest, {len(rest):,} characters")
        more = element("details", summary, paragraphs(rest), left_out)
    shown = paragraphs(head + (" …" if rest else ""))
    return element(name, shown, more, class_="words", lang=language, dir="auto")


def paragraphs(text: str, make: Callable[[str], Markup] = escape) -> Markup:
    """Paragraphs of a text, which blank lines part. Lines wrapped to a width are joined; short ones are left as they are.

    Args:
        text: plain text.
        make: turns the text of a paragraph into markup.
    """
    texts = (_WRAPPED.sub(r"\1 ", text) for text in re.split(r"\n[^\S\n]*\n\s*", text.strip()))
    return join(*(element("p", make(text)) for text in texts if text))


def _clip(text: str, most: int) -> tuple[str, str]:
    """Cut a text in two at white space, if it is longer than ``most`` characters."""
    if len(text) <= most:
        return text, ""
    words = re.search(r"\s\S*\Z", text[most // 2 : most + 1])
    at = most // 2 + words.start() if words else most
    return text[:at].rstrip(), text[at:].lstrip()


def _score(score: float | None) -> Markup:
    if score is None or not math.isfinite(score):
        return element("p", "no score", class_="score")
    width = f"width:{100 * min(1.0, max(0.0, score)):.1f}%"
    bar = element("span", element("span", style=width), class_="bar", aria_hidden="true")
    return element("p", element("span", "Score ", class_="unseen"), bar, element("span", f"{score:.2f}"), class_="score")


def _rerank(node: BaseNode) -> Markup | None:
    """What an LLM said of the result, where one gave it its place."""
    try:
        told = rerank_reason_of(node)
        if told is None:
            return None
        before = "" if told.retrieved is None else f" ({told.retrieved:.2f} by the search)"
        judged = "Not rated" if told.relevance is None else f"Rated {told.relevance:.2f}"
        said = f": {told.reason}" if told.reason else "."
        return element("p", f"{judged} by {told.model}{before}{said}", class_="facts")
    except TROUBLE:  # as below
        return None


def _reasons(node: BaseNode, score: float | None) -> Markup | None:
    try:
        reasons = reasons_of(node)
        rows = [_reason(reason) for reason in reasons]
        total = math.fsum(reason.contribution for reason in reasons)
    except TROUBLE:  # of no use, but no reason to lose the page
        return None
    if not rows:
        return None
    given = "of the result" if score is not None and abs(total - score) < _ROUNDING else f"that the search gave, {total:.2f}"
    heads = ("Asked", "Space", "Share", "Score", "Weight", "Raw")
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in heads)))
    caption = element("caption", f"The shares add up to the score {given}.")
    table = element("table", caption, head, element("tbody", *rows))
    return element("details", element("summary", "Why it was found"), element("div", table, class_="wide"), class_="reasons")


def _reason(reason: ChannelReason) -> Markup:
    raw = "" if reason.raw is None else f"{reason.raw:.2f}"
    numbers = (f"{reason.contribution:.2f}", f"{reason.score:.2f}", f"{reason.weight:g}", raw)
    cells = (element("td", text) for text in (f"{'not ' * reason.negative}{reason.part}", reason.space))
    return element("tr", *cells, *(element("td", number, class_="figure") for number in numbers))


def _notice(*words: object) -> Markup:
    return element("p", join(*words), class_="notice")


def _bytes(count: int) -> str:
    for unit, size in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
