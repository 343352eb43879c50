"""What similarities mean: scores that compare across spaces, modalities and kinds of query, learned from the index itself.

Raw similarities of different spaces and modalities do not compare: in one space two texts are hardly ever below 0.7, in
another a picture and its caption hardly ever above 0.3. So for each channel, that is for each space, kind of query part and
modality searched, a few hundred things of that kind are asked as if they were queries: texts of the index (never for their
own document), its pictures, recordings and meshes, and some everyday phrases. What they find is as a rule not what anybody
looked for, and tells what has to be exceeded:

    hub(x)  = mean similarity of x to the 10 queries of the index's own, in the script of what is asked, that are most like it
    s'(x)   = s(x) - hub(x) / 2
    z(x)    = (s'(x) - mean) / deviation - best
    score   = 1 / (1 + exp(-z / 2))

with the mean and the deviation of s' over queries and nodes, and with ``best`` the greatest (s' - mean) / deviation that only
one query in twenty exceeds. A score of one half so says: of what has nothing to do with the query, the best comes this far once
in twenty times. The correction by hub(x), for nodes that are like everything, is that of nearest neighbour normalisation
(Chowdhury et al., EMNLP 2024, arXiv:2410.24114) and one half of what CSLS does (Conneau et al., ICLR 2018, arXiv:1710.04087).
"""

import base64
import json
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import EmbeddingSpace, Vectors
from llama_index_mm.media import Modality
from llama_index_mm.retrieval.asked import Asked, asked_of, document_of
from llama_index_mm.stores import NodeStore

__all__ = ["Calibration", "ChannelFit", "Key", "calibrate", "fit_channel", "hubness"]

Key = tuple[str, Modality, Modality]
"""Name of the space, kind of query part, modality searched."""

_LOG = logging.getLogger(__name__)
_META = "calibration"  # of the store's notes, where it is kept
_VERSION = 4
_NEIGHBOURS = 10  # queries that an item's hubness is the mean over
_SHARE = 0.5  # of the hubness that is taken away
_SLOPE = 0.5  # of the score over z
_RARELY = 0.95  # of the queries find nothing better than `ChannelFit.best` among what has nothing to do with them
_LEAST_ITEMS = 20  # below which a modality is left as it is
_LEAST_ASKED = 16
_LEAST_OWN = 64  # queries of the index's own, below which hubness is not told: phrases find what they ought to find
_LEAST_SPOKEN = 30  # nodes of a language, below which it is not held apart
_ITEMS = 8192  # at most, that queries are held against
_GROWN = 1.25  # times as many nodes, or as few, at which a fit is made anew
_AT_ONCE = 20_000  # nodes of a channel whose hubness is told at its first use
_KEPT = 1_000_000  # hubnesses of a channel in memory
_NO_HUBS = (np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class ChannelFit:
    """What is usual in one channel.

    Attributes:
        mean: of the similarities of what has nothing to do with one another, less half of the hubness.
        deviation: of the same.
        best: greatest of them for a query, in deviations above the mean, that one query in twenty exceeds.
        items: nodes there were.
        asked: queries.
        share: of the hubness that is taken away: one half, or 0 where the index has few queries of its own.
        languages: mean of the nodes of one language, by the script of the query (``""`` for all) and by the code of the
            language, where there are 30 such nodes.
    """

    mean: float
    deviation: float
    best: float
    items: int
    asked: int
    share: float = _SHARE
    languages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def scores(
        self,
        similarities: NDArray[np.floating],
        hubs: NDArray[np.floating],
        spoken: Sequence[str] = (),
        balance: float = 0.0,
        script: str = "",
    ) -> NDArray[np.float64]:
        """Scores in (0, 1); NaN stays NaN.

        Args:
            similarities: ``(n,)``.
            hubs: ``(n,)`` as `hubness` gives them.
            spoken: language of each node.
            balance: in [0, 1], share of what usually sets languages apart that is taken away.
            script: of the words asked with.
        """
        deviations = (similarities - self.share * hubs - self.mean) / self.deviation - self.best
        if balance and self.languages:
            means = self.languages.get(script, self.languages.get("", {}))
            offsets = {code: balance * (mean - self.mean) / self.deviation for code, mean in means.items()}
            deviations = deviations - np.array([offsets.get(code, 0.0) for code in spoken])
        scores: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(np.round(_SLOPE * deviations, 5) / 2))
        return scores


