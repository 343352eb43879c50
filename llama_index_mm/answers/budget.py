"""How much of what was found an LLM is given."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MediaResource, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode
from llama_index.core.utils import get_tokenizer

from llama_index_mm.answers.media import as_text, medium_of, seconds_of
from llama_index_mm.nodes import MAX_SIDE, MAX_VIEWS, PREFIX, retype

__all__ = ["IMAGE_TOKENS", "LeftOut", "MediaBudget", "audio_tokens", "left_out_of"]

IMAGE_TOKENS = 2125
"""Tokens that LlamaIndex counts for a picture of any size (`ImageBlock.aestimate_tokens`)."""

_NOTES = PREFIX + "left_out"
_HEADING_TOKENS = 24  # of a source's number and name
_logger = logging.getLogger(__name__)

Part: TypeAlias = Literal["media", "node", "end of text"]


@dataclass(frozen=True)
class LeftOut:
    """Something that was found and that the LLM was not given.

    Attributes:
        node_id: of the node that was found.
        part: ``"media"`` if only its text was given, ``"end of text"`` if that was cut, ``"node"`` if nothing of it was.
        reason: which limit, and what would have been needed.
    """

    node_id: str
    part: Part
    reason: str


def audio_tokens(seconds: float) -> int:
    """Tokens that LlamaIndex counts for a sound (`AudioBlock.aestimate_tokens`): 32 for each second, begun ones too."""
    return max((int(seconds) + 1) * 32, int(seconds / 0.05) + 1)


class MediaBudget(BaseNodePostprocessor):
    """Keep what an LLM is given within limits: the best first, and text where the media itself is too much.

    Nodes take their share in the order of their scores, and stay in the order given. A picture or sound beyond a limit becomes
    its text (transcript, labels, facts); a text beyond ``max_text_tokens`` is left out, but of the best node as much is kept as
    fits. Works on copies, keeps nothing between calls. What was left out, and why, is told by `left_out_of`, and by the log.

    Pictures of media nodes are scaled down when their content blocks are made: as JPEG, views of meshes as PNG; files that are
    small enough go as they are. Pictures in LlamaIndex's own nodes are counted, not scaled. Put it before `NumberSources`.

    Attributes:
        max_images: pictures and sheets of mesh views.
        max_audio_seconds: of all sounds together.
        max_text_tokens: of all texts together; None leaves it to LlamaIndex to spread texts over several calls of the LLM.
        max_tokens: of all together, as LlamaIndex counts: 2,125 for a picture, 32 for a second of sound. Media that would go
            beyond it become text; more would make LlamaIndex call the LLM again for each piece.
        max_pixels: of a picture's longest side.
        max_views: of each mesh, 1 to 6.
        llm_media: what the LLM can take besides text; other media take nothing of the budget.
        tokenizer: gives the tokens of a text; default is LlamaIndex's own, which needs no network.
    """

    max_images: int | None = Field(default=8, ge=0)
    max_audio_seconds: float | None = Field(default=180.0, ge=0)
    max_text_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=0)
    max_pixels: int | None = Field(default=1024, ge=1)
    max_views: int | None = Field(default=None, ge=1, le=6)
    llm_media: tuple[str, ...] = Field(default=("image", "audio"))
    tokenizer: Callable[[str], Sequence[Any]] | None = Field(default=None, exclude=True)

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "MediaBudget"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        best = sorted(range(len(nodes)), key=lambda at: -(nodes[at].score or 0.0))
        copies = {at: retype(nodes[at].node).model_copy(deep=True) for at in best}
        notes: list[LeftOut] = []
        left = self._texts(copies, best, notes)
        self._media(copies, [at for at in best if at in copies], left, notes)
        for note in notes:
            _logger.info("The %s of %s is not given to the LLM: %s", note.part, note.node_id, note.reason)
        told = json.dumps([asdict(note) for note in notes], ensure_ascii=False) if notes else ""
        for node in copies.values():
            _note(node, told)
        return [NodeWithScore(node=copies[at], score=nodes[at].score) for at in sorted(copies)]

    def _texts(self, copies: dict[int, BaseNode], best: Sequence[int], notes: list[LeftOut]) -> int | None:
        """Take out nodes whose text is too much; gives the tokens that are left for media, None for any number."""
        used = 0
        for at in best:
            node = copies[at]
            needed = self._tokens(node.get_content(metadata_mode=MetadataMode.LLM)) + _HEADING_TOKENS
            room = None if self.max_text_tokens is None else self.max_text_tokens - used
            if room is None or needed <= room:
                used += needed
            elif at == best[0]:
                self._cut(node, room)
                notes.append(LeftOut(node.node_id, "end of text", f"of {needed} tokens max_text_tokens={room} were kept"))
                used = room
            else:
                del copies[at]
                reason = f"max_text_tokens={self.max_text_tokens} leaves {room}, its text has {needed}"
                notes.append(LeftOut(node.node_id, "node", reason))
        return None if self.max_tokens is None else self.max_tokens - used

    def _media(self, copies: dict[int, BaseNode], kept: Sequence[int], left: int | None, notes: list[LeftOut]) -> None:
        images, seconds = 0, 0.0
        for at in kept:
            node = copies[at]
            medium = medium_of(node)
            if medium is None or medium not in self.llm_media:
                continue
            length = seconds_of(node) if medium == "audio" else 0.0
            tokens = audio_tokens(length) if medium == "audio" else IMAGE_TOKENS
            reason = self._refusal(medium, images, seconds, length, left, tokens)
            if reason:
                copies[at] = as_text(node)
                notes.append(LeftOut(node.node_id, "media", reason))
                continue
            images, seconds = images + (medium == "image"), seconds + length
            left = None if left is None else left - tokens
            limits = {MAX_SIDE: self.max_pixels, MAX_VIEWS: self.max_views} if medium == "image" else {}
            node.metadata |= {key: value for key, value in limits.items() if value is not None}

    def _refusal(self, medium: str, images: int, seconds: float, length: float, left: int | None, tokens: int) -> str:
        if medium == "image" and self.max_images is not None and images >= self.max_images:
            return f"max_images={self.max_images} better ones are given"
        if medium == "audio" and self.max_audio_seconds is not None and seconds + length > self.max_audio_seconds:
            return (
                f"max_audio_seconds={self.max_audio_seconds:g} leaves {self.max_audio_seconds - seconds:g}, it has {length:g}"
            )
        if left is not None and tokens > left:
            return f"max_tokens={self.max_tokens} leaves {max(0, left)}, it counts for {tokens}"
        return ""

    def _tokens(self, text: str) -> int:
        return len((self.tokenizer or get_tokenizer())(text))

    def _cut(self, node: BaseNode, most: int) -> None:
        """Shorten a node's text until it and its metadata have at most so many tokens."""
        text = node.get_content()
        low, high = 0, len(text)
        while low < high:  # the longest beginning that fits
            middle = (low + high + 1) // 2
            _set_text(node, text[:middle])
            if self._tokens(node.get_content(metadata_mode=MetadataMode.LLM)) + _HEADING_TOKENS <= most:
                low = middle
            else:
                high = middle - 1
        _set_text(node, text[:low])


def _note(node: BaseNode, told: str) -> None:
    """Write into a node what was left out of all, as JSON, in place of an earlier note."""
    node.metadata.pop(_NOTES, None)
    if told:
        node.metadata[_NOTES] = told
    for hidden in (node.excluded_embed_metadata_keys, node.excluded_llm_metadata_keys):
        hidden += [key for key in (_NOTES, MAX_SIDE, MAX_VIEWS) if key in node.metadata and key not in hidden]


def _set_text(node: BaseNode, text: str) -> None:
    if isinstance(node, TextNode):
        node.text = text
    elif isinstance(node, Node):
        node.text_resource = MediaResource(text=text)


def left_out_of(response: Any) -> list[LeftOut]:
    """What `MediaBudget` left out of an answer.

    Args:
        response: a LlamaIndex response, or a list of nodes with scores.
    """
    nodes = response if isinstance(response, list) else response.source_nodes
    told = next((found.node.metadata[_NOTES] for found in nodes if _NOTES in found.node.metadata), "[]")
    return [LeftOut(**note) for note in json.loads(told)]
