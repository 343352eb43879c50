"""What a preset is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llama_index.core.llms.llm import LLM

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.cache import EmbeddingCache
from llama_index_mm.errors import SpaceError
from llama_index_mm.transforms.images import Labeler
from llama_index_mm.transforms.transcript import Transcriber

__all__ = ["Preset", "local_llm"]


@dataclass(frozen=True)
class Preset:
    """A named, complete choice of spaces, encoders and weights.

    Attributes:
        name: recorded in every index made with it.
        spaces: the embedding spaces; their names differ.
        transcriber: writes down what is said in recordings; None leaves recordings without words.
        labeler: names what is in pictures; None leaves pictures without labels.
        weights: of channels in the fusion, as `FusionRetriever` takes them.
        llm: makes the LLM that answers when the user has chosen none.
    """

    name: str
    spaces: tuple[EmbeddingSpace, ...]
    transcriber: Transcriber | None = None
    labeler: Labeler | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    llm: Callable[[], LLM] | None = None

    def __post_init__(self) -> None:
        names = [space.name for space in self.spaces]
        if not names or len(set(names)) != len(names):
            raise SpaceError(f"Preset {self.name!r} needs at least one space, each with its own name; got {names}.")

    def with_space(self, space: EmbeddingSpace, *, weight: float = 1.0) -> "Preset":
        """Give a copy with one more space: where a new modality, or a second signal for an old one, is added.

        Example:
            >>> preset = load_preset("offline").with_space(EmbeddingSpace("thermal", {"image": my_encoder}), weight=0.3)
        """
        name = f"{self.name}+{space.name}"
        return replace(self, name=name, spaces=(*self.spaces, space), weights={**self.weights, space.name: weight})

    def cached(self, cache: EmbeddingCache | Path | str) -> "Preset":
        """Give a copy that never encodes the same content twice; the name and the fingerprints stay.

        Args:
            cache: a cache, or the folder of one, which may serve several indexes and processes.
        """
        kept = cache if isinstance(cache, EmbeddingCache) else EmbeddingCache(cache)
        return replace(self, spaces=tuple(space.cached(kept) for space in self.spaces))


def local_llm() -> LLM:
    """The LLM of the presets: a small one in this process. It needs the extra ``offline``."""
    from llama_index_mm.llms import LocalLLM

    return LocalLLM()
