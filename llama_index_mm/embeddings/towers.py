"""What models with two towers share: one of them for texts, one for pictures or sound, both into one space."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from llama_index.core.base.embeddings.base import Embedding
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.embeddings import hub
from llama_index_mm.embeddings.base import Vectors, unit
from llama_index_mm.embeddings.hub_embedding import HubEmbedding
from llama_index_mm.embeddings.labels import encode_labels

__all__ = ["Parts", "TowersEmbedding", "features_array"]

# Pooled at the last place of a row, padding or not: rows are filled up to the full length, as in training.
_FILLED = {"siglip", "siglip2"}
# Position numbers begin behind the id of the padding token, as in RoBERTa.
_SHIFTED = {"altclip", "clap"}
_T = TypeVar("_T")


class Parts(NamedTuple):
    """A loaded model with what feeds it: the processor is that of pictures or sound."""

    model: Any
    tokenizer: Any
    processor: Any


class TowersEmbedding(HubEmbedding):
    """The text tower as a LlamaIndex embedding, and what the other tower needs as well.

    A subclass states the kinds of models it takes, loads the processor of its media and encodes them.
    """

    _templates: ClassVar[Sequence[str]]  # the prompts of labels

    @property
    def dimension(self) -> int:
        """Length of a vector. Reads the config, not the weights."""
        config = self._load_config()
        if config.model_type in _FILLED:  # these have no projection behind the towers
            return int(getattr(config.text_config, "projection_size", None) or config.text_config.hidden_size)
        return int(config.projection_dim)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts.

        Returns:
            ``(len(texts), dimension)`` float32, rows of length 1; the same whatever else is in the batch.
        """
        return unit(self._batched(self._token_rows(texts) if len(texts) else [], self._text_features))

    def encode_labels(self, labels: Sequence[str], templates: Sequence[str] | None = None) -> Vectors:
        """Encode each label as the mean of its prompts' unit vectors, scaled to length 1.

        Args:
            labels: names of what is looked for, such as ``"cat"``.
            templates: texts in which ``{}`` stands for the label; those of `llama_index_mm.embeddings.labels` if not
                given.

        Returns:
            ``(len(labels), dimension)`` float32, rows of length 1.

        Raises:
            EncodeError: there is no template, or one has no ``{}``.
        """
        return encode_labels(self.encode_texts, labels, self._templates if templates is None else templates)

    @abstractmethod
    def _load_media_processor(self) -> Any:
        """Load what makes the other tower's input."""

    def _read(self) -> Parts:
        config = self._load_config()
        tokenizer = hub.load_tokenizer(self.model_name, revision=self.revision, words=config.text_config.vocab_size)
        processor = self._load_media_processor()
        model = hub.load_model(self.model_name, revision=self.revision, device=self.device, dtype=self.dtype, config=config)
        return Parts(model, tokenizer, processor)

    def _batched(self, items: Iterable[_T], features: Callable[[list[_T]], NDArray[Any]]) -> NDArray[np.float32]:
        """Vectors of items, ``(n, dimension)``, of any length."""
        parts = list(self._batches.run(items, self.embed_batch_size, features))
        return np.concatenate(parts) if parts else np.zeros((0, self.dimension), np.float32)

    def _token_rows(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text; filled up to the full length where the model was trained so."""
        _, tokenizer, _ = self._load()
        config = self._load_config()
        log = logging.getLogger(type(self).__module__)
        limit = _most_tokens(config, tokenizer)
        filled = config.model_type in _FILLED
        if filled and type(tokenizer).__name__.startswith("Gemma"):  # it knows capitals, which SigLIP 2 never saw
            texts = [text.lower() for text in texts]
        with hub.TOKENIZING:
            rows: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
            if not filled:
                return hub.cut_tokens(rows, limit, log, self.model_name)
            hub.report_cut([at for at, row in enumerate(rows) if len(row) > limit], len(rows), limit, log, self.model_name)
            whole = tokenizer(list(texts), padding="max_length", truncation=True, max_length=limit, verbose=False)
        full: list[list[int]] = whole["input_ids"]
        return full

    def _text_features(self, rows: list[list[int]]) -> NDArray[np.float32]:
        torch: Any = require("torch", extra="hub")
        model, _, _ = self._load()
        ids, mask = hub.pad_tokens(rows, max(map(len, rows)), logging.getLogger(__name__))
        fed = {"input_ids": ids}
        if self._load_config().model_type not in _FILLED:  # these were trained to read the padding
            fed["attention_mask"] = mask
        with torch.inference_mode():
            return features_array(
                model.get_text_features(**{name: torch.from_numpy(array).to(model.device) for name, array in fed.items()})
            )

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        rows: list[Embedding] = self.encode_texts(texts).tolist()
        return rows

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embedding(query)


def features_array(features: Any) -> NDArray[np.float32]:
    """Vectors out of what ``get_*_features`` gives: a tensor, since transformers 5 an output that holds it."""
    tensor = getattr(features, "pooler_output", features)
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


def _most_tokens(config: Any, tokenizer: Any) -> int:
    """Most tokens of a text: what the weights have positions for, or less if the tokenizer says so."""
    words = config.text_config
    shift = words.pad_token_id + 1 if config.model_type in _SHIFTED else 0
    return min(int(words.max_position_embeddings) - shift, int(tokenizer.model_max_length))
