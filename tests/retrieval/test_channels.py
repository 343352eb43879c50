import wave

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from PIL import Image

from llama_index_mm.embeddings.base import EmbeddingSpace, unit
from llama_index_mm.embeddings.payloads import file_payload
from llama_index_mm.errors import DecodeError, QueryError
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.media import digest_file
from llama_index_mm.nodes import AudioMedia, ImageMedia
from llama_index_mm.retrieval.channels import plan, stored_in
from llama_index_mm.retrieval.query import MediaQuery, parts_of
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import HashingEncoder

TEXT = HashingEncoder("text")
PIXELS = HashingEncoder("image")
SPACES = (
    EmbeddingSpace("text", {"text": TEXT, "audio": TEXT, "image": TEXT}),
    EmbeddingSpace("picture", {"text": TEXT, "image": PIXELS}),
    EmbeddingSpace("sound", {"audio": HashingEncoder("audio")}),
    EmbeddingSpace("voice", {"audio": HashingEncoder("audio")}, speech_only=True),
)


def play(path, hertz):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.sin(np.arange(8000) * 2 * np.pi * hertz / 16000) * 9000).astype("<i2").tobytes())
    return path


def paint(path, colour):
    Image.new("RGB", (8, 8), colour).save(path)
    return path


@pytest.fixture
def recording(tmp_path):
    return play(tmp_path / "tone.wav", 764)


@pytest.fixture
def picture(tmp_path):
    return paint(tmp_path / "red.png", "red")


def one(part, space, modality):
    return 1.0


def channels(query, *, spaces=SPACES, weight=one, hear=None, stored=None):
    return plan(parts_of(query), spaces, query.modalities, weight, hear, stored)


def planned(query, **options):
    return [(each.part, each.asked, each.space.name, each.modality) for each in channels(query, **options)]


class Counting(HashingEncoder):
    """Notes what it was asked to encode."""

    def __init__(self, payload):
        super().__init__(payload)
        self.calls = []

    def _encode(self, items, *, query):
        self.calls.append((len(items), query))
        return super()._encode(items, query=query)


# -- where a part is asked ------------------------------------------------------------------------------------------------


def test_words_look_for_everything_in_every_space_that_takes_words():
    assert planned(MediaQuery("red")) == [
        ("text", "text", "text", "text"),
        ("text", "text", "text", "image"),
        ("text", "text", "text", "audio"),
        ("text", "text", "picture", "text"),
        ("text", "text", "picture", "image"),
    ]


def test_a_picture_looks_for_pictures_unless_told_otherwise(picture):
    assert planned(MediaQuery(image=picture)) == [("image", "image", "picture", "image")]
    assert planned(MediaQuery(image=picture, modalities=["text"])) == [("image", "image", "picture", "text")]


def test_a_recording_without_words_is_not_asked_for_its_voice(recording):
    assert planned(MediaQuery(audio=recording)) == [("audio", "audio", "sound", "audio")]
    assert planned(MediaQuery(audio=recording), hear=lambda sound: "") == [("audio", "audio", "sound", "audio")]


def test_words_heard_are_asked_for_recordings_and_texts(recording):
    assert planned(MediaQuery(audio=recording), hear=lambda sound: "red") == [
        ("audio", "audio", "sound", "audio"),
        ("audio", "audio", "voice", "audio"),
        ("speech", "text", "text", "audio"),
        ("speech", "text", "text", "text"),
        ("speech", "text", "picture", "text"),
    ]


def test_words_heard_never_look_for_pictures(recording):
    asked = planned(MediaQuery(audio=recording, modalities=["image", "audio"]), hear=lambda sound: "red")
    assert [modality for part, _, _, modality in asked if part == "speech"] == ["audio"]


def test_nobody_listens_where_words_can_find_nothing(recording, picture):
    def hear(sound):
        raise AssertionError

    query = MediaQuery(image=picture, audio=recording, modalities=["image"])
    assert planned(query, hear=hear) == [("image", "image", "picture", "image")]


def test_a_channel_of_weight_nothing_is_left_out():
    query = MediaQuery("red", modalities=["image"])
    assert planned(query, weight=lambda part, space, modality: float(space == "picture")) == [
        ("text", "text", "picture", "image")
    ]


def test_vectors_are_those_of_the_part(picture):
    (channel,) = channels(MediaQuery(image=picture), weight=lambda *_: 0.3)
    np.testing.assert_array_equal(channel.vector, PIXELS.encode([Image.new("RGB", (8, 8), "red")])[0])
    assert (channel.weight, channel.negative) == (0.3, False)


def test_a_query_that_no_space_takes_is_refused(picture):
    with pytest.raises(QueryError, match="A query of image can't find audio in the spaces text, picture, sound, voice"):
        planned(MediaQuery(image=[picture, picture], modalities=["audio"]))
    with pytest.raises(QueryError, match="A query of image can't find audio"):
        planned(MediaQuery(image=picture, negative="red", modalities=["audio"]))


