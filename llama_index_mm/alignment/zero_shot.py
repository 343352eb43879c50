"""Classification of anything by labels in words, without training a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_index_mm.alignment.pairs import payload_of
from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, Vectors
from llama_index_mm.embeddings.labels import encode_labels
from llama_index_mm.errors import SpaceError
from llama_index_mm.media import Modality

__all__ = ["Classified", "zero_shot"]


@dataclass(frozen=True)
class Classified:
    """Which labels fit which items.

    Attributes:
        labels: ``m`` that there were.
        similarities: ``(n, m)`` float32 of items and labels, in [-1, 1]; they compare within an item, not between spaces.
    """

    labels: tuple[str, ...]
    similarities: Vectors

    @property
    def best(self) -> list[str]:
        """The label that fits each item best; the earlier one where two fit as well."""
        return [self.labels[at] for at in self.similarities.argmax(1)]

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """The k labels that fit each item best, with their similarities, best first."""
        order = np.argsort(-self.similarities, axis=1, kind="stable")[:, :k]
        return [
            [(self.labels[at], float(row[at])) for at in places] for row, places in zip(self.similarities, order, strict=True)
        ]


def zero_shot(
    encoder: Encoder | EmbeddingSpace,
    items: Sequence[Any],
    labels: Sequence[str],
    *,
    words: Encoder | None = None,
    modality: Modality | None = None,
    templates: Sequence[str] = ("{}",),
) -> Classified:
    """Tell which label is most similar to each item, by Radford et al. 2021 (arXiv:2103.00020), section 3.1.

    Args:
        encoder: of the items, such as an `AlignedEncoder`, with ``words``; or a space, with ``modality``.
        items: what the encoder takes, or paths or nodes of it.
        labels: in words.
        words: encoder of texts into the same space; that of the space's queries if not given.
        modality: of the items, where a space is given.
        templates: texts in which ``{}`` stands for the label; see `llama_index_mm.embeddings.labels`.

    Raises:
        SpaceError: there is no encoder for the items or for words, or the two are of different dimensions.
        EncodeError: a template has no ``{}``.

    Example:
        >>> zero_shot(picture_space, [Path("chair.off")], ["chair", "ship"], modality="mesh").best
        ['chair']
    """
    if isinstance(encoder, EmbeddingSpace):
        space = encoder
        words = words or space.query_encoder("text")
        found = space.encoders.get(modality) if modality is not None else None
        if found is None or found.payload == "text" != modality:
            raise SpaceError(f"Space {space.name!r} has no encoder for items of modality {modality!r}; name one that it has.")
        encoder = found
    if words is None:
        raise SpaceError("Expected an encoder of texts to encode the labels with; give words, or a space that has one.")
    if words.dimension != encoder.dimension:
        raise SpaceError(
            f"The labels have {words.dimension} dimensions and the items {encoder.dimension}; give encoders of the same space."
        )
    asked = words
    named = encode_labels(lambda texts: asked.encode(texts, query=True), list(labels), templates)
    vectors = encoder.encode([payload_of(item, encoder) for item in items])
    return Classified(tuple(labels), np.ascontiguousarray(vectors @ named.T))
