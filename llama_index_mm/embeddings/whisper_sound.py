"""The sound of audio, by Whisper's encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Encoder, Payload, fingerprint
from llama_index_mm.media import Waveform
from llama_index_mm.models.whisper import WINDOW_SECONDS, encode_window, load_whisper, release_whisper
from llama_index_mm.models.whisper_files import whisper_identity

__all__ = ["WhisperSoundEncoder"]

_WIDTH = 512  # of Whisper base


class WhisperSoundEncoder(Encoder):
    """Mean over time of Whisper base's encoder states: what kind of sound it is, and whose voice.

    Longer recordings are encoded in windows of 10 seconds; the mean is over all their frames.

    Args:
        folder: a CTranslate2 Whisper model of width 512; default is Whisper base of the ``offline`` preset.

    Raises:
        ModelError: there is no such folder, or it has no weights.
    """

    payload: Payload = "audio"
    dimension = _WIDTH
    batch_size = 1

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self.fingerprint = fingerprint("whisper-encoder-mean", whisper_identity(folder), _WIDTH)

    def release(self) -> None:
        """Free the memory of Whisper, which transcripts share; it is loaded again when it is next needed."""
        release_whisper()

    def _encode(self, items: Sequence[Waveform], *, query: bool) -> NDArray[Any]:
        model = load_whisper(self._folder)
        return np.stack([self._mean(model, sound) for sound in items])

    def _mean(self, model: Any, sound: Waveform) -> NDArray[np.float32]:
        total = np.zeros(self.dimension, dtype=np.float64)
        frames = 0
        start = 0.0
        while start < sound.seconds:
            states = encode_window(model, sound.cut(start, start + WINDOW_SECONDS))
            total += states.sum(0, dtype=np.float64)
            frames += len(states)
            start += WINDOW_SECONDS
        return (total / max(frames, 1)).astype(np.float32)
