"""Encoders and a preset without weights, for tests of what is built on this package.

They are made of hashes and simple counts: the same input gives the same vector in every process and on every machine. Texts
are alike that share words, pictures that share colours, recordings that share pitch. Nothing is understood.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, Payload, fingerprint
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.media import Waveform
from llama_index_mm.presets import Preset

__all__ = ["HashingEncoder", "tiny_preset"]

_LEVELS = 4  # of each colour channel
_BANDS = 16  # of equal width on a logarithmic scale of frequency
_LOWEST = 40.0  # Hz, where the first band begins


class HashingEncoder(Encoder):
    """Weighs what occurs in an item, gives each such thing a vector by its hash, and adds them up.

    What occurs in a text are its lower-case words, in a picture colours of four levels a channel, in a recording sixteen bands
    of frequency, weighed by the square root of their energy. The views of a mesh are the mean of their pictures.

    Args:
        payload: kind of item it takes.
        dimension: length of a vector.

    Example:
        >>> HashingEncoder("text").encode(["a red chair"]).shape
        (1, 32)
    """

    def __init__(self, payload: Payload, dimension: int = 32) -> None:
        self.payload = payload
        self.dimension = dimension
        self.fingerprint = fingerprint("hashing", 1, payload, dimension)

    def _encode(self, items: Sequence[Any], *, query: bool) -> NDArray[Any]:
        if self.payload == "views":
            return ViewsEncoder(HashingEncoder("image", self.dimension)).encode(items, query=query)
        return np.stack([self._sum(_COUNTS[self.payload](item)) for item in items])

    def _sum(self, counts: Mapping[str, float]) -> NDArray[np.float64]:
        vector = np.zeros(self.dimension)
        for token, count in counts.items():
            noise = hashlib.shake_256(f"{self.payload} {token}".encode()).digest(2 * self.dimension)
            vector += count * (np.frombuffer(noise, dtype="<u2") / 0x8000 - 1)
        return vector


def _words(text: str) -> Mapping[str, float]:
    return Counter(re.findall(r"\w+", text.lower())) or {text: 1.0}


def _colours(image: Image.Image) -> Mapping[str, float]:
    levels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(np.int64) * _LEVELS // 256
    bins, counts = np.unique(levels @ [_LEVELS * _LEVELS, _LEVELS, 1], return_counts=True)
    return {str(colour): float(count) for colour, count in zip(bins, counts, strict=True)}


def _bands(sound: Waveform) -> Mapping[str, float]:
    power = np.abs(np.fft.rfft(sound.samples)) ** 2 if len(sound.samples) else np.zeros(1)
    hertz = np.fft.rfftfreq(max(1, len(sound.samples)), 1 / sound.rate)
    edges = np.geomspace(_LOWEST, sound.rate / 2, _BANDS)
    energy = np.bincount(np.digitize(hertz, edges), weights=power, minlength=_BANDS + 1)
    heard = {str(band): float(np.sqrt(value)) for band, value in enumerate(energy) if value > 1e-9}
    return heard or {"silence": 1.0}


_COUNTS: Mapping[str, Any] = {"text": _words, "image": _colours, "audio": _bands}


def tiny_preset(name: str = "tiny") -> Preset:
    """A preset of three spaces that runs without weights, and without a transcriber, labels and an LLM.

    Spaces:
        text: texts, and the text of pictures, recordings and meshes.
        picture: pictures and mesh views by their colours.
        sound: recordings by their pitch.

    Args:
        name: of the preset, as it is noted in an index.

    Example:
        >>> index = MultiModalIndex.from_documents([Document(text="The tide comes in.")], preset=tiny_preset())
    """
    text, picture = HashingEncoder("text"), HashingEncoder("image")
    return Preset(
        name=name,
        spaces=(
            EmbeddingSpace("text", {"text": text, "audio": text, "image": text, "mesh": text}),
            EmbeddingSpace("picture", {"image": picture, "mesh": ViewsEncoder(picture)}),
            EmbeddingSpace("sound", {"audio": HashingEncoder("audio")}),
        ),
    )
