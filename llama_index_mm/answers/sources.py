"""Number what was found, for the LLM to refer to and for people to check."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle

from llama_index_mm.media import Modality
from llama_index_mm.nodes import (
    PREFIX,
    TEXT_ONLY,
    AudioMedia,
    MediaNode,
    MeshMedia,
    format_seconds,
    modality_of_node,
    retype,
)

__all__ = ["Citation", "NumberSources", "citations_of"]

_NUMBER = PREFIX + "number"
_CITED_AS = PREFIX + "cited_as"


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
    """

    number: int
    modality: Modality
    file: Path | None
    start: float | None
    end: float | None
    score: float
    text: str

    @property
    def label(self) -> str:
        """File name and seconds, as ``talk.ogg, 1:05-1:20``."""
        name = self.file.name if self.file else "a text without a file"
        if self.start is None or self.end is None:
            return name
        return f"{name}, {format_seconds(self.start)}-{format_seconds(self.end)}"

    def __str__(self) -> str:
        return f"[{self.number}] {self.label}"


class NumberSources(BaseNodePostprocessor):
    """Number nodes and say where each is from, and turn media that the LLM can't take into their text.

    A medium whose file is gone becomes its text as well. Works on copies. The number and the source stand in front of each
    node's metadata and text, as ``[1] talk.ogg, 1:05-1:20:``.

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
        citation = _citation(NodeWithScore(node=node, score=found.score))
        needs = "audio" if citation.modality == "audio" else "image"
        node.metadata |= {_CITED_AS: str(citation), TEXT_ONLY: needs not in self.llm_media or _is_gone(node)}
        # As a key it stands in the first line by itself, and can't take the place of the user's own metadata.
        value = "" if "{key}" in node.metadata_template else str(citation)
        node.metadata = {str(citation): value, **node.metadata}
        hidden = node.excluded_llm_metadata_keys
        hidden += [key for key in node.metadata if key.startswith(PREFIX) and key not in hidden]
        return NodeWithScore(node=node, score=found.score)


def _is_gone(node: BaseNode) -> bool:
    """Whether the file that an LLM would be shown is no longer there; its text has to do then."""
    if isinstance(node, MeshMedia):
        return node.views is None or not (node.views.is_file() or node.path.is_file())  # views can be rendered anew
    return isinstance(node, MediaNode) and not node.path.is_file()


def _citation(found: NodeWithScore) -> Citation:
    node = retype(found.node)
    file = node.metadata.get(PREFIX + "path") or node.metadata.get("file_path")
    span = (node.start, node.end) if isinstance(node, AudioMedia) else (None, None)
    return Citation(
        number=int(node.metadata[_NUMBER]),
        modality=modality_of_node(node),
        file=Path(file) if file else None,
        start=span[0],
        end=span[1],
        score=found.score or 0.0,
        text=node.get_content(),
    )


def citations_of(nodes: Sequence[NodeWithScore]) -> list[Citation]:
    """The numbered sources of a response: ``citations_of(response.source_nodes)``; nodes without a number are left out."""
    return [_citation(node) for node in nodes if _NUMBER in node.node.metadata]
