"""Encoders and embedding spaces.

An encoder turns items of one kind into unit vectors. An embedding space groups the encoders whose vectors compare with one
another by inner product.
"""

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from llama_index.core.async_utils import run_jobs
from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from numpy.typing import NDArray

from llama_index_mm.embeddings.events import Events, spanned, telling
from llama_index_mm.errors import EncodeError, SpaceError
from llama_index_mm.media import Modality

if TYPE_CHECKING:
    from llama_index_mm.embeddings.cache import EmbeddingCache

__all__ = [
    "Background",
    "EmbeddingSpace",
    "Encoder",
    "Payload",
    "TextEncoder",
    "Vectors",
    "embedding_fingerprint",
    "fingerprint",
    "release_embedding",
    "unit",
]

Vectors = NDArray[np.float32]

Payload = Literal["text", "image", "audio", "views", "mesh"]
"""What an encoder takes: str, PIL image in RGB, `Waveform`, the list of views of a mesh as PIL images, or `Mesh`."""


def unit(vectors: NDArray[Any]) -> Vectors:
    """Scale the rows of ``(n, d)`` to length 1, as float32; a row of zeros stays as it is."""
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.ascontiguousarray(wide / np.where(norms > 0, norms, 1.0), dtype=np.float32)


def fingerprint(*parts: object) -> str:
    """Digest of what decides a vector: model, version, preprocessing, dimension. 16 hexadecimal digits."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).hexdigest()[:16]


class Encoder(ABC):
    """Turns items of one kind into unit vectors.

    A subclass writes `_encode` for one batch; batching, checks, scaling to unit length, the async twin and LlamaIndex's events
    are here.

    Attributes:
        payload: kind of item it takes.
        dimension: length of a vector.
        fingerprint: digest of model, weights and preprocessing.
        batch_size: items in one call of `_encode`, at least 1.
        events: which of LlamaIndex's events it sends: ``"all"``, ``"instrumentation"`` without callbacks, or ``"none"`` where
            what it calls sends them.
    """

    payload: Payload
    dimension: int
    fingerprint: str
    batch_size: int = 16
    events: Events = "all"

    @spanned
    def encode(self, items: Sequence[Any], *, query: bool = False) -> Vectors:
        """Encode items.

        Args:
            items: what `payload` says.
            query: whether the items are asked with rather than stored; some models treat the two differently.

        Returns:
            ``(len(items), dimension)`` float32, rows of length 1.

        Raises:
            EncodeError: the model gave vectors of another shape, or numbers that are not finite, or zeros; or ``items`` is one
                text in place of a list.
        """
        if not len(items):
            return np.zeros((0, self.dimension), dtype=np.float32)
        self._check_items(items)
        with telling(self._in_events(), items, self.events) as tell:
            vectors = self._check_vectors(self._encode_all(items, query=query), len(items))
            tell(vectors)
        return vectors

    @spanned
    async def aencode(self, items: Sequence[Any], *, query: bool = False) -> Vectors:
        """Like `encode`, off the event loop: in a thread, or by the model's own async methods where it has them."""
        if not len(items):
            return np.zeros((0, self.dimension), dtype=np.float32)
        self._check_items(items)
        with telling(self._in_events(), items, self.events) as tell:
            vectors = self._check_vectors(await self._aencode_all(items, query=query), len(items))
            tell(vectors)
        return vectors

    def release(self) -> None:  # noqa: B027 - most encoders hold nothing
        """Free the memory of the model; it is loaded again when it is next needed. Nothing happens if there is none."""

    @abstractmethod
    def _encode(self, items: Sequence[Any], *, query: bool) -> NDArray[Any]:
        """Encode one batch of at most `batch_size` items to ``(n, dimension)``; any length, any float type."""

    def _encode_all(self, items: Sequence[Any], *, query: bool) -> NDArray[Any]:
        size = self.batch_size
        parts = [np.asarray(self._encode(items[at : at + size], query=query)) for at in range(0, len(items), size)]
        return np.concatenate(parts)

    async def _aencode_all(self, items: Sequence[Any], *, query: bool) -> NDArray[Any]:
        return await asyncio.to_thread(self._encode_all, items, query=query)

    def _check_items(self, items: Sequence[Any]) -> None:
        if isinstance(items, str):
            raise EncodeError(f"Expected a list of items, got one text {items[:40]!r}. Put it in a list.")
        if self.batch_size < 1:
            raise EncodeError(f"{type(self).__name__} has batch_size {self.batch_size}; it must be 1 or more.")

    def _check_vectors(self, vectors: NDArray[Any], count: int) -> Vectors:
        if vectors.shape != (count, self.dimension):
            raise EncodeError(
                f"{type(self).__name__} gave vectors of shape {vectors.shape} for {count} items; "
                f"expected {(count, self.dimension)}."
            )
        bad = ~np.isfinite(vectors).all(1) | ~vectors.any(1)
        if bad.any():
            raise EncodeError(
                f"{type(self).__name__} gave no usable vector (NaN, infinite or zero) for the items at "
                f"{np.flatnonzero(bad).tolist()}."
            )
        return unit(vectors)

    def _in_events(self) -> dict[str, Any]:
        """What events say of it, under the names that LlamaIndex's embeddings use."""
        return {
            "class_name": type(self).__name__,
            "model_name": getattr(self, "model_name", type(self).__name__),
            "embed_batch_size": self.batch_size,
            "payload": self.payload,
            "dimension": self.dimension,
            "fingerprint": self.fingerprint,
        }


