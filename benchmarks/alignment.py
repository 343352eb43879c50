"""How well a fitted adapter lets words find meshes and sounds: seen and unseen classes, losses, and numbers of pairs.

    python benchmarks/alignment.py --data DATA [--gcn FOLDER] [--cache FOLDER] [--epochs 100] [--only meshes] [--json]

DATA has the folders meshes and sounds with labels.csv each. All encoders are those of the preset ``offline``; every item is
encoded once. A query is the name of a class, and asks among the items of the classes that are measured: R@k is the share of
classes of which an item is among the first k, P@10 the share of the first 10 places (of as many as there are, if fewer) that
hold one. Nothing that is measured takes part in a fit, nor in deciding when that stops: each fit holds out a fifth of its own
pairs for this.

Meshes, seen classes: five folds over the meshes of each class. Unseen classes: the classes in four parts at random; each part
is measured by adapters fitted on the others. Sounds: fitted on one half of each class and measured on the other, both ways;
unseen: the ten classes in five pairs. Clips cut from one recording stay on one side. "chance" is the R@1 of guessing.

``zero shot`` is the views as they are in the space of pictures, asked with words, without any fit. ``fused`` adds the
similarities of both adapters, each less its mean and divided by its deviation, 0.7 views and 0.3 GCN. Without ``--gcn`` the
network is untrained (MeshGCN as it is made with seed 0), which tells what an adapter on random graph features is worth.
"""

