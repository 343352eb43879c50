"""CLIP and its kin: pictures and short texts in one space, by transformers.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv:2103.00020.
Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, arXiv:2303.15343. Tschannen et al., "SigLIP 2", 2025,
arXiv:2502.14786. Yang et al., "Chinese CLIP", 2022, arXiv:2211.01335. Chen et al., "AltCLIP", 2022, arXiv:2211.06679.
Chuang et al., "MetaCLIP 2: A Worldwide Scaling Recipe", 2025, arXiv:2507.22062.
"""

import asyncio
from collections.abc import Mapping, Sequence
from io import BytesIO
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import ImageType
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm._optional import require
from llama_index_mm.embeddings import hub
from llama_index_mm.embeddings.base import Encoder, Payload, Vectors, fingerprint, unit
from llama_index_mm.embeddings.labels import PICTURE_PROMPTS
from llama_index_mm.embeddings.towers import TowersEmbedding, features_array
from llama_index_mm.media import load_image

__all__ = ["CLIP_FAMILY", "ClipEmbedding", "ClipImageEncoder", "ClipTextEncoder"]

CLIP_FAMILY: Mapping[str, str] = MappingProxyType(
    {
        "altclip": "BAAI/AltCLIP",
        "chinese_clip": "OFA-Sys/chinese-clip-vit-base-patch16",
        "clip": "openai/clip-vit-base-patch32",
        "metaclip_2": "facebook/metaclip-2-worldwide-huge-quickgelu",
        "siglip": "google/siglip2-base-patch16-224",
        "siglip2": "google/siglip2-base-patch16-naflex",
    }
)
"""The model types that `ClipEmbedding` takes, each with the hub id of an example."""


class ClipEmbedding(TowersEmbedding, MultiModalEmbedding):
    """A model of the CLIP family as a LlamaIndex embedding: texts and pictures to unit vectors of one space.

    Takes CLIP, SigLIP, SigLIP 2 (of one resolution, and NaFlex), Chinese-CLIP, AltCLIP and MetaCLIP 2; see
    `CLIP_FAMILY`. Nothing is loaded before the first vector is asked for. Safe to use from several threads. Texts
    longer than the model takes (77 tokens in CLIP, 64 in SigLIP) are cut, with one logged warning and one
    `TextCutEvent` for each call. Where a batch does not fit into the memory of the GPU, smaller ones are taken.

    Args:
        model_name: hub id of a model, or path of a local folder.
        revision: branch, tag or commit on the hub.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``; the best there is if not given.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"`` to compute in; vectors are float32 anyway.
        embed_batch_size: texts or pictures that go through the model at once.

    Raises:
        ModelError: at first use, if the model can't be loaded or is of no kind that is taken.
        MissingExtraError: at first use, if torch or transformers is not installed.
    """

    model_name: str = Field(default="openai/clip-vit-base-patch32", description="Hub id, or path of a local folder.")

    _kinds: ClassVar[Mapping[str, str]] = CLIP_FAMILY
    _recipe: ClassVar[tuple[str, ...]] = ("clip",)
    _templates: ClassVar[Sequence[str]] = PICTURE_PROMPTS

    @classmethod
    def class_name(cls) -> str:
        """Name of the class in LlamaIndex's records."""
        return "ClipEmbedding"

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """Encode pictures, scaled and cut as the model's own processor does it, by Pillow.

        CLIP and its kin see the middle square, SigLIP the whole picture pressed into a square, NaFlex models the whole
        picture in nearly its own shape.

        Args:
            images: PIL images, of any size and mode.

        Returns:
            ``(len(images), dimension)`` float32, rows of length 1; the same whatever else is in the batch.
        """
        return unit(self._batched(images, self._image_features))

    def _load_media_processor(self) -> Any:
        transformers: Any = require("transformers", extra="hub")
        # The processor that uses Pillow, so that vectors don't depend on whether torchvision is installed.
        pillow = {"backend": "pil"} if hasattr(transformers, "CLIPImageProcessorPil") else {"use_fast": False}
        return hub.load_processor("AutoImageProcessor", self.model_name, revision=self.revision, **pillow)

    def _image_features(self, images: list[Image.Image]) -> NDArray[np.float32]:
        torch: Any = require("torch", extra="hub")
        model, _, processor = self._load()
        pixels = processor([image.convert("RGB") for image in images], return_tensors="np", input_data_format="channels_last")
        fed = {name: torch.from_numpy(np.asarray(array)).to(model.device) for name, array in pixels.items()}
        fed["pixel_values"] = fed["pixel_values"].to(model.dtype)  # NaFlex also has a mask and shapes
        with torch.inference_mode():
            return features_array(model.get_image_features(**fed))

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

    def release(self) -> None:
        """Free the memory of the model, which the encoder of the other side shares."""
        self.clip.release()


class ClipTextEncoder(_ClipEncoder):
    """The text side of CLIP as an encoder.

    Args:
        clip: the model; give the same one to `ClipImageEncoder`, and the weights are loaded once.

    Raises:
        ModelError: the model's config can't be read, or it is of no kind in `CLIP_FAMILY`.
    """

    payload: Payload = "text"

    def _encode(self, items: Sequence[str], *, query: bool) -> NDArray[Any]:
        return self.clip.encode_texts(items)


class ClipImageEncoder(_ClipEncoder):
    """The picture side of CLIP as an encoder.

    Args:
        clip: the model; give the same one to `ClipTextEncoder`, and the weights are loaded once.

    Raises:
        ModelError: the model's config can't be read, or it is of no kind in `CLIP_FAMILY`.
    """

    payload: Payload = "image"

    def _encode(self, items: Sequence[Image.Image], *, query: bool) -> NDArray[Any]:
        return self.clip.encode_images(items)


def _open(source: ImageType) -> Image.Image:
    return load_image(source.getvalue() if isinstance(source, BytesIO) else source)