class TextEncoder(Encoder):
    """Any LlamaIndex text embedding as an encoder.

    Batches, workers, rate limits, retries and events are the embedding's own.

    Args:
        embedding: the model; its query and text sides are both used.
        dimension: length of its vectors; found by encoding one word if not given.
        fingerprint: digest of the model; made of its class and model name if not given.
    """

    payload: Payload = "text"
    events: Events = "none"

    def __init__(self, embedding: BaseEmbedding, *, dimension: int | None = None, fingerprint: str | None = None) -> None:
        self.embedding = embedding
        self.batch_size = embedding.embed_batch_size
        self.dimension = dimension or len(embedding.get_text_embedding("dimension"))
        self.fingerprint = fingerprint or embedding_fingerprint(embedding, self.dimension)

    def release(self) -> None:
        """Call the embedding's own ``release``, if it has one."""
        release_embedding(self.embedding)

    def _encode(self, items: Sequence[str], *, query: bool) -> NDArray[Any]:
        if query:
            return np.asarray([self.embedding.get_query_embedding(item) for item in items], dtype=np.float32)
        return np.asarray(self.embedding.get_text_embedding_batch(list(items)), dtype=np.float32)

    async def _aencode_all(self, items: Sequence[str], *, query: bool) -> NDArray[Any]:
        if not query and _holds_up_the_loop(self.embedding):
            return await super()._aencode_all(items, query=query)
        if not query:
            return np.asarray(await self.embedding.aget_text_embedding_batch(list(items)), dtype=np.float32)
        asked = [self.embedding.aget_query_embedding(item) for item in items]
        workers = self.embedding.num_workers
        if workers and workers > 1:
            rows: list[Embedding] = await run_jobs(asked, workers=workers)
        else:
            rows = await asyncio.gather(*asked)
        return np.asarray(rows, dtype=np.float32)


def embedding_fingerprint(embedding: BaseEmbedding, dimension: int) -> str:
    """Digest of a LlamaIndex embedding: what it states as ``weights_fingerprint``, else of its class and model name."""
    stated = getattr(embedding, "weights_fingerprint", None)
    return stated or fingerprint(embedding.class_name(), embedding.model_name, dimension)


def release_embedding(embedding: BaseEmbedding) -> None:
    """Free the memory of a LlamaIndex embedding's model, if it has a method ``release``."""
    release = getattr(embedding, "release", None)
    if callable(release):
        release()


def _holds_up_the_loop(embedding: BaseEmbedding) -> bool:
    """Whether its async methods are those of the base class, which call the sync ones on the event loop."""
    kind = type(embedding)
    return (
        kind._aget_text_embedding is BaseEmbedding._aget_text_embedding
        and kind._aget_text_embeddings is BaseEmbedding._aget_text_embeddings
    )


@dataclass(frozen=True)
class Background:
    """How similar things that have nothing to do with one another are in a space.

    Attributes:
        mean: mean similarity of unrelated pairs.
        deviation: its standard deviation.
    """

    mean: float
    deviation: float


