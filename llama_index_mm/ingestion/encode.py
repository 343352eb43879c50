"""Nodes into vectors."""

from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import BaseNode

from llama_index_mm.embeddings.base import EmbeddingSpace, Vectors
from llama_index_mm.embeddings.payloads import Loaded
from llama_index_mm.nodes import AudioMedia, modality_of_node
from llama_index_mm.stores import Record

__all__ = ["encode_nodes", "lives_in"]


def encode_nodes(nodes: Sequence[BaseNode], spaces: Sequence[EmbeddingSpace], loaded: Loaded | None = None) -> list[Record]:
    """Encode nodes into every space in which they can live, in batches by encoder.

    Args:
        nodes: of any modality.
        spaces: whose encoders are used.
        loaded: what of their media is decoded already.

    Raises:
        MediaError, EncodeError: a node can't be loaded or encoded.
    """
    loaded = loaded or Loaded()
    vectors: list[dict[str, Vectors]] = [{} for _ in nodes]
    payloads: dict[tuple[int, str], Any] = {}
    for space in spaces:
        for modality, encoder in space.encoders.items():
            places = [at for at, node in enumerate(nodes) if modality_of_node(node) == modality and lives_in(node, space)]
            for at in places:
                if (at, encoder.payload) not in payloads:
                    payloads[at, encoder.payload] = loaded.payload(nodes[at], encoder.payload)
            encoded = encoder.encode([payloads[at, encoder.payload] for at in places])
            for at, vector in zip(places, encoded, strict=True):
                vectors[at][space.name] = vector
    return [Record(node, found) for node, found in zip(nodes, vectors, strict=True)]


def lives_in(node: BaseNode, space: EmbeddingSpace) -> bool:
    """Whether a node gets a vector in a space."""
    return not space.speech_only or not isinstance(node, AudioMedia) or node.speech
