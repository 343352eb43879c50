"""Speech models that read the waveform (wav2vec 2.0, HuBERT, WavLM), by transformers.

Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", NeurIPS 2020,
arXiv:2006.11477. Hsu et al., "HuBERT", 2021, arXiv:2106.07447. Chen et al., "WavLM", 2022, arXiv:2110.13900.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import Encoder, Payload, fingerprint
from llama_index_mm.embeddings.hub import (
    Batches,
    HeldModel,
    load_config,
    load_model,
    load_processor,
    weights_fingerprint,
)
from llama_index_mm.errors import EncodeError, ModelError
from llama_index_mm.media import SAMPLE_RATE, Waveform

__all__ = ["WINDOW_SECONDS", "Wav2Vec2Encoder"]

WINDOW_SECONDS = 30
_KINDS = ("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
_UNUSED = ("masked_spec_embed",)  # stands in for masked frames while training


class _Parts(NamedTuple):
    """A loaded model with what feeds it."""

    model: Any
    extractor: Any


class Wav2Vec2Encoder(HeldModel, Encoder):
    """Sound to the mean of a speech model's last hidden frames.

    A long recording is cut into windows of 30 s, and the windows' means are averaged by their length. Only windows of
    equal length go through the model together, without padding or masks: models with ``feat_extract_norm == "group"``
    were not trained with masks, and padding would change their vectors. A recording shorter than the model's receptive
    field (400 samples, 25 ms) is filled up with silence.

    The weights are loaded by the first `encode`; the config is read, and a local folder digested, on construction. Safe
    to use from several threads.

    Args:
        model: hub id of a wav2vec 2.0, HuBERT or WavLM model, or path of a local folder.
        revision: branch, tag or commit on the hub.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``; the best there is if not given.
        dtype: name of the torch dtype to compute in.
        batch_size: windows that go through the model at once; halved where the accelerator's memory is too small for them.

    Raises:
        ModelError: the config can't be read or is of another kind of model; at first use, the weights can't be loaded.
        MissingExtraError: torch or transformers is not installed.
    """

    payload: Payload = "audio"

    def __init__(
        self,
        model: str = "facebook/wav2vec2-base",
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int = 4,
    ) -> None:
        self.model_name = model
        self.revision = revision
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        config = load_config(model, revision=revision, kinds=_KINDS)
        adapted = getattr(config, "add_adapter", False)
        self.dimension = int(config.output_hidden_size if adapted else config.hidden_size)
        self.fingerprint = fingerprint(
            "wav2vec2", weights_fingerprint(model, revision, config), dtype, f"mean of {WINDOW_SECONDS} s windows"
        )
        self._shortest = _receptive_field(config.conv_kernel, config.conv_stride)
        self._parts: _Parts | None = None
        self._batches = Batches()

    def _encode(self, items: Sequence[Waveform], *, query: bool) -> NDArray[np.float64]:
        windows: list[NDArray[np.float32]] = []
        of: list[int] = []  # the item of each window
        weights: list[int] = []  # samples of each window
        for number, item in enumerate(items):
            for samples in _windows(item):
                of.append(number)
                weights.append(len(samples))
                windows.append(np.pad(samples, (0, max(0, self._shortest - len(samples)))))
        sums = np.zeros((len(items), self.dimension))
        np.add.at(sums, of, self._means(windows) * np.asarray(weights)[:, None])
        return sums / np.bincount(of, weights)[:, None]

    def _means(self, windows: list[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Mean hidden frame of each window, ``(len(windows), dimension)``."""
        by_length = defaultdict(list)
        for number, samples in enumerate(windows):
            by_length[len(samples)].append(number)
        means = np.empty((len(windows), self.dimension))
        for numbers in by_length.values():
            alike = (windows[number] for number in numbers)
            means[numbers] = np.concatenate(list(self._batches.run(alike, self.batch_size, self._forward)))
        return means

    def _forward(self, windows: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Mean hidden frame of windows that all have the same length."""
        torch: Any = require("torch", extra="hub")
        model, extractor = self._load()
        fed = extractor(windows, sampling_rate=SAMPLE_RATE, return_attention_mask=False, return_tensors="np")
        values = torch.from_numpy(np.asarray(fed["input_values"], np.float32)).to(model.device, model.dtype)
        with torch.inference_mode():
            means: NDArray[np.float32] = model(values).last_hidden_state.float().mean(1).cpu().numpy()
        return means

    def _read(self) -> _Parts:
        extractor = load_processor("AutoFeatureExtractor", self.model_name, revision=self.revision)
        if extractor.sampling_rate != SAMPLE_RATE:
            raise ModelError(
                f"{self.model_name} takes {extractor.sampling_rate} samples a second; {SAMPLE_RATE} are needed. Take a model "
                "of speech at 16 kHz."
            )
        model = load_model(self.model_name, revision=self.revision, device=self.device, dtype=self.dtype, unused=_UNUSED)
        return _Parts(model, extractor)


def _windows(sound: Waveform) -> list[NDArray[np.float32]]:
    if sound.rate != SAMPLE_RATE:
        raise EncodeError(f"Expected {SAMPLE_RATE} samples a second, got {sound.rate}. Decode it with load_audio.")
    if not len(sound.samples):
        raise EncodeError("Expected a recording, got one without a sample.")
    size = WINDOW_SECONDS * SAMPLE_RATE
    return [sound.samples[at : at + size] for at in range(0, len(sound.samples), size)]


def _receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that the convolutions need for one frame."""
    field, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * step
        step *= stride
    return field
