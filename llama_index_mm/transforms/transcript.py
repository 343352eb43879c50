"""What a transcriber gives, whichever model is behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from llama_index_mm.errors import EncodeError
from llama_index_mm.media import SAMPLE_RATE, Waveform

__all__ = ["FIRST_WORDS", "Decoding", "Segment", "Transcriber", "Transcript", "Word", "check_rate"]

FIRST_WORDS: Mapping[str, str] = MappingProxyType({"zh": "以下是普通话的句子，使用简体中文。"})
"""What Whisper is told was said before, by language. It writes Mandarin in traditional or simplified characters as it pleases;
a first sentence in simplified ones decides."""


@dataclass(frozen=True)
class Decoding:
    """How Whisper looks for the words.

    Attributes:
        beam_size: readings that are followed at once; 1 takes the likeliest token each time, the fastest.
        samples: readings drawn at random, at rising temperature, where the first try looks made up; the best is taken. 0 for
            none: then the same sound gives the same words each time.
        word_times: whether each word gets its own seconds.

    Raises:
        ValueError: ``beam_size`` is below 1 or ``samples`` below 0.
    """

    beam_size: int = 5
    samples: int = 5
    word_times: bool = False

    def __post_init__(self) -> None:
        if self.beam_size < 1 or self.samples < 0:
            raise ValueError(
                f"Expected beam_size of at least 1 and samples of at least 0, got {self.beam_size}, {self.samples}."
            )

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures that are tried in turn, as in Whisper's paper; only 0 if nothing is drawn."""
        return (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if self.samples else (0.0,)


@dataclass(frozen=True)
class Word:
    """One word.

    Attributes:
        start: first second.
        end: second at which it ends.
        text: the word, without space around.
        probability: in [0, 1].
    """

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """Words of one stretch of sound.

    Attributes:
        start: first second.
        end: second at which it ends.
        text: the words, without space around.
        words: each word with its seconds, if asked for.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """Words of a recording.

    Attributes:
        segments: stretches in order; none where no words were heard.
        language: ISO 639-1 code, detected or as told.
        probability: of the language, in [0, 1]; 1 if it was told.
    """

    segments: tuple[Segment, ...]
    language: str
    probability: float

    @property
    def text(self) -> str:
        """All words, joined by spaces."""
        return " ".join(segment.text for segment in self.segments)


class Transcriber(Protocol):
    """Turns sound into words in the language spoken; never translates."""

    fingerprint: str

    def transcribe(self, sound: Waveform, *, language: str | None = None) -> Transcript:
        """Transcribe a recording; the language is detected unless told."""
        ...


def check_rate(sound: Waveform) -> None:
    """Check that a recording is at 16 kHz.

    Raises:
        EncodeError: it is not.
    """
    if sound.rate != SAMPLE_RATE:
        raise EncodeError(f"Expected {SAMPLE_RATE} samples a second, got {sound.rate}. Decode it with load_audio.")
