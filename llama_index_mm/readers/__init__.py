"""Files to documents."""

from llama_index_mm.readers.media import MediaReader, Problem, list_files

__all__ = ["MediaReader", "Problem", "list_files"]
