"""The picture side of any LlamaIndex multimodal embedding as an encoder; the text side is `TextEncoder`."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import ImageType
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm.embeddings.base import Encoder, Payload, embedding_fingerprint, fingerprint, release_embedding
from llama_index_mm.embeddings.events import Events
from llama_index_mm.errors import EncodeError

__all__ = ["ImageEmbeddingEncoder"]

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")  # what PNG holds as it is
_QUICK = 1  # level of compression: PNG loses nothing at any, and higher ones take ten times as long


class ImageEmbeddingEncoder(Encoder):
    """The picture side of any LlamaIndex multimodal embedding as an encoder.

    LlamaIndex's embeddings take paths or bytes. Each picture is given as a PNG, so no pixel is changed on the way. Batches,
    workers, retries and callbacks are the embedding's own; instrumentation events, which LlamaIndex does not send for
    pictures, are sent here.

    Args:
        embedding: the model.
        dimension: length of its vectors; found by encoding one grey picture if not given.
        fingerprint: digest of the model; made of its class and model name if not given.
        as_files: give paths of temporary files, for integrations that take no ``BytesIO``.
    """

    payload: Payload = "image"
    events: Events = "instrumentation"

    def __init__(
        self,
        embedding: MultiModalEmbedding,
        *,
        dimension: int | None = None,
        fingerprint: str | None = None,
        as_files: bool = False,
    ) -> None:
        self.embedding = embedding
        self.model_name = embedding.model_name
        self.batch_size = embedding.embed_batch_size
        self.as_files = as_files
        self.dimension = dimension or self._probe()
        self.fingerprint = _of_images(fingerprint or embedding_fingerprint(embedding, self.dimension))

    def release(self) -> None:
        """Call the embedding's own ``release``, if it has one."""
        release_embedding(self.embedding)

    def _probe(self) -> int:
        with self._given([Image.new("RGB", (32, 32), "grey")]) as given:
            return len(self.embedding.get_image_embedding(given[0]))

    def _encode(self, items: Sequence[Image.Image], *, query: bool) -> NDArray[Any]:
        with self._given(items) as given:
            return np.asarray(self.embedding.get_image_embedding_batch(given), dtype=np.float32)

    async def _aencode_all(self, items: Sequence[Image.Image], *, query: bool) -> NDArray[Any]:
        given = self._given(items)
        sources = await asyncio.to_thread(given.__enter__)
        try:
            return np.asarray(await self.embedding.aget_image_embedding_batch(sources), dtype=np.float32)
        finally:
            await asyncio.to_thread(given.__exit__, None, None, None)

    @contextmanager
    def _given(self, items: Sequence[Image.Image]) -> Iterator[list[ImageType]]:
        """What the embedding takes; files are there as long as it lasts."""
        if not self.as_files:
            yield [BytesIO(_png(item)) for item in items]
            return
        with tempfile.TemporaryDirectory(prefix="llama-index-mm-") as folder:
            paths = [Path(folder) / f"{number}.png" for number in range(len(items))]
            for path, item in zip(paths, items, strict=True):
                path.write_bytes(_png(item))
            yield [str(path) for path in paths]


def _of_images(digest: str) -> str:
    return fingerprint("image", digest)


def _png(item: Image.Image) -> bytes:
    if not isinstance(item, Image.Image):
        raise EncodeError(f"Expected a PIL image, got {type(item).__name__}. Load it with load_image.")
    buffer = BytesIO()
    picture = item if item.mode in _PNG_MODES else item.convert("RGB")
    picture.save(buffer, "PNG", compress_level=_QUICK)
    return buffer.getvalue()
