"""A search tool for LlamaIndex's agents: it finds pictures, recordings, meshes and texts, and shows them to the LLM."""

from llama_index_mm.agents.allowed import AllowedFiles
from llama_index_mm.agents.arguments import SearchArguments, SearchFilter
from llama_index_mm.agents.shown import Medium, ShowLimits, blocks_of, medium_of
from llama_index_mm.agents.tool import MediaRetrieverTool

__all__ = [
    "AllowedFiles",
    "MediaRetrieverTool",
    "Medium",
    "SearchArguments",
    "SearchFilter",
    "ShowLimits",
    "blocks_of",
    "medium_of",
]
