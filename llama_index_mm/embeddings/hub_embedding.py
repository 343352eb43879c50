"""What LlamaIndex embeddings over transformers share: where the model comes from, its config, and its fingerprint."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from llama_index.core.bridge.pydantic import Field, PrivateAttr

from llama_index_mm.embeddings import hub
from llama_index_mm.embeddings.base import fingerprint
from llama_index_mm.embeddings.threaded import ThreadedEmbedding

__all__ = ["HubEmbedding"]


class HubEmbedding(hub.HeldModel, ThreadedEmbedding):
    """An embedding whose model comes from a hub or a local folder; a subclass reads the weights and computes vectors."""

    model_name: str = Field(description="Hub id, or path of a local folder.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    device: str | None = Field(default=None, description="'cpu', 'cuda' or 'mps'; the best there is if not given.")
    dtype: str = Field(default="float32", description="Name of the torch dtype to compute in.")

    _kinds: ClassVar[Iterable[str]]  # the model types that are taken, see `hub.load_config`
    _recipe: ClassVar[Sequence[str]]  # what decides a vector beside the model's files

    _config: Any = PrivateAttr(default=None)
    _parts: Any = PrivateAttr(default=None)
    _weights_fingerprint: str | None = PrivateAttr(default=None)
    _batches: hub.Batches = PrivateAttr(default_factory=hub.Batches)

    @property
    def weights_fingerprint(self) -> str:
        """Digest of weights, preprocessing and dtype: 16 hexadecimal digits. Reads the files of a local folder."""
        config = self._load_config()
        with hub.LOADING:
            if self._weights_fingerprint is None:
                weights = hub.weights_fingerprint(self.model_name, self.revision, config)
                name, *rest = self._recipe
                self._weights_fingerprint = fingerprint(name, weights, self.dtype, *rest)
            return self._weights_fingerprint

    def _load_config(self) -> Any:
        with hub.LOADING:
            if self._config is None:
                self._config = hub.load_config(self.model_name, revision=self.revision, kinds=self._kinds)
            return self._config