def test_a_broken_file_is_told(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(DecodeError, match=r"x\.png"):
        planned(MediaQuery(image=tmp_path / "x.png"))


# -- several parts of a kind ----------------------------------------------------------------------------------------------


def test_each_part_of_a_kind_has_its_own_channels(tmp_path):
    colours = ["red", "green", "blue"]
    query = MediaQuery(image=[paint(tmp_path / f"{colour}.png", colour) for colour in colours])
    made = channels(query)
    assert [channel.part for channel in made] == ["image", "image 2", "image 3"]
    assert [channel.weight for channel in made] == [1 / 3] * 3
    for channel, colour in zip(made, colours, strict=True):
        np.testing.assert_array_equal(channel.vector, PIXELS.encode([Image.new("RGB", (8, 8), colour)])[0])


def test_words_of_several_recordings_are_told_apart(tmp_path):
    query = MediaQuery(audio=[play(tmp_path / "a.wav", 200), play(tmp_path / "b.wav", 2000)], modalities=["audio"])
    heard = iter(["red", ""])
    made = channels(query, hear=lambda sound: next(heard))
    assert [(channel.part, channel.space.name) for channel in made] == [
        ("audio", "sound"),
        ("audio", "voice"),
        ("speech", "text"),
        ("audio 2", "sound"),
    ]
    heard = iter(["", "red"])
    assert [channel.part for channel in channels(query, hear=lambda sound: next(heard))][-1] == "speech 2"


# -- weights --------------------------------------------------------------------------------------------------------------


def test_weights_of_parts_and_of_spaces_multiply(picture):
    query = MediaQuery("red", image=[picture, picture], part_weights={"text": 0.5, "image": 3}, modalities=["image"])

    def weight(part, space, modality):
        return {"text": 2.0, "image": 7.0}[part] * (10 if space == "picture" else 1)

    assert [(each.part, each.space.name, each.weight) for each in channels(query, weight=weight)] == [
        ("text", "text", 1.0),
        ("text", "picture", 10.0),
        ("image", "picture", 105.0),
        ("image 2", "picture", 105.0),
    ]


def test_a_part_of_weight_nothing_is_not_even_read(tmp_path):
    query = MediaQuery("red", image=tmp_path / "missing.png", part_weights={"image": 0})
    assert planned(query) == planned(MediaQuery("red"))


def test_the_weight_of_words_heard(recording):
    def made(**weights):
        query = MediaQuery(audio=recording, part_weights=weights, modalities=["audio"])
        return [(each.part, each.space.name, each.weight) for each in channels(query, hear=lambda sound: "red")]

    assert made(audio=0.4) == [("audio", "sound", 0.4), ("audio", "voice", 0.4), ("speech", "text", 0.4)]
    assert made(audio=0.4, speech=0.6) == [("audio", "sound", 0.4), ("audio", "voice", 0.4), ("speech", "text", 0.6)]
    assert made(speech=0) == [("audio", "sound", 1.0), ("audio", "voice", 1.0)]
    assert made(audio=0, speech=0.6) == [("speech", "text", 0.6)]


# -- what is not wanted ---------------------------------------------------------------------------------------------------


def test_what_is_not_wanted_has_channels_of_its_own(picture, tmp_path):
    green = paint(tmp_path / "green.png", "green")
    unwanted = [MediaQuery("dark", image=green, part_weights={"image": 0.25}), "night"]
    query = MediaQuery("red", image=picture, negative=unwanted, modalities=["image"])
    made = channels(query)
    assert [(each.negative, each.part, each.space.name, each.weight) for each in made] == [
        (False, "text", "text", 1.0),
        (False, "text", "picture", 1.0),
        (False, "image", "picture", 1.0),
        (True, "text", "text", 1.0),
        (True, "text", "picture", 1.0),
        (True, "image", "picture", 0.25),
        (True, "text 2", "text", 1.0),
        (True, "text 2", "picture", 1.0),
    ]
    asked = {(each.negative, each.part): each.vector for each in made}
    np.testing.assert_array_equal(asked[True, "text"], TEXT.encode(["dark"])[0])
    np.testing.assert_array_equal(asked[True, "text 2"], TEXT.encode(["night"])[0])
    np.testing.assert_array_equal(asked[True, "image"], PIXELS.encode([Image.new("RGB", (8, 8), "green")])[0])


def test_what_is_not_wanted_says_nothing_of_what_to_look_for(picture):
    made = channels(MediaQuery(image=picture, negative="dark"))
    assert {each.modality for each in made} == {"image"}
    assert [(each.part, each.space.name) for each in made if each.negative] == [("text", "text"), ("text", "picture")]


# -- texts of their own for embedding -------------------------------------------------------------------------------------


def test_several_texts_are_asked_by_the_mean_of_their_unit_vectors(picture):
    encoder = Counting("text")
    texts = ["a red chair with four legs", "red"]
    query = MediaQuery("red", custom_embedding_strs=texts, image=picture, modalities=["image"])
    spaces = (EmbeddingSpace("text", {"text": encoder, "image": encoder}), SPACES[1])
    first, *_, last = channels(query, spaces=spaces)
    np.testing.assert_array_equal(first.vector, unit(TEXT.encode(texts).mean(0)))
    assert np.linalg.norm(first.vector) == pytest.approx(1)
    assert encoder.calls == [(2, True)]
    assert last.part == "image"
    np.testing.assert_array_equal(last.vector, PIXELS.encode([Image.new("RGB", (8, 8), "red")])[0])


# -- once is enough -------------------------------------------------------------------------------------------------------


def test_a_part_is_decoded_heard_and_encoded_once(recording, picture, monkeypatch):
    text, pixels, sound = Counting("text"), Counting("image"), Counting("audio")
    spaces = [
        *(EmbeddingSpace(f"text {at}", {"text": text, "audio": text, "image": text}) for at in range(3)),
        *(EmbeddingSpace(f"picture {at}", {"image": pixels}) for at in range(3)),
        *(EmbeddingSpace(f"sound {at}", {"audio": sound}) for at in range(3)),
    ]
    decoded, heard = [], []
    loaded = file_payload

    def note(path, payload):
        decoded.append((path, payload))
        return loaded(path, payload)

    monkeypatch.setattr("llama_index_mm.embeddings.payloads.file_payload", note)
    query = MediaQuery("red", image=picture, audio=recording, negative=MediaQuery("dark"))
    made = channels(query, spaces=spaces, hear=lambda sound: heard.append(sound) or "bell")
    assert sorted(decoded) == sorted([(recording, "audio"), (picture, "image")])
    assert len(heard) == 1
    assert (text.calls, pixels.calls, sound.calls) == ([(1, True)] * 3, [(1, True)], [(1, True)])
    assert len(made) == 3 * 3 + 3 + 3 + 3 * 2 + 3 * 3


# -- nodes ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, recording, picture):
    nodes = [
        TextNode(id_="words", text="red"),
        ImageMedia.create(picture, digest=digest_file(picture), text="a red wall", id_="picture"),
        AudioMedia.create(recording, digest=digest_file(recording), id_="tone"),
        AudioMedia.create(recording, digest=digest_file(recording), text="a bell rings", id_="speech", speech=True, end=0.2),
    ]
    with MediaStore(tmp_path / "index") as made:
        for space in SPACES:
            made.declare_space(space.name, space.dimension, space.fingerprint)
        made.add(encode_nodes(nodes, SPACES))
        yield made


def node_of(store, name):
    (seq,) = store.find(node_ids=[name]).tolist()
    return store.nodes([seq])[seq]


def test_a_node_in_the_store_is_neither_decoded_nor_encoded(store, picture, recording):
    nodes = [node_of(store, name) for name in ("picture", "tone", "speech")]
    picture.unlink()
    recording.unlink()

    def vector(name, space, modality):
        return store.vectors(space, modality, store.find(node_ids=[name]).tolist())[0]

    made = channels(MediaQuery.like(*nodes), stored=stored_in(store))
    expected = {
        ("image", "picture"): vector("picture", "picture", "image"),
        ("audio", "sound"): vector("tone", "sound", "audio"),
        ("audio 2", "sound"): vector("speech", "sound", "audio"),
        ("audio 2", "voice"): vector("speech", "voice", "audio"),
        ("speech 2", "text"): vector("speech", "text", "audio"),
        ("speech 2", "picture"): TEXT.encode(["a bell rings"])[0],  # holds no recordings
    }
    assert {(each.part, each.space.name) for each in made} == set(expected)
    for each in made:
        np.testing.assert_array_equal(each.vector, expected[each.part, each.space.name])


def test_a_node_that_is_not_in_the_store_is_encoded(store, recording):
    stranger = AudioMedia.create(recording, digest=digest_file(recording), id_="stranger", start=0.1, end=0.3)
    for stored in (None, stored_in(store)):
        (channel,) = channels(MediaQuery(audio=stranger), stored=stored)
        cut = file_payload(recording, "audio").cut(0.1, 0.3)
        np.testing.assert_array_equal(channel.vector, HashingEncoder("audio").encode([cut])[0])


def test_a_recording_that_nobody_transcribed_is_heard(store):
    asked = planned(MediaQuery(audio=node_of(store, "tone")), hear=lambda sound: f"{sound.seconds:g}")
    assert ("speech", "text", "text", "audio") in asked


def test_a_node_that_is_not_wanted(store):
    query = MediaQuery("red", negative=[node_of(store, "picture"), node_of(store, "words")], modalities=["image"])
    made = channels(query, stored=stored_in(store))
    assert [(each.negative, each.part, each.space.name) for each in made] == [
        (False, "text", "text"),
        (False, "text", "picture"),
        (True, "image", "picture"),
        (True, "text", "text"),
        (True, "text", "picture"),
    ]
