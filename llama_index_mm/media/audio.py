"""Files and bytes to a mono waveform at 16 kHz, by PyAV."""

import io
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.errors import DecodeError
from llama_index_mm.media.files import check_readable
from llama_index_mm.media.formats import CODECS, DEMUXERS, content_of
from llama_index_mm.media.limits import LIMITS, MediaLimits
from llama_index_mm.media.regular import open_regular

__all__ = ["SAMPLE_RATE", "Waveform", "load_audio", "wav_bytes"]

SAMPLE_RATE = 16_000  # samples a second, what every encoder of sound here takes

_RATES = (1_000, 1_000_000)  # samples a second that are taken: from heartbeats to bats
_CHANNELS = 64  # the most that FFmpeg resamples
_FRAME_SAMPLES = 1 << 20  # of one packet and channel: the longest frames of a second at the highest rate
_BUFFER = 1 << 16  # bytes read at a time
_BROKEN_IN_A_ROW = 100  # packets, after which a file that gave nothing is given up


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

    The content tells the format, not the name. Only what lies in the span is kept in memory. Broken packets are passed over,
    as players do, where most are whole.

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
        return _load(av, io.BytesIO(source), "the sound given as bytes", start, end, limits)
    path = Path(source)
    check_readable(path, limits)
    with open_regular(path) as file:
        return _load(av, file, path.name, start, end, limits)


def _load(av: Any, file: IO[bytes], name: str, start: float | None, end: float | None, limits: MediaLimits) -> Waveform:
    head = file.read(512)
    file.seek(0)
    try:
        sound = _collect(_decode(av, file), start, end, limits)
    except DecodeError as error:
        raise DecodeError(f"{name} {error}") from error
    except (av.FFmpegError, ValueError, IndexError, _AnotherFileError) as error:  # IndexError: a track that PyAV didn't expect
        content = content_of(head)
        seems = f" It seems to hold {content}." if content else ""
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise DecodeError(
            f"{name} can't be decoded as sound: {reason}.{seems} Is it complete, and what its name says?"
        ) from error
    if not len(sound.samples):
        raise DecodeError(f"{name} holds no sound{'' if start is None else f' after {start:g} s'}.")
    return sound


def _collect(chunks: Iterator[NDArray[np.float32]], start: float | None, end: float | None, limits: MediaLimits) -> Waveform:
    """Keep what lies in the span of chunks at 16 kHz, in one buffer that grows; stop where it ends."""
    first = 0 if start is None else max(0, round(start * SAMPLE_RATE))
    last = sys.maxsize if end is None else max(0, round(end * SAMPLE_RATE))
    kept = bytearray()
    done = 0
    for chunk in chunks:
        if not np.isfinite(chunk).all():
            raise DecodeError("has samples that are not finite numbers.")
        part = chunk[max(0, first - done) : max(0, last - done)]
        kept += np.clip(part, -1, 1).tobytes()  # files of floats may hold more, and resampling overshoots
        done += len(chunk)
        if done >= last:
            break
        if done > limits.seconds * SAMPLE_RATE:
            raise DecodeError(
                f"is longer than {limits.seconds:,.0f} s, which is the limit (MediaLimits.seconds). Cut it into parts."
            )
    return Waveform(np.frombuffer(kept, np.float32))


class _AnotherFileError(Exception):
    """A file asked for another one."""


def _refuse(*_: object) -> None:
    raise _AnotherFileError("it asks for another file or address, and no such is opened")


class _Nameless:
    """A file that tells FFmpeg no name, which could be read as an address."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


# Demuxers that read one file; no protocol by which another could be reached; no decoders of video, which are not needed.
_OPTIONS = {
    "format_whitelist": ",".join(DEMUXERS),
    "protocol_whitelist": "none",
    "codec_whitelist": ",".join(sorted(CODECS)),
}


def _decode(av: Any, file: IO[bytes]) -> Iterator[NDArray[np.float32]]:
    """Yield mono chunks at 16 kHz."""
    with av.open(
        _Nameless(file), container_options=_OPTIONS, metadata_errors="ignore", io_open=_refuse, buffer_size=_BUFFER
    ) as container:
        if not container.streams.audio:
            raise DecodeError("has no sound track.")
        track = container.streams.audio[0]
        coder = track.codec_context
        if coder is None or coder.codec.name not in CODECS:
            coded = "in an unknown way" if coder is None else f"as {coder.codec.name}"
            raise DecodeError(f"has sound that is coded {coded}, for which there is no decoder here. Convert it to WAV.")
        coder.options = {"max_samples": str(_FRAME_SAMPLES)}
        resampler: Any = None
        form = None
        for frame in _frames(av, container.demux(track)):
            if (frame.format.name, frame.layout.name, frame.sample_rate) != form:  # recordings in a row may differ
                if resampler is not None:
                    yield from _mono(resampler.resample(None))
                _check(frame)
                form = frame.format.name, frame.layout.name, frame.sample_rate
                resampler = av.AudioResampler(format="flt", rate=SAMPLE_RATE)  # FFmpeg's own way to mono adds 3 dB
            frame.pts = None  # samples follow each other, whatever their clock says
            yield from _mono(resampler.resample(frame))
        if resampler is not None:
            yield from _mono(resampler.resample(None))


def _frames(av: Any, packets: Iterator[Any]) -> Iterator[Any]:
    """Decode packets, past those that are broken.

    Raises:
        DecodeError: more than half are broken.
    """
    whole = broken = 0
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            frames = packet.decode()
        except av.InvalidDataError:
            broken += 1
            if broken > _BROKEN_IN_A_ROW + whole:
                break
            continue
        whole += 1
        yield from frames
    if broken > whole // 2:
        raise DecodeError(f"is broken: {broken} of its {broken + whole} packets can't be decoded. Is it what its name says?")


def _check(frame: Any) -> None:
    """Refuse what no recording has, before it is resampled: one second at 1 Hz becomes 16,000 samples."""
    if not _RATES[0] <= frame.sample_rate <= _RATES[1]:
        raise DecodeError(f"has {frame.sample_rate:,} samples a second; from {_RATES[0]:,} to {_RATES[1]:,} are taken.")
    if len(frame.layout.channels) > _CHANNELS:
        raise DecodeError(f"has {len(frame.layout.channels)} channels; at most {_CHANNELS} are taken.")


def _mono(frames: list[Any]) -> Iterator[NDArray[np.float32]]:
    """Mean of the channels of each packed frame."""
    for frame in frames:  # PyAV's to_ndarray reads past the end of planar ones that have 8 channels or more
        yield frame.to_ndarray().reshape(frame.samples, -1).mean(1, dtype=np.float32)


def wav_bytes(sound: Waveform) -> bytes:
    """Encode as 16-bit mono WAV, which every browser and every LLM that hears can take."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes((np.clip(sound.samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
