"""Recordings into spans with words and seconds."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.bridge.pydantic import Field, model_validator
from llama_index.core.schema import BaseNode

from llama_index_mm.embeddings.payloads import Loaded
from llama_index_mm.media import Waveform
from llama_index_mm.models.whisper import speech_spans
from llama_index_mm.nodes import AudioMedia
from llama_index_mm.transforms.base import MediaTransform
from llama_index_mm.transforms.derive import derived
from llama_index_mm.transforms.transcript import Transcriber, Transcript

__all__ = ["SplitAudio", "group_spans"]

_PAUSE = 0.5  # seconds of silence at which a unit may end
_UNIT_SECONDS = 29.0  # are transcribed together: what Whisper hears in one go, as it writes better with more around

Span = tuple[float, float]
"""First second, and second at which it ends."""


class SplitAudio(MediaTransform):
    """Split recordings at pauses into spans of a bounded length, and write down what is said in each.

    Every span is an `AudioMedia` with ``start`` and ``end`` seconds. Where words are heard its text is the transcript, and
    it has a ``language``; elsewhere its text is the file's title. Nodes of other modalities pass through.

    Spans end in pauses or between sentences, and touch. Where somebody speaks on for longer than a span, a cut has to be made
    all the same; the spans on both sides of it then share ``overlap_seconds`` of sound, so that a word that is cut in one of
    them is whole in the other. No span gets longer by that.

    Args:
        transcriber: turns sound into words; None leaves the text at the title.
        span_seconds: longest span, in (1, 30].
        overlap_seconds: that neighbours share where nobody pauses, at least 0 and below half of ``span_seconds``.
        language: ISO 639-1 code if all recordings are in one language; detected every half minute otherwise.
        fingerprint: of a transcriber that has none of its own; see `MediaTransform`.
    """

    span_seconds: float = Field(default=20.0, gt=1.0, le=30.0)
    overlap_seconds: float = Field(default=2.0, ge=0.0, lt=15.0)
    language: str | None = None

    def __init__(self, transcriber: Transcriber | None = None, **options: Any) -> None:
        super().__init__(transcriber, **options)

    @model_validator(mode="after")
    def _overlap_is_short(self) -> "SplitAudio":
        if self.overlap_seconds >= self.span_seconds / 2:
            raise ValueError(
                f"Expected overlap_seconds below half of span_seconds ({self.span_seconds / 2:g}), got "
                f"{self.overlap_seconds:g}. Give a smaller one; 0 for none."
            )
        return self

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "SplitAudio"

    def _transform(self, node: BaseNode, loaded: Loaded) -> list[BaseNode]:
        return self._split(node, loaded.sound(node)) if isinstance(node, AudioMedia) else [node]

    def _split(self, node: AudioMedia, sound: Waveform) -> list[BaseNode]:
        offset = float(node.start or 0.0)
        heard = self._heard(sound)
        parts = [
            derived(
                node,
                part=str(at),
                text=words.text if words else None,
                start=round(offset + start, 3),
                end=round(offset + end, 3),
                seconds=round(node.seconds or sound.seconds, 3),
                speech=words is not None,
                language=words.language if words else None,
                language_probability=round(words.probability, 4) if words else None,
            )
            for at, ((start, end), words) in enumerate(heard)
        ]
        if len(parts) > 1:  # the parts of a part, too, need ids of their own
            for at, part in enumerate(parts):
                part.id_ = f"{node.node_id}:{at}"
        return [*parts]

    def _heard(self, sound: Waveform) -> list[tuple[Span, Transcript | None]]:
        """Spans of a recording with their words."""
        speech = speech_spans(sound)
        units = group_spans(speech, sound.seconds, _UNIT_SECONDS, overlap=self.overlap_seconds)
        out = []
        for at, unit in enumerate(units):
            # Where units overlap none is cut, so that the last span of one and the first of the next share just that.
            first = units[at - 1][1] if at else unit[0]
            last = units[at + 1][0] if at + 1 < len(units) else unit[1]
            out += self._listen(sound, unit, (first, last), speech)
        return out

    def _listen(
        self, sound: Waveform, unit: Span, within: Span, speech: Sequence[Span]
    ) -> list[tuple[Span, Transcript | None]]:
        """Transcribe one unit and cut it, within those seconds, between its sentences into spans with their words."""
        start, end = unit
        words = self._tool.transcribe(sound.cut(start, end), language=self.language) if self._tool else None
        sentences = words.segments if words else ()
        if sentences:
            spoken = [(start + one.start, start + one.end) for one in sentences]
            between = [(one[1] + other[0]) / 2 for one, other in itertools.pairwise(spoken)]
        else:
            spoken, between = list(speech), _pauses(speech)
        cuts = [start, *sorted({cut for cut in between if within[0] < cut < within[1]}), end]
        out: list[tuple[Span, Transcript | None]] = []
        for span in _join(cuts, self.span_seconds, spoken, self.overlap_seconds):
            inside = [one for one in sentences if span[0] <= min(start + (one.start + one.end) / 2, end - 1e-6) < span[1]]
            out.append((span, replace(words, segments=tuple(inside)) if words and inside else None))
        return out


def group_spans(speech: Sequence[Span], seconds: float, longest: float, *, overlap: float = 0.0) -> list[Span]:
    """Cover a recording with spans that end in pauses.

    Neighbouring spans touch or overlap, so nothing of the recording is left out. A stretch without a pause that is longer than
    ``longest`` is cut into parts of equal length; if somebody speaks in it, each shares ``overlap`` seconds with the next.

    Args:
        speech: ``(start, end)`` of the stretches in which somebody speaks, seconds, in order.
        seconds: length of the recording.
        longest: seconds of a span.
        overlap: seconds, at least 0 and below half of ``longest``.

    Returns:
        ``(start, end)`` seconds, both rising; at least one span.
    """
    return _join([0.0, *_pauses(speech), seconds], longest, speech, overlap)


def _pauses(speech: Sequence[Span]) -> list[float]:
    """The middle of each pause."""
    return [(before + after) / 2 for (_, before), (after, _) in itertools.pairwise(speech) if after - before >= _PAUSE]


def _join(cuts: Sequence[float], longest: float, speech: Sequence[Span], overlap: float) -> list[Span]:
    """Join the stretches between places where one may cut, as many at a time as stay within ``longest`` seconds."""
    spans: list[Span] = []
    start = cuts[0]
    for at in range(1, len(cuts)):
        end = cuts[at]
        if at + 1 < len(cuts) and cuts[at + 1] - start <= longest:
            continue
        spoken = any(one < end and other > start for one, other in speech)
        spans += _equal_parts(start, end, longest, overlap if spoken else 0.0)
        start = end
    return spans


def _equal_parts(start: float, end: float, longest: float, overlap: float) -> list[Span]:
    """Parts of equal length, at most ``longest``, each of which shares ``overlap`` seconds with the next."""
    parts = max(1, math.ceil((end - start - overlap) / (longest - overlap) - 1e-9))
    step = (end - start - overlap) / parts
    return [(start + step * at, end if at == parts - 1 else start + step * (at + 1) + overlap) for at in range(parts)]
