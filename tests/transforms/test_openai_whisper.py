import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama_index_mm.errors import EncodeError, ModelError
from llama_index_mm.media import SAMPLE_RATE, Waveform
from llama_index_mm.transforms.openai_whisper import OpenAIWhisperTranscriber
from llama_index_mm.transforms.transcript import FIRST_WORDS, Decoding, Segment, Transcriber, Word

whisper: Any = pytest.importorskip("whisper")

# The package opens its vocabularies without closing them.
pytestmark = pytest.mark.filterwarnings(r"ignore:Exception ignored in.*\.tiktoken:pytest.PytestUnraisableExceptionWarning")

WORDS = {True: 51865, False: 51864}  # the vocabulary tells whether a Whisper model is multilingual


def save_whisper(path: Path, *, multilingual: bool = True) -> Path:
    """A tiny Whisper with random weights."""
    sizes = {
        f"n_{part}_{what}": size for part in ("audio", "text") for what, size in (("state", 16), ("head", 2), ("layer", 1))
    }
    dims = whisper.model.ModelDimensions(n_mels=80, n_audio_ctx=1500, n_vocab=WORDS[multilingual], n_text_ctx=16, **sizes)
    torch.manual_seed(0)
    model = whisper.model.Whisper(dims)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    torch.save({"dims": asdict(dims), "model_state_dict": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_whisper(tmp_path_factory.mktemp("whisper") / "tiny.pt")


@pytest.fixture
def transcriber(tiny):
    return OpenAIWhisperTranscriber(tiny, device="cpu")


def noise(seconds: float) -> Waveform:
    rng = np.random.default_rng(0)
    return Waveform(rng.normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32))


class Spy:
    """Stands in for `Whisper.transcribe`: keeps what it was called with, and gives these segments."""

    def __init__(self, *segments: dict[str, Any]) -> None:
        self.segments = segments
        self.options: dict[str, Any] = {}

    def __call__(self, samples: np.ndarray, **options: Any) -> dict[str, Any]:
        self.options = options
        return {"segments": list(self.segments)}


def heard(text: str, no_speech: float, likely: float) -> dict[str, Any]:
    return {"start": 1.0, "end": 2.5, "text": text, "no_speech_prob": no_speech, "avg_logprob": likely}


def test_runs_and_repeats_itself(transcriber: Transcriber):
    sound = noise(31)
    first = transcriber.transcribe(sound)
    assert first == transcriber.transcribe(sound)
    assert first.language in whisper.tokenizer.LANGUAGES
    assert 0 < first.probability < 1
    for segment in first.segments:
        assert 0 <= segment.start <= segment.end
        assert segment.text == segment.text.strip() != ""


def test_gives_what_whisper_itself_gives(transcriber, tiny):
    sound = noise(3)
    reference = whisper.load_model(str(tiny), device="cpu")
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(sound.samples), 80)
    probabilities = reference.detect_language(mel)[1]
    language = max(probabilities, key=probabilities.get)
    wanted = reference.transcribe(
        sound.samples,
        language=language,
        temperature=0.0,
        condition_on_previous_text=False,
        fp16=False,
        no_speech_threshold=None,
    )["segments"]
    kept = [one for one in wanted if one["no_speech_prob"] <= 0.6 or one["avg_logprob"] >= -1]
    got = transcriber.transcribe(sound)
    assert got.language == language
    assert got.probability == pytest.approx(probabilities[language], abs=1e-6)
    assert [segment.text for segment in got.segments] == [one["text"].strip() for one in kept if one["text"].strip()]


def test_language_as_told(transcriber):
    got = transcriber.transcribe(noise(1), language="de")
    assert (got.language, got.probability) == ("de", 1.0)


def test_language_that_the_model_does_not_know(transcriber):
    with pytest.raises(EncodeError, match="klingon"):
        transcriber.transcribe(noise(1), language="klingon")


def test_english_only_model(tmp_path):
    transcriber = OpenAIWhisperTranscriber(save_whisper(tmp_path / "tiny.en.pt", multilingual=False), device="cpu")
    got = transcriber.transcribe(noise(1))
    assert (got.language, got.probability) == ("en", 1.0)
    with pytest.raises(EncodeError, match="'de'"):
        transcriber.transcribe(noise(1), language="de")


def test_never_translates_and_says_the_language(transcriber, monkeypatch):
    spy = Spy()
    monkeypatch.setattr(whisper.model.Whisper, "transcribe", staticmethod(spy))
    got = transcriber.transcribe(noise(1))
    assert spy.options["task"] == "transcribe"
    assert spy.options["language"] == got.language
    assert spy.options["fp16"] is False


