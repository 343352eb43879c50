"""The card of an adapter: what it was fitted on, and how well it finds."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from llama_index_mm._optional import require
from llama_index_mm.alignment.geometry import Geometry
from llama_index_mm.alignment.scoring import DIRECTIONS, METRICS
from llama_index_mm.alignment.training import Epoch, FitOptions
from llama_index_mm.errors import AlignmentError, ModelError
from llama_index_mm.evaluation.intervals import Interval
from llama_index_mm.evaluation.report import as_text, percent, text_table

__all__ = ["AlignmentCard"]

_VERSION = 1
_TOLD = {"space_to_new": "asked from the space", "new_to_space": "asked with the new"}
Metrics = Mapping[str, Mapping[str, Interval]]


@dataclass(frozen=True)
class AlignmentCard:
    """What an adapter was fitted on, and how well it finds. There is no date in it: the same fit gives the same card.

    Held-out pairs also decided when to stop, so the figures are a little too good; measure on data of your own that the fit
    never saw before you publish any.

    Attributes:
        options: how it was fitted.
        target: name of the space, and the kind of query part whose encoder gave the targets.
        templates: that texts were put in.
        source_fingerprint: of the encoder under the adapter.
        target_fingerprint: of the encoder that gave the targets.
        adapter_digest: SHA-256 of the adapter.
        data_digest: of contents, keys and groups of all pairs.
        pairs: that were given.
        held_out: pairs that were not trained on.
        items: different items among the pairs.
        targets: different targets among the pairs.
        parameters: numbers that were fitted.
        before: figures over the held-out pairs of the adapter that training started from, by direction and metric.
        after: the same of the adapter.
        chance: R@1 of guessing, by direction.
        geometry: of the held-out items' vectors.
        geometry_before: of the same before training.
        target_rank: effective rank of what the held-out items belong with.
        history: of all epochs.
        best: number of the epoch that was taken.
        stopped: which bound ended the training.
    """

    options: FitOptions
    target: str
    templates: tuple[str, ...]
    source_fingerprint: str
    target_fingerprint: str
    adapter_digest: str
    data_digest: str
    pairs: int
    held_out: int
    items: int
    targets: int
    parameters: int
    before: Metrics
    after: Metrics
    chance: Mapping[str, float]
    geometry: Geometry
    geometry_before: Geometry
    target_rank: float
    history: tuple[Epoch, ...]
    best: int
    stopped: str

    @property
    def score(self) -> float:
        """Mean of R@1 and MRR of the held-out pairs over both directions, 0 to 1."""
        return sum(self.after[one][name].mean for one in DIRECTIONS for name in ("R@1", "MRR")) / (2 * len(DIRECTIONS))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that JSON can hold."""
        return {"version": _VERSION, **asdict(self), "templates": list(self.templates)}

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "AlignmentCard":
        """Read what `save` wrote.

        Raises:
            ModelError: it is missing, broken or of another version.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            version = told.pop("version")
            if version != _VERSION:
                raise ValueError(f"it is of version {version}, expected {_VERSION}")
            told["options"] = FitOptions(**told["options"])
            told["templates"] = tuple(told["templates"])
            for name in ("before", "after"):
                told[name] = {
                    direction: {metric: Interval(**one) for metric, one in metrics.items()}
                    for direction, metrics in told[name].items()
                }
            for name in ("geometry", "geometry_before"):
                told[name] = Geometry(**told[name])
            told["history"] = tuple(Epoch(**one) for one in told["history"])
            return cls(**told)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} can't be read as the card of an adapter ({error}).") from error

    def table(self) -> Table:
        """Make a table for a terminal: held-out figures before and after, in per cent with half of the interval's width."""
        rows = []
        for direction in DIRECTIONS:
            for name, found in (("before", self.before), ("after", self.after)):
                cells = [percent(found[direction][metric]) for metric in METRICS]
                rows.append([f"{_TOLD[direction]}, {name}", str(found[direction]["MRR"].count), *cells])
            guess = f"{100 * self.chance[direction]:.1f}"
            rows.append([f"{_TOLD[direction]}, by chance", "", guess, *[""] * (len(METRICS) - 1)])
        return text_table(["held-out pairs", "queries", *METRICS], rows)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know when reading the figures."""
        return (
            f"{self.options.adapter} adapter by {self.options.loss}, {self.parameters} parameters; {self.pairs} pairs of "
            f"{self.items} items and {self.targets} targets, {self.held_out} pairs held out; "
            f"epoch {self.best} of {self.history[-1].epoch}, stopped by {self.stopped}.",
            f"Effective rank {self.geometry.rank:.1f} (before {self.geometry_before.rank:.1f}, of the targets "
            f"{self.target_rank:.1f}), uniformity {self.geometry.uniformity:.2f}, alignment {self.geometry.alignment:.2f}.",
        )

    def plot(self, path: Path | str) -> None:
        """Draw loss and held-out recall over the epochs, and write it as PNG, SVG or PDF.

        Raises:
            MissingExtraError: matplotlib is not installed.
            AlignmentError: the name ends in no format that can be written.
        """
        figures = require("matplotlib.figure", extra="plots")
        figure = figures.Figure(figsize=(8, 3.2), layout="constrained")
        kinds = figure.canvas.get_supported_filetypes()
        if Path(path).suffix.lower().removeprefix(".") not in kinds:
            raise AlignmentError(
                f"Can't draw {path}: the name must end in one of {', '.join(f'.{kind}' for kind in sorted(kinds))}."
            )
        left, right = figure.subplots(1, 2)
        trained = [one for one in self.history if one.loss is not None]
        left.plot([one.epoch for one in trained], [one.loss for one in trained], color="#3b77bd")
        left.set_ylabel(f"{self.options.loss} loss")
        epochs = [one.epoch for one in self.history]
        right.plot(epochs, [100 * one.recall for one in self.history], color="#3b77bd", label="R@1")
        right.plot(epochs, [100 * one.mrr for one in self.history], color="#d0752b", label="MRR")
        right.axvline(self.best, color="#5a5d62", linestyle=":", label="taken")
        right.set_ylabel("held-out pairs, in %")
        right.set_ylim(0, 102)
        right.legend(frameon=False)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.3)
        figure.savefig(path)

    def __str__(self) -> str:
        return "\n".join([as_text(self.table()), *self.notes])
