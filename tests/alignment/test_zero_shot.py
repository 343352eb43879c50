import numpy as np
import pytest
from PIL import Image

from llama_index_mm.alignment import zero_shot
from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder
from llama_index_mm.errors import EncodeError, SpaceError
from llama_index_mm.testing import HashingEncoder

NAMES = {"red": 0, "green": 1, "blue": 2}


class Words(Encoder):
    """Texts by the names of colours in them."""

    payload = "text"
    dimension = 3
    fingerprint = "words"

    def _encode(self, items, *, query):
        assert query  # labels are asked with
        return np.array([[float(name in text) for name in NAMES] for text in items])


class Colours(Encoder):
    payload = "image"
    dimension = 3
    fingerprint = "colours"

    def _encode(self, items, *, query):
        return np.array([np.asarray(item).reshape(-1, 3).mean(0) for item in items])


PICTURES = [Image.new("RGB", (4, 4), colour) for colour in [(200, 10, 0), (0, 0, 90), (90, 100, 0)]]


def test_the_nearest_label_is_told():
    found = zero_shot(Colours(), PICTURES, list(NAMES), words=Words(), templates=["a {} thing", "{}"])
    assert found.best == ["red", "blue", "green"]
    np.testing.assert_allclose(found.similarities[1], [0, 0, 1], atol=1e-6)
    (first, *_), *_ = found.top(2)
    assert first == ("red", pytest.approx(200 / np.hypot(200, 10), abs=1e-6))
    assert [name for name, _ in found.top(2)[2]] == ["green", "red"]
    assert len(found.top(9)[0]) == 3


def test_a_space_has_both_encoders(make):
    space = EmbeddingSpace("colour", {"text": Words(), "image": Colours()})
    paths = [make.picture(f"{at}.png", colour) for at, colour in enumerate([(0, 255, 0), (255, 0, 0)])]
    assert zero_shot(space, paths, list(NAMES), modality="image").best == ["green", "red"]
    with pytest.raises(SpaceError, match="no encoder for items of modality 'audio'"):
        zero_shot(space, paths, list(NAMES), modality="audio")
    with pytest.raises(SpaceError, match="no encoder for items of modality None"):
        zero_shot(space, paths, list(NAMES))


def test_words_must_be_of_the_same_space():
    with pytest.raises(SpaceError, match="encoder of texts to encode the labels with"):
        zero_shot(Colours(), PICTURES, list(NAMES))
    with pytest.raises(SpaceError, match="labels have 32 dimensions and the items 3"):
        zero_shot(Colours(), PICTURES, list(NAMES), words=HashingEncoder("text"))
    with pytest.raises(EncodeError, match="templates such as"):
        zero_shot(Colours(), PICTURES, list(NAMES), words=Words(), templates=["a thing"])
