"""Presets of models from a hub or from local folders: a text model beside one for pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index_mm.embeddings.base import EmbeddingSpace, TextEncoder
from llama_index_mm.embeddings.clip import ClipEmbedding, ClipImageEncoder, ClipTextEncoder
from llama_index_mm.embeddings.e5_hub import E5Embedding
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.embeddings.wav2vec2 import Wav2Vec2Encoder
from llama_index_mm.presets.base import Preset, local_llm
from llama_index_mm.transforms.transcript import Transcriber

__all__ = ["hub_preset"]

_WEIGHTS: Mapping[str, float] = {
    # Words of pictures and meshes are captions, or only the title of the file.
    "text:text:image": 0.25,
    "text:text:mesh": 0.25,
    # Text is found by its words first; the picture model reads only the first 64 tokens of it.
    "text:picture:text": 0.0,
    "speech:picture:text": 0.0,
    # Words weigh 0.6 and sound 0.4, as in the search for podcasts that this was made for.
    "text:text:audio": 0.6,
    "speech:text:audio": 0.6,
    "audio:sound:audio": 0.4,
}


def hub_preset(
    name: str,
    *,
    picture: str | Path,
    text: str | Path,
    sound: str | Path,
    transcriber: Transcriber,
    more: tuple[EmbeddingSpace, ...] = (),
    weights: Mapping[str, float] | None = None,
    **options: Any,
) -> Preset:
    """Make a preset with the spaces ``text``, ``picture`` and ``sound``. Configs are read, weights are not.

    Args:
        name: of the preset.
        picture: hub id or folder of a CLIP or SigLIP model.
        text: hub id or folder of an E5 model.
        sound: hub id or folder of a Wav2Vec2, HuBERT or WavLM model.
        transcriber: for the words of recordings.
        more: further spaces.
        weights: of their channels.
        options: ``device`` and ``dtype`` of the three models.

    Raises:
        ModelError: a model's config can't be read; the ``offline`` preset needs no hub.
        MissingExtraError: the extra ``hub`` is not installed.
    """
    words = E5Embedding(model_name=str(text), **options)
    passages = TextEncoder(words, dimension=words.dimension)
    pictures = ClipEmbedding(model_name=str(picture), **options)
    seen = ClipImageEncoder(pictures)
    return Preset(
        name=name,
        spaces=(
            EmbeddingSpace("text", {"text": passages, "audio": passages, "image": passages, "mesh": passages}),
            EmbeddingSpace("picture", {"text": ClipTextEncoder(pictures), "image": seen, "mesh": ViewsEncoder(seen)}),
            EmbeddingSpace("sound", {"audio": Wav2Vec2Encoder(str(sound), **options)}),
            *more,
        ),
        transcriber=transcriber,
        weights={**_WEIGHTS, **(weights or {})},
        llm=local_llm,
    )
