"""Where nodes and vectors are kept."""

from llama_index_mm.stores.base import Among, NodeStore
from llama_index_mm.stores.maintenance import CheckReport, PartitionStatistics
from llama_index_mm.stores.records import Hit, Record, Source, StoredSpace
from llama_index_mm.stores.store import MediaStore
from llama_index_mm.stores.vector_store import SpaceVectorStore

__all__ = [
    "Among",
    "CheckReport",
    "Hit",
    "MediaStore",
    "NodeStore",
    "PartitionStatistics",
    "Record",
    "Source",
    "SpaceVectorStore",
    "StoredSpace",
]
