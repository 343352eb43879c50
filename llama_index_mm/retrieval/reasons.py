"""Why a node was found."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.schema import BaseNode

from llama_index_mm.nodes import PREFIX

__all__ = ["ChannelReason", "attach_reasons", "explain", "reasons_of"]

_KEY = PREFIX + "reasons"


@dataclass(frozen=True)
class ChannelReason:
    """What one channel said of a node.

    Attributes:
        part: query part: text, image, audio or mesh; ``"speech"`` for words heard in an audio part; ``"query"`` for another
            retriever, which is asked with the words of the query.
        space: embedding space searched, or the name of the other retriever.
        raw: inner product of query and node, in [-1, 1]; the score that another retriever gave, None if it gave none.
        score: ``raw`` normalised, in [0, 1].
        weight: of the channel.
        contribution: share of the node's final score; the contributions sum to it. Negative is what was taken away.
        negative: whether the part is what is not wanted.
    """

    part: str
    space: str
    raw: float | None
    score: float
    weight: float
    contribution: float
    negative: bool = False

    def __str__(self) -> str:
        detail = f"{self.score:.2f} at weight {self.weight:g}"
        if self.raw is not None:
            detail += f", raw {self.raw:.2f}"
        return f"{'not ' * self.negative}{self.part} in {self.space}: {self.contribution:.2f} ({detail})"


def attach_reasons(node: BaseNode, reasons: Sequence[ChannelReason]) -> None:
    """Write reasons into a node's metadata, as JSON, hidden from LLM and embeddings."""
    node.metadata[_KEY] = json.dumps([vars(reason) for reason in reasons])
    for hidden in (node.excluded_embed_metadata_keys, node.excluded_llm_metadata_keys):
        if _KEY not in hidden:
            hidden.append(_KEY)


def reasons_of(node: BaseNode) -> tuple[ChannelReason, ...]:
    """Read why a retrieved node was found, the strongest channel first; empty if it was not retrieved by this package."""
    return tuple(ChannelReason(**entry) for entry in json.loads(node.metadata.get(_KEY, "[]")))


def explain(node: BaseNode) -> str:
    """One line of why a retrieved node was found."""
    return "; ".join(str(reason) for reason in reasons_of(node))
