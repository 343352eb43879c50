"""From a query to one ranking with reasons."""

from llama_index_mm.retrieval.calibration import Calibration
from llama_index_mm.retrieval.calibration_report import CalibrationReport
from llama_index_mm.retrieval.components import (
    AddMedia,
    KeepMedia,
    MediaQueryFusionRetriever,
    MediaRecursiveRetriever,
    MediaRetryQueryEngine,
)
from llama_index_mm.retrieval.fusion import Fusion, convex, distribution_based, maximum, reciprocal_rank
from llama_index_mm.retrieval.options import RetrieverOptions
from llama_index_mm.retrieval.query import MediaQuery
from llama_index_mm.retrieval.reasons import ChannelReason, reasons_of
from llama_index_mm.retrieval.rerank import MediaRerank, RerankReason, rerank_reason_of
from llama_index_mm.retrieval.retriever import FusionRetriever
from llama_index_mm.retrieval.translate import TranslateQuery

__all__ = [
    "AddMedia",
    "Calibration",
    "CalibrationReport",
    "ChannelReason",
    "Fusion",
    "FusionRetriever",
    "KeepMedia",
    "MediaQuery",
    "MediaQueryFusionRetriever",
    "MediaRecursiveRetriever",
    "MediaRerank",
    "MediaRetryQueryEngine",
    "RerankReason",
    "RetrieverOptions",
    "TranslateQuery",
    "convex",
    "distribution_based",
    "maximum",
    "reasons_of",
    "reciprocal_rank",
    "rerank_reason_of",
]
