"""CLIP: pictures and short texts in one space, by transformers.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv:2103.00020.
"""

import asyncio
import logging
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import ImageType
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm._optional import require
from llama_index_mm.embeddings import hub
from llama_index_mm.embeddings.base import Encoder, Payload, Vectors, fingerprint, unit
from llama_index_mm.embeddings.threaded import ThreadedEmbedding
from llama_index_mm.media import load_image

__all__ = ["ClipEmbedding", "ClipImageEncoder", "ClipTextEncoder"]

_LOG = logging.getLogger(__name__)


class _Parts(NamedTuple):
    """A loaded model with what feeds it."""

    model: Any
    tokenizer: Any
    images: Any


class ClipEmbedding(ThreadedEmbedding, MultiModalEmbedding):
    """CLIP as a LlamaIndex embedding: texts and pictures to unit vectors of one space.

    Nothing is loaded before the first vector is asked for. Safe to use from several threads. Texts longer than the
    model takes (77 tokens in OpenAI's models) are cut, with one logged warning for each batch.

    Args:
        model_name: hub id of a CLIP model, or path of a local folder.
        revision: branch, tag or commit on the hub.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``; the best there is if not given.
        dtype: name of the torch dtype to compute in; vectors are float32 anyway.
        embed_batch_size: texts or pictures that go through the model at once.

    Raises:
        ModelError: at first use, if the model can't be loaded or is no CLIP model.
        MissingExtraError: at first use, if torch or transformers is not installed.
    """

    model_name: str = Field(default="openai/clip-vit-base-patch32", description="Hub id, or path of a local folder.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    device: str | None = Field(default=None, description="'cpu', 'cuda' or 'mps'; the best there is if not given.")
    dtype: str = Field(default="float32", description="Name of the torch dtype to compute in.")

    _config: Any = PrivateAttr(default=None)
    _parts: _Parts | None = PrivateAttr(default=None)
    _weights_fingerprint: str | None = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        """Name of the class in LlamaIndex's records."""
        return "ClipEmbedding"

    @property
    def dimension(self) -> int:
        """Length of a vector. Reads the config, not the weights."""
        return int(self._load_config().projection_dim)

    @property
    def weights_fingerprint(self) -> str:
        """Digest of weights, preprocessing and dtype: 16 hexadecimal digits. Reads the files of a local folder."""
        config = self._load_config()
        with hub.LOADING:
            if self._weights_fingerprint is None:
                weights = hub.weights_fingerprint(self.model_name, self.revision, config)
                self._weights_fingerprint = fingerprint("clip", weights, self.dtype)
            return self._weights_fingerprint

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts.

        Returns:
            ``(len(texts), dimension)`` float32, rows of length 1; the same whatever else is in the batch.
        """
        return self._batched(texts, self._text_features)

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """Encode pictures; each is scaled to the model's size and cut to its middle square.

        Args:
            images: PIL images, of any size and mode.

        Returns:
            ``(len(images), dimension)`` float32, rows of length 1.
        """
        return self._batched(images, self._image_features)

    def _load_config(self) -> Any:
        with hub.LOADING:
            if self._config is None:
                self._config = hub.load_config(self.model_name, revision=self.revision, kinds=["clip"])
            return self._config

    def _load(self) -> _Parts:
        if self._parts is None:
            config = self._load_config()
            with hub.LOADING:
                if self._parts is None:
                    transformers: Any = require("transformers", extra="hub")
                    tokenizer = hub.load_processor("AutoTokenizer", self.model_name, revision=self.revision)
                    known, words = len(tokenizer), config.text_config.vocab_size
                    if not words // 2 < known <= words:  # without its files transformers makes an empty tokenizer
                        raise hub.model_error(self.model_name, f"its tokenizer knows {known} tokens, and its weights {words}")
                    # The processor that uses Pillow, so that vectors don't depend on whether torchvision is installed.
                    pillow = "CLIPImageProcessorPil"
                    images = pillow if hasattr(transformers, pillow) else "CLIPImageProcessor"
                    self._parts = _Parts(
                        hub.load_model(
                            self.model_name,
                            revision=self.revision,
                            device=self.device,
                            dtype=self.dtype,
                            class_name="CLIPModel",
                            config=config,
                        ),
                        tokenizer,
                        hub.load_processor(images, self.model_name, revision=self.revision),
                    )
        return self._parts

    def _batched(self, items: Sequence[Any], features: Any) -> Vectors:
        if not len(items):
            return np.zeros((0, self.dimension), dtype=np.float32)
        size = self.embed_batch_size
        return unit(np.concatenate([features(items[at : at + size]) for at in range(0, len(items), size)]))

    def _text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        torch: Any = require("torch", extra="hub")
        model, tokenizer, _ = self._load()
        with hub.TOKENIZING:
            rows = tokenizer(list(texts), verbose=False)["input_ids"]
        padded = hub.pad_tokens(rows, model.config.text_config.max_position_embeddings, _LOG)
        ids, mask = (torch.from_numpy(array).to(model.device) for array in padded)
        with torch.inference_mode():
            return _array(model.get_text_features(input_ids=ids, attention_mask=mask))

    def _image_features(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        torch: Any = require("torch", extra="hub")
        model, _, processor = self._load()
        pixels = np.asarray(processor([image.convert("RGB") for image in images], return_tensors="np")["pixel_values"])
        values = torch.from_numpy(pixels).to(model.device, model.dtype)
        with torch.inference_mode():
            return _array(model.get_image_features(pixel_values=values))

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        rows: list[Embedding] = self.encode_texts(texts).tolist()
        return rows

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embedding(query)

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        rows: list[Embedding] = self.encode_images([_open(source) for source in img_file_paths]).tolist()
        return rows

    def _get_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)

    async def _aget_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)


class _ClipEncoder(Encoder):
    def __init__(self, clip: ClipEmbedding) -> None:
        self.clip = clip
        self.batch_size = clip.embed_batch_size
        self.dimension = clip.dimension
        self.fingerprint = fingerprint(self.payload, clip.weights_fingerprint)


class ClipTextEncoder(_ClipEncoder):
    """The text side of CLIP as an encoder.

    Args:
        clip: the model; give the same one to `ClipImageEncoder`, and the weights are loaded once.

    Raises:
        ModelError: the model's config can't be read, or it is no CLIP model.
    """

    payload: Payload = "text"

    def _encode(self, items: Sequence[str], *, query: bool) -> NDArray[Any]:
        return self.clip.encode_texts(items)


class ClipImageEncoder(_ClipEncoder):
    """The picture side of CLIP as an encoder.

    Args:
        clip: the model; give the same one to `ClipTextEncoder`, and the weights are loaded once.

    Raises:
        ModelError: the model's config can't be read, or it is no CLIP model.
    """

    payload: Payload = "image"

    def _encode(self, items: Sequence[Image.Image], *, query: bool) -> NDArray[Any]:
        return self.clip.encode_images(items)


def _open(source: ImageType) -> Image.Image:
    return load_image(source.getvalue() if isinstance(source, BytesIO) else source)


def _array(features: Any) -> NDArray[np.float32]:
    """Vectors out of what ``get_*_features`` gives: a tensor, since transformers 5 an output that holds it."""
    tensor = getattr(features, "pooler_output", features)
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array
