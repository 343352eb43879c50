"""The options of a retriever, for whatever makes one."""

from collections.abc import Mapping, Sequence
from typing import Literal

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.vector_stores.types import MetadataFilters
from typing_extensions import TypedDict

from llama_index_mm.media import Modality
from llama_index_mm.retrieval.foreign import OnError
from llama_index_mm.retrieval.fusion import Fusion
from llama_index_mm.retrieval.retriever import Weights

__all__ = ["RetrieverOptions"]


class RetrieverOptions(TypedDict, total=False):
    """What `MultiModalIndex` passes on to a `FusionRetriever`, which tells more of each.

    Attributes:
        modalities: what to look for; empty for everything.
        filters: metadata filters.
        fusion: ``"convex"``, ``"reciprocal_rank"``, ``"distribution_based"`` or ``"maximum"``.
        weights: replace the preset's, entry by entry; what names no channel is refused.
        at_least: seats kept for a modality or a language.
        at_most: seats that a modality or a language may take.
        similarity_cutoff: score in [0, 1] below which nothing is given.
        collapse: ``"document"`` for the best node of each document.
        expand: with ``collapse``, how many nodes of each document.
        diversity: in [0, 1]; above 0, what is like something better gives way.
        retrievers: other LlamaIndex retrievers, by name.
        on_error: ``"skip"`` to go on without one of these that fails.
        language_balance: in [0, 1], share of what usually sets languages apart that is taken away.
    """

    modalities: Sequence[Modality]
    filters: MetadataFilters | None
    fusion: Fusion
    weights: Weights | None
    at_least: Mapping[str, int] | None
    at_most: Mapping[str, int] | None
    similarity_cutoff: float | None
    collapse: Literal["document"] | None
    expand: int | None
    diversity: float
    retrievers: Mapping[str, BaseRetriever] | None
    on_error: OnError
    language_balance: float
