"""Other LlamaIndex retrievers as channels."""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import BaseNode, IndexNode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from llama_index_mm.errors import QueryError
from llama_index_mm.nodes import retype
from llama_index_mm.retrieval.fusion import spread

__all__ = ["ForeignHit", "ForeignList", "OnError", "aask", "ask", "copy_of", "passes", "read_results"]

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class ForeignHit:
    """A result of another retriever.

    Attributes:
        node: as it was given; not to be changed.
        raw: the score that it was given, None if it was given none.
        score: in [0, 1], see `read_results`.
    """

    node: BaseNode
    raw: float | None
    score: float


@dataclass(frozen=True)
class ForeignList:
    """What another retriever found.

    Attributes:
        name: of the retriever.
        hits: by node id, in its order.
    """

    name: str
    hits: Mapping[str, ForeignHit]


def ask(retrievers: Mapping[str, BaseRetriever], words: str, on_error: OnError) -> list[ForeignList]:
    """Ask other retrievers with the words of a query, each with a `QueryBundle` of its own.

    Args:
        retrievers: by name.
        words: of the query.
        on_error: whether one that fails is an error, or is passed over with a warning in the log.

    Raises:
        QueryError: one failed.
    """
    lists = []
    for name, retriever in retrievers.items():
        try:
            lists.append(read_results(name, retriever.retrieve(QueryBundle(words))))
        except Exception as error:
            _failed(name, error, on_error)
    return lists


async def aask(retrievers: Mapping[str, BaseRetriever], words: str, on_error: OnError) -> list[ForeignList]:
    """Like `ask`, all at the same time. A retriever that has no async code of its own is asked in a thread."""
    asked = [_aretrieve(retriever, words) for retriever in retrievers.values()]
    lists = []
    for name, found in zip(retrievers, await asyncio.gather(*asked, return_exceptions=True), strict=True):
        try:
            if isinstance(found, BaseException):
                raise found
            lists.append(read_results(name, found))
        except Exception as error:
            _failed(name, error, on_error)
    return lists


async def _aretrieve(retriever: BaseRetriever, words: str) -> list[NodeWithScore]:
    if type(retriever)._aretrieve is BaseRetriever._aretrieve:  # which would hold up the event loop
        return await asyncio.to_thread(retriever.retrieve, QueryBundle(words))
    return await retriever.aretrieve(QueryBundle(words))


def _failed(name: str, error: Exception, on_error: OnError) -> None:
    if on_error == "raise":
        raise QueryError(
            f"Retriever {name!r} failed: {type(error).__name__}: {error}. Mend it, or pass over such with on_error='skip'."
        ) from error
    logger.warning("Retriever %r failed and is passed over: %s: %s", name, type(error).__name__, error)


def read_results(name: str, results: Sequence[NodeWithScore]) -> ForeignList:
    """Turn results into scores that compare: each list is scaled by its own mean and deviation, as `spread` does.

    If any has no score, or one that is not finite, their order stands for the scores: n for the first of n, 1 for the last.
    Of a node that comes twice the first counts. A score of 0 in a list without negative ones says that nothing fits, as BM25
    gives to nodes that share no word with the query when it has too few others: these are left out.

    Args:
        name: of the retriever.
        results: in its order.
    """
    first: dict[str, NodeWithScore] = {}
    for result in results:
        first.setdefault(result.node.node_id, result)
    raws = [_finite(result.score) for result in first.values()]
    known = [raw for raw in raws if raw is not None]
    if len(known) == len(raws) and min(known, default=1.0) == 0:
        first = {node_id: result for (node_id, result), raw in zip(first.items(), known, strict=True) if raw > 0}
        known = [raw for raw in known if raw > 0]
        raws = list(known)
    scores = spread(known if len(known) == len(raws) else [float(rank) for rank in range(len(raws), 0, -1)])
    hits = {
        node_id: ForeignHit(result.node, raw, score)
        for (node_id, result), raw, score in zip(first.items(), raws, scores, strict=True)
    }
    return ForeignList(name, hits)


def _finite(score: float | None) -> float | None:
    return float(score) if score is not None and math.isfinite(score) else None


def passes(node: BaseNode, filters: MetadataFilters) -> bool:
    """Whether a node that is not in the store passes filters, by the rules that hold in it; groups within groups are taken.

    Args:
        node: of another retriever.
        filters: that the store has taken already, and so have a meaning.
    """
    document = node.ref_doc_id or "None"
    facts = {
        **node.metadata,
        "document_id": document,
        "doc_id": document,
        "ref_doc_id": document,
        "_node_type": node.class_name(),
    }
    return _pass(facts, filters) is not False


def _pass(facts: Mapping[str, Any], filters: MetadataFilters) -> bool | None:
    """None where there is nothing to filter."""
    each = [_pass(facts, one) if isinstance(one, MetadataFilters) else _matches(facts, one) for one in filters.filters]
    said = [one for one in each if one is not None]
    if not said:
        return None
    if filters.condition == FilterCondition.NOT:
        return not any(said)
    return any(said) if filters.condition == FilterCondition.OR else all(said)


def _matches(facts: Mapping[str, Any], one: MetadataFilter) -> bool:
    try:
        return build_metadata_filter_fn(lambda _: facts, MetadataFilters(filters=[one]))("")
    except TypeError:  # what the node has there is of another type than what is wanted
        return one.operator == FilterOperator.NIN


def copy_of(node: BaseNode) -> BaseNode:
    """A copy that can be written to; what an `IndexNode` leads to stays what it is."""
    copy = node.model_copy(deep=not isinstance(node, IndexNode))
    copy.metadata = dict(copy.metadata)
    copy.excluded_embed_metadata_keys = list(copy.excluded_embed_metadata_keys)
    copy.excluded_llm_metadata_keys = list(copy.excluded_llm_metadata_keys)
    return retype(copy)
