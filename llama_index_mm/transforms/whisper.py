"""Transcripts by Whisper through faster-whisper."""

from pathlib import Path

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
        model = load_whisper(self._folder)
        probability = 1.0
        if language is None:
            language, probability, _ = model.detect_language(sound.cut(spans[0][0], None).samples)
        found, _ = model.transcribe(
            sound.samples,
            task="transcribe",
            language=language,
            beam_size=_BEAM,
            initial_prompt=_PROMPTS.get(language),
            condition_on_previous_text=False,
        )
        segments = (Segment(float(one.start), float(one.end), one.text.strip()) for one in found)
        return Transcript(tuple(segment for segment in segments if segment.text), language, float(probability))
