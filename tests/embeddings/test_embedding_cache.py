"""The cache of vectors: what counts as the same content, what survives, how large it gets."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llama_index_mm import MultiModalIndex
from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.cache import CachedEncoder, EmbeddingCache, payload_digest
from llama_index_mm.errors import EncodeError
from llama_index_mm.media import Mesh, Waveform
from llama_index_mm.presets import Preset
from llama_index_mm.testing import HashingEncoder, tiny_preset


class Counting(HashingEncoder):
    """Notes what reaches the model; queries differ from what is stored."""

    def __init__(self, payload="text", dimension=32, name="counting"):
        super().__init__(payload, dimension)
        self.fingerprint = f"{name} {payload} {dimension}"
        self.batch_size = 4
        self.seen = []

    def _encode(self, items, *, query):
        self.seen += list(items)
        return super()._encode(items, query=query) + query


def both_doors(encoder):
    return [encoder.encode, lambda items, **options: asyncio.run(encoder.aencode(items, **options))]


@pytest.mark.parametrize("door", [0, 1], ids=["sync", "async"])
def test_what_was_encoded_before_is_not_encoded_again(tmp_path, door):
    plain, inner = Counting(), Counting()
    encode = both_doors(CachedEncoder(inner, tmp_path))[door]
    first = encode(["a", "b", "a", "c", "d", "e"])
    np.testing.assert_array_equal(first, plain.encode(["a", "b", "a", "c", "d", "e"]))
    assert inner.seen == ["a", "b", "c", "d", "e"]
    np.testing.assert_array_equal(encode(["e", "new", "a"]), plain.encode(["e", "new", "a"]))
    assert inner.seen[5:] == ["new"]
    assert encode([]).shape == (0, 32)

    again = Counting()
    cache = EmbeddingCache(tmp_path)
    np.testing.assert_array_equal(both_doors(CachedEncoder(again, cache))[1 - door](["a", "b", "a", "c", "d", "e"]), first)
    assert (again.seen, cache.hits, cache.misses, len(cache)) == ([], 6, 0, 6)


def test_hits_and_misses_are_counted(tmp_path):
    cache = EmbeddingCache(tmp_path)
    encoder = CachedEncoder(Counting(), cache)
    encoder.encode(["a", "b"])
    encoder.encode(["a", "b", "c"])
    assert (cache.hits, cache.misses) == (2, 3)


def test_queries_other_models_and_other_payloads_have_entries_of_their_own(tmp_path):
    cache = EmbeddingCache(tmp_path)
    one, two, wide = Counting(), Counting(name="other"), Counting(dimension=64)
    stored, asked = CachedEncoder(one, cache).encode(["a"]), CachedEncoder(one, cache).encode(["a"], query=True)
    assert not np.array_equal(stored, asked)
    CachedEncoder(two, cache).encode(["a"])
    assert CachedEncoder(wide, cache).encode(["a"]).shape == (1, 64)
    assert (one.seen, two.seen, wide.seen, len(cache)) == (["a", "a"], ["a"], ["a"], 4)


def test_it_is_the_same_space_with_and_without_a_cache(tmp_path):
    for space in tiny_preset().spaces:
        cached = space.cached(tmp_path)
        assert (cached.fingerprint, cached.dimension, cached.name) == (space.fingerprint, space.dimension, space.name)
        for modality, encoder in space.encoders.items():
            assert cached.encoders[modality].payload == encoder.payload
            assert cached.query_encoder(modality) is None or cached.query_encoder(modality).encoder is space.query_encoder(
                modality
            )


def test_an_index_that_is_made_again_encodes_nothing(make, tmp_path):
    make.picture("files/red.png", "red")
    make.picture("files/blue.png", "blue")
    make.text("files/tide.txt", "The tide comes in.")
    make.tone("files/tone.wav", 440)
    make.obj("files/cube.obj")
    found = []
    for number in range(2):
        cache = EmbeddingCache(tmp_path / "vectors")
        preset = tiny_preset()
        cached = Preset(preset.name, tuple(space.cached(cache) for space in preset.spaces))
        with MultiModalIndex.open(tmp_path / f"index{number}", preset=cached, create=True) as index:
            assert index.ingest(make.folder / "files").added == 5
            hits = index.as_retriever(similarity_top_k=3).retrieve("tide")
            found.append([(hit.node.get_content(), hit.score) for hit in hits])
        assert (cache.misses == 0) == (number == 1), (cache.hits, cache.misses)
    assert found[0] == found[1]
    with MultiModalIndex.open(tmp_path / "index0", preset=tiny_preset()) as index:  # the same without the cache
        hits = index.as_retriever(similarity_top_k=3).retrieve("tide")
        assert [(hit.node.get_content(), hit.score) for hit in hits] == found[0]


def test_content_decides_and_nothing_else():
    def picture(colour, size=(4, 6), mode="RGB"):
        return Image.new(mode, size, colour)

    samples = np.linspace(-1, 1, 50, dtype=np.float32)
    palette = Image.new("P", (4, 4))
    palette.putpalette([0, 0, 0, 255, 255, 255])
    other = palette.copy()
    other.putpalette([0, 0, 0, 255, 0, 0])
    vertices, faces = np.eye(3, dtype=np.float32), np.asarray([[0, 1, 2]])
    different = [
        "",
        "a",
        "b",
        b"a",
        "\ud800",
        picture("red"),
        picture("blue"),
        picture("red", (6, 4)),
        picture((255, 0, 0, 255), mode="RGBA"),
        palette,
        other,
        Waveform(samples),
        Waveform(samples, 8000),
        Waveform(samples[:-1]),
        Mesh(vertices, faces),
        Mesh(2 * vertices, faces),
        [picture("red"), picture("blue")],
        [picture("blue"), picture("red")],
        [picture("red")],
        [],
        [[]],
        ["a", "b"],
        ["ab"],
        samples,
        samples.astype(np.float64),
        samples.reshape(5, 10),
    ]
    digests = [payload_digest(item) for item in different]
    assert len(set(digests)) == len(different)
    assert {len(digest) for digest in digests} == {32}
    assert payload_digest(picture("red").copy()) == payload_digest(picture("red"))
    assert payload_digest(Waveform(samples[::2].copy())) == payload_digest(Waveform(samples[::2]))
    assert payload_digest(("a", "b")) == payload_digest(["a", "b"])


@given(st.lists(st.text(max_size=4), max_size=3), st.lists(st.text(max_size=4), max_size=3))
def test_lists_are_equal_exactly_if_their_digests_are(one, other):
    assert (payload_digest(one) == payload_digest(other)) == (one == other)


@pytest.mark.parametrize("item", [3, None, {"a": 1}, np.asarray([object()])])
def test_what_has_no_digest_is_refused(tmp_path, item):
    with pytest.raises(EncodeError, match=r"Expected a text, bytes, .* got (int|NoneType|dict|ndarray)\. Use the encoder"):
        CachedEncoder(Counting(), tmp_path).encode([item])


def rows(folder):
    with sqlite3.connect(folder / "embeddings.sqlite") as database:
        yield database
    database.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE vectors SET vector = substr(vector, 1, 20)",
        "UPDATE vectors SET vector = zeroblob(length(vector))",
        "UPDATE vectors SET vector = x''",
        "UPDATE vectors SET vector = 'text'",
        "CREATE TABLE old AS SELECT * FROM vectors; UPDATE vectors SET vector ="
        " (SELECT old.vector FROM old WHERE old.key != vectors.key)",  # each has the other's
    ],
)
def test_damaged_entries_are_made_anew(tmp_path, damage):
    expected = Counting().encode(["a", "b"])
    CachedEncoder(Counting(), tmp_path).encode(["a", "b"])
    for database in rows(tmp_path):
        database.executescript(damage)
    inner = Counting()
    encoder = CachedEncoder(inner, tmp_path)
    for _ in range(2):
        np.testing.assert_array_equal(encoder.encode(["a", "b"]), expected)
    assert inner.seen == ["a", "b"]
    assert len(encoder.cache) == 2


@pytest.mark.parametrize("junk", [b"no database at all" * 100, None], ids=["junk", "torn"])
def test_a_damaged_file_is_replaced(tmp_path, junk, caplog):
    first = EmbeddingCache(tmp_path)
    CachedEncoder(Counting(), first).encode([str(number) for number in range(200)])
    first.close()
    path = tmp_path / "embeddings.sqlite"
    whole = path.read_bytes()
    path.write_bytes(junk if junk else whole[:4096] + b"\xff" * (len(whole) - 4096))
    inner = Counting()
    encoder = CachedEncoder(inner, tmp_path)
    expected = Counting().encode(["1", "2"])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(encoder.encode(["1", "2"]), expected)
    assert any("is damaged" in record.message for record in caplog.records)
    np.testing.assert_array_equal(encoder.encode(["1", "2"]), expected)
    np.testing.assert_array_equal(encoder.encode(["1", "2"]), expected)
    assert inner.seen[-2:] == ["1", "2"]
    assert len(inner.seen) <= 4
    assert len(encoder.cache) == 2


def test_a_folder_that_can_not_be_written_stops_nothing_and_warns_once(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    inner = Counting()
    encoder = CachedEncoder(inner, tmp_path / "file" / "cache")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(encoder.encode(["a"]), Counting().encode(["a"]))
    assert inner.seen == ["a", "a"]
    assert [record.message.endswith("Encoding goes on without it.") for record in caplog.records] == [True]


def test_it_stays_small_and_what_was_asked_for_last_stays(tmp_path):
    cache = EmbeddingCache(tmp_path, max_bytes=1 << 20)
    encoder = CachedEncoder(Counting(dimension=512), cache)
    encoder.encode(["kept"])
    for start in range(0, 1200, 100):
        encoder.encode([f"text {number}" for number in range(start, start + 100)])
        encoder.encode(["kept"])
    cache.close()  # takes the log in
    assert (tmp_path / "embeddings.sqlite").stat().st_size < 1.2 * (1 << 20)
    assert 200 < len(cache) < 600
    hits = cache.hits
    encoder.encode(["kept", "text 1199", "text 0"])
    assert cache.hits == hits + 2


def test_a_size_that_holds_nothing_is_refused(tmp_path):
    with pytest.raises(EncodeError, match="max_bytes of 1048576 or more; got 1000"):
        EmbeddingCache(tmp_path, max_bytes=1000)


def test_clear_and_close(tmp_path):
    cache = EmbeddingCache(tmp_path)
    encoder = CachedEncoder(Counting(), cache)
    encoder.encode(["a"])
    cache.close()
    assert len(cache) == 1
    cache.clear()
    assert len(cache) == 0
    encoder.encode(["a"])
    assert encoder.encoder.seen == ["a", "a"]


def test_threads_share_a_cache(tmp_path):
    cache = EmbeddingCache(tmp_path)
    texts = [f"text {number}" for number in range(60)]
    expected = Counting().encode(texts)
    barrier = threading.Barrier(4)

    def run(number):
        barrier.wait()
        return CachedEncoder(Counting(), cache).encode(texts[number * 10 :])

    with ThreadPoolExecutor(4) as pool:
        for number, vectors in enumerate(pool.map(run, range(4))):
            np.testing.assert_array_equal(vectors, expected[number * 10 :])
    assert len(cache) == 60


PROCESS = """
import sys
import numpy as np
from llama_index_mm.embeddings.cache import CachedEncoder
from llama_index_mm.testing import HashingEncoder

plain = HashingEncoder("text")
cached = CachedEncoder(plain, sys.argv[1])
for _ in range(3):
    texts = [f"text {number}" for number in range(200)]
    assert np.array_equal(cached.encode(texts), plain.encode(texts))
"""


def test_processes_share_a_cache(tmp_path):
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", PROCESS, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[1].decode() for process in running]
    assert [(process.returncode, text) for process, text in zip(running, said, strict=True)] == [(0, "")] * 3
    assert len(EmbeddingCache(tmp_path)) == 200


def test_release_reaches_the_model(tmp_path):
    class Held(Counting):
        freed = False

        def release(self):
            self.freed = True

    inner = Held()
    EmbeddingSpace("text", {"text": inner}).cached(tmp_path).release()
    assert inner.freed
