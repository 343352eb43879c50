"""Numbered sources, and media in the form that the LLM at hand can take."""

from llama_index_mm.answers.sources import Citation, NumberSources, citations_of

__all__ = ["Citation", "NumberSources", "citations_of"]
