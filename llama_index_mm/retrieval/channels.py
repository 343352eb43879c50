"""Which searches a query leads to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_index.core.schema import BaseNode

from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, Payload, Vectors, unit
from llama_index_mm.embeddings.payloads import part_payload
from llama_index_mm.errors import QueryError
from llama_index_mm.media import MODALITIES, Modality, Waveform
from llama_index_mm.nodes import AudioMedia, modality_of_node
from llama_index_mm.retrieval.asked import script_of
from llama_index_mm.retrieval.parts import Part
from llama_index_mm.stores import NodeStore

__all__ = ["Channel", "Hear", "Stored", "plan", "stored_in"]

Hear = Callable[[Waveform], str]
"""Turns a recording into the words that are heard in it; empty where nobody speaks."""

Stored = Callable[[EmbeddingSpace, BaseNode], Vectors | None]
"""Gives the vector ``(d,)`` that a node has in a space, or None."""


@dataclass(frozen=True)
class Channel:
    """One search: a query part, encoded in one space, against one modality.

    Attributes:
        part: kind of the query part, or ``"speech"`` for words heard in it; with a number from the second of a kind on, as in
            ``"image 2"``.
        asked: modality of what was encoded: the part's own, ``"text"`` for speech.
        space: where to search.
        modality: of the nodes searched.
        vector: ``(d,)`` the part as a unit vector of the space.
        weight: in the fusion: that of the part times that of the space.
        negative: whether what it finds is not wanted.
        script: that its words are written in; empty for other parts, and for words in several scripts.
    """

    part: str
    asked: Modality
    space: EmbeddingSpace
    modality: Modality
    vector: Vectors
    weight: float
    negative: bool = False
    script: str = ""


@dataclass(frozen=True)
class _Voice:
    """What a part asks with: itself, or the words heard in it."""

    part: Part
    kind: str
    asked: Modality
    weight: float
    words: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of its channels: that of the part, with its own kind in place of the part's."""
        return self.kind + self.part.name.removeprefix(self.part.kind)


def plan(
    parts: Sequence[Part],
    spaces: Sequence[EmbeddingSpace],
    modalities: Sequence[Modality],
    weight: Callable[[str, str, str], float],
    hear: Hear | None,
    stored: Stored | None = None,
    *,
    needed: bool = True,
) -> list[Channel]:
    """Make the channels of a query; those of weight 0 are left out.

    Words heard in an audio part are asked like text, under the name ``"speech"``, but only for text and audio. Spaces for
    speech only are not asked with an audio part in which no words are heard; their weight goes to the other spaces of that
    part. Of a node that is a recording, the transcript tells what is heard. Words given and words heard share the weight of one
    where they ask the same. A text part of several texts is asked by the mean of their unit vectors. Each part is decoded,
    heard and encoded once, however many channels it leads to.

    Args:
        parts: as `parts_of` gives them.
        spaces: to search.
        modalities: to look for; empty for everything if there are words, else for what is of the parts' own kind.
        weight: gives the weight of (kind of part, space, modality).
        hear: for the words of audio parts; None leaves them out.
        stored: gives vectors of nodes that are asked with; a node without one is encoded.
        needed: whether it is an error if nothing can be asked so.

    Returns:
        Channels of what is wanted, and then of what is not.

    Raises:
        QueryError: no space can be asked with any wanted part for any of the modalities, and that is needed.
        DecodeError: a part can't be decoded.
    """
    encoded = _Encoded(stored)
    heard = hear if not modalities or {"text", "audio"} & set(modalities) else None
    voices = [_voices(part, encoded, heard) for part in parts]
    asked = [voice.asked for of_part in voices for voice in of_part if not voice.part.negative]
    words = any(part.kind == "text" and not part.negative for part in parts)
    targets = list(modalities) or list(MODALITIES if words else dict.fromkeys(asked))
    channels: list[Channel] = []
    for voice, silent in [(voice, len(of_part) == 1) for of_part in voices for voice in of_part]:
        asking: list[tuple[EmbeddingSpace, Encoder, dict[Modality, float]]] = []
        unasked = dict.fromkeys(targets, 0.0)
        for space in spaces:
            encoder = space.query_encoder(voice.asked)
            if encoder is None:
                continue
            weights = {modality: voice.weight * _weight(voice, space, modality, weight) for modality in targets}
            if voice.kind == "audio" and space.speech_only and silent:
                unasked = {modality: value + weights[modality] for modality, value in unasked.items()}
            elif any(weights.values()):
                asking.append((space, encoder, weights))
        script = script_of(*voice.words)
        sums = {modality: sum(weights[modality] for _, _, weights in asking) for modality in targets}
        for space, encoder, weights in asking:
            vector = encoded.vector(voice, space, encoder)
            channels += [
                Channel(
                    voice.name,
                    voice.asked,
                    space,
                    modality,
                    vector,
                    value * (1 + unasked[modality] / sums[modality]),
                    voice.part.negative,
                    script,
                )
                for modality, value in weights.items()
                if value > 0
            ]
    channels = _shared(channels)
    if needed and all(channel.negative for channel in channels):
        kinds = ", ".join(dict.fromkeys(part.kind for part in parts if not part.negative))
        raise QueryError(
            f"A query of {kinds} can't find {', '.join(targets)} in the spaces "
            f"{', '.join(space.name for space in spaces) or '(none)'}. Use a preset that has a space for both."
        )
    return channels


