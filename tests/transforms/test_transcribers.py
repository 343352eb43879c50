"""What both transcribers give, and what tells their models apart."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("faster_whisper")

from llama_index_mm.demo import write_collection
from llama_index_mm.embeddings.whisper_sound import WhisperSoundEncoder
from llama_index_mm.errors import EncodeError, ModelError
from llama_index_mm.media import Waveform, load_audio
from llama_index_mm.models import ensure
from llama_index_mm.models.whisper_files import whisper_folder, whisper_identity
from llama_index_mm.transforms.transcript import Decoding, Segment, Transcript
from llama_index_mm.transforms.whisper import FasterWhisperTranscriber


@pytest.fixture(scope="module")
def memo(tmp_path_factory):
    files = {path.name: path for path in write_collection(tmp_path_factory.mktemp("collection"))}
    return load_audio(files["memo-garden.ogg"])


def make_model(folder, weights=b"weights", config=b"{}"):
    folder.mkdir()
    (folder / "model.bin").write_bytes(weights)
    (folder / "config.json").write_bytes(config)
    (folder / "vocabulary.txt").write_bytes(b"a\nb\n")
    return folder


def test_decoding_that_makes_no_sense():
    for options in ({"beam_size": 0}, {"samples": -1}):
        with pytest.raises(ValueError, match="beam_size of at least 1 and samples of at least 0"):
            Decoding(**options)
    assert Decoding(samples=0).temperatures == (0.0,)
    assert Decoding().temperatures == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize("maker", [FasterWhisperTranscriber, WhisperSoundEncoder])
def test_fingerprint_follows_the_content_of_a_folder(maker, tmp_path):
    known = maker(make_model(tmp_path / "one"))
    assert maker(make_model(tmp_path / "moved")).fingerprint == known.fingerprint
    others = [
        maker(make_model(tmp_path / "other", weights=b"weightz")),
        maker(make_model(tmp_path / "set", config=b"{ }")),
        maker(),
    ]
    assert len({known.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize("maker", [FasterWhisperTranscriber, WhisperSoundEncoder])
def test_fingerprint_sees_that_weights_were_replaced(maker, tmp_path):
    folder = make_model(tmp_path / "model")
    before = maker(folder).fingerprint
    written = (folder / "model.bin").stat().st_mtime_ns
    (folder / "model.bin").write_bytes(b"WEIGHTS")  # of the same length
    os.utime(folder / "model.bin", ns=(written + 1_000, written + 1_000))
    assert maker(folder).fingerprint != before


def test_fingerprint_follows_the_decoding(tmp_path):
    folder = make_model(tmp_path / "model")
    every = [Decoding(), Decoding(beam_size=1), Decoding(samples=0), Decoding(word_times=True)]
    prints = [FasterWhisperTranscriber(folder, decoding=one).fingerprint for one in every]
    assert len(set(prints)) == 4
    assert FasterWhisperTranscriber(str(folder)).fingerprint == prints[0]


def test_a_name_is_its_own_identity():
    assert whisper_identity("small") == "small"
    assert FasterWhisperTranscriber("small").fingerprint != FasterWhisperTranscriber("medium").fingerprint


@pytest.mark.parametrize("given", ["gone", "empty"])
@pytest.mark.parametrize("maker", [FasterWhisperTranscriber, WhisperSoundEncoder])
def test_a_folder_without_a_model(maker, given, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"(no such folder|has no model\.bin).*path of a folder.*'offline' needs no hub"):
        maker(tmp_path / given)


@pytest.mark.parametrize("name", ["small", "Systran/faster-whisper-small", "no-such-size"])
def test_a_hub_that_is_not_reached(name):
    with pytest.raises(ModelError, match=r"path of a folder.*'offline' needs no hub"):
        whisper_folder(name)


def test_broken_weights(tmp_path):
    transcriber = FasterWhisperTranscriber(make_model(tmp_path / "model"))
    rng = np.random.default_rng(0)
    with pytest.raises(ModelError, match=r"path of a folder.*'offline' needs no hub"):
        transcriber._run(Waveform(rng.normal(0, 0.1, 16000).astype(np.float32)), "en")


def test_another_rate(tmp_path):
    with pytest.raises(EncodeError, match="8000"):
        FasterWhisperTranscriber(make_model(tmp_path / "model")).transcribe(Waveform(np.zeros(8000, np.float32), rate=8000))


@pytest.mark.weights
def test_words_have_their_own_seconds(memo):
    plain = FasterWhisperTranscriber(decoding=Decoding(beam_size=1, samples=0)).transcribe(memo, language="en")
    timed = FasterWhisperTranscriber(decoding=Decoding(beam_size=1, samples=0, word_times=True)).transcribe(memo, language="en")
    assert all(segment.words == () for segment in plain.segments)
    assert (timed.text, timed.language, timed.probability) == (plain.text, "en", 1.0)
    for segment in timed.segments:
        assert " ".join(word.text for word in segment.words) == segment.text
        times = [seconds for word in segment.words for seconds in (word.start, word.end)]
        assert times == sorted(times)
        assert 0 <= times[0] <= times[-1] <= memo.seconds + 0.1
        assert all(0 < word.probability <= 1 for word in segment.words)


@pytest.mark.weights
def test_a_copy_of_the_model_hears_the_same(memo, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(ensure("whisper-base"), folder, copy_function=os.link)
    greedy = Decoding(beam_size=1, samples=0)
    heard = [FasterWhisperTranscriber(model, decoding=greedy).transcribe(memo) for model in (None, folder, str(folder))]
    assert heard[0] == heard[1] == heard[2]
    assert "tulips in october" in heard[0].text.lower()
    assert (heard[0].language, 0.8 < heard[0].probability <= 1) == ("en", True)


@pytest.mark.weights
def test_a_language_that_the_model_does_not_know(memo):
    with pytest.raises(EncodeError, match="'klingon', only: af, am, ar"):
        FasterWhisperTranscriber().transcribe(memo, language="klingon")


def test_a_segment_without_words_is_the_segment_of_old():
    assert Segment(0.0, 1.0, "a") == Segment(0.0, 1.0, "a", ())
    assert replace(Transcript((Segment(0.0, 1.0, "a"), Segment(1.0, 2.0, "b")), "en", 0.9), language="de").text == "a b"
