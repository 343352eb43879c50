"""Recordings into spans with words and seconds."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode, TransformComponent

from llama_index_mm.media import Waveform, load_audio
from llama_index_mm.models.whisper import speech_spans
from llama_index_mm.nodes import AudioMedia
from llama_index_mm.transforms.derive import derived
from llama_index_mm.transforms.transcript import Transcriber

__all__ = ["SplitAudio", "group_spans"]

_PAUSE = 0.5  # seconds of silence at which a span may end


class SplitAudio(TransformComponent):
    """Split recordings at pauses into spans of a bounded length, and write down what is said in each.

    Every span is an `AudioMedia` with ``start`` and ``end`` seconds. Where words are heard its text is the transcript, and
    it has a ``language``; elsewhere its text is the file's title. Nodes of other modalities pass through.

    Args:
        transcriber: turns sound into words; None leaves the text at the title.
        span_seconds: a span ends at the first pause after which the next stretch of speech would make it longer than this.
        language: ISO 639-1 code if all recordings are in one language; detected for every span otherwise.
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
        spans = group_spans(speech_spans(sound), sound.seconds, self.span_seconds)
        return [self._span(node, sound, start, end, offset, at) for at, (start, end) in enumerate(spans)]

    def _span(self, node: AudioMedia, sound: Waveform, start: float, end: float, offset: float, at: int) -> BaseNode:
        words = self._transcriber.transcribe(sound.cut(start, end), language=self.language) if self._transcriber else None
        heard = bool(words and words.segments)
        return derived(
            node,
            part=str(at),
            text=words.text if words and heard else None,
            start=round(offset + start, 3),
            end=round(offset + end, 3),
            seconds=round(node.seconds or sound.seconds, 3),
            speech=heard,
            language=words.language if words and heard else None,
            language_probability=round(words.probability, 4) if words and heard else None,
        )


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
    cuts.append(seconds)
    spans: list[tuple[float, float]] = []
    start = 0.0
    for at in range(1, len(cuts)):
        if at + 1 < len(cuts) and cuts[at + 1] - start <= longest:
            continue
        spans += _equal_parts(start, cuts[at], longest)
        start = cuts[at]
    return spans


def _equal_parts(start: float, end: float, longest: float) -> list[tuple[float, float]]:
    parts = max(1, -int(-(end - start) // longest))
    step = (end - start) / parts
    return [(start + step * at, end if at == parts - 1 else start + step * (at + 1)) for at in range(parts)]
