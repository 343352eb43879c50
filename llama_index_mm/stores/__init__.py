"""Where nodes and vectors are kept."""

from llama_index_mm.stores.records import Hit, Record, Source
from llama_index_mm.stores.store import MediaStore
from llama_index_mm.stores.vector_store import SpaceVectorStore

__all__ = ["Hit", "MediaStore", "Record", "Source", "SpaceVectorStore"]
