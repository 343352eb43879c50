"""Files to documents."""

from llama_index_mm.readers.fetch import FetchLimits
from llama_index_mm.readers.media import MediaReader, Problem, list_files

__all__ = ["FetchLimits", "MediaReader", "Problem", "list_files"]
