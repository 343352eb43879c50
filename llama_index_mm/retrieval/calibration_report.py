"""What a calibration changes: who takes the first places when queries ask for nothing that is there."""

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.errors import QueryError
from llama_index_mm.media import Modality
from llama_index_mm.retrieval.calibration import Calibration, Key
from llama_index_mm.retrieval.plots import check_plot
from llama_index_mm.stores import NodeStore

__all__ = ["QUANTILES", "CalibrationReport", "ChannelReport", "report_of"]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Of the similarities that `ChannelReport.similarities` tells."""

_PLACES = 10
_ITEMS = 2048
_COLOURS = {"fair": "#b9bdc2", "raw": "#d0752b", "by score": "#3b77bd"}


@dataclass(frozen=True)
class ChannelReport:
    """One channel before and after.

    Attributes:
        space: name of the space.
        part: kind of query part.
        modality: searched.
        items: nodes.
        mean: of the similarities of what has nothing to do with one another, less half of the hubness.
        deviation: of the same.
        best: greatest of them for a query, in deviations above the mean, that one query in twenty exceeds.
        fair: share of the channel's nodes among all that this kind of part searches.
        before: share of the first ten places that the channel's nodes take by raw similarity, over all channels of this kind
            of part.
        after: the same by calibrated scores.
        similarities: their `QUANTILES`, less half of the hubness, over the queries and nodes looked at.
    """

    space: str
    part: Modality
    modality: Modality
    items: int
    mean: float
    deviation: float
    best: float
    fair: float
    before: float
    after: float
    similarities: tuple[float, ...] = ()

    @property
    def half(self) -> float:
        """Similarity, less half of the hubness, that is given a score of one half."""
        return self.mean + self.best * self.deviation


@dataclass(frozen=True)
class CalibrationReport:
    """All channels before and after.

    Attributes:
        channels: that were fitted.
        seconds: that it took.
    """

    channels: tuple[ChannelReport, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"seconds": self.seconds, "channels": [asdict(channel) for channel in self.channels]}

    def plot(self, path: Path | str) -> None:
        """Draw what similarities of unrelated things each channel has and where its score of one half lies, and who takes the
        first places before and after; write it as PNG, SVG or PDF.

        Raises:
            MissingExtraError: matplotlib is not installed.
            QueryError: no channel was fitted, or there is no such folder, or the name ends in no format that can be written.
        """  # noqa: D205
        figures = check_plot(path)
        if not self.channels:
            raise QueryError("There is nothing to draw: the index has too few nodes to calibrate.")
        places = range(len(self.channels))
        figure = figures.Figure(figsize=(10.5, 1.5 + 0.42 * len(self.channels)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.3, 1))
        for at, one in zip(places, self.channels, strict=True):
            if one.similarities:
                _, low, first, middle, third, high, _ = one.similarities
                left.plot([low, high], [at, at], color="#9db9dc", linewidth=2.5, solid_capstyle="round")
                left.plot([first, third], [at, at], color="#3b77bd", linewidth=7, solid_capstyle="butt")
                left.plot([middle, middle], [at - 0.17, at + 0.17], color="white", linewidth=1.8)
        halves = [one.half for one in self.channels]
        left.plot(halves, places, linestyle="none", marker="D", markersize=6, color="#d0752b", label="score 0.5")
        left.plot([], [], color="#3b77bd", linewidth=7, label="half of all")
        left.plot([], [], color="#9db9dc", linewidth=2.5, label="9 of 10")
        left.set_xlabel("similarity of what is unrelated, less half of the hubness")
        for shift, (name, colour) in enumerate(_COLOURS.items()):
            shares = [100 * {"fair": one.fair, "raw": one.before, "by score": one.after}[name] for one in self.channels]
            label = "share of nodes" if name == "fair" else name
            right.barh([at + 0.25 * (shift - 1) for at in places], shares, height=0.22, color=colour, label=label)
        right.set_xlabel("of the first ten places, in %")
        names = [f"{one.part} \u2192 {one.modality}  in {one.space}  n={one.items}" for one in self.channels]
        left.set_yticks(places, names, parse_math=False)
        left.set_ylim(len(self.channels) - 0.5, -0.5)
        for axes in (left, right):
            axes.grid(axis="x", alpha=0.3)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=9)
        figure.savefig(path, dpi=150)

    def _repr_html_(self) -> str:
        if not self.channels:
            return f"<p>{html.escape(str(self))}</p>"
        heads = ("asked with", "space", "finds", "nodes", "share of nodes", "first ten places, raw", "by score", "score 0.5 at")
        rows = [
            [one.part, one.space, one.modality, f"{one.items:,}"]
            + [f"{share:.0%}" for share in (one.fair, one.before, one.after)]
            + [f"{one.half:.2f}"]
            for one in self.channels
        ]
        lines = ["".join(f"<th>{head}</th>" for head in heads)]
        lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        head, *body = (f"<tr>{line}</tr>" for line in lines)
        return f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"

    def __str__(self) -> str:
        if not self.channels:
            return "Too few nodes to calibrate: scores stay as they are."
        lines = [f"{'asked with':10} {'space':10} {'finds':8} {'nodes':>8}  first ten places: {'before':>7} {'after':>7}"]
        lines += [
            f"{one.part:10} {one.space:10} {one.modality:8} {one.items:8}  {'':17} {one.before:7.0%} {one.after:7.0%}"
            for one in self.channels
        ]
        return "\n".join(lines)


def report_of(
    store: NodeStore, spaces: Sequence[EmbeddingSpace], calibration: Calibration, seconds: float
) -> CalibrationReport:
    """Ask the calibration's own queries once by raw similarities and once by scores.

    Of a large index 2,048 nodes of each channel are looked at.
    """
    prints = {space.name: space.fingerprint for space in spaces}
    rows: list[ChannelReport] = []
    for part in dict.fromkeys(key[1] for key in calibration.fits):
        keys = [key for key in calibration.fits if key[1] == part]
        count = min(len(calibration.asked[space, part].vectors) for space, _, _ in keys)
        raw, scores, told = [], [], []
        for key in keys:
            space, _, modality = key
            seqs = store.spread(_ITEMS, modalities=[modality], space=space)
            similarities = calibration.asked[space, part].vectors[:count] @ store.vectors(space, modality, seqs.tolist()).T
            judged = [calibration.scores(store, key, prints[space], row, seqs.tolist()) for row in similarities]
            told.append(_quantiles(calibration, store, key, similarities, seqs))
            raw.append(similarities)
            scores.append(np.stack([row for row in judged if row is not None]))
        sizes = np.array([one.shape[1] for one in raw])
        of = np.repeat(np.arange(len(keys)), sizes)
        before, after = (_shares(np.concatenate(tables, axis=1), of, len(keys)) for tables in (raw, scores))
        for at, (key, fit) in enumerate((key, calibration.fits[key]) for key in keys):
            space, _, modality = key
            fair = float(sizes[at] / sizes.sum())
            rows.append(
                ChannelReport(
                    space,
                    part,
                    modality,
                    fit.items,
                    fit.mean,
                    fit.deviation,
                    fit.best,
                    fair,
                    float(before[at]),
                    float(after[at]),
                    told[at],
                )
            )
    return CalibrationReport(tuple(rows), seconds)


def _quantiles(
    calibration: Calibration, store: NodeStore, key: Key, similarities: np.ndarray[Any, Any], seqs: np.ndarray[Any, Any]
) -> tuple[float, ...]:
    """`QUANTILES` of what the fit of the channel looks at."""
    fit = calibration.fits[key]
    hubs = calibration._hubs_of(store, key, "", seqs.tolist()) if fit.share else np.zeros(len(seqs))
    return tuple(float(one) for one in np.quantile(similarities - fit.share * hubs, QUANTILES))


def _shares(table: np.ndarray[Any, Any], of: np.ndarray[Any, Any], channels: int) -> np.ndarray[Any, Any]:
    """Share of the first ten places of each row that each channel takes."""
    first = np.argsort(-np.nan_to_num(table, nan=-np.inf), axis=1, kind="stable")[:, :_PLACES]
    return np.bincount(of[first].ravel(), minlength=channels) / max(1, first.size)
