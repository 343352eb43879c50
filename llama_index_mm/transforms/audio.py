"""Recordings into spans with words and seconds."""

import asyncio
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode, TransformComponent

from llama_index_mm.media import Waveform, load_audio
from llama_index_mm.models.whisper import speech_spans
from llama_index_mm.nodes import AudioMedia
from llama_index_mm.transforms.derive import derived
from llama_index_mm.transforms.transcript import Transcriber, Transcript

__all__ = ["SplitAudio", "group_spans"]

_PAUSE = 0.5  # seconds of silence at which a unit may end
_UNIT_SECONDS = 29.0  # are transcribed together: what Whisper hears in one go, as it writes better with more around


class SplitAudio(TransformComponent):
    """Split recordings at pauses into spans of a bounded length, and write down what is said in each.

    Every span is an `AudioMedia` with ``start`` and ``end`` seconds. Where words are heard its text is the transcript, and
    it has a ``language``; elsewhere its text is the file's title. Nodes of other modalities pass through.

    Args:
        transcriber: turns sound into words; None leaves the text at the title.
        span_seconds: longest span; spans end between sentences or in pauses where there are any.
        language: ISO 639-1 code if all recordings are in one language; detected every half minute otherwise.
    """

    span_seconds: float = Field(default=20.0, gt=1.0, le=30.0)
    language: str | None = None
    _transcriber: Any = PrivateAttr(default=None)

    def __init__(self, transcriber: Transcriber | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._transcriber = transcriber

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "SplitAudio"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Split every recording.

        Raises:
            DecodeError: a recording can't be decoded.
        """
        return [out for node in nodes for out in (self._split(node) if isinstance(node, AudioMedia) else [node])]

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Like calling it, off the event loop."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def _split(self, node: AudioMedia) -> list[BaseNode]:
        sound = load_audio(node.path, start=node.start, end=node.end)
        offset = float(node.start or 0.0)
        heard = [
            (span, words)
            for start, end in group_spans(speech_spans(sound), sound.seconds, _UNIT_SECONDS)
            for span, words in self._listen(sound, start, end)
        ]
        return [
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

    def _listen(self, sound: Waveform, start: float, end: float) -> list[tuple[tuple[float, float], Transcript | None]]:
        """Transcribe one unit and cut it between its sentences into spans with their words."""
        words = self._transcriber.transcribe(sound.cut(start, end), language=self.language) if self._transcriber else None
        if not words or not words.segments:
            return [(span, None) for span in _join([start, end], self.span_seconds)]
        between = [start + (one.end + other.start) / 2 for one, other in itertools.pairwise(words.segments)]
        out: list[tuple[tuple[float, float], Transcript | None]] = []
        for span in _join([start, *(cut for cut in between if start < cut < end), end], self.span_seconds):
            inside = [one for one in words.segments if span[0] <= min(start + (one.start + one.end) / 2, end - 1e-6) < span[1]]
            out.append((span, replace(words, segments=tuple(inside)) if inside else None))
        return out


def group_spans(speech: Sequence[tuple[float, float]], seconds: float, longest: float) -> list[tuple[float, float]]:
    """Cover a recording with spans that end in pauses.

    Neighbouring spans touch, so nothing of the recording is left out. A stretch without a pause that is longer than
    ``longest`` is cut into equal parts.

    Args:
        speech: ``(start, end)`` of the stretches in which somebody speaks, seconds, in order.
        seconds: length of the recording.
        longest: seconds of a span.

    Returns:
        ``(start, end)`` seconds; at least one span.
    """
    cuts = [0.0]
    for (_, before), (after, _) in itertools.pairwise(speech):
        if after - before >= _PAUSE:
            cuts.append((before + after) / 2)
    return _join([*cuts, seconds], longest)


def _join(cuts: Sequence[float], longest: float) -> list[tuple[float, float]]:
    """Join the stretches between places where one may cut, as many at a time as stay within ``longest`` seconds."""
    spans: list[tuple[float, float]] = []
    start = cuts[0]
    for at in range(1, len(cuts)):
        if at + 1 < len(cuts) and cuts[at + 1] - start <= longest:
            continue
        spans += _equal_parts(start, cuts[at], longest)
        start = cuts[at]
    return spans


def _equal_parts(start: float, end: float, longest: float) -> list[tuple[float, float]]:
    parts = max(1, math.ceil((end - start) / longest - 1e-9))
    step = (end - start) / parts
    return [(start + step * at, end if at == parts - 1 else start + step * (at + 1)) for at in range(parts)]
