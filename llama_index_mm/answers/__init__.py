"""What an LLM is given of what was found, and whether its answer cites what is there."""

from llama_index_mm.answers.budget import LeftOut, MediaBudget, left_out_of
from llama_index_mm.answers.capabilities import LLMCapabilities, adapt_to_llm
from llama_index_mm.answers.checks import CheckedQueryEngine, CitationCheck, check_citations, with_checked_citations
from llama_index_mm.answers.engines import Preparation, prepare
from llama_index_mm.answers.fallback import MediaFallbackLLM, with_media_fallback
from llama_index_mm.answers.neutralise import neutral
from llama_index_mm.answers.prompts import MEDIA_CHAT_PROMPT, MEDIA_CHAT_REFINE_PROMPT, MEDIA_QA_PROMPT, MEDIA_REFINE_PROMPT
from llama_index_mm.answers.sources import Citation, NumberSources, citations_of
from llama_index_mm.answers.typed import RetypeNodes

__all__ = [
    "MEDIA_CHAT_PROMPT",
    "MEDIA_CHAT_REFINE_PROMPT",
    "MEDIA_QA_PROMPT",
    "MEDIA_REFINE_PROMPT",
    "CheckedQueryEngine",
    "Citation",
    "CitationCheck",
    "LLMCapabilities",
    "LeftOut",
    "MediaBudget",
    "MediaFallbackLLM",
    "NumberSources",
    "Preparation",
    "RetypeNodes",
    "adapt_to_llm",
    "check_citations",
    "citations_of",
    "left_out_of",
    "neutral",
    "prepare",
    "with_checked_citations",
    "with_media_fallback",
]
