"""Engines over whatever makes a retriever."""

from collections.abc import Collection, Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms.llm import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from typing_extensions import Unpack

from llama_index_mm.answers.budget import MediaBudget
from llama_index_mm.answers.checks import Invented
from llama_index_mm.answers.engines import (
    CHAT_ENGINES,
    ChatMode,
    make_chat_engine,
    make_query_engine,
    sources_for,
    split_options,
)
from llama_index_mm.errors import QueryError
from llama_index_mm.retrieval.options import RetrieverOptions

__all__ = ["Answering"]


class Answering:
    """Query and chat engines for an index that makes retrievers."""

    def as_retriever(
        self, *, similarity_top_k: int = 5, calibrated: bool = True, **options: Unpack[RetrieverOptions]
    ) -> BaseRetriever:
        """Make a retriever."""
        raise NotImplementedError

    def _default_llm(self) -> LLM:
        raise NotImplementedError

    def as_query_engine(
        self,
        llm: LLM | None = None,
        *,
        llm_media: Collection[str] | None = None,
        budget: MediaBudget | None = None,
        invented_citations: Invented = "keep",
        similarity_top_k: int | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] = (),
        **options: Any,
    ) -> RetrieverQueryEngine:
        """Make LlamaIndex's `RetrieverQueryEngine`, multimodal, over `as_retriever`.

        Args:
            llm: what answers; default is ``Settings.llm`` if it was set, else the preset's own.
            llm_media: what the LLM can take besides text, of ``"image"`` and ``"audio"``; the rest becomes text. Default is
                what `adapt_to_llm` tells. An LLM that refuses media is asked again with text, see `MediaFallbackLLM`.
            budget: how much the LLM is given; default is what fits into its context window.
            invented_citations: ``"flag"`` or ``"strip"`` citations of sources that don't exist.
            similarity_top_k: how many sources; default is what the LLM says in ``suggested_sources``, else 4.
            node_postprocessors: such as `MediaRerank`; budget and numbers of sources come after them.
            **options: those of `as_retriever` go to it, the others to ``RetrieverQueryEngine.from_args``.

        Raises:
            QueryError: the LLM is no chat model, or an option is known to neither.
        """
        llm = llm or self._default_llm()
        search, rest = split_options(options, RetrieverQueryEngine.from_args)
        k = sources_for(llm) if similarity_top_k is None else similarity_top_k
        return make_query_engine(
            self.as_retriever(similarity_top_k=k, **search),
            llm,
            llm_media=llm_media,
            budget=budget,
            invented=invented_citations,
            node_postprocessors=node_postprocessors,
            **rest,
        )

    def as_chat_engine(
        self,
        llm: LLM | None = None,
        *,
        chat_mode: ChatMode = "condense_question",
        similarity_top_k: int | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] = (),
        **options: Any,
    ) -> BaseChatEngine:
        """Make one of LlamaIndex's chat engines over `as_retriever`.

        Args:
            llm: as in `as_query_engine`.
            chat_mode: ``"condense_question"`` asks `as_query_engine` with a question that the LLM makes of the chat; the LLM
                gets pictures and sounds. ``"condense_plus_context"`` and ``"context"`` answer within the chat, from text alone.
            similarity_top_k: as in `as_query_engine`.
            node_postprocessors: as in `as_query_engine`.
            **options: those of `as_retriever` go to it, ``memory``, ``chat_history`` and the like to the chat engine.

        Raises:
            QueryError: there is no such mode, or an option is known to neither.
        """
        llm = llm or self._default_llm()
        if chat_mode not in CHAT_ENGINES:
            raise QueryError(f"Expected a chat_mode of {', '.join(CHAT_ENGINES)}, got {chat_mode!r}.")
        search, rest = split_options(options, CHAT_ENGINES[chat_mode].from_defaults)
        retriever = self.as_retriever(similarity_top_k=similarity_top_k or sources_for(llm), **search)
        return make_chat_engine(retriever, llm, chat_mode=chat_mode, node_postprocessors=node_postprocessors, **rest)
