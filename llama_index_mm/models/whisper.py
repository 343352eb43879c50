"""One Whisper in memory for all that need it: transcripts and sound vectors."""

import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.media import SAMPLE_RATE, Waveform
from llama_index_mm.models.whisper_files import whisper_error, whisper_folder

__all__ = ["WINDOW_SECONDS", "encode_window", "load_whisper", "release_whisper", "speech_spans"]

# Whisper was trained on 30 seconds, most of it silence behind short clips. 10 seconds tell sounds apart as well
# (ESC-10 nearest neighbour 0.84 either way) in a third of the time.
WINDOW_SECONDS = 10.0
_FRAMES = 1000  # mel frames of a window, 100 a second
_FRAMES_PER_SECOND = 50  # of the encoder's output
_LOCK = threading.Lock()


def load_whisper(model: str | Path | None = None, *, device: str = "cpu") -> Any:
    """Give the ``faster_whisper.WhisperModel``, loaded once per process (8-bit weights on the CPU).

    Args:
        model: a folder with a CTranslate2 model, a hub id, or a name of faster-whisper's; default is Whisper base of the
            ``offline`` preset.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA where there is any.

    Raises:
        ModelError: the hub can't be reached, or the folder holds no such model.
        MissingExtraError: faster-whisper is not installed.
    """
    with _LOCK:
        return _load(whisper_folder(model), device)


@lru_cache(maxsize=1)
def _load(folder: Path, device: str) -> Any:
    faster_whisper: Any = require("faster_whisper", extra="audio")
    kind = "int8" if device == "cpu" else "auto"
    try:
        return faster_whisper.WhisperModel(str(folder), device=device, compute_type=kind, local_files_only=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise whisper_error(folder, str(error)) from error


def release_whisper() -> None:
    """Free the memory of the model, once nobody works with it; it is loaded again when it is next needed."""
    with _LOCK:
        _load.cache_clear()


def encode_window(model: Any, sound: Waveform) -> NDArray[np.float32]:
    """Run the encoder over at most 10 seconds.

    Returns:
        ``(frames, width)`` float32: 50 frames a second, those of the sound alone, not of the padding behind it.
    """
    require("faster_whisper", extra="audio")
    from faster_whisper.audio import pad_or_trim

    samples = sound.samples[: int(WINDOW_SECONDS * SAMPLE_RATE)]
    features = pad_or_trim(model.feature_extractor(samples), _FRAMES)
    states = np.array(model.encode(features), dtype=np.float32)[0]
    frames = max(1, min(len(states), round(len(samples) / SAMPLE_RATE * _FRAMES_PER_SECOND)))
    return np.ascontiguousarray(states[:frames])


def speech_spans(sound: Waveform) -> list[tuple[float, float]]:
    """Find where somebody speaks, by Silero's voice activity detector.

    Returns:
        ``(start, end)`` in seconds, in order; empty where nobody speaks.
    """
    vad: Any = require("faster_whisper.vad", extra="audio")
    options = vad.VadOptions(min_silence_duration_ms=500, speech_pad_ms=200)
    found = vad.get_speech_timestamps(sound.samples, options, sampling_rate=SAMPLE_RATE)
    return [(span["start"] / SAMPLE_RATE, span["end"] / SAMPLE_RATE) for span in found]
