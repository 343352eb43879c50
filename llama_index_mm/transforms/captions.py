"""Words for pictures, by an LLM that sees or by any function."""

import asyncio
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode
from PIL import Image

from llama_index_mm.embeddings.base import fingerprint
from llama_index_mm.embeddings.payloads import Loaded
from llama_index_mm.errors import EncodeError, MissingExtraError, ModelError
from llama_index_mm.media import image_bytes, load_image
from llama_index_mm.media.image import PICTURE_SIDE
from llama_index_mm.nodes import PREFIX, ImageMedia, MediaNode, MeshMedia, retype
from llama_index_mm.transforms.base import MediaTransform

__all__ = ["CaptionImages", "Looker", "ReadImageText"]

Looker: TypeAlias = BaseLLM | Callable[[Image.Image], str]

_FATAL = (MissingExtraError, ModelError)  # what is wrong with the installation, not with a picture
_REASON = 500  # characters of a reason that is noted
_ERROR = "_error"  # ends the name of the fact that says why there is none


class _Words(MediaTransform):
    """Asks once about every picture, notes the answer as a fact and writes it into the node's text."""

    prompt: str
    longest: int = Field(default=1024, ge=16, description="Pixels of the longest side of what is shown.")
    characters: int = Field(default=1000, ge=1, description="Of an answer; what is longer is cut.")
    num_workers: int = Field(default=4, ge=1, description="Pictures that are asked about at the same time, when called async.")
    _fact: ClassVar[str]

    def __init__(self, looker: Looker | None = None, **options: Any) -> None:
        seen_by = f"{looker.class_name()} {looker.metadata.model_name}" if isinstance(looker, BaseLLM) else None
        super().__init__(looker, own=seen_by and fingerprint(seen_by), **options)

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Like calling it, with up to ``num_workers`` pictures at a time, off the event loop."""
        free = asyncio.Semaphore(self.num_workers)

        async def one(node: BaseNode) -> BaseNode:
            async with free:
                return await self._aone(node)

        return self._told(await asyncio.gather(*(one(retype(node)) for node in nodes)))

    def _transform_all(self, nodes: Sequence[BaseNode], loaded: Loaded) -> list[BaseNode]:
        return self._told([self._one(node, loaded) for node in nodes])

    def _transform(self, node: BaseNode, loaded: Loaded) -> list[BaseNode]:
        return self._told([self._one(node, loaded)])

    def _one(self, node: BaseNode, loaded: Loaded) -> BaseNode:
        file = self._asked(node)
        if file is None or not isinstance(node, MediaNode):
            return node
        try:
            small = isinstance(node, ImageMedia) and self.longest <= PICTURE_SIDE  # as encoders get it, then
            picture = loaded.picture(node).image if small else load_image(file, longest=self.longest)
            if max(picture.size) > self.longest:
                picture = picture.copy()
                picture.thumbnail((self.longest, self.longest))
            said = self._tool.chat(self._message(picture)).message.content if self._is_llm else self._tool(picture)
            return self._with(node, said)
        except _FATAL:
            raise
        except Exception as error:  # one picture, or one answer of a model, must not stop the rest
            return self._without(node, error)

    async def _aone(self, node: BaseNode) -> BaseNode:
        file = self._asked(node)
        if file is None or not isinstance(node, MediaNode):
            return node
        if not self._is_llm:
            return await asyncio.to_thread(self._one, node, Loaded())
        try:
            message = await asyncio.to_thread(lambda: self._message(load_image(file, longest=self.longest)))
            return self._with(node, (await self._tool.achat(message)).message.content)
        except _FATAL:
            raise
        except Exception as error:  # as above
            return self._without(node, error)

    @property
    def _is_llm(self) -> bool:
        return isinstance(self._tool, BaseLLM)

    def _asked(self, node: BaseNode) -> Path | None:
        """The picture to ask about; None if there is none, or nobody to ask, or the answer is known."""
        if self._tool is None or PREFIX + self._fact in node.metadata:
            return None
        return node.path if isinstance(node, ImageMedia) else node.views if isinstance(node, MeshMedia) else None

    def _message(self, picture: Image.Image) -> list[ChatMessage]:
        shown = ImageBlock(image=image_bytes(picture), image_mimetype="image/jpeg")
        return [ChatMessage(role="user", blocks=[TextBlock(text=self.prompt), shown])]

    def _with(self, node: MediaNode, said: Any) -> BaseNode:
        if not isinstance(said, str):
            raise EncodeError(f"Expected text about the picture, got {type(said).__name__}.")
        words = self._tidy(said)
        if len(words) > self.characters:
            cut = words[: self.characters]
            words = (cut.rsplit(None, 1)[0] if " " in cut else cut).rstrip() + " …"
        fresh = node.with_facts(text=self._write(node, words), **{self._fact: words})
        fresh.metadata.pop(PREFIX + self._fact + _ERROR, None)
        return fresh

    def _without(self, node: MediaNode, error: Exception) -> BaseNode:
        return node.with_facts(**{self._fact + _ERROR: f"{type(error).__name__}: {error}"[:_REASON]})

    def _told(self, nodes: list[BaseNode]) -> list[BaseNode]:
        key = PREFIX + self._fact + _ERROR
        reasons = [(node, node.metadata[key]) for node in nodes if key in node.metadata] if self._tool is not None else []
        if reasons:
            node, reason = reasons[0]
            warnings.warn(
                f"{self.class_name()}: {len(reasons)} of {len(nodes)} nodes got no {self._fact}; "
                f"{node.metadata.get('file_name')}: {reason}. The reasons are in their metadata, under {key!r}.",
                stacklevel=3,
            )
        return nodes

    @staticmethod
    def _tidy(said: str) -> str:
        """The answer as it is kept; empty if there is nothing to say."""
        raise NotImplementedError

    @staticmethod
    def _write(node: MediaNode, words: str) -> str:
        """The node's text with the answer in it."""
        raise NotImplementedError


