"""One page that shows results: pictures, sound, meshes and text, all in a single file that fetches nothing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core.schema import NodeWithScore

from llama_index_mm.answers.cited import CLOSED, LONGEST, OPENED, numbers_of
from llama_index_mm.display.cards import Desk, card, paragraphs, query_figure
from llama_index_mm.display.markup import Markup, element, join
from llama_index_mm.display.style import STYLE
from llama_index_mm.display.viewer import SCRIPT, SCRIPT_SOURCE
from llama_index_mm.nodes import PREFIX

__all__ = ["MAX_BYTES", "Section", "results_page", "write_page"]

MAX_BYTES = 40_000_000  # of embedded media in a page
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; form-action 'none'"
_NOWHERE, _FRAME_SCHEME = "'none'", "about:"  # where a page may say that its links begin
_FRAME = "about:srcdoc"  # address of a page in a frame; without it, links to cards would lead to the page around the frame
_CITED = re.compile(rf"[{OPENED}]([^{OPENED}{CLOSED}]{{1,{LONGEST}}})[{CLOSED}]")


@dataclass(frozen=True)
class Section:
    """What was found for one query or question.

    Attributes:
        title: the query, in words.
        nodes: what was found, best first: of a retriever, or ``response.source_nodes``.
        query_media: the picture, recording or mesh that was asked with.
        answer: text of the answer, for a question. Numbers in brackets in it, as ``[1]``, link to the cards.
        note: a remark under the title.
    """

    title: str
    nodes: Sequence[NodeWithScore]
    query_media: Path | None = None
    answer: str | None = None
    note: str = ""


def results_page(
    sections: Sequence[Section],
    *,
    title: str = "Results",
    max_bytes: int = MAX_BYTES,
    folder: Path | str | None = None,
    interactive: bool = True,
    framed: bool = False,
) -> str:
    """Make an HTML page of results, with everything in it: no other files, nothing fetched.

    Pictures are scaled to 640 pixels, sound is the very span that was found, meshes can be turned and zoomed; where scripts
    are off they are six views. A file that is missing or broken is named on its card. All text is escaped, and a
    Content-Security-Policy forbids whatever is not in the page, and every script but the one that turns meshes, known by its
    digest. A page that shows no mesh has no script at all.

    Args:
        sections: one for each query.
        title: of the page.
        max_bytes: bound on the embedded media together, as base64; cards past it link to their file.
        folder: where the page will lie; links to files under it are relative then, others are ``file:`` URIs.
        interactive: let meshes be turned; False gives a page without scripts.
        framed: the page is for the ``srcdoc`` of an ``iframe``.
    """
    desk = Desk(max_bytes, None if folder is None else Path(folder), interactive=interactive)
    made = [_section(section, f"s{at}", desk) for at, section in enumerate(sections, 1)]
    contents = [element("li", element("a", section.title, href=f"#s{at}")) for at, section in enumerate(sections, 1)]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(desk.turned, framed)),
        element("base", href=_FRAME) if framed else None,
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    page = element(
        "header",
        element("h1", title),
        element("nav", element("ol", *contents), aria_label="Queries") if len(contents) > 1 else None,
        class_="unseen" if [section.title for section in sections] == [title] else None,  # it stands over the section
    )
    main = element("main", *(made or [element("p", "There are no results.", class_="note")]))
    script = element("script", Markup(SCRIPT)) if desk.turned else None
    body = element("body", page, main, script, class_="framed" if framed else None)
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def write_page(path: Path | str, sections: Sequence[Section], **options: Any) -> Path:
    """Write `results_page` to a file and give its path.

    Args:
        path: of the page; its folder is made if it is missing.
        sections: one for each query.
        **options: of `results_page`; ``folder`` is that of ``path`` unless given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options.setdefault("folder", path.parent)
    path.write_bytes(results_page(sections, **options).encode("utf-8"))
    return path


def _policy(script: bool, framed: bool) -> str:
    base = f"{_POLICY}; base-uri {_FRAME_SCHEME if framed else _NOWHERE}"
    return f"{base}; script-src {SCRIPT_SOURCE}" if script else base


def _section(section: Section, anchor: str, desk: Desk) -> Markup:
    numbers = _numbers(section.nodes)
    anchors = {number: f"{anchor}-n{number}" for number in numbers}
    # Before the cards, so that what was asked comes into the page first.
    asked = query_figure(Path(section.query_media), desk) if section.query_media is not None else None
    cards = [card(found, number, anchors[number], desk) for found, number in zip(section.nodes, numbers, strict=True)]
    count = "1 result" if len(cards) == 1 else f"{len(cards)} results"
    words = element(
        "div",
        element("h2", section.title, id=f"{anchor}-title"),
        element("p", section.note, class_="note") if section.note else None,
        element("p", count if cards else "Nothing was found.", class_="count"),
    )
    return element(
        "section",
        element("header", asked, words),
        _answer(section.answer, anchors) if section.answer is not None else None,
        element("div", *cards, class_="cards") if cards else None,
        id=anchor,
        aria_labelledby=f"{anchor}-title",
    )


def _numbers(nodes: Sequence[NodeWithScore]) -> list[int]:
    """The numbers under which an LLM was given the nodes; else 1, 2, 3 and so on."""
    given = [found.node.metadata.get(PREFIX + "number") for found in nodes]
    stated = [number for number in given if type(number) is int and 0 < number < 10_000]
    return stated if len(set(stated)) == len(given) else list(range(1, len(given) + 1))


def _answer(answer: str, anchors: Mapping[int, str]) -> Markup:
    body = paragraphs(answer, lambda text: _linked(text, anchors)) or element("p", "The answer is empty.")
    return element("div", element("h3", "Answer"), body, class_="answer")


def _linked(text: str, anchors: Mapping[int, str]) -> Markup:
    """Escape a text and link the sources it cites; numbers without a card stay as they are."""
    pieces: list[object] = []
    at = 0
    for cited in _CITED.finditer(text):
        if not numbers_of(cited[1]):  # brackets around something else
            continue
        for digits in re.finditer("[0-9]+", cited[0]):
            anchor = anchors.get(int(digits[0]))
            if anchor is None:
                continue
            first, last = cited.start() + digits.start(), cited.start() + digits.end()
            pieces += [text[at:first], element("a", digits[0], href=f"#{anchor}", aria_label=f"source {digits[0]}")]
            at = last
    return join(*pieces, text[at:])
