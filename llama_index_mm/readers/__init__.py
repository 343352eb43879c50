"""Files to documents."""

from llama_index_mm.readers.archives import is_archive, list_archive
from llama_index_mm.readers.fetch import FetchLimits
from llama_index_mm.readers.folders import Problem, list_files
from llama_index_mm.readers.keep import MediaBytes
from llama_index_mm.readers.media import MediaReader

__all__ = ["FetchLimits", "MediaBytes", "MediaReader", "Problem", "is_archive", "list_archive", "list_files"]
