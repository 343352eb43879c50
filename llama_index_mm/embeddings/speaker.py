"""Who speaks: a GE2E voice encoder (Wan et al. 2018) with the weights that Resemblyzer ships."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import Encoder, Payload, fingerprint
from llama_index_mm.media import SAMPLE_RATE, Waveform
from llama_index_mm.models import MODELS, ensure
from llama_index_mm.models.whisper import speech_spans

__all__ = ["SpeakerEncoder"]

_MELS = 40
_WINDOW = 400  # samples of the Fourier window: 25 ms
_HOP = 160  # samples between frames: 10 ms
_PARTIAL = 160  # frames that the network sees at once: 1.6 s
_STEP = 77  # frames between two such parts
_AT_ONCE = 8  # parts in one call of the network
_LOUDNESS = -30.0  # dB below full scale that quiet speech is raised to


class SpeakerEncoder(Encoder):
    """Voice of a speech recording, ``(256,)``: the mean over parts of 1.6 seconds, with silences left out."""

    payload: Payload = "audio"
    dimension = 256
    batch_size = 1

    def __init__(self) -> None:
        self.fingerprint = fingerprint("ge2e", MODELS["speaker"].version, _MELS, _PARTIAL, _STEP)
        self._lock = threading.Lock()
        self._network: Any = None
        self._filters: Any = None

    def _encode(self, items: Sequence[Waveform], *, query: bool) -> NDArray[Any]:
        torch = self._load()
        with torch.inference_mode():
            return np.stack([self._voice(torch, sound) for sound in items])

    def _load(self) -> Any:
        torch: Any = require("torch", extra="offline")
        with self._lock:
            if self._network is None:
                state = torch.load(ensure("speaker") / "weights.pt", map_location="cpu", weights_only=True)["model_state"]
                network = torch.nn.ModuleDict(
                    {
                        "lstm": torch.nn.LSTM(_MELS, self.dimension, 3, batch_first=True),
                        "linear": torch.nn.Linear(self.dimension, self.dimension),
                    }
                )
                network.load_state_dict({k: v for k, v in state.items() if k.startswith(("lstm", "linear"))})
                features: Any = require("faster_whisper.feature_extractor", extra="audio").FeatureExtractor
                self._filters = torch.from_numpy(features.get_mel_filters(SAMPLE_RATE, _WINDOW, n_mels=_MELS)).float()
                self._network = network.eval()
        return torch

    def _voice(self, torch: Any, sound: Waveform) -> NDArray[np.float32]:
        frames = self._mel(torch, _speech_only(sound))
        if len(frames) < _PARTIAL:
            frames = torch.nn.functional.pad(frames, (0, 0, 0, _PARTIAL - len(frames)))
        starts = range(0, len(frames) - _PARTIAL + 1, _STEP)
        parts = torch.stack([frames[start : start + _PARTIAL] for start in starts])
        # Always the same number at once: oneDNN prepares an LSTM anew, for a second, whenever the batch has another size.
        filled = torch.nn.functional.pad(parts, (0, 0, 0, 0, 0, -len(parts) % _AT_ONCE))
        hidden = torch.cat([self._network["lstm"](batch)[1][0][-1] for batch in filled.split(_AT_ONCE)])[: len(parts)]
        raw = torch.relu(self._network["linear"](hidden))
        voices = torch.nn.functional.normalize(raw, dim=1)
        mean: NDArray[np.float32] = voices.mean(0).numpy()
        return mean

    def _mel(self, torch: Any, samples: NDArray[np.float32]) -> Any:
        """Power mel spectrogram, ``(frames, 40)``; not logarithmic, as the network was trained."""
        window = torch.hann_window(_WINDOW)
        spectrum = torch.stft(
            torch.from_numpy(samples),
            _WINDOW,
            _HOP,
            window=window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return (self._filters @ spectrum.abs().square()).T.contiguous()


def _speech_only(sound: Waveform) -> NDArray[np.float32]:
    """Samples in which somebody speaks (all of them if nobody does), raised to -30 dB if quieter."""
    spans = speech_spans(sound)
    samples = np.concatenate([sound.cut(start, end).samples for start, end in spans]) if spans else sound.samples
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    loudness = 10 * np.log10(power) if power > 0 else -np.inf
    if -np.inf < loudness < _LOUDNESS:
        samples = samples * np.float32(10 ** ((_LOUDNESS - loudness) / 20))
    return np.ascontiguousarray(samples, dtype=np.float32)
