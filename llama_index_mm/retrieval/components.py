"""Components that keep the parts of a `MediaQuery` where those of LlamaIndex drop them.

What becomes of a query in LlamaIndex's own components (0.14):

=================================================  =========================  ====================================
component                                          the query's media          what keeps them
=================================================  =========================  ====================================
RetrieverQueryEngine, RouterRetriever,             kept                       -
RouterQueryEngine, AutoMergingRetriever,
TransformRetriever and TransformQueryEngine as
such, retrievers that an IndexNode leads to
RecursiveRetriever                                 kept; it stops at media    `MediaRecursiveRetriever`
                                                   nodes that it finds
RetrySourceQueryEngine                             kept; its retry asks the   -
                                                   sources, as plain texts
HyDEQueryTransform, DecomposeQueryTransform,       dropped                    `KeepMedia` around the transform
StepDecomposeQueryTransform (of
MultiStepQueryEngine)
RetryQueryEngine, RetryGuidelineQueryEngine        dropped from the second    `MediaRetryQueryEngine`
                                                   try on
QueryFusionRetriever                               kept with one query, else  `MediaQueryFusionRetriever`
                                                   dropped from those that
                                                   the LLM makes
SubQuestionQueryEngine, chat engines, agents       ask with plain texts       `AddMedia`, in a TransformQueryEngine
                                                                              or TransformRetriever
=================================================  =========================  ====================================

With the media go the filters, modalities, spaces, language and time of the query.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, PydanticResponse, Response
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.evaluation import BaseEvaluator, EvaluationResult
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.indices.query.query_transform.feedback_transform import FeedbackQueryTransformation
from llama_index.core.retrievers import QueryFusionRetriever, RecursiveRetriever
from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle, TextNode

from llama_index_mm.errors import QueryError
from llama_index_mm.retrieval.query import MediaQuery

__all__ = ["AddMedia", "KeepMedia", "MediaQueryFusionRetriever", "MediaRecursiveRetriever", "MediaRetryQueryEngine"]

_Lists = dict[tuple[str, int], list[NodeWithScore]]
_Found = tuple[list[NodeWithScore], list[NodeWithScore]]


def _reworded(query: QueryBundle, words: QueryBundle) -> QueryBundle:
    """The query with the words of another; if that is a `MediaQuery`, it is taken as it is."""
    if isinstance(words, MediaQuery):
        return words
    texts = words.custom_embedding_strs
    return replace(
        query,
        query_str=words.query_str,
        image_path=words.image_path or query.image_path,
        custom_embedding_strs=None if texts is None else list(texts),
        embedding=words.embedding,
    )


class _MediaTransform(BaseQueryTransform):
    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        pass


class KeepMedia(_MediaTransform):
    """Change the words of a query by another transform, and keep all else.

    A query without words is left as it is: there is nothing that a text transform could start from.

    Args:
        transform: of LlamaIndex, such as `HyDEQueryTransform`.

    Example:
        >>> engine = TransformQueryEngine(engine, KeepMedia(HyDEQueryTransform()))
        >>> engine.query(MediaQuery("a red chair", image="sketch.png"))
    """

    def __init__(self, transform: BaseQueryTransform) -> None:
        super().__init__()
        self._transform = transform

    def _get_prompt_modules(self) -> dict[str, Any]:
        return {"transform": self._transform}

    def _run(self, query_bundle: QueryBundle, metadata: dict[str, Any]) -> QueryBundle:
        if not any(text.strip() for text in query_bundle.embedding_strs):
            return query_bundle
        return _reworded(query_bundle, self._transform.run(query_bundle, metadata))


class AddMedia(_MediaTransform):
    """Give every question in words the media and constraints of a query: for chat engines and agents, which ask in words.

    A question that is a `MediaQuery` already is left as it is.

    Args:
        query: whose parts and constraints are added; its own words are not used.

    Example:
        >>> photo = MediaQuery(image="chair.png", modalities=["mesh"])
        >>> CondensePlusContextChatEngine.from_defaults(TransformRetriever(retriever, AddMedia(photo)))
    """

    def __init__(self, query: MediaQuery) -> None:
        super().__init__()
        if not isinstance(query, MediaQuery):
            raise QueryError(f"Expected a MediaQuery whose media are added, got {type(query).__name__}.")
        self._query = query

    def _run(self, query_bundle: QueryBundle, metadata: dict[str, Any]) -> QueryBundle:
        return _reworded(self._query, query_bundle)


class MediaRetryQueryEngine(BaseQueryEngine):
    """Ask again, with what an evaluator has to say of the answer, until it passes; the query's media are kept.

    As LlamaIndex's `RetryQueryEngine` and `RetryGuidelineQueryEngine`, with three differences: the media and constraints of the
    query are in every try; every try is made of the question itself, so that feedback does not pile up and sources are always
    searched with the question's own words; and async is async.

    Args:
        query_engine: what answers.
        evaluator: judges an answer to the question; a `GuidelineEvaluator` works too.
        max_retries: tries after the first, at least 0.
        query_transform: makes the next try; default is `FeedbackQueryTransformation`, which asks ``Settings.llm`` to be set.
        callback_manager: of LlamaIndex.

    Raises:
        QueryError: ``max_retries`` is less than 0.
    """

    def __init__(
        self,
        query_engine: BaseQueryEngine,
        evaluator: BaseEvaluator,
        *,
        max_retries: int = 3,
        query_transform: BaseQueryTransform | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if max_retries < 0:
            raise QueryError(f"Expected max_retries of at least 0, got {max_retries}.")
        super().__init__(callback_manager)
        self._query_engine = query_engine
        self._evaluator = evaluator
        self._max_retries = max_retries
        self._transform = query_transform

    def _get_prompt_modules(self) -> dict[str, Any]:
        modules: dict[str, Any] = {"query_engine": self._query_engine, "evaluator": self._evaluator}
        return modules if self._transform is None else {**modules, "query_transform": self._transform}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        asked = query_bundle
        for _ in range(self._max_retries):
            response = self._query_engine.query(asked)
            whole = _whole(response)
            judged = self._evaluator.evaluate_response(query_bundle.query_str, whole)
            if judged.passing:
                return _given(response, whole)
            asked = self._better(query_bundle, judged)
        return self._query_engine.query(asked)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        asked = query_bundle
        for _ in range(self._max_retries):
            response = await self._query_engine.aquery(asked)
            whole = await response.get_response() if isinstance(response, AsyncStreamingResponse) else _whole(response)
            judged = await self._evaluator.aevaluate_response(query_bundle.query_str, whole)
            if judged.passing:
                return _given(response, whole)
            asked = self._better(query_bundle, judged)
        return await self._query_engine.aquery(asked)

    def _better(self, query: QueryBundle, judged: EvaluationResult) -> QueryBundle:
        transform = self._transform or FeedbackQueryTransformation()
        changed = transform.run(query, {"evaluation": judged})
        if changed.custom_embedding_strs == [query.query_str]:  # asks with the question's own words: then HyDE's stay, too
            changed = replace(changed, custom_embedding_strs=list(query.embedding_strs))
        return _reworded(query, changed)


def _whole(response: Any) -> Response:
    whole: Response = response if isinstance(response, Response) else response.get_response()
    return whole


def _given(response: RESPONSE_TYPE, whole: Response) -> RESPONSE_TYPE:
    """What the engine gave; a stream, which the evaluator has used up, as a whole."""
    return response if isinstance(response, PydanticResponse) else whole


class MediaQueryFusionRetriever(QueryFusionRetriever):
    """LlamaIndex's `QueryFusionRetriever`, whose LLM rewrites the words of a query; the rewritten ones keep its media.

    Example:
        >>> MediaQueryFusionRetriever([index.as_retriever()], llm=llm, num_queries=3, mode="reciprocal_rerank")
    """

    def _run_sync_queries(self, queries: list[QueryBundle]) -> _Lists:
        return super()._run_sync_queries(_all_reworded(queries))

    def _run_nested_async_queries(self, queries: list[QueryBundle]) -> _Lists:
        return super()._run_nested_async_queries(_all_reworded(queries))

    async def _run_async_queries(self, queries: list[QueryBundle]) -> _Lists:
        return await super()._run_async_queries(_all_reworded(queries))


class MediaRecursiveRetriever(RecursiveRetriever):
    """LlamaIndex's `RecursiveRetriever`, which also takes nodes that are no texts for what they are; async is async.

    Example:
        >>> MediaRecursiveRetriever("root", {"root": summaries, "photos": index.as_retriever(modalities=["image"])})
    """

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _query_retrieved_nodes(self, query_bundle: QueryBundle, nodes_with_score: list[NodeWithScore]) -> _Found:
        found: list[NodeWithScore] = []
        additional: list[NodeWithScore] = []
        entered: set[str] = set()
        for one in nodes_with_score:
            if isinstance(one.node, IndexNode) and one.node.index_id in entered:
                continue
            if isinstance(one.node, IndexNode):
                entered.add(one.node.index_id)
            inner: _Found = ([one], [])
            if isinstance(one.node, TextNode):
                inner = super()._query_retrieved_nodes(query_bundle, [one])
            found += inner[0]
            additional += inner[1]
        return self._deduplicate_nodes(found), self._deduplicate_nodes(additional)


def _all_reworded(queries: Sequence[QueryBundle]) -> list[QueryBundle]:
    """The first is the query itself; the others have its words rewritten."""
    return [queries[0], *(_reworded(queries[0], other) for other in queries[1:])]
