"""From a query to one ranking with reasons."""

from llama_index_mm.retrieval.fusion import Fusion, convex, reciprocal_rank
from llama_index_mm.retrieval.query import MediaQuery
from llama_index_mm.retrieval.reasons import ChannelReason, reasons_of
from llama_index_mm.retrieval.retriever import FusionRetriever

__all__ = ["ChannelReason", "Fusion", "FusionRetriever", "MediaQuery", "convex", "reasons_of", "reciprocal_rank"]