import argparse
import csv
import json
import sys
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
    """Items of a modality with labels, their vectors, and the words to find them by."""

    def __init__(
        self, labels: np.ndarray, groups: Sequence[str], words: Encoder, templates: Sequence[str], epochs: int
    ) -> None:
        self.labels, self.words, self.templates, self.epochs = labels, words, templates, epochs
        self.groups = np.array(groups)
        self.classes = sorted(set(labels))
        self.names = encode_labels(lambda texts: words.encode(texts, query=True), self.classes, templates)
        self.seconds: list[float] = []
        self.made: AlignedEncoder | None = None

    def fit(self, encoder: Encoder, vectors: np.ndarray, chosen: np.ndarray, *, unseen: bool, **options: Any) -> AlignedEncoder:
        """Fit an adapter on the chosen items."""
        aligner = Aligner(Stored(encoder), self.words, templates=self.templates, **options)
        groups = (self.labels if unseen else self.groups)[chosen]
        rows = zip(vectors[chosen], self.labels[chosen], groups, strict=True)
        pairs = [Pair(item, str(label), group=str(group)) for item, label, group in rows]
        began = time.monotonic()
        self.made = aligner.fit(pairs, epochs=self.epochs)
        self.seconds.append(time.monotonic() - began)
        return self.made

    def similar(self, vectors: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Similarities of the measured classes' names and the measured items."""
        classes = [name for name in self.classes if name in set(self.labels[measured])]
        rows = [self.classes.index(name) for name in classes]
        return self.names[rows] @ vectors[measured].T, classes

    def over(self, folds: Sequence[np.ndarray], rank: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        """Means over the classes of all folds; rank gives vectors or similarities for a fold that is measured."""
        rows = []
        for measured in folds:
            similar, classes = rank(measured)
            rows += found(similar, self.labels[measured], classes)
        return mean(rows)

    def by_item(self, count: int, seed: int = 0) -> list[np.ndarray]:
        """Folds that each hold the same share of the groups of each class."""
        names, first, of = np.unique(self.groups, return_index=True, return_inverse=True)
        order = np.lexsort((np.random.default_rng(seed).permutation(len(names)), self.labels[first]))
        place = np.empty(len(order), int)
        place[order] = np.arange(len(order)) % count
        return [place[of] == at for at in range(count)]

    def by_class(self, count: int, seed: int = 0) -> list[np.ndarray]:
        """Folds of whole classes."""
        parts = np.array_split(np.random.default_rng(seed).permutation(self.classes), count)
        return [np.isin(self.labels, part) for part in parts]


def fitted(task: Task, encoder: Encoder, vectors: np.ndarray, *, unseen: bool, **options: Any) -> Callable[[np.ndarray], Any]:
    """Rank by an adapter that is fitted on all that is not measured."""

    def rank(measured: np.ndarray) -> Any:
        made = task.fit(encoder, vectors, ~measured, unseen=unseen, **options)
        return task.similar(made.encode(list(vectors)), measured)

    return rank


def both(task: Task, ways: Sequence[tuple[Encoder, np.ndarray, float]], *, unseen: bool) -> Callable[[np.ndarray], Any]:
    """Rank by the standardised similarities of several adapters, weighted."""

    def rank(measured: np.ndarray) -> Any:
        total: Any = 0.0
        for encoder, vectors, share in ways:
            similar, classes = fitted(task, encoder, vectors, unseen=unseen)(measured)
            total = total + share * standard(similar)
        return total, classes

    return rank


def read(folder: Path) -> tuple[list[Path], np.ndarray]:
    """Files with their labels."""
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [folder / row["file"] for row in rows], np.array([row["label"].replace("_", " ") for row in rows])


def encoded(encoder: Encoder, paths: Sequence[Path], cache: Path | None) -> np.ndarray:
    """Vectors of files."""
    used = encoder if cache is None else CachedEncoder(encoder, cache)
    return np.concatenate([used.encode([file_payload(path, encoder.payload)]) for path in paths])


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--gcn", type=Path, help="folder of a trained MeshGCN")
    parser.add_argument("--cache", type=Path, help="folder of vectors made in an earlier run")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--only", choices=("meshes", "sounds"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    spaces = {space.name: space for space in load_preset("offline").spaces}
    table: dict[str, Any] = {}

    def say(name: str, row: dict[str, float]) -> None:
        table[name] = row
        cells = "  ".join(f"{key} {value:5.1f}" for key, value in row.items())
        print(f"{name:44} {cells}", file=sys.stderr if given.json else sys.stdout, flush=True)

    if given.only != "sounds":
        meshes(given, spaces, say)
    if given.only != "meshes":
        sounds(given, spaces, say)
    if given.json:
        json.dump(table, sys.stdout, indent=2)


def meshes(given: argparse.Namespace, spaces: Any, say: Callable[[str, dict[str, float]], None]) -> None:
    """Words to meshes."""
    paths, labels = read(given.data / "meshes")
    space = spaces["picture"]
    task = Task(labels, [path.name for path in paths], space.query_encoder("text"), MESH_PROMPTS, given.epochs)
    views: Encoder = space.encoders["mesh"]
    gcn: Encoder = MeshGCNEncoder(given.gcn or MeshGCN(MeshGCNConfig()))
    seen = encoded(views, paths, given.cache)
    graphs = encoded(gcn, paths, given.cache)
    for unseen, folds in ((False, task.by_item(5)), (True, task.by_class(4))):
        which = "unseen" if unseen else "seen"
        say(f"meshes, {which}: zero shot", task.over(folds, lambda measured: task.similar(seen, measured)))
        say(f"meshes, {which}: views", task.over(folds, fitted(task, views, seen, unseen=unseen)))
        near = fitted(task, views, seen, unseen=unseen, start="identity", rate=1e-4)
        say(f"meshes, {which}: views, from identity", task.over(folds, near))
        say(f"meshes, {which}: GCN", task.over(folds, fitted(task, gcn, graphs, unseen=unseen)))
        ways = [(views, seen, 0.7), (gcn, graphs, 0.3)]
        say(f"meshes, {which}: fused", task.over(folds, both(task, ways, unseen=unseen)))
    folds = task.by_item(5)
    for adapter in ADAPTERS:
        for loss in LOSSES:
            options = {"adapter": adapter, "loss": loss, "start": "random", "rate": 3e-3}
            say(f"meshes, seen: views, {adapter}, {loss}", task.over(folds, fitted(task, views, seen, unseen=False, **options)))
    for share in (0.1, 0.25, 0.5, 1.0):

        def part(measured: np.ndarray, share: float = share) -> Any:
            rest = np.random.default_rng(1).permutation(np.flatnonzero(~measured))
            some = np.isin(np.arange(len(labels)), rest[: max(10, round(share * len(rest)))])
            made = task.fit(views, seen, some, unseen=False)
            return task.similar(made.encode(list(seen)), measured)

        row = task.over(folds, part)
        card = task.made.card if task.made is not None else None
        if card is not None:
            row |= {"pairs": card.pairs, "rank": round(card.geometry.rank, 1), "of": round(card.target_rank, 1)}
            row |= {"uniformity": round(card.geometry.uniformity, 2)}
        say(f"meshes, seen: views, {share:.0%} of the pairs", row)
    if task.made is not None:
        say("meshes: a fit", {"seconds": round(float(np.median(task.seconds)), 2), "kB": task.made.adapter.parameters * 4e-3})


def sounds(given: argparse.Namespace, spaces: Any, say: Callable[[str, dict[str, float]], None]) -> None:
    """Words to sounds."""
    paths, labels = read(given.data / "sounds")
    encoder: Encoder = spaces["sound"].encoders["audio"]
    heard = encoded(encoder, paths, given.cache)
    takes = [path.stem.rpartition("-")[0] for path in paths]  # clips of one recording differ in the last letter
    task = Task(labels, takes, spaces["text"].query_encoder("text"), SOUND_PROMPTS, given.epochs)
    for unseen, folds in ((False, task.by_item(2)), (True, task.by_class(5))):
        which = "unseen" if unseen else "seen"
        for loss in LOSSES:
            say(f"sounds, {which}: {loss}", task.over(folds, fitted(task, encoder, heard, unseen=unseen, loss=loss)))
    say("sounds: a fit", {"seconds": round(float(np.median(task.seconds)), 2)})


if __name__ == "__main__":
    main()
