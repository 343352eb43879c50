"""Who speaks: a GE2E voice encoder (Wan et al. 2018) with the weights that Resemblyzer ships."""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class _Parts(NamedTuple):
    """The loaded network with what feeds it."""

    torch: Any
    network: Any
    filters: Any


class SpeakerEncoder(Encoder):
    """Voice of a speech recording, ``(256,)``: the mean over parts of 1.6 seconds, with silences left out."""

    payload: Payload = "audio"
    dimension = 256
    batch_size = 1

    def __init__(self) -> None:
        self.fingerprint = fingerprint("ge2e", MODELS["speaker"].version, _MELS, _PARTIAL, _STEP)
        self._lock = threading.Lock()
        self._parts: _Parts | None = None

    def _encode(self, items: Sequence[Waveform], *, query: bool) -> NDArray[Any]:
        parts = self._load()
        with parts.torch.inference_mode():
            return np.stack([_voice(parts, sound) for sound in items])

    def release(self) -> None:
        """Free the memory of the network; it is loaded again when it is next needed."""
        with self._lock:
            self._parts = None

    def _load(self) -> _Parts:
        torch: Any = require("torch", extra="offline")
        with self._lock:
            if self._parts is None:
                state = torch.load(ensure("speaker") / "weights.pt", map_location="cpu", weights_only=True)["model_state"]
                network = torch.nn.ModuleDict(
                    {
                        "lstm": torch.nn.LSTM(_MELS, self.dimension, 3, batch_first=True),
                        "linear": torch.nn.Linear(self.dimension, self.dimension),
                    }
                )
                network.load_state_dict({k: v for k, v in state.items() if k.startswith(("lstm", "linear"))})
                features: Any = require("faster_whisper.feature_extractor", extra="audio").FeatureExtractor
                filters = torch.from_numpy(features.get_mel_filters(SAMPLE_RATE, _WINDOW, n_mels=_MELS)).float()
                self._parts = _Parts(torch, network.eval(), filters)
            return self._parts


def _voice(parts: _Parts, sound: Waveform) -> NDArray[np.float32]:
    torch = parts.torch
    frames = _mel(parts, _speech_only(sound))
    if len(frames) < _PARTIAL:
        frames = torch.nn.functional.pad(frames, (0, 0, 0, _PARTIAL - len(frames)))
    starts = range(0, len(frames) - _PARTIAL + 1, _STEP)
    cuts = torch.stack([frames[start : start + _PARTIAL] for start in starts])
    # Always the same number at once: oneDNN prepares an LSTM anew, for a second, whenever the batch has another size.
    filled = torch.nn.functional.pad(cuts, (0, 0, 0, 0, 0, -len(cuts) % _AT_ONCE))
    hidden = torch.cat([parts.network["lstm"](batch)[1][0][-1] for batch in filled.split(_AT_ONCE)])[: len(cuts)]
    raw = torch.relu(parts.network["linear"](hidden))
    voices = torch.nn.functional.normalize(raw, dim=1)
    mean: NDArray[np.float32] = voices.mean(0).numpy()
    return mean


def _mel(parts: _Parts, samples: NDArray[np.float32]) -> Any:
    """Power mel spectrogram, ``(frames, 40)``; not logarithmic, as the network was trained."""
    torch = parts.torch
    spectrum = torch.stft(
        torch.from_numpy(samples),
        _WINDOW,
        _HOP,
        window=torch.hann_window(_WINDOW),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    return (parts.filters @ spectrum.abs().square()).T.contiguous()


def _speech_only(sound: Waveform) -> NDArray[np.float32]:
    """Samples in which somebody speaks (all of them if nobody does), raised to -30 dB if quieter."""
    spans = speech_spans(sound)
    samples = np.concatenate([sound.cut(start, end).samples for start, end in spans]) if spans else sound.samples
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    loudness = 10 * np.log10(power) if power > 0 else -np.inf
    if -np.inf < loudness < _LOUDNESS:
        samples = samples * np.float32(10 ** ((_LOUDNESS - loudness) / 20))
    return np.ascontiguousarray(samples, dtype=np.float32)