def hubness(similarities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean of the 10 greatest similarities in each column, ``(n,)``; of all where there are fewer.

    Args:
        similarities: ``(queries, n)``; NaN where a query does not count for an item.
    """
    known = np.where(np.isnan(similarities), -np.inf, similarities)
    top = np.sort(known, axis=0)[-_NEIGHBOURS:].astype(np.float64)
    counted = np.isfinite(top)
    sums = np.where(counted, top, 0.0).sum(0)
    means: NDArray[np.float64] = sums / np.maximum(counted.sum(0), 1)
    return means


def fit_channel(
    similarities: NDArray[np.floating],
    own: NDArray[np.bool_] | None = None,
    count: int | None = None,
    spoken: Sequence[str] = (),
    scripts: Sequence[str] = (),
) -> ChannelFit | None:
    """Fit one channel; None where all are alike, or where there is less than 16 queries or 20 nodes.

    Args:
        similarities: ``(queries, n)`` of queries and nodes that have nothing to do with one another; NaN for pairs that have.
        own: ``(queries,)`` which of them are the index's own; all if not given.
        count: nodes that there are, where these are only some; the greatest similarity is then taken for higher, as it would
            be under a normal distribution.
        spoken: language of each node.
        scripts: that each query is written in.
    """
    asked, items = similarities.shape
    if asked < _LEAST_ASKED or items < _LEAST_ITEMS:
        return None
    mine = np.ones(asked, dtype=np.bool_) if own is None else own
    written = np.array(scripts or [""] * asked, dtype=np.str_)
    share = _SHARE if mine.sum() >= _LEAST_OWN else 0.0
    adjusted = similarities.astype(np.float64)
    for script in sorted(set(scripts) or {""}):
        adjusted[written == script] -= share * hubness(similarities[judging(mine, written, script)])
    counted = ~np.isnan(adjusted).all(1)
    if not counted.any():
        return None
    adjusted, written = adjusted[counted], written[counted]
    mean, deviation = float(np.nanmean(adjusted)), float(np.nanstd(adjusted))
    if not deviation > 1e-6:
        return None
    more = math.sqrt(2 * math.log(max(count or items, items))) - math.sqrt(2 * math.log(items))
    best = float(np.quantile((np.nanmax(adjusted, axis=1) - mean) / deviation, _RARELY)) + more
    languages: dict[str, dict[str, float]] = {}
    codes = np.array(spoken)
    for code in sorted(set(spoken) - {""}):
        of_it = adjusted[:, codes == code]
        if of_it.shape[1] < _LEAST_SPOKEN:
            continue
        for script in ("", *sorted(set(written.tolist()) - {""})):
            some = of_it[written == script] if script else of_it
            if len(some) >= _LEAST_ASKED and not np.isnan(some).all():
                languages.setdefault(script, {})[code] = float(np.nanmean(some))
    return ChannelFit(mean, deviation, best, count or items, asked, share, languages)


def judging(own: NDArray[np.bool_], written: NDArray[np.str_], script: str) -> NDArray[np.bool_]:
    """Which queries tell hubness for what is asked in a script: the index's own in it, or all its own where these are few.

    What is like many Chinese queries would otherwise be held against it where somebody asks in English.
    """
    in_it = own & (written == script)
    return in_it if script and in_it.sum() >= _LEAST_OWN else own


class Calibration:
    """Fits of an index's channels, with the queries they were made from. Safe to use from several threads.

    Args:
        fits: by channel.
        asked: by name of the space and kind of query part.
        prints: fingerprint of each space.
        counts: vectors that there were, by space and modality.
    """

    def __init__(
        self,
        fits: Mapping[Key, ChannelFit],
        asked: Mapping[tuple[str, Modality], Asked],
        prints: Mapping[str, str],
        counts: Mapping[tuple[str, str], int],
    ) -> None:
        self.fits = dict(fits)
        self.asked = dict(asked)
        self.prints = dict(prints)
        self.counts = dict(counts)
        self._hubs: dict[tuple[Key, str], tuple[NDArray[np.int64], NDArray[np.float64]]] = {}  # numbers of nodes, ascending
        self._judges: dict[tuple[str, Modality, str], NDArray[np.bool_]] = {}
        self._spoken: dict[int, str] = {}
        self._lock = threading.Lock()

    def scores(
        self,
        store: NodeStore,
        key: Key,
        fingerprint: str,
        similarities: NDArray[np.floating],
        seqs: Sequence[int],
        balance: float = 0.0,
        script: str = "",
    ) -> NDArray[np.float64] | None:
        """Scores of similarities to nodes; None where the channel was not fitted, or its space is another by now.

        Args:
            store: where the nodes are.
            key: the channel.
            fingerprint: of its space.
            similarities: ``(n,)``; NaN gives NaN.
            seqs: numbers of the nodes.
            balance: as in `ChannelFit.scores`.
            script: as in `ChannelFit.scores`.
        """
        fit = self.fits.get(key)
        if fit is None or self.prints.get(key[0]) != fingerprint:
            return None
        spoken = self._languages(store, seqs) if balance and fit.languages else ()
        hubs = self._hubs_of(store, key, script, seqs) if fit.share else np.zeros(len(seqs))
        return fit.scores(similarities, hubs, spoken, balance, script)

    def save(self, store: NodeStore) -> None:
        """Keep it with the index."""
        store.set_meta(
            _META,
            json.dumps(
                {
                    "version": _VERSION,
                    "prints": self.prints,
                    "counts": [[*key, count] for key, count in self.counts.items()],
                    "fits": [[*key, asdict(fit)] for key, fit in self.fits.items()],
                    "asked": [
                        [*key, one.of, one.there, list(one.vectors.shape), one.documents, one.scripts, _packed(one.vectors)]
                        for key, one in self.asked.items()
                    ],
                }
            ),
        )

    @classmethod
    def empty(cls) -> "Calibration":
        """Of nothing: every score stays as it is."""
        return cls({}, {}, {}, {})

    @classmethod
    def load(cls, store: NodeStore) -> "Calibration | None":
        """Read what `save` kept; None if there is nothing, or it is of another version or damaged, which is logged."""
        text = store.meta(_META)
        if text is None:
            return None
        try:
            found = json.loads(text)
            if found["version"] != _VERSION:
                return None
            fits = {(space, part, modality): ChannelFit(**fit) for space, part, modality, fit in found["fits"]}
            asked = {
                (space, part): Asked(_unpacked(vectors, shape), tuple(documents), of, there, tuple(scripts))
                for space, part, of, there, shape, documents, scripts, vectors in found["asked"]
            }
            counts = {(space, modality): count for space, modality, count in found["counts"]}
            return cls(fits, asked, found["prints"], counts)
        except (KeyError, TypeError, ValueError) as error:
            _LOG.warning(
                "The calibration of the index in %s can't be read (%s: %s), and scores are made without it. Make it anew: "
                "llama-index-mm calibrate STORE.",
                store.name,
                type(error).__name__,
                error,
            )
            return None

    def stale(self, store: NodeStore, spaces: Sequence[EmbeddingSpace]) -> bool:
        """Whether the index has other encoders than then, or in any modality a quarter more nodes, or as many fewer."""
        if self.prints != {space.name: space.fingerprint for space in spaces}:
            return True
        now = store.partitions()
        return any(_differs(self.counts.get(key, 0), now.get(key, 0)) for key in {*self.counts, *now})

    def _hubs_of(self, store: NodeStore, key: Key, script: str, seqs: Sequence[int]) -> NDArray[np.float64]:
        space, part, modality = key
        asked = self.asked[space, part]
        judges = self._judges.get((space, part, script))
        if judges is None:
            judges = self._judges[space, part, script] = judging(asked.own, asked.written, script)
        script = "" if judges is asked.own else script  # all scripts without judges of their own have the same hubs
        wanted = np.asarray(seqs, dtype=np.int64)
        with self._lock:
            known, hubs = self._hubs.get((key, script), _NO_HUBS)
            at = np.searchsorted(known, wanted)
            there = at < len(known)
            there[there] = known[at[there]] == wanted[there]
            if there.all():
                return hubs[at]
            new = wanted[~there]
            if not len(known) and store.partitions().get((space, modality), 0) <= _AT_ONCE:
                new = np.union1d(store.find(modalities=[modality], space=space), new)
            if len(known) > _KEPT:
                known, hubs, new = *_NO_HUBS, wanted
            found = hubness(asked.vectors[judges] @ store.vectors(space, modality, new.tolist()).T)
            known, hubs = np.concatenate([known, new]), np.concatenate([hubs, found])
            order = np.argsort(known)
            self._hubs[key, script] = known[order], hubs[order]
            return hubs[order][np.searchsorted(known[order], wanted)]

    def _languages(self, store: NodeStore, seqs: Sequence[int]) -> list[str]:
        with self._lock:
            missing = [seq for seq in seqs if seq not in self._spoken]
            for at in range(0, len(missing), 1024):
                some = missing[at : at + 1024]
                nodes = store.nodes(some)
                self._spoken.update({seq: language_of(nodes[seq].metadata) if seq in nodes else "" for seq in some})
            return [self._spoken[seq] for seq in seqs]


def language_of(metadata: Mapping[str, object]) -> str:
    """Code of the language that a node says it is in; empty if it says none."""
    return str(metadata.get("mm_language") or metadata.get("language") or "")


def calibrate(
    store: NodeStore, spaces: Sequence[EmbeddingSpace], *, old: Calibration | None = None, show_progress: bool = False
) -> Calibration:
    """Fit all channels of an index.

    Args:
        store: where the vectors are.
        spaces: with their encoders.
        old: an earlier calibration; its queries are taken again where there are about as many nodes to take them from, and
            its fits where also about as many nodes are searched.
        show_progress: show a bar on standard error.
    """
    kept = old or Calibration.empty()
    counts = store.partitions()
    fits: dict[Key, ChannelFit] = {}
    every: dict[tuple[str, Modality], Asked] = {}
    searched: dict[tuple[str, Modality], _Searched] = {}  # read once, however many kinds of query ask for it
    large = [one for one in spaces if any(counts.get((one.name, modality), 0) >= _LEAST_ITEMS for modality in one.encoders)]
    for space, part, asked, fresh in asked_of(store, large, kept.asked, kept.prints, _differs, show_progress=show_progress):
        every[space.name, part] = asked
        for modality in space.encoders:
            key: Key = (space.name, part, modality)
            count = counts.get((space.name, modality), 0)
            before = kept.fits.get(key)
            if before is not None and not fresh and not _differs(before.items, count):
                fits[key] = before
            elif count >= _LEAST_ITEMS:
                if (space.name, modality) not in searched:
                    searched[space.name, modality] = _searched(store, space.name, modality)
                if (fit := _fit(searched[space.name, modality], asked, count)) is not None:
                    fits[key] = fit
    return Calibration(fits, every, {space.name: space.fingerprint for space in spaces}, counts)


class _Searched(NamedTuple):
    """What is searched in one space and modality, or some of it."""

    vectors: Vectors
    documents: list[str]
    spoken: list[str]


def _searched(store: NodeStore, space: str, modality: Modality) -> _Searched:
    seqs = store.spread(_ITEMS, modalities=[modality], space=space).tolist()
    documents, spoken = [], []
    for at in range(0, len(seqs), 1024):
        some = seqs[at : at + 1024]
        nodes = store.nodes(some)
        for seq in some:
            node = nodes.get(seq)
            documents.append(document_of(node) if node is not None else "")
            spoken.append(language_of(node.metadata) if node is not None else "")
    return _Searched(store.vectors(space, modality, seqs), documents, spoken)


def _fit(searched: _Searched, asked: Asked, count: int) -> ChannelFit | None:
    similarities = asked.vectors @ searched.vectors.T
    numbers = {document: at for at, document in enumerate(dict.fromkeys(asked.documents)) if document}
    asking, asked_for = (
        np.array([numbers.get(document, unknown) for document in documents], dtype=np.int64)
        for documents, unknown in ((asked.documents, -1), (searched.documents, -2))
    )
    similarities[asking[:, None] == asked_for[None, :]] = np.nan
    return fit_channel(similarities, asked.own, count, searched.spoken, asked.scripts)


def _differs(before: int, now: int) -> bool:
    return now > _GROWN * before or now * _GROWN < before


def _packed(vectors: Vectors) -> str:
    return base64.b64encode(vectors.astype("<f2").tobytes()).decode()


def _unpacked(text: str, shape: Sequence[int]) -> Vectors:
    return np.frombuffer(base64.b64decode(text), dtype="<f2").reshape(shape).astype(np.float32)
