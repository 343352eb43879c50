"""How well a fitted adapter lets words find meshes and sounds: seen and unseen classes, losses, and numbers of pairs.

    python benchmarks/alignment.py --data DATA [--gcn FOLDER] [--cache FOLDER] [--epochs 100] [--draws 3] [--only meshes]
                                   [--json]

DATA has the folders meshes and sounds with labels.csv each. All encoders are those of the preset ``offline``; every item is
encoded once. A query is the name of a class, and asks among the items of the classes that are measured: R@k is the share of
classes of which an item is among the first k, P@10 the share of the first 10 places (of as many as there are, if fewer) that
hold one. Nothing that is measured takes part in a fit, nor in deciding when that stops: each fit holds out a fifth of its own
pairs for this, of whole classes where unseen classes are measured. +- is half of the 95 % bootstrap interval of R@1 over the
classes; what a class reaches in several draws of the folds is averaged before.

Meshes, seen classes: five folds over the meshes of each class. Unseen classes: the classes in four parts at random; each part
is measured by adapters fitted on the others. Sounds: fitted on one half of each class and measured on the other, both ways;
unseen: the ten classes in five pairs. Clips cut from one recording stay on one side. "chance" is the R@1 of guessing.

``no fit`` is the views as they are in the space of pictures, asked with words. ``chosen`` fits several times, from ridge
regression and from identity at two rates, and takes what finds the pairs best that the fits hold out. ``with no fit`` adds the
similarities before and after the fit, which is what an index does that has both spaces. ``GCN, by views`` is fitted to the
vectors of the views of the meshes that are not measured, without any label. ``fused`` adds views and GCN, 0.7 and 0.3. Where
similarities are added, each is less its mean and divided by its deviation. rank and uniformity (Roy and Vetterli 2007, Wang
and Isola 2020) are of the held-out items' vectors, means over the fits; "of" is the rank of their targets, which bounds it.
``--gcn untrained`` takes a network with random weights, which tells what a fit on random graph features is worth.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_index_mm.alignment import AlignedEncoder, Aligner, Pair
from llama_index_mm.embeddings.base import Encoder, fingerprint
from llama_index_mm.embeddings.cache import CachedEncoder
from llama_index_mm.embeddings.labels import encode_labels
from llama_index_mm.embeddings.mesh_gcn import MeshGCN, MeshGCNConfig, MeshGCNEncoder
from llama_index_mm.embeddings.payloads import file_payload
from llama_index_mm.evaluation.intervals import bootstrap_interval
from llama_index_mm.presets import load_preset

LOSSES = ("info_nce", "sigmoid", "margin")
ADAPTERS = ("linear", "residual", "mlp")
MESH_PROMPTS = ("a {}.", "a 3D model of a {}.")
SOUND_PROMPTS = ("{}", "the sound of {}")
Table = dict[str, dict[str, float]]


class Stored(Encoder):
    """Vectors that were made before, as an encoder: an item is its own vector."""

    payload = "image"

    def __init__(self, of: Encoder) -> None:
        self.dimension = of.dimension
        self.fingerprint = fingerprint("stored", of.fingerprint)

    def _encode(self, items: Sequence[Any], *, query: bool) -> np.ndarray:
        return np.stack(items)


def found(similar: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[dict[str, float]]:
    """What each class's name finds; similar is ``(classes, items)``."""
    out = []
    for row, name in zip(similar, classes, strict=True):
        ranked = labels[np.argsort(-row, kind="stable")] == name
        if ranked.any():
            places = min(10, int(ranked.sum()))
            shares = {f"R@{k}": float(ranked[:k].any()) for k in (1, 5, 10)}
            best = {"MRR": 1 / (1 + int(ranked.argmax())), "P@10": float(ranked[:places].mean())}
            out.append({**shares, **best, "chance": float(ranked.mean())})
    return out


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means in per cent."""
    return {name: round(100 * float(np.mean([row[name] for row in rows])), 1) for name in rows[0]}


def standard(similar: np.ndarray) -> np.ndarray:
    """Similarities in deviations from their mean."""
    return (similar - similar.mean()) / similar.std()


class Task:
    """Items of a modality with labels, and the words to find them by."""

    def __init__(
        self, labels: np.ndarray, groups: Sequence[str], words: Encoder, templates: Sequence[str], epochs: int
    ) -> None:
        self.labels, self.words, self.templates, self.epochs = labels, words, templates, epochs
        self.groups = np.array(groups)
        self.classes = sorted(set(labels))
        self.names = encode_labels(lambda texts: words.encode(texts, query=True), self.classes, templates)
        self.seconds: list[float] = []
        self.made: list[AlignedEncoder] = []

    def fit(self, encoder: Encoder, vectors: np.ndarray, chosen: np.ndarray, *, unseen: bool, **options: Any) -> AlignedEncoder:
        """Fit an adapter on the chosen items."""
        aligner = Aligner(Stored(encoder), self.words, templates=self.templates, **options)
        groups = (self.labels if unseen else self.groups)[chosen]
        rows = zip(vectors[chosen], self.labels[chosen], groups, strict=True)
        pairs = [Pair(item, str(label), group=str(group)) for item, label, group in rows]
        began = time.monotonic()
        made = aligner.fit(pairs, epochs=self.epochs)
        self.seconds.append(time.monotonic() - began)
        self.made.append(made)
        return made

    def similar(self, vectors: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Similarities of the measured classes' names and the measured items."""
        return self.names[[self.classes.index(name) for name in self.measured(measured)]] @ vectors[measured].T

    def measured(self, measured: np.ndarray) -> list[str]:
        """Classes among the measured items."""
        return [name for name in self.classes if name in set(self.labels[measured])]

    def over(self, folds: Sequence[np.ndarray], similarities: Sequence[np.ndarray]) -> dict[str, float]:
        """Means over the classes of all folds, given what was similar in each."""
        rows: dict[str, list[dict[str, float]]] = {}
        for measured, similar in zip(folds, similarities, strict=True):
            names = self.measured(measured)
            for name, row in zip(names, found(similar, self.labels[measured], names), strict=True):
                rows.setdefault(name, []).append(row)
        each = [{key: float(np.mean([row[key] for row in many])) for key in many[0]} for many in rows.values()]
        out = mean(each)
        interval = bootstrap_interval([row["R@1"] for row in each])
        return {"R@1": out["R@1"], "+-": round(50 * (interval.high - interval.low), 1), **out}

    def fitted(
        self, encoder: Encoder, vectors: np.ndarray, folds: Sequence[np.ndarray], *, unseen: bool, **options: Any
    ) -> Any:
        """Similarities in each fold, by an adapter that is fitted on all that is not measured, and the fits' geometry."""
        self.made.clear()
        out = [
            self.similar(self.fit(encoder, vectors, ~measured, unseen=unseen, **options).encode(list(vectors)), measured)
            for measured in folds
        ]
        return out, self.geometry(), [made.card.score for made in self.made if made.card is not None]

    def geometry(self) -> dict[str, float]:
        """Rank and uniformity of what the last fits held out."""
        cards = [made.card for made in self.made if made.card is not None]
        ranks = {"rank": [card.geometry.rank for card in cards], "of": [card.target_rank for card in cards]}
        out = {name: round(float(np.mean(values)), 1) for name, values in ranks.items()}
        return {**out, "uniformity": round(float(np.mean([card.geometry.uniformity for card in cards])), 2)}

    def by_item(self, count: int, draws: int) -> list[np.ndarray]:
        """Folds that each hold the same share of the groups of each class."""
        names, first, of = np.unique(self.groups, return_index=True, return_inverse=True)
        folds = []
        for seed in range(draws):
            order = np.lexsort((np.random.default_rng(seed).permutation(len(names)), self.labels[first]))
            place = np.empty(len(order), int)
            place[order] = np.arange(len(order)) % count
            folds += [place[of] == at for at in range(count)]
        return folds

    def by_class(self, count: int, draws: int) -> list[np.ndarray]:
        """Folds of whole classes."""
        splits = [np.array_split(np.random.default_rng(seed).permutation(self.classes), count) for seed in range(draws)]
        return [np.isin(self.labels, part) for parts in splits for part in parts]


