"""LlamaIndex's query and chat engines, made so that the LLM gets what it can take."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, TypeAlias, cast

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.chat_engine import CondensePlusContextChatEngine, CondenseQuestionChatEngine, ContextChatEngine
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms.llm import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor

from llama_index_mm.answers.budget import MediaBudget
from llama_index_mm.answers.capabilities import adapt_to_llm
from llama_index_mm.answers.checks import CheckedQueryEngine, Invented
from llama_index_mm.answers.fallback import with_media_fallback
from llama_index_mm.answers.prompts import (
    MEDIA_CHAT_PROMPT,
    MEDIA_CHAT_REFINE_PROMPT,
    MEDIA_QA_PROMPT,
    MEDIA_REFINE_PROMPT,
)
from llama_index_mm.answers.sources import NumberSources
from llama_index_mm.errors import QueryError
from llama_index_mm.retrieval.options import RetrieverOptions

__all__ = [
    "CHAT_ENGINES",
    "ChatMode",
    "Preparation",
    "make_chat_engine",
    "make_query_engine",
    "prepare",
    "sources_for",
    "split_options",
]

ChatMode: TypeAlias = Literal["condense_question", "condense_plus_context", "context"]
"""Of LlamaIndex's chat engines; the LLM gets pictures and sounds in the first, the others are text alone."""

CHAT_ENGINES: dict[ChatMode, Any] = {
    "condense_question": CondenseQuestionChatEngine,
    "condense_plus_context": CondensePlusContextChatEngine,
    "context": ContextChatEngine,
}
"""The class for each mode."""

_SOURCES = 4  # nodes that an LLM answers from
_SEARCH = ("calibrated", *RetrieverOptions.__annotations__)


@dataclass(frozen=True)
class Preparation:
    """An LLM, and what nodes go through on their way to it.

    Attributes:
        llm: in a `MediaFallbackLLM` if it takes media.
        node_postprocessors: the budget, then the numbers.
    """

    llm: LLM
    node_postprocessors: tuple[BaseNodePostprocessor, ...]


def prepare(llm: LLM, *, llm_media: Collection[str] | None = None, budget: MediaBudget | None = None) -> Preparation:
    """Fit nodes to an LLM: for any engine of LlamaIndex that takes an LLM and node postprocessors.

    Args:
        llm: of LlamaIndex.
        llm_media: see `adapt_to_llm`.
        budget: default is what fits into the LLM's context window; media that the LLM can't take cost nothing of it.
    """
    can = adapt_to_llm(llm, llm_media=llm_media)
    limits = MediaBudget(max_tokens=can.source_tokens) if budget is None else budget
    steps = (limits.model_copy(update={"llm_media": can.media}), NumberSources(llm_media=can.media))
    return Preparation(with_media_fallback(llm) if can.media else llm, steps)


def sources_for(llm: LLM) -> int:
    """How many sources an LLM should answer from: what it says in ``suggested_sources``, else 4."""
    return int(getattr(llm, "suggested_sources", _SOURCES))


def split_options(options: dict[str, Any], *others: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell options of `MultiModalIndex.as_retriever` from those of the functions given.

    Raises:
        QueryError: an option is known to none of them.
    """
    search = {name: value for name, value in options.items() if name in _SEARCH}
    rest = {name: value for name, value in options.items() if name not in _SEARCH}
    if unknown := rest.keys() - {name for other in others for name in signature(other).parameters} - {"kwargs"}:
        names = " or ".join(f"{other.__self__.__name__}.{other.__name__}" for other in others)
        raise QueryError(
            f"Expected options of retrievers ({', '.join(_SEARCH)}) or of {names}, got {', '.join(sorted(unknown))}."
        )
    return search, rest


def make_query_engine(
    retriever: BaseRetriever,
    llm: LLM,
    *,
    llm_media: Collection[str] | None = None,
    budget: MediaBudget | None = None,
    invented: Invented = "keep",
    node_postprocessors: Sequence[BaseNodePostprocessor] = (),
    **options: Any,
) -> CheckedQueryEngine:
    """Make LlamaIndex's `RetrieverQueryEngine`, multimodal; see `MultiModalIndex.as_query_engine`.

    Raises:
        QueryError: the LLM is no chat model.
    """
    if not llm.metadata.is_chat_model:
        raise QueryError(f"{llm.class_name()} is no chat model, which multimodal answers need. Give a chat LLM.")
    ready = prepare(llm, llm_media=llm_media, budget=budget)
    prompts = {"chat_content_qa_template": MEDIA_QA_PROMPT, "chat_content_refine_template": MEDIA_REFINE_PROMPT}
    if (own := getattr(llm, "qa_prompt", None)) is not None:
        prompts = {"chat_content_qa_template": own}
    engine = CheckedQueryEngine.from_args(
        retriever,
        llm=ready.llm,
        multimodal=True,
        node_postprocessors=[*node_postprocessors, *ready.node_postprocessors],
        **{**prompts, **options},
    )
    checked = cast(CheckedQueryEngine, engine)  # LlamaIndex says that it makes one of its own class
    checked.invented = invented
    return checked


def make_chat_engine(
    retriever: BaseRetriever,
    llm: LLM,
    *,
    chat_mode: ChatMode = "condense_question",
    node_postprocessors: Sequence[BaseNodePostprocessor] = (),
    **options: Any,
) -> BaseChatEngine:
    """Make one of LlamaIndex's chat engines; see `MultiModalIndex.as_chat_engine`."""
    if chat_mode == "condense_question":
        engine = make_query_engine(retriever, llm, node_postprocessors=node_postprocessors)
        return CondenseQuestionChatEngine.from_defaults(engine, llm=llm, **options)
    steps = [*node_postprocessors, *prepare(llm, llm_media=()).node_postprocessors]
    names = ("context_prompt", "context_refine_prompt")
    if chat_mode == "context":
        names = ("context_template", "context_refine_template")
    prompts = dict(zip(names, (MEDIA_CHAT_PROMPT, MEDIA_CHAT_REFINE_PROMPT), strict=True))
    chat: BaseChatEngine = CHAT_ENGINES[chat_mode].from_defaults(
        retriever, llm=llm, node_postprocessors=steps, **{**prompts, **options}
    )
    return chat
