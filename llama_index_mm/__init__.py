"""Find images, 3D meshes, sound and speech next to text in LlamaIndex, and answer from what is found.

Names are imported on first use: importing the package costs little more than LlamaIndex itself, and no optional package is
needed for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index_mm.answers import Citation, NumberSources, RetypeNodes, citations_of
    from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, TextEncoder
    from llama_index_mm.embeddings.cache import EmbeddingCache
    from llama_index_mm.embeddings.llama import ImageEmbeddingEncoder
    from llama_index_mm.evaluation import evaluate, load_judgments
    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.ingestion import IngestReport, ReembedReport
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
    from llama_index_mm.stores import MediaStore, SpaceVectorStore
    from llama_index_mm.transforms.captions import CaptionImages, ReadImageText

__version__ = "0.1.0"

_HOME = {
    "AddMedia": "retrieval",
    "AudioMedia": "nodes",
    "CaptionImages": "transforms.captions",
    "Citation": "answers",
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
    "MediaBytes": "readers",
    "MediaLimits": "media",
    "MediaNode": "nodes",
    "MediaQuery": "retrieval",
    "MediaReader": "readers",
    "MediaRerank": "retrieval",
    "MediaStore": "stores",
    "MeshMedia": "nodes",
    "MultiModalIndex": "index",
    "NumberSources": "answers",
    "PRESETS": "presets",
    "Preset": "presets",
    "ReadImageText": "transforms.captions",
    "ReembedReport": "ingestion",
    "RetrieverOptions": "retrieval",
    "RetypeNodes": "answers",
    "SpaceVectorStore": "stores",
    "TextEncoder": "embeddings.base",
    "TranslateQuery": "retrieval",
    "citations_of": "answers",
    "evaluate": "evaluation",
    "load_judgments": "evaluation",
    "load_preset": "presets",
    "reasons_of": "retrieval",
    "retype": "nodes",
}

__all__ = [
    "PRESETS",
    "AddMedia",
    "AudioMedia",
    "CaptionImages",
    "Citation",
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
    "MediaBytes",
    "MediaLimits",
    "MediaNode",
    "MediaQuery",
    "MediaReader",
    "MediaRerank",
    "MediaStore",
    "MeshMedia",
    "MultiModalIndex",
    "NumberSources",
    "Preset",
    "ReadImageText",
    "ReembedReport",
    "RetrieverOptions",
    "RetypeNodes",
    "SpaceVectorStore",
    "TextEncoder",
    "TranslateQuery",
    "citations_of",
    "evaluate",
    "load_judgments",
    "load_preset",
    "reasons_of",
    "retype",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
