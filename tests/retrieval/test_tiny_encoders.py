"""The encoders without weights that other tests stand on."""

import numpy as np
import pytest
from PIL import Image

from llama_index_mm.embeddings.base import unit
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.media import SAMPLE_RATE, Waveform
from llama_index_mm.testing import HashingEncoder, tiny_preset


def tone(hertz, seconds=0.5):
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return Waveform(np.sin(2 * np.pi * hertz * time).astype(np.float32))


def picture(*colours):
    image = Image.new("RGB", (8 * len(colours), 8))
    for at, colour in enumerate(colours):
        image.paste(colour, (8 * at, 0, 8 * at + 8, 8))
    return image


ITEMS = {
    "text": ["a red chair", "", "?!", "größe 日本", "word " * 500],
    "image": [picture("red"), picture("black"), picture("white", "blue"), Image.new("L", (1, 1))],
    "audio": [tone(440), tone(0), Waveform(np.zeros(0, np.float32)), Waveform(np.ones(1, np.float32))],
    "views": [[picture("red")] * 6, [picture("red"), picture("blue")]],
}


@pytest.mark.parametrize("payload", ITEMS)
@pytest.mark.parametrize("dimension", [4, 32, 100])
def test_every_item_has_a_unit_vector(payload, dimension):
    encoder = HashingEncoder(payload, dimension)
    vectors = encoder.encode(ITEMS[payload])
    assert (vectors.shape, vectors.dtype) == ((len(ITEMS[payload]), dimension), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (encoder.encode(ITEMS[payload], query=True) == vectors).all()
    assert (np.stack([encoder.encode([item])[0] for item in ITEMS[payload]]) == vectors).all()


def test_the_same_in_every_process():
    vector = HashingEncoder("text", 4).encode(["a red chair"])[0]
    assert vector.tolist() == pytest.approx([0.279123, -0.086809, -0.495925, -0.817688], abs=1e-6)


def test_likeness():
    def like(payload, one, other):
        first, second = HashingEncoder(payload).encode([one, other])
        return float(first @ second)

    assert like("text", "A red CHAIR!", "chair, red: a") == pytest.approx(1)
    assert like("text", "a red chair", "a red table") > 0.4 > like("text", "a red chair", "some green apples")
    assert like("image", picture("red"), picture((250, 3, 9))) == pytest.approx(1)
    assert like("image", picture("red", "blue"), picture("red")) > 0.4 > like("image", picture("red"), picture("green"))
    assert like("audio", tone(440), tone(445)) > 0.9
    assert like("audio", tone(440), tone(3000)) < 0.5


def test_views_are_the_mean_of_their_pictures():
    views = [picture("red"), picture("red"), picture("blue")]
    encoder = HashingEncoder("views")
    expected = unit(HashingEncoder("image").encode(views).mean(0))
    np.testing.assert_allclose(encoder.encode([views])[0], expected, atol=1e-6)
    assert (encoder.encode([views]) == ViewsEncoder(HashingEncoder("image")).encode([views])).all()


def test_fingerprints_tell_encoders_apart():
    marks = {HashingEncoder(payload, size).fingerprint for payload in ITEMS for size in (4, 32)}
    assert len(marks) == 8
    assert HashingEncoder("text").fingerprint == HashingEncoder("text", 32).fingerprint


def test_tiny_preset():
    preset = tiny_preset()
    assert {space.name: sorted(space.encoders) for space in preset.spaces} == {
        "text": ["audio", "image", "mesh", "text"],
        "picture": ["image", "mesh"],
        "sound": ["audio"],
    }
    assert (preset.name, preset.transcriber, preset.labeler, preset.llm) == ("tiny", None, None, None)
    other = tiny_preset("other")
    assert other.name == "other"
    assert [space.fingerprint for space in other.spaces] == [space.fingerprint for space in preset.spaces]
