"""What low-rank training needs of an encoder: its torch model, the layers to change, and vectors that gradients run through.

`Encoder.encode` gives NumPy vectors that no gradient runs through. A backbone computes the same vectors, to rounding, as
tensors, by the same windows and preprocessing. Once it is trained, the encoder's own code encodes, with another model in it.
"""

import copy
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import Encoder
from llama_index_mm.embeddings.cache import CachedEncoder
from llama_index_mm.embeddings.clap import ClapAudioEncoder, _cuts, _upsample
from llama_index_mm.embeddings.clip import ClipImageEncoder
from llama_index_mm.embeddings.hub import Batches
from llama_index_mm.embeddings.wav2vec2 import Wav2Vec2Encoder, _windows
from llama_index_mm.errors import AlignmentError
from llama_index_mm.media import SAMPLE_RATE, Waveform

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Backbone", "backbone_of", "shared_copy"]

_FEED_FORWARD = ("intermediate_dense", "output_dense")


class Backbone(ABC):
    """The torch model under an encoder.

    Attributes:
        encoder: that runs it.
        layers: regular expression of the names of its transformer layers, without those of the text tower.
    """

    encoder: Any
    layers: str

    @property
    @abstractmethod
    def parts(self) -> Any:
        """The loaded model, as ``model``, with what feeds it; loads it if need be."""

    @property
    @abstractmethod
    def modules(self) -> tuple[str, ...]:
        """Last names of the linear maps that are changed by default: queries and values, where the attention runs them."""

    @abstractmethod
    def with_model(self, model: Any) -> Encoder:
        """Give a copy of the encoder that runs another model of the same shape."""

    @abstractmethod
    def inputs(self, items: Sequence[Any]) -> Any:
        """What the model takes for these items, by the encoder's own preprocessing."""

    @abstractmethod
    def features(self, model: Any, inputs: Any) -> "Tensor":
        """Vectors ``(n, dimension)`` by a model of what `inputs` gave, float32 on the CPU, rows of length 1."""


class _Windows(NamedTuple):
    """Windows of recordings, as the model takes them.

    Attributes:
        values: tensors whose rows are windows of one length.
        owners: number of the recording of each window, over all tensors.
        lasting: how long each is.
    """

    values: "list[Tensor]"
    owners: list[int]
    lasting: list[float]


class _Pictures(Backbone):
    encoder: ClipImageEncoder
    layers = r"vision_model\.encoder\.layers\.\d+"
    modules = ("q_proj", "v_proj")

    def __init__(self, encoder: ClipImageEncoder) -> None:
        self.encoder = encoder

    @property
    def parts(self) -> Any:
        return self.encoder.clip._load()

    def with_model(self, model: Any) -> Encoder:
        made = copy.copy(self.encoder)
        made.clip = _holding(self.encoder.clip, self.parts._replace(model=model))
        return made

    def inputs(self, items: Sequence[Image.Image]) -> "dict[str, Tensor]":
        torch: Any = require("torch", extra="hub")
        pictures = [image.convert("RGB") for image in items]
        pixels = self.parts.processor(pictures, return_tensors="np", input_data_format="channels_last")
        return {name: torch.from_numpy(np.asarray(array)) for name, array in pixels.items()}

    def features(self, model: Any, inputs: "dict[str, Tensor]") -> "Tensor":
        fed = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        fed["pixel_values"] = fed["pixel_values"].to(model.dtype)
        return _unit(_pooled(model.get_image_features(**fed)))


