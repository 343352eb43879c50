"""Transcripts by Whisper through faster-whisper."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_index_mm.embeddings.base import fingerprint
from llama_index_mm.errors import EncodeError
from llama_index_mm.media import Waveform
from llama_index_mm.models.whisper import load_whisper, speech_spans
from llama_index_mm.models.whisper_files import whisper_identity
from llama_index_mm.transforms.transcript import FIRST_WORDS, Decoding, Segment, Transcript, Word, check_rate

__all__ = ["FasterWhisperTranscriber"]

_MIN_SPEECH = 0.3  # seconds; less is a click, not a word
_MIN_PROBABILITY = 0.4  # of the detected language; noise that passed for speech is of no language
# Whisper's own two signs that it made words up; both must point that way.
_NO_SPEECH = 0.6
_SURE = -1.0  # mean log-probability of the words


class FasterWhisperTranscriber:
    """Transcribes in the language spoken; the task is fixed to transcribing, never translating.

    Sound in which the voice activity detector hears nobody is not put before Whisper, which would invent words for it.
    Nothing is loaded or fetched before the first recording.

    Args:
        model: a folder with a CTranslate2 Whisper model; or a hub id (``"Systran/faster-whisper-small"``) or a name of
            faster-whisper's (``"small"``); default is Whisper base of the ``offline`` preset.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA where there is any.
        decoding: how it looks for the words.

    Attributes:
        fingerprint: digest of the folder's content, or of the name, and of the decoding.

    Raises:
        ModelError: there is no such folder, or it has no weights.
    """

    fingerprint: str

    def __init__(self, model: str | Path | None = None, *, device: str = "cpu", decoding: Decoding | None = None) -> None:
        self.model = model
        self.device = device
        self.decoding = decoding or Decoding()
        self.fingerprint = fingerprint("faster-whisper", whisper_identity(model), self.decoding)

    def transcribe(self, sound: Waveform, *, language: str | None = None) -> Transcript:
        """Transcribe a recording.

        Args:
            sound: mono at 16 kHz.
            language: ISO 639-1 code; detected from the speech if not given.

        Raises:
            EncodeError: the sound has another rate, or the model does not know the language.
            ModelError: the model can't be fetched or loaded.
            MissingExtraError: faster-whisper is not installed.
        """
        check_rate(sound)
        spans = speech_spans(sound)
        if sum(end - start for start, end in spans) < _MIN_SPEECH:
            return Transcript((), language or "", 0.0)
        found, info = self._run(sound, language)
        spoken = language or info.language
        if language is None:
            if info.language_probability < _MIN_PROBABILITY:
                return Transcript((), "", 0.0)
            if spoken in FIRST_WORDS:
                found, _ = self._run(sound, spoken)
        segments = (_segment(one) for one in found if one.no_speech_prob < _NO_SPEECH or one.avg_logprob > _SURE)
        probability = 1.0 if language else float(info.language_probability)
        return Transcript(tuple(segment for segment in segments if segment.text), spoken, probability)

    def _run(self, sound: Waveform, language: str | None) -> tuple[Iterable[Any], Any]:
        """Start Whisper; it detects the language at once and decodes as the segments are read."""
        model = load_whisper(self.model, device=self.device)
        if language is not None and language not in model.supported_languages:
            known = ", ".join(sorted(model.supported_languages))
            raise EncodeError(f"This Whisper model does not know the language {language!r}, only: {known}")
        found, info = model.transcribe(
            sound.samples,
            task="transcribe",
            language=language,
            beam_size=self.decoding.beam_size,
            best_of=max(1, self.decoding.samples),
            temperature=self.decoding.temperatures,
            word_timestamps=self.decoding.word_times,
            initial_prompt=FIRST_WORDS.get(language or ""),
            condition_on_previous_text=False,
        )
        return found, info


def _segment(one: Any) -> Segment:
    words = tuple(
        Word(float(word.start), float(word.end), word.word.strip(), float(word.probability)) for word in one.words or ()
    )
    return Segment(float(one.start), float(one.end), one.text.strip(), words)
