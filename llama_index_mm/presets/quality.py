"""The ``quality`` preset: the large models, from a hub or from local folders."""

from pathlib import Path
from typing import Any

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.clap import ClapAudioEncoder, ClapEmbedding, ClapTextEncoder
from llama_index_mm.presets.base import Preset
from llama_index_mm.presets.facts import ModelFacts, PresetFacts
from llama_index_mm.presets.hub import hub_preset
from llama_index_mm.presets.multilingual import MULTILINGUAL
from llama_index_mm.transforms.transcript import Transcriber
from llama_index_mm.transforms.whisper import FasterWhisperTranscriber

__all__ = ["QUALITY", "quality_preset"]

# Sound asked with sound: half by CLAP, which knows sounds of all kinds, half by HuBERT, which knows speech.
_WEIGHTS = {"text:heard:audio": 0.4, "speech:heard:audio": 0.0, "audio:heard:audio": 0.2, "audio:sound:audio": 0.2}

QUALITY = PresetFacts(
    name="quality",
    does="the large models, for a GPU; what multilingual does, and sounds asked for in English words",
    spaces={**MULTILINGUAL.spaces, "heard": "sounds, and English words for them"},
    models=(
        ModelFacts("text", "intfloat/multilingual-e5-large", "MIT", 2240),
        ModelFacts("pictures, mesh views", "google/siglip2-so400m-patch14-384", "Apache-2.0", 4544),
        ModelFacts("sound", "facebook/hubert-base-ls960", "Apache-2.0", 378, "trained on English speech"),
        ModelFacts(
            "sounds in words", "laion/larger_clap_general", "Apache-2.0", 776, "English; sound above 8 kHz is not heard"
        ),
        ModelFacts("transcripts", "mobiuslabsgmbh/faster-whisper-large-v3-turbo", "MIT", 1618),
    ),
    languages=f"{MULTILINGUAL.languages}; sounds in English words only",
    reach=MULTILINGUAL.reach,
    finds={
        **MULTILINGUAL.finds,
        "text": "texts, what is said in recordings, sounds by what they are, pictures and meshes by what they show",
    },
    extras=MULTILINGUAL.extras,
    origin="hub",
)


def quality_preset(
    picture: str | Path = "google/siglip2-so400m-patch14-384",
    text: str | Path = "intfloat/multilingual-e5-large",
    sound: str | Path = "facebook/hubert-base-ls960",
    heard: str | Path = "laion/larger_clap_general",
    transcriber: Transcriber | None = None,
    *,
    whisper: str | Path = "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    **options: Any,
) -> Preset:
    """Texts by multilingual E5 large, pictures by SigLIP 2 So400m, sounds in words by CLAP, speech by Whisper large-v3 turbo.

    Every model is a hub id or a local folder; nothing but their configs is read before the first vector is asked for.

    Spaces:
        text: texts, transcripts, and captions of pictures and meshes where there are any, else their titles.
        picture: pictures, mesh views, and words for them. Text beyond 64 tokens is cut.
        sound: what a recording sounds like, by HuBERT.
        heard: sounds, and English words for them.

    Args:
        picture: SigLIP or CLIP model.
        text: E5 model.
        sound: Wav2Vec2, HuBERT or WavLM model.
        heard: CLAP model.
        transcriber: replaces faster-whisper.
        whisper: Whisper model for faster-whisper: a hub id, a name, or a folder.
        options: ``device`` and ``dtype`` of the models that run on torch.

    Raises:
        ModelError: a model can't be loaded; the ``offline`` preset needs no hub.
        MissingExtraError: the extra ``hub`` or ``audio`` is not installed.
    """
    clap = ClapEmbedding(model_name=str(heard), **options)
    return hub_preset(
        "quality",
        picture=picture,
        text=text,
        sound=sound,
        transcriber=transcriber or FasterWhisperTranscriber(whisper, device="auto"),
        more=(EmbeddingSpace("heard", {"audio": ClapAudioEncoder(clap)}, query_encoders={"text": ClapTextEncoder(clap)}),),
        weights=_WEIGHTS,
        **options,
    )
