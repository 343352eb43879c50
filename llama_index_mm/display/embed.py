"""Media as data URIs, small enough for a page, and together within a bound."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_index_mm._optional import require
from llama_index_mm.display.solid import Solid, pack, simplify
from llama_index_mm.errors import MultiModalError
from llama_index_mm.media import (
    MediaLimits,
    Waveform,
    contact_sheet,
    image_bytes,
    load_audio,
    load_image,
    load_mesh,
    render_views,
    wav_bytes,
)
from llama_index_mm.media.files import check_readable

__all__ = ["LONGEST", "TROUBLE", "Clip", "Embedder", "OverBudget"]

LONGEST = 640  # pixels of the longest side of an embedded picture
TROUBLE = (MultiModalError, OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)
"""What a broken file, or metadata that is not what it should be, can raise."""

_BIT_RATE = 48_000  # bits a second of embedded MP3; plenty for 16 kHz mono
_CHUNK_SECONDS = 60  # of sound given to the encoder at a time
_TURNED = MediaLimits(file_bytes=100 << 20, faces=2_000_000)  # of meshes that can be turned; the rest are pictures


class OverBudget(Exception):  # noqa: N818 - an answer, not an error
    """The page has no room left for this piece of media."""


@dataclass(frozen=True)
class Clip:
    """Sound in a page.

    Attributes:
        uri: data URI.
        seconds: length of what is embedded.
    """

    uri: str
    seconds: float


class Embedder:
    """Turns media files into data URIs. They are always encoded anew, so nothing but pictures and sound gets into a page.

    Every method raises `OverBudget` if the piece no longer fits, or one of `TROUBLE` if there is something wrong with it.

    Args:
        max_bytes: bound on the characters of all data URIs and meshes together.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._left = max_bytes
        self._made: dict[tuple[object, ...], Clip] = {}
        self._solids: dict[Path, Solid] = {}

    def picture(self, path: Path, *, longest: int = LONGEST) -> str:
        """A picture as JPEG, scaled down to ``longest`` pixels."""
        self._check(path)
        made = self._made.get((path, longest))
        return self._spend((path, longest), made or _jpeg(image_bytes(load_image(path), longest=longest))).uri

    def mesh(self, path: Path, views: Path | None, *, longest: int = LONGEST) -> str:
        """Six views of a mesh: the sheet that was rendered before if it is there, else a new one."""
        if views is not None and views.is_file():
            return self.picture(views, longest=longest)
        self._check(path)
        made = self._made.get((path, longest))
        if made is None:
            sheet = contact_sheet(render_views(load_mesh(path)))
            made = _jpeg(image_bytes(sheet, longest=longest))
        return self._spend((path, longest), made).uri

    def solid(self, path: Path) -> Solid:
        """A mesh to turn, of at most 8,000 faces."""
        self._check(path)
        made = self._solids.get(path)
        if made is None:
            made = pack(simplify(load_mesh(path, limits=_TURNED)))
        if len(made.data) > self._left:
            raise OverBudget
        self._left -= len(made.data)
        self._solids[path] = made
        return made

    def sound(self, path: Path, start: float | None = None, end: float | None = None) -> Clip:
        """The span from ``start`` to ``end`` seconds, as MP3, or WAV where PyAV comes without an encoder for that."""
        self._check(path)
        if end is not None:
            self._expect(end - (start or 0.0))  # before an hour is decoded in vain
        made = self._made.get((path, start, end))
        if made is None:
            sound = load_audio(path, start=start, end=end)
            self._expect(sound.seconds)
            made = Clip(_encode_sound(sound), sound.seconds)
        return self._spend((path, start, end), made)

    def _check(self, path: Path) -> None:
        check_readable(path)
        if self._left <= 0:
            raise OverBudget

    def _expect(self, seconds: float) -> None:
        if seconds * _BIT_RATE / 8 * 4 / 3 > self._left:
            raise OverBudget

    def _spend(self, key: tuple[object, ...], made: Clip) -> Clip:
        if len(made.uri) > self._left:
            raise OverBudget
        self._left -= len(made.uri)
        self._made[key] = made
        return made


def _jpeg(data: bytes) -> Clip:
    return Clip(_uri("image/jpeg", data), 0.0)


def _encode_sound(sound: Waveform) -> str:
    av: Any = require("av", extra="audio")
    if "libmp3lame" not in av.codecs_available:
        return _uri("audio/wav", wav_bytes(sound))
    opened = io.BytesIO()
    with av.open(opened, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=sound.rate, layout="mono", bit_rate=_BIT_RATE)
        step = _CHUNK_SECONDS * sound.rate
        for first in range(0, len(sound.samples), step):
            chunk = np.clip(sound.samples[first : first + step], -1, 1) * 32767
            frame = av.AudioFrame.from_ndarray(chunk.astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = sound.rate
            frame.pts = first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return _uri("audio/mpeg", opened.getvalue())


def _uri(mimetype: str, data: bytes) -> str:
    return f"data:{mimetype};base64,{base64.b64encode(data).decode('ascii')}"
