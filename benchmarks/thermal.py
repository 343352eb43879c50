"""How well thermal pictures join photos and words through paired photos, by number of pairs, and that nothing old changes.

    python benchmarks/thermal.py --data DATA [--cache FOLDER] [--draws 5] [--only recall] [--json]

The thermal pictures are **simulated** from the photos (`llama_index_mm.demo.thermal`): no figure is one of a thermal camera.
DATA has the folders photos with captions.csv, and meshes with labels.csv. Encoders are those of the preset ``offline``, and
`ThermalEncoder` for the thermal pictures, whose vectors compare with nothing before a fit.

Each draw takes 50 of the photos to measure on, whole and with no part in any fit. Of the others, 50 pairs are a crop of each of
50 photos, 200 of each of 200, and 1,000 are four crops of each of 250. R@k: the right one of 50 is among the first k. Captions
are five for each photo. A label is the class that the photo, not the thermal picture, most likely shows; it asks in the seven
templates of CLIP, and every picture whose photo has that class is right. Figures are means over the draws with their deviation.
"as a photo" gives the thermal pictures to the encoder of photos, without a fit or with one that starts there; "the photos" are
the photos in their place, the most there is. Seconds of a fit are of the processor, without encoding.

Then an index of 60 photos, 20 meshes, 20 texts and 50 thermal pictures, which the old preset takes for photos: a space for
them, fitted on 250 pairs, joins beside the old ones. Digests of all old vectors, and the figures of queries for old things,
among their own kind and among everything, are compared by `gate`. The thermal twin of a photo that is sought counts neither for
nor against. MRR is given before, and after with weights of 1, 0.25 and 0 for the new space.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from llama_index_mm import MediaQuery, MultiModalIndex, load_preset
from llama_index_mm.alignment import Aligner, Pair, beside, digest_vectors, gate
from llama_index_mm.alignment.geometry import geometry_of
from llama_index_mm.demo.thermal import ThermalEncoder, ThermalOrPhotoEncoder, simulate_thermal
from llama_index_mm.embeddings.cache import CachedEncoder, EmbeddingCache
from llama_index_mm.embeddings.labels import encode_labels
from llama_index_mm.errors import AlignmentError
from llama_index_mm.evaluation import EvaluationReport, Judged, evaluate, mixed
from llama_index_mm.media import load_image
from llama_index_mm.presets import Preset
from llama_index_mm.stores import MediaStore

MEASURED = 50
SIZES = ((50, 50, 1), (200, 200, 1), (1000, 250, 4))  # pairs, photos, crops of each
PLACES = (1, 5, 10)
WEIGHTS = (1.0, 0.25, 0.0)  # of the new space, when old things are asked for
AT_ONCE = 64


@dataclass(frozen=True)
class Shots:
    """Photos and their simulated thermal twins: of each photo the whole, then its crops."""

    paths: list[Path]
    captions: list[list[str]]
    photos: list[list[Image.Image]]
    thermal: list[list[Image.Image]]


def crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Between 60 and 90 per cent of each side."""
    width, height = (round(side * rng.uniform(0.6, 0.9)) for side in photo.size)
    left, top = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
    return photo.crop((left, top, left + width, top + height))