class CaptionImages(_Words):
    """Write a caption of every picture, and of the six views of every mesh, before what the text of its node says already.

    The caption is also kept as ``mm_caption``. A node that has one is not asked about again. Where asking fails, the node
    stays as it is, the reason is noted as ``mm_caption_error``, and a warning tells; another run asks again. Put it after what
    labels pictures and renders meshes.

    Args:
        looker: an LLM of LlamaIndex's that sees, or a function that is given a picture and gives its caption. None leaves
            all nodes alone.
        fingerprint: of a function that has none of its own; see `MediaTransform`.
        prompt: what the LLM is asked.
        longest: pixels of the longest side of what is shown.
        characters: longest caption.
        num_workers: pictures at the same time, when called async.
    """

    prompt: str = (
        "Describe this picture in one or two sentences: what it shows, colours, the place, and any words in it that matter. "
        "Reply with the description alone."
    )
    _fact: ClassVar[str] = "caption"

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "CaptionImages"

    @staticmethod
    def _tidy(said: str) -> str:
        words = " ".join(said.split())
        if not words:
            raise EncodeError("The answer is empty.")
        return words

    @staticmethod
    def _write(node: MediaNode, words: str) -> str:
        return words if node.text == node.title else f"{words}\n{node.text}"


class ReadImageText(_Words):
    """Write the words that stand in every picture after what the text of its node says already (OCR).

    They are also kept as ``mm_ocr``, which is empty where there are none. All else is as for `CaptionImages`; failures are
    noted as ``mm_ocr_error``. Meshes have no words and are left alone.
    """

    prompt: str = (
        "Write down all text that stands in this picture, as it stands, line by line, and nothing else. "
        "If there is none, reply with the word NONE."
    )
    longest: int = Field(default=2048, ge=16, description="Pixels of the longest side of what is shown.")
    characters: int = Field(default=10_000, ge=1, description="Of an answer; what is longer is cut.")
    _fact: ClassVar[str] = "ocr"

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "ReadImageText"

    def _asked(self, node: BaseNode) -> Path | None:
        return None if isinstance(node, MeshMedia) else super()._asked(node)

    @staticmethod
    def _tidy(said: str) -> str:
        words = "\n".join(line for part in said.splitlines() if (line := " ".join(part.split())))
        return "" if words.strip(".").upper() == "NONE" else words

    @staticmethod
    def _write(node: MediaNode, words: str) -> str:
        return f"{node.text}\nText in the picture: {words}" if words else node.text
