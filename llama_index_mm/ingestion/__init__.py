"""Files into an index: what is new is read, encoded and stored; what is broken is noted with its reason."""

from llama_index_mm.ingestion.encode import encode_nodes
from llama_index_mm.ingestion.ingestor import Ingestor
from llama_index_mm.ingestion.reembed import ReembedReport, reembed
from llama_index_mm.ingestion.report import IngestReport

__all__ = ["IngestReport", "Ingestor", "ReembedReport", "encode_nodes", "reembed"]
