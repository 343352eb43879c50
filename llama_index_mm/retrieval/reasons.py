"""Why a node was found."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from llama_index.core.schema import BaseNode

from llama_index_mm.nodes import PREFIX

__all__ = ["ChannelReason", "attach_reasons", "explain", "reasons_of"]

_KEY = PREFIX + "reasons"


@dataclass(frozen=True)
class ChannelReason:
    """What one channel said of a node.

    Attributes:
        part: query part: text, image, audio or mesh; ``"speech"`` for words heard in an audio part.
        space: embedding space searched.
        raw: inner product of query and node, in [-1, 1].
        score: ``raw`` normalised, in (0, 1).
        weight: of the channel.
        contribution: share of the node's final score; the contributions sum to it.
    """

    part: str
    space: str
    raw: float
    score: float
    weight: float
    contribution: float

    def __str__(self) -> str:
        detail = f"{self.score:.2f} at weight {self.weight:g}, raw {self.raw:.2f}"
        return f"{self.part} in {self.space}: {self.contribution:.2f} ({detail})"


def attach_reasons(node: BaseNode, reasons: Sequence[ChannelReason]) -> None:
    """Write reasons into a node's metadata, as JSON, hidden from LLM and embeddings."""
    node.metadata[_KEY] = json.dumps([asdict(reason) for reason in reasons])
    for hidden in (node.excluded_embed_metadata_keys, node.excluded_llm_metadata_keys):
        if _KEY not in hidden:
            hidden.append(_KEY)


def reasons_of(node: BaseNode) -> tuple[ChannelReason, ...]:
    """Read why a retrieved node was found, the strongest channel first; empty if it was not retrieved by this package."""
    return tuple(ChannelReason(**entry) for entry in json.loads(node.metadata.get(_KEY, "[]")))


def explain(node: BaseNode) -> str:
    """One line of why a retrieved node was found."""
    return "; ".join(str(reason) for reason in reasons_of(node))
