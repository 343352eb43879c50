"""An encoder that was changed by LoRA: options, card, files, and how the changes get into a copy of the model."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.alignment.adapter import Adapter
from llama_index_mm.alignment.backbones import Backbone, backbone_of, shared_copy
from llama_index_mm.alignment.card import AlignmentCard
from llama_index_mm.alignment.encoder import AlignedEncoder
from llama_index_mm.alignment.training import FitOptions, Tensors
from llama_index_mm.embeddings.base import Encoder, fingerprint
from llama_index_mm.embeddings.hub import LOADING
from llama_index_mm.errors import AlignmentError, ModelError

__all__ = [
    "LoraCard",
    "LoraEncoder",
    "LoraOptions",
    "digest_of_changes",
    "injected",
    "parted",
    "put",
    "seeded",
    "weights_of",
]

_WEIGHTS = "adapter_model.safetensors"  # this name and that of adapter_config.json are peft's
_PROJECTION = "projection.safetensors"
_CARD = "card.json"
_PREFIX = "base_model.model."  # of peft's names
_VERSION = 1


@dataclass(frozen=True)
class LoraOptions:
    """What of an encoder is changed, and how much.

    Attributes:
        rank: of each change; rank x (in + out) numbers are fitted for a linear map ``(out, in)``.
        alpha: the change counts alpha / rank times.
        dropout: share of a changed map's input that is left out at random in training, in [0, 1).
        modules: last names of the linear maps in the transformer layers that are changed; None for queries and values of the
            attention (in WavLM the feed-forward layers, as its attention never runs these maps).

    Raises:
        AlignmentError: a value is out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    modules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1 or self.modules == ():
            raise AlignmentError(
                "Expected a rank of at least 1, an alpha above 0, a dropout in [0, 1) and names of modules or None; got "
                f"{self.rank}, {self.alpha}, {self.dropout} and {self.modules}."
            )


@dataclass(frozen=True)
class LoraCard(AlignmentCard):
    """The card of an encoder that was changed by LoRA; ``options`` tell of the adapter on top.

    Attributes:
        lora: what was changed, with the names of the modules.
    """

    lora: LoraOptions

    @classmethod
    def load(cls, path: Path) -> "LoraCard":
        """Read what `save` wrote.

        Raises:
            ModelError: it is missing, broken, of another version or the card of an adapter alone.
        """
        card = cast(LoraCard, super().load(path))
        try:
            told: dict[str, Any] = dict(vars(card)["lora"])  # as it was read
            return replace(card, lora=LoraOptions(**{**told, "modules": tuple(told["modules"])}))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path} can't be read as the card of an encoder changed by LoRA ({error}).") from error

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know when reading the figures."""
        lora = self.lora
        return (
            f"LoRA of rank {lora.rank} (alpha {lora.alpha:g}, dropout {lora.dropout:g}) on {', '.join(lora.modules or ())}, "
            "below an adapter:",
            *super().notes,
        )


class LoraEncoder(AlignedEncoder):
    """A frozen encoder with low-rank changes and an adapter that bring its vectors into another space.

    The source stays as it is and can be used beside it: the two share the memory of the weights. It needs torch and peft, and
    takes about as long as the source.

    Args:
        source: a `ClipImageEncoder`, `ClapAudioEncoder` or `Wav2Vec2Encoder`.
        adapter: on top, fitted to the changed vectors.
        card: what it was fitted on.
        changes: A and B of each changed map, float32 by peft's names.

    Raises:
        SpaceError: the adapter takes vectors of another length than the source gives, or the card is of another source.
        AlignmentError: LoRA can't change this source.
    """

    card: LoraCard

    def __init__(self, source: Encoder, adapter: Adapter, card: LoraCard, changes: Tensors) -> None:
        super().__init__(source, adapter, card)
        self.changes = changes
        self._backbone = backbone_of(source)
        self._changed: Encoder | None = None
        self.fingerprint = fingerprint("lora", _VERSION, source.fingerprint, card.adapter_digest)

    def release(self) -> None:
        """Free the memory of the model, and of the source's."""
        with LOADING:
            self._changed = None
        self.source.release()

    def save(self, folder: Path | str) -> Path:
        """Write the changes, the adapter and the card into a folder, which is made if need be; gives the folder.

        adapter_model.safetensors and adapter_config.json are as peft reads them: ``PeftModel.from_pretrained(model, folder)``
        changes the transformers model alike, without the adapter on top, which is projection.safetensors. The source is not
        written: `load` takes it.
        """
        safetensors: Any = require("safetensors.numpy", extra="lora")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _WEIGHTS).write_bytes(safetensors.save(dict(sorted(self.changes.items())), metadata={"format": "pt"}))
        config = _config(self.card.lora, self._backbone)
        config.inference_mode = True
        config.save_pretrained(str(folder))
        (folder / _PROJECTION).write_bytes(safetensors.save(dict(self.adapter.tensors)))
        self.card.save(folder / _CARD)
        return folder

    @classmethod
    def load(cls, folder: Path | str, source: Encoder) -> "LoraEncoder":
        """Read what `save` wrote. The source's weights are loaded by the first `encode`.

        Args:
            folder: with adapter_model.safetensors, projection.safetensors and card.json. What adapter_config.json says is in
                the card as well, which is what counts.
            source: the encoder that it was fitted on.

        Raises:
            ModelError: a file is missing or broken, or they do not belong together.
            SpaceError: the source is another one.
            AlignmentError: LoRA can't change this source.
            MissingExtraError: safetensors is not installed.
        """
        safetensors: Any = require("safetensors.numpy", extra="lora")
        folder = Path(folder)
        card = LoraCard.load(folder / _CARD)
        found = {}
        for name in (_WEIGHTS, _PROJECTION):
            try:
                found[name] = safetensors.load((folder / name).read_bytes())
            except Exception as error:  # safetensors raises its own kind
                raise ModelError(f"{folder / name} can't be read ({error}).") from error
        try:
            adapter = Adapter(card.options.adapter, found[_PROJECTION])
        except AlignmentError as error:
            raise ModelError(f"{folder / _PROJECTION} is no such adapter as {_CARD} says: {error}") from error
        if digest_of_changes(adapter, card.lora, found[_WEIGHTS]) != card.adapter_digest:
            raise ModelError(f"{folder / _WEIGHTS} and {_PROJECTION} are not those that {_CARD} tells of. Fit it again.")
        return cls(source, adapter, card, found[_WEIGHTS])

    def _encode(self, items: Sequence[Any], *, query: bool) -> NDArray[Any]:
        changed = self._changed
        if changed is None:
            with LOADING:
                changed = self._changed = self._changed or self._read()
        return self.adapter(changed.encode(items, query=query))

    def _read(self) -> Encoder:
        model = injected(self._backbone, self.card.lora)
        put(weights_of(model), self.changes)
        changed = self._backbone.with_model(model.eval())
        changed.fingerprint = fingerprint("changed", self.fingerprint)  # which its events tell
        return changed


