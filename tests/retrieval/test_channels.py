import wave

import numpy as np
import pytest
from PIL import Image

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.errors import DecodeError, QueryError
from llama_index_mm.retrieval.channels import plan
from llama_index_mm.testing import HashingEncoder

TEXT = HashingEncoder("text")
SPACES = (
    EmbeddingSpace("text", {"text": TEXT, "audio": TEXT, "image": TEXT}),
    EmbeddingSpace("picture", {"text": TEXT, "image": HashingEncoder("image")}),
    EmbeddingSpace("sound", {"audio": HashingEncoder("audio")}),
    EmbeddingSpace("voice", {"audio": HashingEncoder("audio")}, speech_only=True),
)


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.sin(np.arange(8000) * 0.3) * 9000).astype("<i2").tobytes())
    return path


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def planned(parts, *, modalities=(), weight=lambda part, space, modality: 1.0, hear=None):
    return [(one.part, one.asked, one.space.name, one.modality) for one in plan(parts, SPACES, modalities, weight, hear)]


def test_words_look_for_everything_in_every_space_that_takes_words():
    assert planned({"text": "red"}) == [
        ("text", "text", "text", "text"),
        ("text", "text", "text", "image"),
        ("text", "text", "text", "audio"),
        ("text", "text", "picture", "text"),
        ("text", "text", "picture", "image"),
    ]


def test_a_picture_looks_for_pictures_unless_told_otherwise(picture):
    assert planned({"image": picture}) == [("image", "image", "picture", "image")]
    assert planned({"image": picture}, modalities=["text"]) == [("image", "image", "picture", "text")]


def test_a_recording_without_words_is_not_asked_for_its_voice(recording):
    assert planned({"audio": recording}) == [("audio", "audio", "sound", "audio")]
    assert planned({"audio": recording}, hear=lambda sound: "") == [("audio", "audio", "sound", "audio")]


def test_words_heard_are_asked_for_recordings_and_texts(recording):
    assert planned({"audio": recording}, hear=lambda sound: "red") == [
        ("audio", "audio", "sound", "audio"),
        ("audio", "audio", "voice", "audio"),
        ("speech", "text", "text", "audio"),
        ("speech", "text", "text", "text"),
        ("speech", "text", "picture", "text"),
    ]


def test_words_heard_never_look_for_pictures(recording):
    asked = planned({"audio": recording}, modalities=["image", "audio"], hear=lambda sound: "red")
    assert [modality for part, _, _, modality in asked if part == "speech"] == ["audio"]


def test_a_channel_of_weight_nothing_is_left_out():
    found = planned({"text": "red"}, modalities=["image"], weight=lambda part, space, modality: float(space == "picture"))
    assert found == [("text", "text", "picture", "image")]


def test_vectors_are_those_of_the_part(picture):
    channel = plan({"image": picture}, SPACES, [], lambda *_: 0.3, None)[0]
    np.testing.assert_array_equal(channel.vector, HashingEncoder("image").encode([Image.new("RGB", (8, 8), "red")])[0])
    assert channel.weight == 0.3


def test_a_query_that_no_space_takes_is_refused(picture):
    with pytest.raises(QueryError, match="A query of image can't find audio in the spaces text, picture, sound, voice"):
        planned({"image": picture}, modalities=["audio"])


def test_a_broken_file_is_told(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(DecodeError, match=r"x\.png"):
        planned({"image": tmp_path / "x.png"})