def _shared(channels: Sequence[Channel]) -> list[Channel]:
    """Let words that were written and words that were heard share the weight of one where they ask the same.

    So the words of a query weigh as much against its sound whether they come by one way or by both.
    """
    groups: dict[tuple[str, Modality, bool], list[Channel]] = {}
    for channel in channels:
        if channel.asked == "text":
            groups.setdefault((channel.space.name, channel.modality, channel.negative), []).append(channel)
    scale = {}
    for (space, modality, negative), group in groups.items():
        kinds: dict[str, float] = {}
        for channel in group:
            kind = channel.part.partition(" ")[0]
            kinds[kind] = kinds.get(kind, 0.0) + channel.weight
        if len(kinds) > 1 and not negative:
            scale[space, modality] = max(kinds.values()) / sum(kinds.values())
    return [
        replace(channel, weight=channel.weight * scale.get((channel.space.name, channel.modality), 1.0))
        if channel.asked == "text" and not channel.negative
        else channel
        for channel in channels
    ]


def stored_in(store: NodeStore) -> Stored:
    """Make the function that gives the vectors which nodes have in a store."""

    def stored(space: EmbeddingSpace, node: BaseNode) -> Vectors | None:
        modality = modality_of_node(node)
        found = store.find(node_ids=[node.node_id], modalities=[modality], space=space.name)
        return store.vectors(space.name, modality, found.tolist())[0] if len(found) else None

    return stored


def _voices(part: Part, encoded: "_Encoded", hear: Hear | None) -> list[_Voice]:
    if part.kind == "text":
        return [_Voice(part, "text", "text", part.weight, part.value)]
    own = _Voice(part, part.kind, part.kind, part.weight)
    words = _words(part, encoded, hear) if part.kind == "audio" else ""
    if not words:
        return [own]
    return [own, _Voice(part, "speech", "text", part.weight if part.speech_weight is None else part.speech_weight, (words,))]


def _words(part: Part, encoded: "_Encoded", hear: Hear | None) -> str:
    if isinstance(part.value, AudioMedia) and part.value.speech:
        return part.value.text
    return hear(encoded.payload(part, "audio")) if hear is not None else ""


def _weight(voice: _Voice, space: EmbeddingSpace, modality: Modality, weight: Callable[[str, str, str], float]) -> float:
    if modality not in space.encoders or (voice.kind == "speech" and modality not in ("text", "audio")):
        return 0.0
    return weight(voice.kind, space.name, modality)


class _Encoded:
    """Parts of one query, decoded and encoded when they are first needed."""

    def __init__(self, stored: Stored | None) -> None:
        self._stored = stored
        self._payloads: dict[tuple[int, Payload], Any] = {}
        self._vectors: dict[tuple[int, str, int], Vectors] = {}

    def payload(self, part: Part, payload: Payload) -> Any:
        """What an encoder takes of a part."""
        key = (id(part), payload)
        if key not in self._payloads:  # a mesh may be asked with its views and with its geometry
            self._payloads[key] = part_payload(part.value, payload)
        return self._payloads[key]

    def vector(self, voice: _Voice, space: EmbeddingSpace, encoder: Encoder) -> Vectors:
        """``(d,)`` unit vector: the one stored for a node, or else one from the encoder."""
        node = voice.part.value
        if self._stored is not None and isinstance(node, BaseNode):
            found = self._stored(space, node) if _holds(space, voice) else None
            if found is not None:
                return found
        key = (id(voice.part), voice.kind, id(encoder))
        if key not in self._vectors:
            items = list(voice.words) or [self.payload(voice.part, encoder.payload)]
            vectors = encoder.encode(items, query=True)
            self._vectors[key] = vectors[0] if len(vectors) == 1 else unit(vectors.mean(0))
        return self._vectors[key]


def _holds(space: EmbeddingSpace, voice: _Voice) -> bool:
    """Whether a space stores of such nodes what the voice asks with: of a recording its sound, or its transcript."""
    encoder = space.encoders.get(voice.part.kind)
    return encoder is not None and (encoder.payload == "text") == (voice.kind == "speech")
