"""The ``multilingual`` preset: texts, pictures and speech in some hundred languages, from a hub or from local folders."""

from pathlib import Path
from typing import Any

from llama_index_mm.presets.base import Preset
from llama_index_mm.presets.facts import ModelFacts, PresetFacts
from llama_index_mm.presets.hub import hub_preset
from llama_index_mm.transforms.transcript import Transcriber
from llama_index_mm.transforms.whisper import FasterWhisperTranscriber

__all__ = ["MULTILINGUAL", "multilingual_preset"]

MULTILINGUAL = PresetFacts(
    name="multilingual",
    does="texts, pictures and speech in some hundred languages; runs on a CPU",
    spaces={
        "text": "texts, transcripts, captions",
        "picture": "pictures, mesh views, and words for them",
        "sound": "what a recording sounds like",
    },
    models=(
        ModelFacts("text", "intfloat/multilingual-e5-base", "MIT", 1112),
        ModelFacts("pictures, mesh views", "google/siglip2-base-patch16-224", "Apache-2.0", 1501),
        ModelFacts("sound", "facebook/hubert-base-ls960", "Apache-2.0", 378, "trained on English speech"),
        ModelFacts("transcripts", "Systran/faster-whisper-small", "MIT", 484),
    ),
    languages="94 in texts, about 100 in words for pictures, 99 in speech; queries find things in other languages",
    reach={
        "text": ("text", "image", "audio", "mesh"),
        "image": ("text", "image", "mesh"),
        "audio": ("text", "audio"),
        "mesh": ("text", "image", "mesh"),
    },
    finds={
        "text": "texts, what is said in recordings, pictures and meshes by what they show; no sounds without words",
        "image": "pictures and meshes that look alike, short texts that describe it",
        "audio": "recordings that sound alike, and by the words in it recordings and texts",
        "mesh": "meshes and pictures that look alike, short texts that describe it",
    },
    extras=("audio", "hub", "mesh"),
    origin="hub",
)


def multilingual_preset(
    picture: str | Path = "google/siglip2-base-patch16-224",
    text: str | Path = "intfloat/multilingual-e5-base",
    sound: str | Path = "facebook/hubert-base-ls960",
    transcriber: Transcriber | None = None,
    *,
    whisper: str | Path = "Systran/faster-whisper-small",
    **options: Any,
) -> Preset:
    """Texts by multilingual E5, pictures and mesh views by SigLIP 2, sound by HuBERT, words of recordings by Whisper.

    Every model is a hub id or a local folder; nothing but their configs is read before the first vector is asked for.

    Spaces:
        text: texts, transcripts, and captions of pictures and meshes where there are any, else their titles.
        picture: pictures, mesh views, and words for them. Text beyond 64 tokens is cut.
        sound: what a recording sounds like.

    Args:
        picture: SigLIP or CLIP model.
        text: E5 model.
        sound: Wav2Vec2, HuBERT or WavLM model.
        transcriber: replaces faster-whisper.
        whisper: Whisper model for faster-whisper: a hub id, a name, or a folder.
        options: ``device`` and ``dtype`` of the models that run on torch.

    Raises:
        ModelError: a model can't be loaded; the ``offline`` preset needs no hub.
        MissingExtraError: the extra ``hub`` or ``audio`` is not installed.
    """
    return hub_preset(
        "multilingual",
        picture=picture,
        text=text,
        sound=sound,
        transcriber=transcriber or FasterWhisperTranscriber(whisper, device="auto"),
        **options,
    )