class _Sounds(Backbone):
    encoder: ClapAudioEncoder
    layers = r"audio_model\.audio_encoder\.layers\.\d+"
    modules = ("query", "value")

    def __init__(self, encoder: ClapAudioEncoder) -> None:
        self.encoder = encoder

    @property
    def parts(self) -> Any:
        return self.encoder.clap._load()

    def with_model(self, model: Any) -> Encoder:
        made = copy.copy(self.encoder)
        made.clap = _holding(self.encoder.clap, self.parts._replace(model=model))
        return made

    def inputs(self, items: Sequence[Waveform]) -> _Windows:
        torch: Any = require("torch", extra="hub")
        extractor = self.parts.processor
        rate = extractor.sampling_rate
        cuts = [cut for number, sound in enumerate(items) for cut in _cuts(number, sound, extractor)]
        windows = [_upsample(items[number].samples, start, stop, rate // items[number].rate) for number, start, stop in cuts]
        mels = np.asarray(extractor(windows, sampling_rate=rate, return_tensors="np")["input_features"])
        lasting = [(stop - start) / items[number].rate for number, start, stop in cuts]
        return _Windows([torch.from_numpy(mels)], [number for number, _, _ in cuts], lasting)

    def features(self, model: Any, inputs: _Windows) -> "Tensor":
        torch: Any = require("torch", extra="hub")
        values = inputs.values[0].to(model.device, model.dtype)
        longer = torch.zeros((len(values), 1), dtype=torch.bool, device=model.device)
        rows = _unit(_pooled(model.get_audio_features(input_features=values, is_longer=longer)))
        return _unit(_mixed(rows, inputs))


class _Speech(Backbone):
    encoder: Wav2Vec2Encoder
    layers = r"encoder\.layers\.\d+"

    def __init__(self, encoder: Wav2Vec2Encoder) -> None:
        self.encoder = encoder

    @property
    def parts(self) -> Any:
        return self.encoder._load()

    @property
    def modules(self) -> tuple[str, ...]:
        # WavLM's attention takes the weights out of its linear maps and never runs them.
        return _FEED_FORWARD if self.parts.model.config.model_type == "wavlm" else ("q_proj", "v_proj")

    def with_model(self, model: Any) -> Encoder:
        made: Encoder = _holding(copy.copy(self.encoder), self.parts._replace(model=model))
        return made

    def inputs(self, items: Sequence[Waveform]) -> _Windows:
        torch: Any = require("torch", extra="hub")
        cuts = [(number, samples) for number, item in enumerate(items) for samples in _windows(item)]
        by_length = defaultdict(list)
        for number, samples in cuts:
            by_length[max(len(samples), self.encoder._shortest)].append((number, samples))
        values = []
        for length, alike in by_length.items():
            windows = [np.pad(samples, (0, length - len(samples))) for _, samples in alike]
            fed = self.parts.extractor(windows, sampling_rate=SAMPLE_RATE, return_attention_mask=False, return_tensors="np")
            values.append(torch.from_numpy(np.asarray(fed["input_values"], np.float32)))
        order = list(chain(*by_length.values()))
        return _Windows(values, [number for number, _ in order], [len(samples) for _, samples in order])

    def features(self, model: Any, inputs: _Windows) -> "Tensor":
        torch: Any = require("torch", extra="hub")
        fed = (values.to(model.device, model.dtype) for values in inputs.values)
        return _unit(_mixed(torch.cat([model(values).last_hidden_state.float().mean(1).cpu() for values in fed]), inputs))


def backbone_of(encoder: Encoder) -> Backbone:
    """The backbone of an encoder; that of one in a `CachedEncoder` as well.

    Raises:
        AlignmentError: LoRA can't change it; the message says what can.
    """
    inner = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder
    kinds: Mapping[type[Encoder], Any] = {ClipImageEncoder: _Pictures, ClapAudioEncoder: _Sounds, Wav2Vec2Encoder: _Speech}
    for kind, backbone in kinds.items():
        if isinstance(inner, kind):
            made: Backbone = backbone(inner)
            return made
    raise AlignmentError(
        f"LoRA changes {', '.join(kind.__name__ for kind in kinds)}, whose models run in torch layer by layer; got "
        f"{type(inner).__name__}. Fit an adapter on its vectors: Aligner takes any encoder."
    )


def shared_copy(model: Any) -> Any:
    """Give a copy of a torch module with modules of its own, whose weights lie in the same memory and take no gradients."""
    torch: Any = require("torch", extra="hub")
    memo = {id(weight): torch.nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()}
    memo |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def _holding(held: Any, parts: Any) -> Any:
    """A copy of what holds a model, with another one; batches that did not fit are its own."""
    made = held.model_copy() if hasattr(held, "model_copy") else held
    made._parts, made._batches = parts, Batches()
    return made


def _pooled(features: Any) -> "Tensor":
    """As `towers.features_array`, on the CPU."""
    tensor: Tensor = getattr(features, "pooler_output", features).float().cpu()
    return tensor


def _mixed(rows: "Tensor", windows: _Windows) -> "Tensor":
    """Means ``(n, s)`` of the windows' rows of each recording, by how long they last."""
    torch: Any = require("torch", extra="hub")
    share = np.zeros((max(windows.owners) + 1, len(rows)))
    share[windows.owners, range(len(rows))] = windows.lasting
    means: Tensor = torch.from_numpy((share / share.sum(1, keepdims=True)).astype(np.float32)) @ rows
    return means


def _unit(rows: "Tensor") -> "Tensor":
    torch: Any = require("torch", extra="hub")
    scaled: Tensor = torch.nn.functional.normalize(rows, dim=1)
    return scaled