def test_greedy_unless_told_otherwise(transcriber, tiny, monkeypatch):
    spy = Spy()
    monkeypatch.setattr(whisper.model.Whisper, "transcribe", staticmethod(spy))
    transcriber.transcribe(noise(1), language="en")
    asked = ("beam_size", "best_of", "temperature", "word_timestamps", "initial_prompt")
    assert [spy.options[name] for name in asked] == [None, None, (0.0,), False, None]
    told = OpenAIWhisperTranscriber(tiny, device="cpu", decoding=Decoding(beam_size=3, samples=2, word_times=True))
    told.transcribe(noise(1), language="zh")
    assert [spy.options[name] for name in asked] == [3, 2, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), True, FIRST_WORDS["zh"]]


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # NumPy about the package's sorting of tensors
def test_beams_and_samples_run(tiny):
    told = OpenAIWhisperTranscriber(tiny, device="cpu", decoding=Decoding(beam_size=2, samples=2))
    assert told.transcribe(noise(2), language="de").language == "de"


def test_words_have_their_own_seconds(transcriber, monkeypatch):
    words = [
        {"word": " two", "start": 1.0, "end": 1.5, "probability": 0.5},
        {"word": " words", "start": 1.5, "end": 2.5, "probability": 0.25},
    ]
    monkeypatch.setattr(
        whisper.model.Whisper, "transcribe", staticmethod(Spy({**heard(" two words", 0.1, -0.2), "words": words}))
    )
    (segment,) = transcriber.transcribe(noise(1), language="en").segments
    assert segment == Segment(1.0, 2.5, "two words", (Word(1.0, 1.5, "two", 0.5), Word(1.5, 2.5, "words", 0.25)))


def test_segments_without_speech_are_dropped(transcriber, monkeypatch):
    spy = Spy(
        heard(" kept ", 0.1, -0.2),
        heard(" ", 0.1, -0.2),
        heard(" invented", 0.7, -1.1),
        heard(" sure", 0.7, -0.9),
        heard(" likely speech", 0.5, -1.1),
    )
    monkeypatch.setattr(whisper.model.Whisper, "transcribe", staticmethod(spy))
    got = transcriber.transcribe(noise(1), language="en")
    assert got.segments == tuple(Segment(1.0, 2.5, text) for text in ("kept", "sure", "likely speech"))
    assert got.text == "kept sure likely speech"


@pytest.mark.parametrize("length", [0, 1, 500])
def test_almost_no_sound(transcriber, length):
    transcriber.transcribe(Waveform(np.zeros(length, np.float32)))


def test_another_rate(transcriber):
    with pytest.raises(EncodeError, match="8000"):
        transcriber.transcribe(Waveform(np.zeros(8000, np.float32), rate=8000))


def test_threads_take_turns(transcriber):
    sounds = [noise(seconds) for seconds in (1, 2, 3, 1)]
    wanted = [transcriber.transcribe(sound) for sound in sounds]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(transcriber.transcribe, sounds)) == wanted


def test_fingerprint_follows_the_content(tiny, tmp_path):
    known = OpenAIWhisperTranscriber(tiny).fingerprint
    moved = tmp_path / "moved.pt"
    moved.write_bytes(tiny.read_bytes())
    assert OpenAIWhisperTranscriber(str(moved)).fingerprint == known
    assert OpenAIWhisperTranscriber(save_whisper(tmp_path / "en.pt", multilingual=False)).fingerprint != known
    assert OpenAIWhisperTranscriber("base").fingerprint != OpenAIWhisperTranscriber("tiny").fingerprint
    assert OpenAIWhisperTranscriber(tiny, decoding=Decoding(beam_size=2, samples=0)).fingerprint != known


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="missing"):
        OpenAIWhisperTranscriber(tmp_path / "none.pt")


def test_unknown_name():
    with pytest.raises(ModelError, match="offline"):
        OpenAIWhisperTranscriber("no-such-model", device="cpu").transcribe(noise(1))


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("content", ["noise", "cut", "pickle", "other"])
def test_broken_checkpoint(tiny, tmp_path, content):
    path = tmp_path / "broken.pt"
    if content == "noise":
        path.write_bytes(b"\xff" * 1000)
    elif content == "cut":
        path.write_bytes(tiny.read_bytes()[:-5000])
    elif content == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match="offline"):
        OpenAIWhisperTranscriber(path, device="cpu").transcribe(noise(1))
