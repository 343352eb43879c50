"""Text in many languages by E5 models of full precision, from a hub or a local folder, by transformers.

Wang et al., "Multilingual E5 Text Embeddings: A Technical Report", 2024, arXiv:2402.05672.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import Field
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.embeddings import hub
from llama_index_mm.embeddings.base import unit
from llama_index_mm.embeddings.hub_embedding import HubEmbedding

__all__ = ["E5Embedding"]

_LOG = logging.getLogger(__name__)
_CLASSES = {"bert": "BertModel", "xlm-roberta": "XLMRobertaModel"}  # by model type; small and English ones are BERT
_LIMIT = 512  # tokens


class _Parts(NamedTuple):
    """A loaded model with what feeds it."""

    model: Any
    tokenizer: Any


class E5Embedding(HubEmbedding):
    """Text to the mean of E5's last hidden states, of unit length; queries and passages are told apart.

    Nothing is loaded before the first vector is asked for. Safe to use from several threads. Texts longer than 512 tokens
    are cut, with one logged warning and one event for each batch. Where a batch does not fit into the memory of the GPU,
    smaller ones are taken.

    Args:
        model_name: hub id of an E5 model, or path of a local folder.
        revision: branch, tag or commit on the hub.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``; the best there is if not given.
        dtype: name of the torch dtype to compute in; vectors are float32 anyway.
        embed_batch_size: texts that go through the model at once.

    Raises:
        ModelError: at first use, if the model can't be loaded or is of another kind.
        MissingExtraError: at first use, if torch or transformers is not installed.
    """

    model_name: str = Field(default="intfloat/multilingual-e5-base", description="Hub id, or path of a local folder.")
    embed_batch_size: int = Field(default=16, description="Texts that go through the model at once.", gt=0, le=2048)

    _kinds: ClassVar[Mapping[str, str]] = _CLASSES
    _recipe: ClassVar[Sequence[str]] = ("e5",)

    @classmethod
    def class_name(cls) -> str:
        """Name of the class in LlamaIndex's records."""
        return "E5Embedding"

    @property
    def dimension(self) -> int:
        """Length of a vector. Reads the config, not the weights."""
        return int(self._load_config().hidden_size)

    def _read(self) -> _Parts:
        config = self._load_config()
        tokenizer = hub.load_tokenizer(self.model_name, revision=self.revision, words=config.vocab_size)
        model = hub.load_model(
            self.model_name,
            revision=self.revision,
            device=self.device,
            dtype=self.dtype,
            class_name=_CLASSES[config.model_type],
            config=config,
            add_pooling_layer=False,
        )
        return _Parts(model, tokenizer)

    def _run(self, texts: list[str], *, query: bool) -> list[Embedding]:
        model, tokenizer = self._load()
        prefix = "query: " if query else "passage: "
        with hub.TOKENIZING:
            rows = tokenizer([prefix + text for text in texts], verbose=False)["input_ids"]
        kept = hub.cut_tokens(rows, _most_tokens(model.config), _LOG, self.model_name)
        parts = self._batches.run(kept, self.embed_batch_size, self._means)
        vectors: list[Embedding] = unit(np.concatenate(list(parts))).tolist()
        return vectors

    def _means(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Mean of the last hidden states of each row of tokens, ``(n, dimension)``."""
        torch: Any = require("torch", extra="hub")
        model, _ = self._load()
        padded = hub.pad_tokens(rows, max(map(len, rows)), _LOG)
        ids, mask = (torch.from_numpy(array).to(model.device) for array in padded)
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            tokens = mask.unsqueeze(-1)
            means: NDArray[np.float32] = ((states * tokens).sum(1) / tokens.sum(1)).cpu().numpy()
        return means

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._run([query], query=True)[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._run([text], query=False)[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._run(texts, query=False)


def _most_tokens(config: Any) -> int:
    """Tokens that the model has positions for; RoBERTa's first ones stand for padding."""
    unused = config.pad_token_id + 1 if config.model_type == "xlm-roberta" else 0
    return int(min(_LIMIT, config.max_position_embeddings - unused))
