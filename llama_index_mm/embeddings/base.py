"""Encoders and embedding spaces.

An encoder turns items of one kind into unit vectors. An embedding space groups the encoders whose vectors compare with one
another by inner product.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from numpy.typing import NDArray

from llama_index_mm.errors import EncodeError, SpaceError
from llama_index_mm.media import Modality

__all__ = ["Background", "EmbeddingSpace", "Encoder", "Payload", "TextEncoder", "Vectors", "fingerprint", "unit"]

Vectors = NDArray[np.float32]

Payload = Literal["text", "image", "audio", "views"]
"""What an encoder takes: str, PIL image in RGB, `Waveform`, or the list of views of a mesh as PIL images."""


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

    A subclass writes `_encode` for one batch; batching, checks and scaling to unit length are here.

    Attributes:
        payload: kind of item it takes.
        dimension: length of a vector.
        fingerprint: digest of model, weights and preprocessing.
        batch_size: items in one call of `_encode`.
    """

    payload: Payload
    dimension: int
    fingerprint: str
    batch_size: int = 16

    def encode(self, items: Sequence[Any], *, query: bool = False) -> Vectors:
        """Encode items.

        Args:
            items: what `payload` says.
            query: whether the items are asked with rather than stored; some models treat the two differently.

        Returns:
            ``(len(items), dimension)`` float32, rows of length 1.

        Raises:
            EncodeError: the model gave vectors of another shape, or numbers that are not finite, or zeros.
        """
        if not len(items):
            return np.zeros((0, self.dimension), dtype=np.float32)
        parts = [
            np.asarray(self._encode(items[at : at + self.batch_size], query=query))
            for at in range(0, len(items), self.batch_size)
        ]
        vectors = np.concatenate(parts)
        if vectors.shape != (len(items), self.dimension):
            raise EncodeError(
                f"{type(self).__name__} gave vectors of shape {vectors.shape} for {len(items)} items; "
                f"expected {(len(items), self.dimension)}."
            )
        bad = ~np.isfinite(vectors).all(1) | ~vectors.any(1)
        if bad.any():
            raise EncodeError(
                f"{type(self).__name__} gave no usable vector (NaN, infinite or zero) for the items at "
                f"{np.flatnonzero(bad).tolist()}."
            )
        return unit(vectors)

    @abstractmethod
    def _encode(self, items: Sequence[Any], *, query: bool) -> NDArray[Any]:
        """Encode one batch of at most `batch_size` items to ``(n, dimension)``; any length, any float type."""


class TextEncoder(Encoder):
    """Any LlamaIndex text embedding as an encoder.

    Args:
        embedding: the model; its query and text sides are both used.
        dimension: length of its vectors; found by encoding one word if not given.
        fingerprint: digest of the model; made of its class and model name if not given.
    """

    payload: Payload = "text"

    def __init__(self, embedding: BaseEmbedding, *, dimension: int | None = None, fingerprint: str | None = None) -> None:
        self.embedding = embedding
        self.batch_size = embedding.embed_batch_size
        self.dimension = dimension or len(embedding.get_text_embedding("dimension"))
        self.fingerprint = fingerprint or _embedding_fingerprint(embedding, self.dimension)

    def _encode(self, items: Sequence[str], *, query: bool) -> NDArray[Any]:
        if query:
            return np.asarray([self.embedding.get_query_embedding(item) for item in items], dtype=np.float32)
        return np.asarray(self.embedding.get_text_embedding_batch(list(items)), dtype=np.float32)


def _embedding_fingerprint(embedding: BaseEmbedding, dimension: int) -> str:
    stated = getattr(embedding, "weights_fingerprint", None)
    return stated or fingerprint(embedding.class_name(), embedding.model_name, dimension)


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
        wanted: Mapping[Modality, Payload] = {"text": "text", "image": "image", "audio": "audio", "mesh": "views"}
        return own if own is not None and own.payload == wanted[part] else None