def read(folder: Path, crops: int) -> Shots:
    """Photos with captions, crops and twins."""
    captions: dict[str, list[str]] = {}
    with (folder / "captions.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["file"], []).append(row["caption"])
    photos = []
    for at, name in enumerate(captions):
        whole = load_image(folder / name)
        photos.append([whole, *(crop(whole, np.random.default_rng([at, one])) for one in range(crops))])
    thermal = [[Image.fromarray(simulate_thermal(one)) for one in row] for row in photos]
    return Shots([folder / name for name in captions], list(captions.values()), photos, thermal)


def shares(similar: np.ndarray, right: np.ndarray) -> list[float]:
    """R@1, R@5 and R@10 in per cent; both are ``(queries, candidates)``."""
    order = np.argsort(-similar, axis=1, kind="stable")
    ranked = np.take_along_axis(right, order, 1)
    return [100 * float(ranked[:, :k].any(1).mean()) for k in PLACES]


def guessed(right: np.ndarray) -> list[float]:
    """The same of guessing, in per cent."""
    count = right.shape[1]
    missed = np.ones(len(right))
    out = []
    for k in range(max(PLACES)):
        missed = missed * np.maximum(count - right.sum(1) - k, 0) / (count - k)
        if k + 1 in PLACES:
            out.append(100 * float(1 - missed.mean()))
    return out


class Draw:
    """Photos that are measured, and what they are asked with."""

    def __init__(self, shots: Shots, picture: Any, words: Any, labels: Sequence[str], seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(shots.paths))
        self.measured, self.rest = order[:MEASURED].tolist(), order[MEASURED:].tolist()
        self.twins = [shots.thermal[at][0] for at in self.measured]
        self.photos = picture.encode([shots.photos[at][0] for at in self.measured])
        told = [(caption, at) for at in self.measured for caption in shots.captions[at]]
        self.captions = words.encode([caption for caption, _ in told], query=True)
        self.told = np.array([at for _, at in told])[:, None] == np.array(self.measured)
        own = [labels[at] for at in self.measured]
        names = sorted(set(own))
        self.names = encode_labels(lambda texts: words.encode(texts, query=True), names)
        self.named = np.array(names)[:, None] == np.array(own)

    def rights(self) -> dict[str, np.ndarray]:
        """What belongs to each query, by kind."""
        same = np.eye(MEASURED, dtype=bool)
        return {
            "thermal -> photo": same,
            "photo -> thermal": same,
            "caption -> thermal": self.told,
            "label -> thermal": self.named,
        }

    def figures(self, vectors: np.ndarray) -> dict[str, list[float]]:
        """Of vectors of the thermal twins in the space of photos."""
        similar = {
            "thermal -> photo": vectors @ self.photos.T,
            "photo -> thermal": self.photos @ vectors.T,
            "caption -> thermal": self.captions @ vectors.T,
            "label -> thermal": self.names @ vectors.T,
        }
        return {kind: shares(similar[kind], right) for kind, right in self.rights().items()}


def pairs_of(shots: Shots, chosen: Sequence[int], crops: int) -> list[Pair]:
    """A pair for each crop; those of one photo stay on one side of what a fit holds out."""
    return [Pair(shots.thermal[at][one], shots.photos[at][one], group=str(at)) for at in chosen for one in range(1, crops + 1)]


def over(draws: Sequence[dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """Mean and deviation over the draws, by kind and place."""
    return {
        kind: {
            f"R@{k}": [round(float(np.mean(cell)), 1), round(float(np.std(cell)), 1)]
            for k, cell in zip(PLACES, zip(*(one[kind] for one in draws), strict=True), strict=True)
        }
        for kind in draws[0]
    }


def recall(shots: Shots, preset: Preset, cache: EmbeddingCache, draws: int, say: Any) -> None:
    """Fit with more and more pairs, and measure."""
    space = next(space for space in preset.spaces if space.name == "picture")
    picture, words = space.encoders["image"], space.query_encoder("text")
    assert preset.labeler is not None
    labels = [preset.labeler.labels([row[0]], top=1)[0][0][0] for row in shots.photos]
    source = CachedEncoder(ThermalEncoder(), cache)
    every = [Draw(shots, picture, words, labels, seed) for seed in range(draws)]
    say("by chance", over([{kind: guessed(right) for kind, right in one.rights().items()} for one in every]))
    say("as a photo, no fit", over([one.figures(picture.encode([twin.convert("RGB") for twin in one.twins])) for one in every]))
    for count, photos, crops in SIZES:
        found, geometry, targets, seconds = [], [], [], []
        for seed, one in enumerate(every):
            pairs = pairs_of(shots, one.rest[:photos], crops)
            aligner = Aligner(source, space, part="image", cache=cache, seed=seed)
            aligner.encode(pairs, cache=cache)
            began = time.process_time()
            made = aligner.fit(pairs)
            seconds.append(time.process_time() - began)
            vectors = made.encode(one.twins)
            found.append(one.figures(vectors))
            geometry.append(geometry_of(vectors, one.photos))
            targets.append(geometry_of(one.photos, one.photos))
        facts = {
            "rank": round(float(np.mean([one.rank for one in geometry])), 1),
            "rank of the photos": round(float(np.mean([one.rank for one in targets])), 1),
            "uniformity": round(float(np.mean([one.uniformity for one in geometry])), 2),
            "uniformity of the photos": round(float(np.mean([one.uniformity for one in targets])), 2),
            "seconds of a fit": round(float(np.median(seconds)), 2),
            "kB": round(made.adapter.parameters * 4e-3),
        }
        say(f"{count:,} pairs", over(found), facts)
    near = []
    for seed, one in enumerate(every):
        aligner = Aligner(picture, space, part="image", cache=cache, start="identity", rate=1e-4, seed=seed)
        pairs = [replace(pair, item=pair.item.convert("RGB")) for pair in pairs_of(shots, one.rest[:200], 1)]
        near.append(one.figures(aligner.fit(pairs).encode([twin.convert("RGB") for twin in one.twins])))
    say("as a photo, 200 pairs from identity", over(near))
    say("the photos", over([one.figures(one.photos) for one in every]))


def judged(
    shots: Shots, old: Sequence[int], texts: Sequence[int], meshes: dict[str, list[str]], twins: set[int]
) -> list[Judged]:
    """Queries for old things, by words and by pictures."""
    queries = []
    for at in old[::2]:
        name, hidden = shots.paths[at].name, [f"{shots.paths[at].stem}.thermal.png"] if at in twins else []
        queries.append(Judged(MediaQuery(shots.captions[at][0], modalities=["image"]), [name], hidden))
        queries.append(Judged(MediaQuery(image=shots.photos[at][1], modalities=["image"]), [name], hidden))
    queries += [Judged(MediaQuery(shots.captions[at][0], modalities=["text"]), [f"{shots.paths[at].stem}.txt"]) for at in texts]
    queries += [Judged(MediaQuery(f"a {label}", modalities=["mesh"]), names) for label, names in meshes.items()]
    return [*queries, *mixed(queries)]


def harmless(given: argparse.Namespace, shots: Shots, preset: Preset, cache: EmbeddingCache) -> dict[str, Any]:
    """Put the new space beside those of a real index, and compare what was there."""
    order = np.random.default_rng(0).permutation(len(shots.paths)).tolist()
    measured, rest = order[:MEASURED], order[MEASURED:]
    old, texts, twins = measured[:40] + rest[:20], rest[20:40], set(measured)
    with (given.data / "meshes" / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))[:20]]
    meshes: dict[str, list[str]] = {}
    for row in chosen:
        meshes.setdefault(row["label"].replace("_", " "), []).append(row["file"])
    picture = next(space for space in preset.spaces if space.name == "picture")
    aligner = Aligner(CachedEncoder(ThermalEncoder(), cache), picture, part="image", cache=cache)
    made = aligner.fit(pairs_of(shots, rest, 1))
    both = ThermalOrPhotoEncoder(made, picture.encoders["image"])
    new = preset.with_space(beside(picture, "image", both, name="thermal").cached(cache))
    asked = judged(shots, old, texts, meshes, twins)
    with tempfile.TemporaryDirectory() as home:
        files, folder = Path(home) / "files", Path(home) / "index"
        files.mkdir()
        for at in twins:
            shots.thermal[at][0].save(files / f"{shots.paths[at].stem}.thermal.png")
        for at in texts:
            (files / f"{shots.paths[at].stem}.txt").write_text("\n".join(shots.captions[at][1:]), encoding="utf-8")
        sources = [files, *(shots.paths[at] for at in old), *(given.data / "meshes" / row["file"] for row in chosen)]
        with MultiModalIndex.open(folder, preset=preset, create=True) as index:
            report = index.ingest(sources, num_workers=0)
            before = evaluate(index.as_retriever(similarity_top_k=30), asked)
        vectors = digest_vectors(folder)
        began = time.process_time()
        encoded = MultiModalIndex.reembed(folder, preset=new, num_workers=0).encoded
        seconds = time.process_time() - began
        with MultiModalIndex.open(folder, preset=new) as index:
            after = {
                weight: evaluate(index.as_retriever(similarity_top_k=30, weights={"thermal": weight}), asked)
                for weight in WEIGHTS
            }
            found = evaluate(index.as_retriever(similarity_top_k=30), crossed(shots, files, measured[:40]))
        now = digest_vectors(folder)
        return {
            "problems": len(report.problems),
            "encoded": encoded,
            "seconds": round(seconds, 2),
            "same vectors": {name: now[name] == digest for name, digest in vectors.items()},
            "vectors": _counts(folder),
            "MRR of old queries": {
                one.kind: [round(row.metrics["MRR"].mean, 3) for row in (one, *rows)]
                for one, *rows in zip(before.kinds, *(report.kinds for report in after.values()), strict=True)
            },
            "gate": {
                weight: judgement(before, report, vectors_before=vectors, vectors_after=now, card=made.card)
                for weight, report in after.items()
            },
            "through the index": {
                row.kind: {f"R@{k}": round(row.metrics[f"R@{k}"].mean, 3) for k in PLACES} for row in found.kinds
            },
        }


def judgement(*reports: EvaluationReport, **given: Any) -> str:
    """What the gate says."""
    try:
        gate(*reports, **given)
    except AlignmentError as error:
        return str(error)
    return "let in"


def crossed(shots: Shots, files: Path, chosen: Sequence[int]) -> list[Judged]:
    """Thermal pictures ask for photos, and photos for thermal pictures; the picture that asks is left out."""
    out = []
    for at in chosen:
        thermal, photo = files / f"{shots.paths[at].stem}.thermal.png", shots.paths[at]
        for asking, sought, kind in ((thermal, photo, "thermal -> photo"), (photo, thermal, "photo -> thermal")):
            query = MediaQuery(image=asking, modalities=["image"], spaces=["thermal"])
            out.append(Judged(query, [sought.name], [asking.name], kind=f"{kind}, among all pictures"))
    return out


def _counts(folder: Path) -> dict[str, int]:
    with MediaStore(folder, create=False) as store:
        return {name: len(store.find(space=name)) for name in sorted(store.spaces())}


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder of vectors made in an earlier run")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--only", choices=("recall", "index"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    out: dict[str, Any] = {}
    stream = sys.stderr if given.json else sys.stdout

    def say(name: str, row: dict[str, dict[str, list[float]]], facts: dict[str, float] | None = None) -> None:
        out[name] = {**row, **(facts or {})}
        print(name, file=stream)
        for kind, cells in row.items():
            told = "  ".join(f"{key} {value:5.1f} ±{spread:4.1f}" for key, (value, spread) in cells.items())
            print(f"  {kind:20} {told}", file=stream, flush=True)
        if facts:
            print("  " + ", ".join(f"{key} {value}" for key, value in facts.items()), file=stream)

    with tempfile.TemporaryDirectory() as scratch:
        cache = EmbeddingCache(given.cache or Path(scratch))
        preset = load_preset("offline").cached(cache)
        shots = read(given.data / "photos", 1 if given.only == "index" else 4)
        if given.only != "index":
            recall(shots, preset, cache, given.draws, say)
        if given.only != "recall":
            out["index"] = harmless(given, shots, preset, cache)
        cache.close()
    out["seconds"] = round(time.process_time())
    for key, value in out.get("index", {}).items():
        print(f"{key}: {value}", file=stream)
    print(f"{out['seconds']} s of the processor", file=stream)
    if given.json:
        json.dump(out, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
