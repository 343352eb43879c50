"""The ``clip`` preset: CLIP, Wav2Vec2 and Whisper from a hub or from local folders."""

from pathlib import Path

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.clip import ClipEmbedding, ClipImageEncoder, ClipTextEncoder
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.embeddings.wav2vec2 import Wav2Vec2Encoder
from llama_index_mm.presets.base import Preset, local_llm
from llama_index_mm.presets.facts import ModelFacts, PresetFacts
from llama_index_mm.transforms.openai_whisper import OpenAIWhisperTranscriber
from llama_index_mm.transforms.transcript import Transcriber

__all__ = ["CLIP", "clip_preset"]

CLIP = PresetFacts(
    name="clip",
    does="caption-style search of pictures in English, everything with words in one space",
    spaces={"clip": "texts, transcripts, pictures, mesh views", "sound": "what a recording sounds like"},
    models=(
        ModelFacts(
            "texts, pictures, mesh views",
            "openai/clip-vit-base-patch32",
            "MIT",
            605,
            "its card calls deployment without tests for the use at hand out of scope",
        ),
        ModelFacts("sound", "facebook/wav2vec2-base", "Apache-2.0", 380, "trained on English speech"),
        ModelFacts("transcripts", "openai-whisper base", "MIT", 145),
    ),
    languages="English in texts and queries; 99 in speech, which is found by its words only where they are English",
    reach={
        "text": ("text", "image", "audio", "mesh"),
        "image": ("text", "image", "audio", "mesh"),
        "audio": ("text", "audio"),
        "mesh": ("text", "image", "audio", "mesh"),
    },
    finds={
        "text": "pictures and meshes by what they show, texts and speech by their first 77 tokens; no sounds without words",
        "image": "pictures and meshes that look alike, short texts and speech that describe it",
        "audio": "recordings that sound alike, and by the words in it recordings and texts",
        "mesh": "meshes and pictures that look alike, short texts and speech that describe it",
    },
    extras=("audio", "hub", "mesh", "whisper"),
    origin="hub",
)


def clip_preset(
    clip: str | Path = "openai/clip-vit-base-patch32",
    wav2vec2: str | Path = "facebook/wav2vec2-base",
    transcriber: Transcriber | None = None,
    *,
    whisper: str | Path = "base",
) -> Preset:
    """Text, pictures and mesh views in CLIP's space, the sound of recordings by Wav2Vec2, their words by Whisper.

    Every model is a hub id (or, for Whisper, a name of openai-whisper's), or a local folder or file.

    Spaces:
        clip: texts, transcripts, pictures, mesh views. Text beyond CLIP's 77 tokens is cut.
        sound: what a recording sounds like.

    Args:
        clip: CLIP model.
        wav2vec2: Wav2Vec2, HuBERT or WavLM model.
        transcriber: replaces openai-whisper.
        whisper: Whisper model for openai-whisper.

    Raises:
        ModelError: a model can't be loaded; the ``offline`` preset needs no hub.
        MissingExtraError: the extra ``hub`` or ``whisper`` is not installed.
    """
    model = ClipEmbedding(model_name=str(clip))
    words, pictures = ClipTextEncoder(model), ClipImageEncoder(model)
    return Preset(
        name="clip",
        spaces=(
            EmbeddingSpace("clip", {"text": words, "audio": words, "image": pictures, "mesh": ViewsEncoder(pictures)}),
            EmbeddingSpace("sound", {"audio": Wav2Vec2Encoder(str(wav2vec2))}),
        ),
        transcriber=transcriber or OpenAIWhisperTranscriber(whisper),
        # Words weigh 0.6 and sound 0.4, as in the search for podcasts that this was made for.
        llm=local_llm,
        weights={"text:clip:audio": 0.6, "speech:clip:audio": 0.6, "audio:sound:audio": 0.4},
    )
