"""Number what was found, for the LLM to refer to and for people to check."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MediaResource, Node, NodeWithScore, QueryBundle, TextNode

from llama_index_mm.answers.media import as_text, is_gone
from llama_index_mm.answers.neutralise import neutral, one_line
from llama_index_mm.media import Modality
from llama_index_mm.nodes import PREFIX, TEXT_ONLY, AudioMedia, MeshMedia, format_seconds, modality_of_node, retype
from llama_index_mm.transforms.pages import PAGE

__all__ = ["Citation", "NumberSources", "citations_of"]

_NUMBER = PREFIX + "number"
_CITED_AS = PREFIX + "cited_as"
_PAGE_LABEL = "page_label"  # LlamaIndex's own key
_CLEANED = " (cleaned)"  # after a key whose value had to be changed for the LLM
_HEAD = "Source {}:\n"  # how CitationQueryEngine begins the n-th of its nodes


@dataclass(frozen=True)
class Citation:
    """A numbered source of an answer; made from the node that was found, never from the LLM's words.

    Attributes:
        number: from 1, best first.
        modality: of the node.
        file: where it comes from; None for a node that was made from no file.
        start: first second of the span, for recordings.
        end: second at which it ends.
        score: of the retrieval.
        text: what the LLM read of it.
        page: of a document, as it is labelled there: ``"12"``, ``"iv"``.
        page_number: the page's place in the file, from 1.
        views: of a mesh, the picture with its views, as a path.
    """

    number: int
    modality: Modality
    file: Path | None
    start: float | None
    end: float | None
    score: float
    text: str
    page: str | None = None
    page_number: int | None = None
    views: str | None = None

    @property
    def label(self) -> str:
        """File name and seconds or page, as ``talk.ogg, 1:05-1:20`` and ``report.pdf, p. 12``."""
        name = one_line(self.file.name) if self.file else "a text without a file"
        if self.start is not None and self.end is not None:
            return f"{name}, {format_seconds(self.start)}-{format_seconds(self.end)}"
        page = self.page or self.page_number
        return name if page is None else f"{name}, p. {one_line(str(page))}"

    def __str__(self) -> str:
        return f"[{self.number}] {self.label}"


class NumberSources(BaseNodePostprocessor):
    """Number nodes and say where each is from, and turn media that the LLM can't take into their text.

    A medium whose file is gone becomes its text as well. Works on copies. The number and the source stand in front of each
    node's metadata and text, as ``[1] talk.ogg, 1:05-1:20:``. Nothing else that the LLM reads of a node can look like that,
    or end the block of sources: texts, names and metadata are made `neutral`, and a value that changes by this is shown under
    a key of its own, so that the node's own entries stay.

    Attributes:
        llm_media: what the LLM can take besides text: ``"image"``, ``"audio"``. Mesh views are images.
    """

    llm_media: tuple[str, ...] = Field(default=("image",))

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "NumberSources"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        return [self._numbered(node, at) for at, node in enumerate(nodes, 1)]

    def _numbered(self, found: NodeWithScore, number: int) -> NodeWithScore:
        node = retype(found.node).model_copy(deep=True)
        node.metadata.pop(node.metadata.get(_CITED_AS, ""), None)  # it was numbered before
        node.metadata[_NUMBER] = number
        _neutralise(node)
        citation = _citation(NodeWithScore(node=node, score=found.score), number)
        needs = "audio" if citation.modality == "audio" else "image"
        text_only = bool(node.metadata.get(TEXT_ONLY)) or needs not in self.llm_media or is_gone(node)
        node.metadata |= {_CITED_AS: str(citation), TEXT_ONLY: text_only}
        # As a key it stands in the first line by itself, and can't take the place of the user's own metadata.
        value = "" if "{key}" in node.metadata_template else str(citation)
        node.metadata = {str(citation): value, **node.metadata}
        hidden = node.excluded_llm_metadata_keys
        hidden += [key for key in node.metadata if key.startswith(PREFIX) and key not in hidden]
        return NodeWithScore(node=as_text(node) if text_only else node, score=found.score)


def _neutralise(node: BaseNode) -> None:
    """Change what the LLM reads of a copy: its text, and a second entry for each one that must not be read as it is."""
    text = node.get_content()
    if (cleaned := neutral(text)) != text:
        if isinstance(node, TextNode):
            node.text = cleaned
        elif isinstance(node, Node):
            node.text_resource = MediaResource(text=cleaned)
    changed: dict[str, Any] = {}
    for key, value in list(node.metadata.items()):
        if key in node.excluded_llm_metadata_keys or key.startswith(PREFIX):
            continue
        shown = one_line(key), neutral(str(value))
        if shown != (key, str(value)):
            changed[shown[0] + _CLEANED] = shown[1]
            node.excluded_llm_metadata_keys.append(key)
    node.metadata |= changed


def _citation(found: NodeWithScore, number: int) -> Citation:
    node = retype(found.node)
    file = node.metadata.get(PREFIX + "path") or node.metadata.get("file_path")
    span = (node.start, node.end) if isinstance(node, AudioMedia) else (None, None)
    page = node.metadata.get(_PAGE_LABEL)
    views = node.views if isinstance(node, MeshMedia) else None
    return Citation(
        number=number,
        modality=modality_of_node(node),
        file=Path(file) if file else None,
        start=span[0],
        end=span[1],
        score=found.score or 0.0,
        text=node.get_content(),
        page=None if page is None else str(page),
        page_number=node.metadata.get(PAGE),
        views=None if views is None else str(views),
    )


def citations_of(nodes: Sequence[NodeWithScore]) -> list[Citation]:
    """The numbered sources of a response: ``citations_of(response.source_nodes)``; nodes without a number are left out.

    The nodes of LlamaIndex's `CitationQueryEngine`, which numbers by itself, count as the LLM was given them.
    """
    texts = [found.node.get_content() for found in nodes]
    if nodes and all(text.startswith(_HEAD.format(at)) for at, text in enumerate(texts, 1)):
        return [_citation(found, at) for at, found in enumerate(nodes, 1)]
    return [_citation(found, int(found.node.metadata[_NUMBER])) for found in nodes if _NUMBER in found.node.metadata]
