"""Find images, 3D meshes, sound and speech next to text in LlamaIndex, and answer from what is found.

Names are imported on first use: importing the package costs little more than LlamaIndex itself, and no optional package is
needed for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index_mm.agents import MediaRetrieverTool
    from llama_index_mm.answers import (
        Citation,
        CitationCheck,
        MediaBudget,
        MediaFallbackLLM,
        NumberSources,
        RetypeNodes,
        adapt_to_llm,
        check_citations,
        citations_of,
        left_out_of,
    )
    from llama_index_mm.display import Shown, SpaceMap, show, space_map
    from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, TextEncoder
    from llama_index_mm.embeddings.cache import EmbeddingCache
    from llama_index_mm.embeddings.llama import ImageEmbeddingEncoder
    from llama_index_mm.evaluation import evaluate, load_judgments
    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.ingestion import IngestReport, ReembedReport
    from llama_index_mm.ingestion.ray_options import RayOptions
    from llama_index_mm.llms import LocalLLM
    from llama_index_mm.media import MediaLimits
    from llama_index_mm.nodes import AudioMedia, ImageMedia, MediaNode, MeshMedia, retype
    from llama_index_mm.presets import PRESETS, Preset, load_preset
    from llama_index_mm.readers import FetchLimits, MediaBytes, MediaReader
    from llama_index_mm.retrieval import (
        AddMedia,
        FusionRetriever,
        KeepMedia,
        MediaQuery,
        MediaRerank,
        RetrieverOptions,
        TranslateQuery,
        reasons_of,
    )
    from llama_index_mm.stores import MediaStore, NodeStore, SpaceVectorStore
    from llama_index_mm.stores.copying import copy_store
    from llama_index_mm.stores.milvus import milvus_stores
    from llama_index_mm.stores.opening import open_store
    from llama_index_mm.stores.postgres import PostgresStore
    from llama_index_mm.transforms.captions import CaptionImages, ReadImageText

__version__ = "0.1.0"

_HOME = {
    "AddMedia": "retrieval",
    "AudioMedia": "nodes",
    "CaptionImages": "transforms.captions",
    "Citation": "answers",
    "CitationCheck": "answers",
    "EmbeddingCache": "embeddings.cache",
    "EmbeddingSpace": "embeddings.base",
    "Encoder": "embeddings.base",
    "FetchLimits": "readers",
    "FusionRetriever": "retrieval",
    "ImageEmbeddingEncoder": "embeddings.llama",
    "ImageMedia": "nodes",
    "IngestReport": "ingestion",
    "KeepMedia": "retrieval",
    "LocalLLM": "llms",
    "MediaBudget": "answers",
    "MediaBytes": "readers",
    "MediaFallbackLLM": "answers",
    "MediaLimits": "media",
    "MediaNode": "nodes",
    "MediaQuery": "retrieval",
    "MediaReader": "readers",
    "MediaRerank": "retrieval",
    "MediaRetrieverTool": "agents",
    "MediaStore": "stores",
    "MeshMedia": "nodes",
    "MultiModalIndex": "index",
    "NodeStore": "stores",
    "NumberSources": "answers",
    "PRESETS": "presets",
    "PostgresStore": "stores.postgres",
    "Preset": "presets",
    "RayOptions": "ingestion.ray_options",
    "ReadImageText": "transforms.captions",
    "ReembedReport": "ingestion",
    "RetrieverOptions": "retrieval",
    "RetypeNodes": "answers",
    "Shown": "display",
    "SpaceMap": "display",
    "SpaceVectorStore": "stores",
    "TextEncoder": "embeddings.base",
    "TranslateQuery": "retrieval",
    "adapt_to_llm": "answers",
    "check_citations": "answers",
    "citations_of": "answers",
    "copy_store": "stores.copying",
    "evaluate": "evaluation",
    "left_out_of": "answers",
    "load_judgments": "evaluation",
    "load_preset": "presets",
    "milvus_stores": "stores.milvus",
    "open_store": "stores.opening",
    "reasons_of": "retrieval",
    "retype": "nodes",
    "show": "display",
    "space_map": "display",
}

__all__ = [
    "PRESETS",
    "AddMedia",
    "AudioMedia",
    "CaptionImages",
    "Citation",
    "CitationCheck",
    "EmbeddingCache",
    "EmbeddingSpace",
    "Encoder",
    "FetchLimits",
    "FusionRetriever",
    "ImageEmbeddingEncoder",
    "ImageMedia",
    "IngestReport",
    "KeepMedia",
    "LocalLLM",
    "MediaBudget",
    "MediaBytes",
    "MediaFallbackLLM",
    "MediaLimits",
    "MediaNode",
    "MediaQuery",
    "MediaReader",
    "MediaRerank",
    "MediaRetrieverTool",
    "MediaStore",
    "MeshMedia",
    "MultiModalIndex",
    "NodeStore",
    "NumberSources",
    "PostgresStore",
    "Preset",
    "RayOptions",
    "ReadImageText",
    "ReembedReport",
    "RetrieverOptions",
    "RetypeNodes",
    "Shown",
    "SpaceMap",
    "SpaceVectorStore",
    "TextEncoder",
    "TranslateQuery",
    "adapt_to_llm",
    "check_citations",
    "citations_of",
    "copy_store",
    "evaluate",
    "left_out_of",
    "load_judgments",
    "load_preset",
    "milvus_stores",
    "open_store",
    "reasons_of",
    "retype",
    "show",
    "space_map",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext llama_index_mm``: let a notebook show results, media nodes and responses (`llama_index_mm.display`)."""
    from llama_index_mm.display import notebook

    notebook.load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """``%unload_ext llama_index_mm``: let a notebook show them as before."""
    from llama_index_mm.display import notebook

    notebook.unload(ipython)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
