"""Transcripts by Whisper through faster-whisper."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_index_mm.embeddings.base import fingerprint
from llama_index_mm.media import Waveform
from llama_index_mm.models import MODELS
from llama_index_mm.models.whisper import load_whisper, speech_spans
from llama_index_mm.transforms.transcript import Segment, Transcript

__all__ = ["FasterWhisperTranscriber"]

# Whisper writes Mandarin in traditional or simplified characters as it pleases; a first sentence in simplified ones decides.
_PROMPTS = {"zh": "以下是普通话的句子，使用简体中文。"}
_BEAM = 5
_MIN_SPEECH = 0.3  # seconds; less is a click, not a word
_MIN_PROBABILITY = 0.4  # of the detected language; noise that passed for speech is of no language
# Whisper's own two signs that it made words up; both must point that way.
_NO_SPEECH = 0.6
_SURE = -1.0  # mean log-probability of the words


class FasterWhisperTranscriber:
    """Transcribes in the language spoken; the task is fixed to transcribing, never translating.

    Sound in which the voice activity detector hears nobody is not put before Whisper, which would invent words for it.

    Args:
        folder: a CTranslate2 Whisper model; default is Whisper base of the ``offline`` preset.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self.fingerprint = fingerprint("faster-whisper", folder or MODELS["whisper-base"].version, _BEAM)

    def transcribe(self, sound: Waveform, *, language: str | None = None) -> Transcript:
        """Transcribe a recording.

        Args:
            sound: mono at 16 kHz.
            language: ISO 639-1 code; detected from the speech if not given.
        """
        spans = speech_spans(sound)
        if sum(end - start for start, end in spans) < _MIN_SPEECH:
            return Transcript((), language or "", 0.0)
        found, info = self._run(sound, language)
        spoken = language or info.language
        if language is None:
            if info.language_probability < _MIN_PROBABILITY:
                return Transcript((), "", 0.0)
            if spoken in _PROMPTS:
                found, _ = self._run(sound, spoken)
        segments = (
            Segment(float(one.start), float(one.end), one.text.strip())
            for one in found
            if one.no_speech_prob < _NO_SPEECH or one.avg_logprob > _SURE
        )
        probability = 1.0 if language else float(info.language_probability)
        return Transcript(tuple(segment for segment in segments if segment.text), spoken, probability)

    def _run(self, sound: Waveform, language: str | None) -> tuple[Iterable[Any], Any]:
        """Start Whisper; it detects the language at once and decodes as the segments are read."""
        found, info = load_whisper(self._folder).transcribe(
            sound.samples,
            task="transcribe",
            language=language,
            beam_size=_BEAM,
            initial_prompt=_PROMPTS.get(language or ""),
            condition_on_previous_text=False,
        )
        return found, info