def distilled(
    source: Encoder, vectors: np.ndarray, target: Encoder, wanted: np.ndarray, chosen: np.ndarray, epochs: int
) -> AlignedEncoder:
    """Fit an adapter to the vectors that another encoder gives the same items, without labels."""
    pairs = [
        Pair(item, other, key=str(at)) for at, (item, other) in enumerate(zip(vectors[chosen], wanted[chosen], strict=True))
    ]
    return Aligner(Stored(source), Stored(target)).fit(pairs, epochs=epochs)


def best_of(ways: Sequence[tuple[list[np.ndarray], Any, list[float]]]) -> list[np.ndarray]:
    """In each fold what reached most on the pairs that were held out."""
    picked = np.argmax([scores for _, _, scores in ways], 0)
    return [ways[pick][0][at] for at, pick in enumerate(picked)]


def added(*parts: tuple[float, Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Weighted sums of standardised similarities."""
    return [sum(share * standard(part[at]) for share, part in parts) for at in range(len(parts[0][1]))]


def read(folder: Path) -> tuple[list[Path], np.ndarray]:
    """Files with their labels."""
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [folder / row["file"] for row in rows], np.array([row["label"].replace("_", " ") for row in rows])


def encoded(encoder: Encoder, paths: Sequence[Path], cache: Path) -> np.ndarray:
    """Vectors of files."""
    used = CachedEncoder(encoder, cache)
    return np.concatenate([used.encode([file_payload(path, encoder.payload)]) for path in paths])


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--gcn", help="folder of a MeshGCN, or 'untrained'; default is the preset's own")
    parser.add_argument("--cache", type=Path, help="folder of vectors made in an earlier run")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--draws", type=int, default=3, help="of the folds")
    parser.add_argument("--only", choices=("meshes", "sounds"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    spaces = {space.name: space for space in load_preset("offline").spaces}
    table: dict[str, Any] = {}

    def say(name: str, *rows: dict[str, float]) -> None:
        table[name] = {key: value for row in rows for key, value in row.items()}
        cells = "  ".join(f"{key} {value:5.1f}" for key, value in table[name].items())
        print(f"{name:44} {cells}", file=sys.stderr if given.json else sys.stdout, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        cache = given.cache or Path(folder)
        if given.only != "sounds":
            meshes(given, cache, spaces, say)
        if given.only != "meshes":
            sounds(given, cache, spaces, say)
    if given.json:
        json.dump(table, sys.stdout, indent=2)


def mesh_network(given: argparse.Namespace, spaces: Any) -> Encoder:
    """The mesh network that was asked for."""
    if given.gcn is None:
        made: Encoder = spaces["shape"].encoders["mesh"]
        return made
    return MeshGCNEncoder(MeshGCN(MeshGCNConfig()) if given.gcn == "untrained" else Path(given.gcn))


def meshes(given: argparse.Namespace, cache: Path, spaces: Any, say: Callable[..., None]) -> None:
    """Words to meshes."""
    paths, labels = read(given.data / "meshes")
    space = spaces["picture"]
    words = CachedEncoder(space.query_encoder("text"), cache)
    task = Task(labels, [path.name for path in paths], words, MESH_PROMPTS, given.epochs)
    views, gcn = space.encoders["mesh"], mesh_network(given, spaces)
    seen, graphs = encoded(views, paths, cache), encoded(gcn, paths, cache)
    for unseen, folds in ((False, task.by_item(5, given.draws)), (True, task.by_class(4, given.draws))):
        which = "unseen" if unseen else "seen"
        bare = [task.similar(seen, measured) for measured in folds]
        say(f"meshes, {which}: views, no fit", task.over(folds, bare))
        ridge = task.fitted(views, seen, folds, unseen=unseen)
        say(f"meshes, {which}: views", task.over(folds, ridge[0]), ridge[1])
        quick = task.fitted(views, seen, folds, unseen=unseen, start="identity")
        say(f"meshes, {which}: views, from identity", task.over(folds, quick[0]), quick[1])
        slow = task.fitted(views, seen, folds, unseen=unseen, start="identity", rate=1e-4)
        say(f"meshes, {which}: views, from identity, rate 1e-4", task.over(folds, slow[0]), slow[1])
        chosen = best_of([ridge, quick, slow])
        say(f"meshes, {which}: views, chosen", task.over(folds, chosen))
        say(f"meshes, {which}: views, chosen, with no fit", task.over(folds, added((0.5, bare), (0.5, chosen))))
        shape = task.fitted(gcn, graphs, folds, unseen=unseen)
        say(f"meshes, {which}: GCN", task.over(folds, shape[0]), shape[1])
        taught = [
            task.similar(distilled(gcn, graphs, views, seen, ~measured, given.epochs).encode(list(graphs)), measured)
            for measured in folds
        ]
        say(f"meshes, {which}: GCN, by views", task.over(folds, taught))
        say(f"meshes, {which}: fused, views chosen", task.over(folds, added((0.7, chosen), (0.3, shape[0]))))
        say(
            f"meshes, {which}: fused, views with no fit", task.over(folds, added((0.35, bare), (0.35, chosen), (0.3, shape[0])))
        )
    folds = task.by_item(5, 1)
    for adapter, loss in [("linear", loss) for loss in LOSSES] + [("residual", "info_nce"), ("mlp", "info_nce")]:
        made = task.fitted(views, seen, folds, unseen=False, adapter=adapter, loss=loss, start="random", rate=3e-3)
        say(f"meshes, seen: views, {adapter}, {loss}, random start", task.over(folds, made[0]), made[1])
    for share in (0.1, 0.25, 0.5, 1.0):
        task.made.clear()
        similar = []
        for measured in folds:
            rest = np.random.default_rng(1).permutation(np.flatnonzero(~measured))
            some = np.isin(np.arange(len(labels)), rest[: max(10, round(share * len(rest)))])
            similar.append(task.similar(task.fit(views, seen, some, unseen=False).encode(list(seen)), measured))
        pairs = float(np.mean([made.card.pairs for made in task.made if made.card is not None]))
        say(f"meshes, seen: views, {share:.0%} of the pairs", {"pairs": pairs}, task.over(folds, similar), task.geometry())
    took = {"seconds": round(float(np.median(task.seconds)), 2), "kB": task.made[-1].adapter.parameters * 4e-3}
    say("meshes: a fit", took)


def sounds(given: argparse.Namespace, cache: Path, spaces: Any, say: Callable[..., None]) -> None:
    """Words to sounds."""
    paths, labels = read(given.data / "sounds")
    encoder: Encoder = spaces["sound"].encoders["audio"]
    heard = encoded(encoder, paths, cache)
    takes = [path.stem.rpartition("-")[0] for path in paths]  # clips of one recording differ in the last letter
    words = CachedEncoder(spaces["text"].query_encoder("text"), cache)
    task = Task(labels, takes, words, SOUND_PROMPTS, given.epochs)
    for unseen, folds in ((False, task.by_item(2, given.draws)), (True, task.by_class(5, given.draws))):
        which = "unseen" if unseen else "seen"
        for loss in LOSSES:
            made = task.fitted(encoder, heard, folds, unseen=unseen, loss=loss)
            say(f"sounds, {which}: {loss}", task.over(folds, made[0]), made[1])
    say("sounds: a fit", {"seconds": round(float(np.median(task.seconds)), 2)})


if __name__ == "__main__":
    main()
