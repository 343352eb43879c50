"""Labels for pictures."""

from collections.abc import Sequence
from typing import Any, Protocol

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode
from PIL import Image

from llama_index_mm.embeddings.payloads import Loaded
from llama_index_mm.media.image import Picture
from llama_index_mm.nodes import ImageMedia
from llama_index_mm.transforms.base import MediaTransform
from llama_index_mm.transforms.derive import derived

__all__ = ["LabelImages", "Labeler"]

_LEAST = 0.01  # probability of a label that is worth a word


class Labeler(Protocol):
    """Names what is in pictures.

    Where it has an attribute ``fingerprint`` (str), results that LlamaIndex caches are told apart by it.
    """

    def labels(self, pictures: Sequence[Image.Image], *, top: int = 5) -> list[list[tuple[str, float]]]:
        """Names and probabilities for each picture, likeliest first."""
        ...


class LabelImages(MediaTransform):
    """Write the likeliest labels of a picture into its text, for the LLM and for people.

    A picture whose text is more than its title (a caption) keeps it. Nodes of other modalities pass through.

    Args:
        labeler: names what is in pictures; None leaves the text alone.
        top: how many labels.
        fingerprint: of a labeler that has none of its own; see `MediaTransform`.
    """

    top: int = Field(default=5, ge=1)

    def __init__(self, labeler: Labeler | None = None, **options: Any) -> None:
        super().__init__(labeler, **options)

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "LabelImages"

    def _transform_all(self, nodes: Sequence[BaseNode], loaded: Loaded) -> list[BaseNode]:
        bare = [node for node in nodes if isinstance(node, ImageMedia) and node.text == node.title]
        named: Sequence[Sequence[tuple[str, float]]] = [()] * len(bare)
        if self._tool is not None and bare:
            named = self._tool.labels([loaded.picture(node).image for node in bare], top=self.top)
        words = {id(node): self._words(names) for node, names in zip(bare, named, strict=True)}
        return [
            _described(node, loaded.picture(node), words.get(id(node))) if isinstance(node, ImageMedia) else node
            for node in nodes
        ]

    def _transform(self, node: BaseNode, loaded: Loaded) -> list[BaseNode]:
        return self._transform_all([node], loaded)

    def _words(self, named: Sequence[tuple[str, float]]) -> str:
        if self._tool is None:
            return ""
        likely = [f"{name} {probability:.0%}" for name, probability in named if probability >= _LEAST]
        return f" It may show: {', '.join(likely) or 'nothing that it is sure of'}."


def _described(node: ImageMedia, picture: Picture, words: str | None) -> BaseNode:
    """Say what was seen, and that an animation was seen by its first frame only."""
    moving = picture.frames > 1
    text = None
    if words is not None and (words or moving):
        still = f" (the first of {picture.frames} frames)" if moving else ""
        text = f"Picture {node.title!r}{still}.{words}"
    frames = picture.frames if moving else None
    return derived(node, part="0", text=text, width=picture.width, height=picture.height, frames=frames)
