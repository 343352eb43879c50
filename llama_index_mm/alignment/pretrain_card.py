"""The card of a mesh network: how it was trained, on what, and how well it finds shapes that it never saw."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from llama_index_mm.alignment.losses import LOSSES, LossName
from llama_index_mm.errors import AlignmentError, ModelError
from llama_index_mm.evaluation.report import as_text, text_table

__all__ = ["Found", "PretrainCard", "PretrainOptions"]

_VERSION = 1


@dataclass(frozen=True)
class PretrainOptions:
    """How a mesh network is trained.

    Attributes:
        steps: of the optimiser.
        recipes: procedural shapes to train on.
        executions: of each recipe, and copies of each mesh; at least 2.
        batch: shapes in a step, two executions of each; as many as there are if there are fewer.
        own: share of a batch that comes from the user's meshes, where there are any.
        loss: ``"info_nce"``, ``"margin"`` or ``"sigmoid"``, see `llama_index_mm.alignment.losses`.
        temperature: of ``info_nce`` and ``sigmoid``, and of the views' similarities.
        views: weight of the loss towards the views' similarities, where an encoder of views is given.
        rate: of learning; it rises over the first 20 steps and falls to 0 along a cosine.
        decay: of weights, as in AdamW (Loshchilov and Hutter 2019).
        held_out: recipes that are not trained on, to measure on; and one in five of the user's meshes.
        seed: of the recipes, of the weights that training starts from, and of what is drawn in each step.

    Raises:
        AlignmentError: a value is out of its range.
    """

    steps: int = 700
    recipes: int = 500
    executions: int = 3
    batch: int = 32
    own: float = 0.5
    loss: LossName = "info_nce"
    temperature: float = 0.1
    views: float = 1.0
    rate: float = 1e-3
    decay: float = 1e-4
    held_out: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise AlignmentError(f"Expected a loss of {', '.join(LOSSES)}, got {self.loss!r}.")
        least = {"steps": 1, "recipes": 0, "executions": 2, "batch": 2, "views": 0, "decay": 0, "held_out": 2, "seed": 0}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise AlignmentError(f"Expected {name} of at least {bound}, got {getattr(self, name)!r}.")
        for name in ("temperature", "rate"):
            if not getattr(self, name) > 0:
                raise AlignmentError(f"Expected {name} above 0, got {getattr(self, name)!r}.")
        if not 0 < self.own <= 1:
            raise AlignmentError(f"Expected own in (0, 1], a share of the batch, got {self.own!r}.")


@dataclass(frozen=True)
class Found:
    """How well changed copies find what they were made of.

    Attributes:
        count: shapes that were asked with and among which was searched; none of them was trained on.
        chance: R@1 of guessing.
        before: R@1 of the weights that training started from.
        after: R@1 of the trained weights.
    """

    count: int
    chance: float
    before: float
    after: float


@dataclass(frozen=True)
class PretrainCard:
    """How a mesh network was trained. There is no date in it: the same training gives the same card.

    Attributes:
        options: how it was trained.
        config: of the network, as in config.json.
        run: digest of all that decides the result.
        shapes_version: of the recipes and distortions.
        graphs_digest: of all graphs that it was trained and measured on.
        started_from: fingerprint of the network that training started from; empty for random weights.
        views_fingerprint: of the encoder of views that it was to agree with; empty if there was none.
        meshes: the user's meshes that it was trained on.
        meshes_digest: of the contents of all of the user's meshes; empty if there were none.
        left_out: meshes of the user's that can't be read or have no surface.
        loss_first: mean loss of the first 20 steps.
        loss_last: of the last 20.
        curve: mean loss of each twentieth part of the steps.
        recipes_found: R@1 of one execution of a held-out recipe for the other.
        meshes_found: R@1 of distorted copies of held-out meshes of the user's for these; None if there were fewer than 2.
        weights_digest: SHA-256 of model.safetensors.
        fingerprint: of the network's encoder.
        parameters: numbers that were trained.
        versions: of the packages that numbers depend on.
        licence: SPDX identifier of the weights, where nothing but procedural shapes and no other network went into them;
            else empty, for what the user's meshes allow.
    """

    options: PretrainOptions
    config: Mapping[str, Any]
    run: str
    shapes_version: int
    graphs_digest: str
    started_from: str
    views_fingerprint: str
    meshes: int
    meshes_digest: str
    left_out: int
    loss_first: float
    loss_last: float
    curve: tuple[float, ...]
    recipes_found: Found
    meshes_found: Found | None
    weights_digest: str
    fingerprint: str
    parameters: int
    versions: Mapping[str, str]
    licence: str

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that JSON can hold."""
        return {"version": _VERSION, **asdict(self), "curve": list(self.curve)}

    def save(self, path: Path) -> None:
        """Write it as JSON, put in place at once."""
        half = path.with_name(f"{path.name}.half")
        half.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        half.replace(path)

    @classmethod
    def load(cls, path: Path | str) -> "PretrainCard":
        """Read what `save` wrote.

        Raises:
            ModelError: it is missing, broken or of another version.
        """
        try:
            told = json.loads(Path(path).read_text(encoding="utf-8"))
            version = told.pop("version")
            if version != _VERSION:
                raise ValueError(f"it is of version {version}, expected {_VERSION}")
            told["options"] = PretrainOptions(**told["options"])
            told["curve"] = tuple(told["curve"])
            for name in ("recipes_found", "meshes_found"):
                told[name] = told[name] and Found(**told[name])
            return cls(**told)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} can't be read as the card of a mesh network ({error}).") from error

    def table(self) -> Table:
        """Make a table for a terminal: R@1 of what was held out, in per cent."""
        rows = []
        for name, found in (("recipes", self.recipes_found), ("meshes", self.meshes_found)):
            if found is not None:
                figures = (found.chance, found.before, found.after)
                rows.append([name, str(found.count), *(f"{100 * figure:.1f}" for figure in figures)])
        return text_table(["held out", "shapes", "chance", "before", "after"], rows)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know when reading the figures."""
        options = self.options
        own = f" and {self.meshes} meshes" if self.meshes else ""
        views = ", towards their views" if self.views_fingerprint else ""
        return (
            f"{options.steps} steps on {options.executions} executions of {options.recipes} recipes{own}{views}; "
            f"loss {self.loss_first:.2f} to {self.loss_last:.2f}; {self.parameters} parameters.",
            "Changed copies among held-out shapes: R@1 in %.",
        )

    def __str__(self) -> str:
        return "\n".join([as_text(self.table()), *self.notes])