@dataclass(frozen=True)
class EmbeddingSpace:
    """One vector space with the encoders that live in it.

    Its metric is the cosine: all vectors have length 1, so that is their inner product; higher is nearer.

    Attributes:
        name: what it is called in stores, weights and reasons.
        encoders: for each modality of node, what encodes it. An encoder whose payload is ``"text"`` encodes a media node's
            text: so a transcript lives in a text space.
        query_encoders: for each kind of query part, what encodes it; the encoders themselves if not given.
        speech_only: audio nodes get a vector here only where words were heard.
        background: similarity of unrelated pairs, where known, by (query part, target modality); steadies the scores of
            small collections.
    """

    name: str
    encoders: Mapping[Modality, Encoder]
    query_encoders: Mapping[Modality, Encoder] = field(default_factory=dict)
    speech_only: bool = False
    background: Mapping[tuple[Modality, Modality], Background] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = [*self.encoders.values(), *self.query_encoders.values()]
        if not self.encoders:
            raise SpaceError(f"Space {self.name!r} has no encoder; give at least one.")
        sizes = {encoder.dimension for encoder in every}
        if len(sizes) > 1:
            raise SpaceError(f"The encoders of space {self.name!r} differ in dimension: {sorted(sizes)}. They must agree.")

    @classmethod
    def from_embedding(
        cls,
        name: str,
        embedding: BaseEmbedding,
        *,
        media_texts: bool = False,
        dimension: int | None = None,
        fingerprint: str | None = None,
    ) -> "EmbeddingSpace":
        """Make a space of any LlamaIndex embedding.

        A text embedding encodes texts. A `MultiModalEmbedding` also encodes pictures, and meshes as the mean of their views.

        Args:
            name: of the space.
            embedding: a `BaseEmbedding` or `MultiModalEmbedding`.
            media_texts: also encode the texts of media (transcripts, captions, labels) where the embedding can't encode the
                media themselves.
            dimension: length of its vectors; found by encoding one word if not given.
            fingerprint: digest of the model; made of its class and model name if not given. State one where the service may
                change the model under its name.

        Example:
            >>> space = EmbeddingSpace.from_embedding("jina", JinaEmbedding(model="jina-clip-v2"))
        """
        from llama_index.core.embeddings import MultiModalEmbedding

        from llama_index_mm.embeddings.llama import ImageEmbeddingEncoder
        from llama_index_mm.embeddings.views import ViewsEncoder

        words = TextEncoder(embedding, dimension=dimension, fingerprint=fingerprint)
        encoders: dict[Modality, Encoder] = {"text": words}
        if media_texts:
            encoders |= {"image": words, "audio": words, "mesh": words}
        if isinstance(embedding, MultiModalEmbedding):
            pictures = ImageEmbeddingEncoder(embedding, dimension=words.dimension, fingerprint=fingerprint)
            encoders |= {"image": pictures, "mesh": ViewsEncoder(pictures)}
        return cls(name, encoders)

    def cached(self, cache: "EmbeddingCache | Path | str") -> "EmbeddingSpace":
        """Give a copy whose encoders look in a cache first; it is the same space, with the same fingerprint.

        Args:
            cache: an `EmbeddingCache`, or the folder of one.
        """
        from llama_index_mm.embeddings.cache import CachedEncoder, EmbeddingCache

        kept = cache if isinstance(cache, EmbeddingCache) else EmbeddingCache(cache)
        return replace(
            self,
            encoders={modality: CachedEncoder(encoder, kept) for modality, encoder in self.encoders.items()},
            query_encoders={modality: CachedEncoder(encoder, kept) for modality, encoder in self.query_encoders.items()},
        )

    def release(self) -> None:
        """Free the memory of the models of all encoders; they are loaded again when they are next needed."""
        for encoder in (*self.encoders.values(), *self.query_encoders.values()):
            encoder.release()

    @property
    def metric(self) -> Literal["cosine"]:
        """How vectors of this space compare: by cosine, which is the inner product of unit vectors."""
        return "cosine"

    @property
    def dimension(self) -> int:
        """Length of a vector of this space."""
        return next(iter(self.encoders.values())).dimension

    @property
    def fingerprint(self) -> str:
        """Digest of the name, the dimension and every encoder of the space."""
        stored = [f"{modality}={encoder.fingerprint}" for modality, encoder in sorted(self.encoders.items())]
        asked = [f"?{modality}={encoder.fingerprint}" for modality, encoder in sorted(self.query_encoders.items())]
        return fingerprint(self.name, self.dimension, *stored, *asked)

    def query_encoder(self, part: Modality) -> Encoder | None:
        """Give the encoder for a query part of this kind, or None if this space can't be asked so."""
        if part in self.query_encoders:
            return self.query_encoders[part]
        own = self.encoders.get(part)
        wanted: Mapping[Modality, tuple[Payload, ...]] = {
            "text": ("text",),
            "image": ("image",),
            "audio": ("audio",),
            "mesh": ("views", "mesh"),
        }
        return own if own is not None and own.payload in wanted[part] else None
