"""What a transcriber gives, whichever model is behind it."""

from dataclasses import dataclass
from typing import Protocol

from llama_index_mm.media import Waveform

__all__ = ["Segment", "Transcriber", "Transcript"]


@dataclass(frozen=True)
class Segment:
    """Words of one stretch of sound.

    Attributes:
        start: first second.
        end: second at which it ends.
        text: the words, without space around.
    """

    start: float
    end: float
    text: str


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
