"""Labels for pictures."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode, TransformComponent
from PIL import Image

from llama_index_mm.media import load_image
from llama_index_mm.nodes import ImageMedia
from llama_index_mm.transforms.derive import derived

__all__ = ["LabelImages", "Labeler"]

_LEAST = 0.01  # probability of a label that is worth a word


class Labeler(Protocol):
    """Names what is in pictures."""

    def labels(self, pictures: Sequence[Image.Image], *, top: int = 5) -> list[list[tuple[str, float]]]:
        """Names and probabilities for each picture, likeliest first."""
        ...


class LabelImages(TransformComponent):
    """Write the likeliest labels of a picture into its text, for the LLM and for people.

    A picture whose text is more than its title (a caption) keeps it. Nodes of other modalities pass through.

    Args:
        labeler: names what is in pictures; None leaves the text alone.
        top: how many labels.
    """

    top: int = Field(default=5, ge=1)
    _labeler: Any = PrivateAttr(default=None)

    def __init__(self, labeler: Labeler | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._labeler = labeler

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "LabelImages"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Label every picture.

        Raises:
            DecodeError: a picture can't be decoded.
        """
        return [self._label(node) if isinstance(node, ImageMedia) else node for node in nodes]

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Like calling it, off the event loop."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def _label(self, node: ImageMedia) -> BaseNode:
        picture = load_image(node.path)
        if self._labeler is None or node.text != node.title:
            return derived(node, part="0", width=picture.width, height=picture.height)
        named = self._labeler.labels([picture], top=self.top)[0]
        likely = [f"{name} {probability:.0%}" for name, probability in named if probability >= _LEAST]
        words = ", ".join(likely) or "nothing that it is sure of"
        text = f"Picture {node.title!r}. It may show: {words}."
        return derived(node, part="0", text=text, width=picture.width, height=picture.height)
