"""Files and bytes to a mono waveform at 16 kHz, by PyAV."""

import io
import math
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.errors import DecodeError
from llama_index_mm.media.files import check_readable
from llama_index_mm.media.limits import LIMITS, MediaLimits

__all__ = ["SAMPLE_RATE", "Waveform", "load_audio", "wav_bytes"]

SAMPLE_RATE = 16_000  # samples a second, what every encoder of sound here takes


@dataclass(frozen=True)
class Waveform:
    """A mono recording.

    Attributes:
        samples: ``(n,)`` float32 in [-1, 1].
        rate: samples a second.
    """

    samples: NDArray[np.float32]
    rate: int = SAMPLE_RATE

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate

    def cut(self, start: float | None, end: float | None) -> "Waveform":
        """Give the part from ``start`` to ``end`` seconds; ``None`` stands for the beginning or the end."""
        first = 0 if start is None else max(0, round(start * self.rate))
        last = len(self.samples) if end is None else max(0, round(end * self.rate))
        return Waveform(self.samples[first:last], self.rate)


def load_audio(
    source: Path | str | bytes, *, start: float | None = None, end: float | None = None, limits: MediaLimits = LIMITS
) -> Waveform:
    """Decode the first sound track of a file to mono at 16 kHz.

    Args:
        source: a path, or the encoded bytes. Video files give their sound.
        start: first second to keep; ``None`` for the beginning.
        end: second to stop at; ``None`` for the end.
        limits: on bytes and seconds (an hour decoded takes 230 MB).

    Raises:
        DecodeError: the file is missing, empty, broken, has no sound, is beyond the limits, or the span is
            empty.
        MissingExtraError: PyAV is not installed.
    """
    av: Any = require("av", extra="audio")
    if isinstance(source, bytes):
        name, opened = "the sound given as bytes", io.BytesIO(source)
    else:
        path = Path(source)
        check_readable(path, limits)
        name, opened = path.name, io.BytesIO(path.read_bytes())
    try:
        chunks = list(_decode(av, opened, end, limits))
    except DecodeError as error:
        raise DecodeError(f"{name} {error}") from error
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DecodeError(f"{name} can't be decoded as sound: {reason}. Is it complete, and what its name says?") from error
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    if not np.isfinite(samples).all():
        raise DecodeError(f"{name} has samples that are not finite numbers.")
    np.clip(samples, -1, 1, out=samples)  # files of floats may hold more, and resampling overshoots
    cut = Waveform(samples).cut(start, end)
    if not len(cut.samples):
        raise DecodeError(f"{name} holds no sound{'' if start is None else f' after {start:g} s'}.")
    return cut


def _decode(av: Any, opened: io.BytesIO, end: float | None, limits: MediaLimits) -> Iterator[NDArray[np.float32]]:
    """Yield float32 chunks at 16 kHz up to ``end`` seconds."""
    stop = math.inf if end is None else end * SAMPLE_RATE
    done = 0
    with av.open(opened, metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise DecodeError("has no sound track.")
        resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)  # FFmpeg's own way to mono adds 3 dB
        frames = container.decode(container.streams.audio[0])
        for frame in frames:
            for out in resampler.resample(frame):
                chunk = _mono(out)
                done += len(chunk)
                yield chunk
            if done > limits.seconds * SAMPLE_RATE:
                raise DecodeError(f"is longer than {limits.seconds / 3600:g} hours. Cut it into parts.")
            if done >= stop:
                return
        for out in resampler.resample(None):
            yield _mono(out)


def _mono(frame: Any) -> NDArray[np.float32]:
    """Mean of the channels of a planar frame."""
    mean: NDArray[np.float32] = frame.to_ndarray().mean(0, dtype=np.float32)
    return mean


def wav_bytes(sound: Waveform) -> bytes:
    """Encode as 16-bit mono WAV, which every browser and every LLM that hears can take."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes((np.clip(sound.samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
