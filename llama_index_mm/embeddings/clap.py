"""CLAP: sounds and short texts in one space, by transformers; the way to ask for a sound in words.

Wu et al., "Large-Scale Contrastive Language-Audio Pretraining with Feature Fusion and Keyword-to-Caption Augmentation",
ICASSP 2023, arXiv:2211.06687.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from llama_index.core.bridge.pydantic import Field
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.embeddings import hub
from llama_index_mm.embeddings.base import Encoder, Payload, Vectors, fingerprint, unit
from llama_index_mm.embeddings.labels import SOUND_PROMPTS
from llama_index_mm.embeddings.towers import TowersEmbedding, features_array
from llama_index_mm.errors import EncodeError
from llama_index_mm.media import Waveform

__all__ = ["CLAP_FAMILY", "ClapAudioEncoder", "ClapEmbedding", "ClapTextEncoder"]

CLAP_FAMILY: Mapping[str, str] = MappingProxyType({"clap": "laion/clap-htsat-unfused"})
"""The model types that `ClapEmbedding` takes, each with the hub id of an example."""

_REACH = 64  # samples to each side that decide one between them
_ROLL_OFF = 0.9476  # where the filter ends, as a share of the highest frequency
_BETA = 14.77  # of the Kaiser window: what it adds above 8.5 kHz stays 80 dB below
_Cut = tuple[int, int, int]  # number of the recording, first sample, last sample


class ClapEmbedding(TowersEmbedding):
    """CLAP as a LlamaIndex embedding: texts and recordings to unit vectors of one space.

    A recording is cut into windows of the length that the model takes (10 s), and the windows' unit vectors are averaged
    by their length. No part is left out and nothing is drawn at random, as transformers does with long recordings. A
    window that is shorter is repeated until it fills the length, as the model was trained. The models with feature fusion
    ("fused") get each window as a short recording, so without the parts that are drawn from long ones.

    CLAP takes 48,000 samples a second, and `load_audio` gives 16,000. They are interpolated by a windowed sinc, which
    adds nothing: sound above 8 kHz is lost, and about a sixth of the model's 64 mel bands (up to 14 kHz) stay empty.
    Hiss, cymbals and the calls of some birds and insects suffer most. A `Waveform` that already has 48,000 samples a
    second is taken as it is.

    Nothing is loaded before the first vector is asked for. Safe to use from several threads. Texts longer than the model
    takes (512 tokens) are cut, with one logged warning and one `TextCutEvent` for each call. Where a batch does not fit
    into the memory of the GPU, smaller ones are taken.

    Args:
        model_name: hub id of a CLAP model, or path of a local folder.
        revision: branch, tag or commit on the hub.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``; the best there is if not given.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"`` to compute in; vectors are float32 anyway.
        embed_batch_size: texts or windows that go through the model at once.

    Raises:
        ModelError: at first use, if the model can't be loaded or is no CLAP model.
        MissingExtraError: at first use, if torch or transformers is not installed.
    """

    model_name: str = Field(default="laion/clap-htsat-unfused", description="Hub id, or path of a local folder.")

    _kinds: ClassVar[Mapping[str, str]] = CLAP_FAMILY
    _recipe: ClassVar[tuple[str, ...]] = ("clap", "mean of windows by length", f"sinc {_REACH} {_ROLL_OFF} {_BETA}")
    _templates: ClassVar[Sequence[str]] = SOUND_PROMPTS

    @classmethod
    def class_name(cls) -> str:
        """Name of the class in LlamaIndex's records."""
        return "ClapEmbedding"

    def encode_audio(self, sounds: Sequence[Waveform]) -> Vectors:
        """Encode recordings.

        Args:
            sounds: of any length but none; the model's rate (48,000 samples a second) is a multiple of theirs.

        Returns:
            ``(len(sounds), dimension)`` float32, rows of length 1; the same whatever else is in the batch.

        Raises:
            EncodeError: a recording is empty or has another rate.
        """
        if not len(sounds):
            return np.zeros((0, self.dimension), np.float32)
        extractor = self._load().processor
        cuts = [cut for number, sound in enumerate(sounds) for cut in _cuts(number, sound, extractor)]
        windows = unit(self._batched(cuts, lambda batch: self._audio_features(sounds, batch)))
        lasting = np.asarray([(stop - start) / sounds[number].rate for number, start, stop in cuts])
        sums = np.zeros((len(sounds), windows.shape[1]))
        np.add.at(sums, [number for number, _, _ in cuts], windows * lasting[:, None])
        return unit(sums)

    def _load_media_processor(self) -> Any:
        return hub.load_processor("AutoFeatureExtractor", self.model_name, revision=self.revision)

    def _audio_features(self, sounds: Sequence[Waveform], cuts: list[_Cut]) -> NDArray[np.float32]:
        torch: Any = require("torch", extra="hub")
        model, _, extractor = self._load()
        rate = extractor.sampling_rate
        windows = [_upsample(sounds[number].samples, start, stop, rate // sounds[number].rate) for number, start, stop in cuts]
        mels = np.asarray(extractor(windows, sampling_rate=rate, return_tensors="np")["input_features"])
        values = torch.from_numpy(mels).to(model.device, model.dtype)
        # For models with fusion the extractor calls one recording of the batch, drawn at random, longer than it is.
        longer = torch.zeros((len(cuts), 1), dtype=torch.bool, device=model.device)
        with torch.inference_mode():
            return features_array(model.get_audio_features(input_features=values, is_longer=longer))


class _ClapEncoder(Encoder):
    def __init__(self, clap: ClapEmbedding) -> None:
        self.clap = clap
        self.batch_size = clap.embed_batch_size
        self.dimension = clap.dimension
        self.fingerprint = fingerprint(self.payload, clap.weights_fingerprint)

    def release(self) -> None:
        """Free the memory of the model, which the encoder of the other side shares."""
        self.clap.release()


class ClapTextEncoder(_ClapEncoder):
    """The text side of CLAP as an encoder.

    Args:
        clap: the model; give the same one to `ClapAudioEncoder`, and the weights are loaded once.

    Raises:
        ModelError: the model's config can't be read, or it is no CLAP model.
    """

    payload: Payload = "text"

    def _encode(self, items: Sequence[str], *, query: bool) -> NDArray[Any]:
        return self.clap.encode_texts(items)


class ClapAudioEncoder(_ClapEncoder):
    """The sound side of CLAP as an encoder.

    Args:
        clap: the model; give the same one to `ClapTextEncoder`, and the weights are loaded once.

    Raises:
        ModelError: the model's config can't be read, or it is no CLAP model.
    """

    payload: Payload = "audio"

    def _encode(self, items: Sequence[Waveform], *, query: bool) -> NDArray[Any]:
        return self.clap.encode_audio(items)


def _cuts(number: int, sound: Waveform, extractor: Any) -> list[_Cut]:
    """The windows of a recording."""
    rate = extractor.sampling_rate
    if sound.rate <= 0 or rate % sound.rate:
        raise EncodeError(
            f"Expected 16000 or {rate} samples a second, or another part of {rate}, got {sound.rate}. Decode it with "
            "load_audio."
        )
    if not len(sound.samples):
        raise EncodeError("Expected a recording, got one without a sample.")
    size = int(extractor.nb_max_samples) * sound.rate // rate
    last = len(sound.samples)
    return [(number, start, min(start + size, last)) for start in range(0, last, size)]


def _upsample(samples: NDArray[np.float32], start: int, stop: int, factor: int) -> NDArray[np.float64]:
    """Samples from ``start`` to ``stop`` with ``factor`` times the rate, ``((stop - start) * factor,)``.

    Band-limited interpolation (J. O. Smith, "Digital Audio Resampling"), the same as that of the whole recording: what
    lies around the window counts as well, and silence beyond the recording's ends.
    """
    if factor == 1:
        return samples[start:stop].astype(np.float64)
    first, last = start - _REACH + 1, stop + _REACH
    around = np.pad(samples[max(0, first) : last].astype(np.float64), (max(0, -first), max(0, last - len(samples))))
    return np.stack([np.correlate(around, phase, "valid") for phase in _phases(factor)], axis=1).ravel()[
        : (stop - start) * factor
    ]


@lru_cache(maxsize=8)
def _phases(factor: int) -> NDArray[np.float64]:
    """For each place between two samples the weights of those around it, ``(factor, 2 * _REACH)``; each sums to 1."""
    distance = np.arange(-_REACH + 1, _REACH + 1)[None] - np.arange(factor)[:, None] / factor
    inside = np.clip(1 - (distance / _REACH) ** 2, 0, None)
    weights = np.sinc(_ROLL_OFF * distance) * np.i0(_BETA * np.sqrt(inside))
    phases: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return phases
