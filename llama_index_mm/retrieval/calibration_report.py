"""What a calibration changes: who takes the first places when queries ask for nothing that is there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.media import Modality
from llama_index_mm.retrieval.asked import evenly
from llama_index_mm.retrieval.calibration import Calibration
from llama_index_mm.stores import MediaStore

__all__ = ["CalibrationReport", "ChannelReport", "report_of"]

_PLACES = 10
_ITEMS = 2048


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
    store: MediaStore, spaces: Sequence[EmbeddingSpace], calibration: Calibration, seconds: float
) -> CalibrationReport:
    """Ask the calibration's own queries once by raw similarities and once by scores.

    Of a large index 2,048 nodes of each channel are looked at.
    """
    prints = {space.name: space.fingerprint for space in spaces}
    rows: list[ChannelReport] = []
    for part in dict.fromkeys(key[1] for key in calibration.fits):
        keys = [key for key in calibration.fits if key[1] == part]
        count = min(len(calibration.asked[space, part].vectors) for space, _, _ in keys)
        raw, scores = [], []
        for key in keys:
            space, _, modality = key
            seqs = evenly(store.find(modalities=[modality], space=space), _ITEMS)
            similarities = calibration.asked[space, part].vectors[:count] @ store.vectors(space, modality, seqs.tolist()).T
            judged = [calibration.scores(store, key, prints[space], row, seqs.tolist()) for row in similarities]
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
                )
            )
    return CalibrationReport(tuple(rows), seconds)


def _shares(table: np.ndarray[Any, Any], of: np.ndarray[Any, Any], channels: int) -> np.ndarray[Any, Any]:
    """Share of the first ten places of each row that each channel takes."""
    first = np.argsort(-np.nan_to_num(table, nan=-np.inf), axis=1, kind="stable")[:, :_PLACES]
    return np.bincount(of[first].ravel(), minlength=channels) / max(1, first.size)
