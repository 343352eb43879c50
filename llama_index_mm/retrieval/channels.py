"""Which searches a query leads to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, Payload, Vectors
from llama_index_mm.embeddings.payloads import file_payload
from llama_index_mm.errors import QueryError
from llama_index_mm.media import MODALITIES, Modality, Waveform

__all__ = ["Channel", "Hear", "plan"]

Hear = Callable[[Waveform], str]
"""Turns a recording into the words that are heard in it; empty where nobody speaks."""


@dataclass(frozen=True)
class Channel:
    """One search: a query part, encoded in one space, against one modality.

    Attributes:
        part: kind of the query part, or ``"speech"``.
        asked: modality of what was encoded: the part's own, ``"text"`` for speech.
        space: where to search.
        modality: of the nodes searched.
        vector: ``(d,)`` the part as a unit vector of the space.
        weight: in the fusion.
    """

    part: str
    asked: Modality
    space: EmbeddingSpace
    modality: Modality
    vector: Vectors
    weight: float


def plan(
    parts: Mapping[Modality, str | Path],
    spaces: Sequence[EmbeddingSpace],
    modalities: Sequence[Modality],
    weight: Callable[[str, str, str], float],
    hear: Hear | None,
) -> list[Channel]:
    """Make the channels of a query; those of weight 0 are left out.

    Words heard in an audio part are asked like text, under the name ``"speech"``, but only for text and audio. Spaces for
    speech only are not asked with an audio part in which no words are heard.

    Args:
        parts: words and paths, by modality.
        spaces: to search.
        modalities: to look for; empty for everything if there are words, else for what is of the parts' own kind.
        weight: gives the weight of (part, space, modality).
        hear: for the words of audio parts; None leaves them out.

    Raises:
        QueryError: no space can be asked with any part for any of the modalities.
        DecodeError: a file of the query can't be decoded.
    """
    asked: dict[str, Modality] = {part: part for part in parts}
    payloads: dict[tuple[str, Payload], object] = {}
    if "text" in parts:
        payloads["text", "text"] = parts["text"]
    if "audio" in parts:
        payloads["audio", "audio"] = sound = file_payload(parts["audio"], "audio")
        if hear is not None and isinstance(sound, Waveform) and (words := hear(sound)):
            asked["speech"] = "text"
            payloads["speech", "text"] = words
    targets = list(modalities) or (list(MODALITIES) if "text" in parts else list(dict.fromkeys(asked.values())))
    channels: list[Channel] = []
    for name, modality_asked in asked.items():
        for space in spaces:
            encoder = space.query_encoder(modality_asked)
            if name == "audio" and space.speech_only and "speech" not in asked:
                continue
            wanted = [
                modality
                for modality in targets
                if modality in space.encoders
                and weight(name, space.name, modality) > 0
                and (name != "speech" or modality in ("text", "audio"))
            ]
            if encoder is None or not wanted:
                continue
            if (name, encoder.payload) not in payloads:  # a mesh may be asked with its views and with its geometry
                payloads[name, encoder.payload] = file_payload(parts[modality_asked], encoder.payload)
            vector = _encode_one(encoder, payloads[name, encoder.payload])
            channels += [
                Channel(name, modality_asked, space, target, vector, weight(name, space.name, target)) for target in wanted
            ]
    if not channels:
        raise QueryError(
            f"A query of {', '.join(parts)} can't find {', '.join(targets)} in the spaces "
            f"{', '.join(space.name for space in spaces) or '(none)'}. Use a preset that has a space for both."
        )
    return channels


def _encode_one(encoder: Encoder, payload: object) -> Vectors:
    vector: Vectors = encoder.encode([payload], query=True)[0]
    return vector