def _config(lora: LoraOptions, backbone: Backbone) -> Any:
    """Peft's own options."""
    peft: Any = require("peft", extra="lora")
    names = "|".join(re.escape(name) for name in lora.modules or backbone.modules)
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"{backbone.layers}\.(?:.+\.)?(?:{names})",
    )


def injected(backbone: Backbone, lora: LoraOptions, seed: int = 0) -> Any:
    """A copy of the model with changes that are nothing yet; its weights lie in the memory of the model's."""
    peft: Any = require("peft", extra="lora")
    config, model = _config(lora, backbone), shared_copy(backbone.parts.model)
    with LOADING, seeded(model.device, seed):
        try:
            peft.inject_adapter_in_model(config, model)
        except ValueError as error:
            raise AlignmentError(
                f"{type(model).__name__} can't be changed at {', '.join(lora.modules or ())}: {error} Name linear maps of its "
                "layers, or take the default."
            ) from error
    for weight in weights_of(model).values():
        weight.data = weight.data.float()  # whatever the model computes in
    return model


def weights_of(model: Any) -> dict[str, Any]:
    """The weights that peft put in, by the names that it saves them under."""
    return {_PREFIX + name.replace(".default", ""): weight for name, weight in model.named_parameters() if ".lora_" in name}


def put(weights: Mapping[str, Any], changes: Tensors) -> None:
    """Set the weights that `weights_of` gave.

    Raises:
        ModelError: the changes are of another model.
    """
    torch: Any = require("torch", extra="lora")
    if {name: tuple(weight.shape) for name, weight in weights.items()} != {name: one.shape for name, one in changes.items()}:
        raise ModelError(f"The {len(changes)} tensors of {_WEIGHTS} do not fit the {len(weights)} places in the model.")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(torch.from_numpy(np.array(changes[name])))


def parted(options: FitOptions, tensors: Tensors) -> tuple[Adapter, dict[str, NDArray[np.float32]]]:
    """The adapter on top, and the changes below it."""
    changes = {name.removeprefix("lora."): tensor for name, tensor in tensors.items() if name.startswith("lora.")}
    return Adapter(options.adapter, {name: one for name, one in tensors.items() if not name.startswith("lora.")}), changes


def digest_of_changes(adapter: Adapter, lora: LoraOptions, changes: Tensors) -> str:
    """SHA-256 of all that was fitted and how much it counts."""
    digest = hashlib.sha256(f"{adapter.digest} {lora.rank} {float(lora.alpha)} {lora.modules}".encode())
    for name, tensor in sorted(changes.items()):
        digest.update(f"\x1f{name} {tensor.shape}\x1f".encode() + np.ascontiguousarray(tensor, "<f4").tobytes())
    return digest.hexdigest()


@contextmanager
def seeded(device: Any, seed: int) -> Iterator[None]:
    """Random numbers of torch that follow from the seed alone; what others draw is not disturbed."""
    torch: Any = require("torch", extra="lora")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
