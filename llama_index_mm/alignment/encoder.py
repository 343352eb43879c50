"""An encoder with an adapter on top: the new modality, in the space that was there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.alignment.adapter import Adapter
from llama_index_mm.alignment.card import AlignmentCard
from llama_index_mm.embeddings.base import Encoder, fingerprint
from llama_index_mm.embeddings.events import Events
from llama_index_mm.errors import AlignmentError, ModelError, SpaceError

__all__ = ["AlignedEncoder"]

_WEIGHTS = "adapter.safetensors"
_CARD = "card.json"
_VERSION = 1


class AlignedEncoder(Encoder):
    """A frozen encoder and an adapter that brings its vectors into another space. It runs without torch.

    Args:
        source: encoder of the new modality.
        adapter: fitted to its vectors.
        card: what it was fitted on.

    Raises:
        SpaceError: the adapter takes vectors of another length than the source gives, or the card is of another source.
    """

    events: Events = "none"

    def __init__(self, source: Encoder, adapter: Adapter, card: AlignmentCard) -> None:
        if adapter.source_dimension != source.dimension:
            raise SpaceError(
                f"The adapter takes vectors of {adapter.source_dimension} dimensions, and {type(source).__name__} gives "
                f"{source.dimension}. Give the encoder that it was fitted on."
            )
        if card.source_fingerprint != source.fingerprint:
            raise SpaceError(
                f"The adapter was fitted on an encoder with fingerprint {card.source_fingerprint}, and {type(source).__name__} "
                f"has {source.fingerprint}. Give the encoder that it was fitted on, or fit it again."
            )
        self.source = source
        self.adapter = adapter
        self.card = card
        self.payload = source.payload
        self.dimension = adapter.dimension
        self.batch_size = source.batch_size
        self.fingerprint = fingerprint("aligned", _VERSION, source.fingerprint, adapter.digest)

    def release(self) -> None:
        """Free the memory of the source's model."""
        self.source.release()

    def save(self, folder: Path | str) -> Path:
        """Write adapter.safetensors and card.json into a folder, which is made if need be; gives the folder.

        The source is not written: `load` takes it.
        """
        safetensors: Any = require("safetensors.numpy", extra="align")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _WEIGHTS).write_bytes(safetensors.save(dict(self.adapter.tensors)))
        self.card.save(folder / _CARD)
        return folder

    @classmethod
    def load(cls, folder: Path | str, source: Encoder) -> "AlignedEncoder":
        """Read what `save` wrote.

        Args:
            folder: with adapter.safetensors and card.json.
            source: the encoder that it was fitted on.

        Raises:
            ModelError: a file is missing or broken, or the two do not belong together.
            SpaceError: the source is another one.
        """
        safetensors: Any = require("safetensors.numpy", extra="align")
        folder = Path(folder)
        card = AlignmentCard.load(folder / _CARD)
        try:
            adapter = Adapter(card.options.adapter, safetensors.load((folder / _WEIGHTS).read_bytes()))
        except AlignmentError as error:
            raise ModelError(f"{folder / _WEIGHTS} is no such adapter as {_CARD} says: {error}") from error
        except Exception as error:  # safetensors raises its own kind
            raise ModelError(f"{folder / _WEIGHTS} can't be read ({error}).") from error
        if adapter.digest != card.adapter_digest:
            raise ModelError(f"{folder / _WEIGHTS} is not the adapter that {_CARD} tells of. Fit it again.")
        return cls(source, adapter, card)

    def _encode(self, items: Sequence[Any], *, query: bool) -> NDArray[Any]:
        return self.adapter(self.source.encode(items, query=query))
