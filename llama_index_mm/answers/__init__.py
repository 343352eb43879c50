"""Numbered sources, and media in the form that the LLM at hand can take."""

from llama_index_mm.answers.sources import Citation, NumberSources, citations_of
from llama_index_mm.answers.typed import RetypeNodes

__all__ = ["Citation", "NumberSources", "RetypeNodes", "citations_of"]
