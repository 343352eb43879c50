"""One ranking over everything: calibrated scores against raw ones and against LlamaIndex's own fusion of the same lists.

    python benchmarks/mixed.py --data DATA --store STORE [--queries 100] [--kinds text,mesh] [--systems raw,LlamaIndex] [--json]

DATA has the folders photos (captions.csv), sounds, speech (transcripts.csv) and meshes (labels.csv). STORE is made if it is not
there: half of the photos, all five captions of each of the other half as texts, all sounds, all speech and all meshes in one
index of the `offline` preset. So every caption that is asked with has texts that are more like it than any photo, and yet it is
its photo that is looked for.

Systems, all over the same channels with the same weights:
    calibrated     scores by the index's calibration, convex fusion (the default)
    uncalibrated   each query's similarities counted in deviations of that query alone
    raw            weighted mean of the similarities as they are
    rrf, dbsf      the calibrated channels by reciprocal rank and by distribution
    LlamaIndex ... `QueryFusionRetriever` in each of its modes, over one retriever for each channel

R@5 and nDCG@10 with 95 % bootstrap intervals by kind of query, and as the mean over the kinds; differences to "calibrated" by a
paired bootstrap. Then, for each kind with the modality given, the fusion against the best of its channels alone.
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from numpy.typing import NDArray
from PIL import ImageOps
from retrieval import by_label, middle, rows

from llama_index_mm import MediaQuery, MultiModalIndex, load_preset
from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation import EvaluationReport, Judged, compare, evaluate
from llama_index_mm.media import MODALITIES, Waveform, load_image
from llama_index_mm.retrieval import FusionRetriever
from llama_index_mm.retrieval.channels import Channel
from llama_index_mm.transforms.transcript import Transcriber, Transcript

DEPTH = 30
MODES = ("reciprocal_rerank", "relative_score", "dist_based_score", "simple")
METRICS = ("R@1", "R@5", "R@10", "nDCG@10")


class RawRetriever(FusionRetriever):
    """The fusion retriever over similarities as they are."""

    def _scores(self, channel: Channel, raw: NDArray[Any], seqs: Sequence[int]) -> NDArray[Any]:
        return raw


class ChannelRetriever(BaseRetriever):
    """One space and modality of an index by raw similarity, as LlamaIndex's fusion takes it."""

    def __init__(self, raw: RawRetriever, space: str, modality: str) -> None:
        super().__init__()
        self.raw, self.space, self.modality = raw, space, modality

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        asked = query_bundle if isinstance(query_bundle, MediaQuery) else MediaQuery(query_bundle.query_str)
        try:
            return self.raw.retrieve(replace(asked, spaces=[self.space], modalities=[self.modality]))  # type: ignore[list-item]
        except QueryError:  # this space can't be asked so
            return []


class Remembering:
    """A transcriber that hears the same sound once, however many systems ask with it."""

    def __init__(self, transcriber: Transcriber) -> None:
        self.transcriber, self.heard = transcriber, dict[bytes, Transcript]()
        self.fingerprint = transcriber.fingerprint

    def transcribe(self, sound: Waveform, *, language: str | None = None) -> Transcript:
        """Transcribe a recording, or remember what was heard in it."""
        key = hashlib.sha256(sound.samples.tobytes()).digest()
        if key not in self.heard:
            self.heard[key] = self.transcriber.transcribe(sound, language=language)
        return self.heard[key]


def halves(data: Path) -> tuple[list[str], list[str]]:
    """Photos that are indexed, and photos whose captions are."""
    photos = sorted({row["file"] for row in rows(data / "photos" / "captions.csv")})
    random.Random(0).shuffle(photos)
    return sorted(photos[: len(photos) // 2]), sorted(photos[len(photos) // 2 :])


def made(data: Path, store: Path) -> MultiModalIndex:
    """Open the mixed index, and make it if it is not there."""
    preset = load_preset("offline")
    preset = replace(preset, transcriber=Remembering(preset.transcriber))  # type: ignore[arg-type]
    if store.exists() and any(store.iterdir()):
        return MultiModalIndex.open(store, preset=preset)
    shown, told = halves(data)
    index = MultiModalIndex.open(store, preset=preset, create=True)
    files = [data / "photos" / file for file in shown]
    files += [data / folder / row["file"] for folder in ("sounds", "meshes") for row in rows(data / folder / "labels.csv")]
    files += [data / "speech" / row["file"] for row in rows(data / "speech" / "transcripts.csv")]
    index.ingest(files, show_progress=True, calibrate=False)
    index.insert_nodes([TextNode(id_=name, text=caption) for name, caption in captions(data, told)])
    index.calibrate()
    return index


def captions(data: Path, photos: Sequence[str]) -> list[tuple[str, str]]:
    """Captions of these photos with names of their own: ``photo.jpg#2``."""
    wanted, seen = set(photos), dict.fromkeys(photos, 0)
    found = []
    for row in rows(data / "photos" / "captions.csv"):
        if row["file"] in wanted:
            found.append((f"{row['file']}#{seen[row['file']]}", row["caption"]))
            seen[row["file"]] += 1
    return found


def judged(data: Path, scratch: Path, most: int) -> list[Judged]:
    """Queries of all kinds, over everything, with what they should find and the modality that this is of as their kind."""
    shown, told = halves(data)
    own, other = captions(data, shown), captions(data, told)
    speech = rows(data / "speech" / "transcripts.csv")
    kinds: dict[str, list[Judged]] = {"text -> image": [], "text -> text": [], "image -> image": []}
    for name, caption in own:
        kinds["text -> image"].append(Judged(caption, {name.partition("#")[0]}, kind="text -> image"))
    for name, caption in other[::5]:
        photo = name.partition("#")[0]
        alike = {one for one, _ in other if one.partition("#")[0] == photo and one != name}
        kinds["text -> text"].append(Judged(caption, alike, excluded={name}, kind="text -> text"))
    for language in ("en", "zh"):
        kind = f"text -> audio ({language})"
        kinds[kind] = [Judged(middle(row["text"]), {row["file"]}, kind=kind) for row in speech if row["language"] == language]
    classes = by_label(rows(data / "meshes" / "labels.csv")).items()
    kinds["text -> mesh"] = [Judged(label.replace("_", " "), files, kind="text -> mesh") for label, files in classes]
    for file in shown[:most]:
        photo = load_image(data / "photos" / file)
        width, height = photo.size
        path = scratch / f"{file}.png"
        ImageOps.mirror(photo.crop((width // 5, height // 5, width * 4 // 5, height * 4 // 5))).save(path)
        kinds["image -> image"].append(
            Judged(MediaQuery(image=path, modalities=MODALITIES), {file}, kind="image -> image", name=file)
        )
    for modality, folder in (("mesh", "meshes"), ("audio", "sounds")):
        kind = f"{modality} -> {modality}"
        kinds[kind] = []
        for files in by_label(rows(data / folder / "labels.csv")).values():
            for file in sorted(files):
                if others := files - {file}:
                    asked = MediaQuery(**{modality: data / folder / file}, modalities=MODALITIES)  # type: ignore[arg-type]
                    kinds[kind].append(Judged(asked, others, excluded={file}, kind=kind, name=file))
    return [one for some in kinds.values() for one in (random.Random(0).sample(some, most) if len(some) > most else some)]


def weights_of(index: MultiModalIndex) -> dict[tuple[str, str], float]:
    """Weight of each space and modality for a query of words."""
    retriever = index.as_retriever()
    return {
        (space.name, modality): weight
        for space in index.preset.spaces
        for modality in space.encoders
        if (weight := retriever._weight("text", space.name, modality)) > 0
    }


def systems(index: MultiModalIndex) -> dict[str, BaseRetriever]:
    """All that are compared."""
    transcriber = index.preset.transcriber
    assert transcriber is not None
    raw = RawRetriever(
        index.store,
        index.preset.spaces,
        similarity_top_k=DEPTH,
        weights=index.preset.weights,
        hear=lambda sound: transcriber.transcribe(sound).text,
    )
    found: dict[str, BaseRetriever] = {
        "calibrated": index.as_retriever(similarity_top_k=DEPTH),
        "uncalibrated": index.as_retriever(similarity_top_k=DEPTH, calibrated=False),
        "raw": raw,
        "rrf": index.as_retriever(similarity_top_k=DEPTH, fusion="reciprocal_rank"),
        "dbsf": index.as_retriever(similarity_top_k=DEPTH, fusion="distribution_based"),
    }
    weights = weights_of(index)
    for mode in MODES:
        found[f"LlamaIndex {mode}"] = QueryFusionRetriever(
            [ChannelRetriever(raw, space, modality) for space, modality in weights],
            llm=MockLLM(),
            mode=mode,  # type: ignore[arg-type]
            num_queries=1,
            similarity_top_k=DEPTH,
            retriever_weights=list(weights.values()),
            use_async=False,
        )
    return found


def macro(report: EvaluationReport, metric: str) -> NDArray[np.float64]:
    """Mean over the kinds, of 2,000 resamplings of the queries of each: the mean, and the ends of its 95 % interval."""
    rng = np.random.default_rng(0)
    kinds: dict[str, list[float]] = {}
    for one in report.outcomes:
        kinds.setdefault(one.kind, []).append(one.scores.get(metric, 0.0))
    values = [np.array(some) for some in kinds.values()]
    drawn = np.mean([some[rng.integers(0, len(some), (2000, len(some)))].mean(1) for some in values], axis=0)
    return np.array([np.mean([some.mean() for some in values]), *np.percentile(drawn, [2.5, 97.5])])


def alone(index: MultiModalIndex, queries: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """For each kind: the fusion with the modality given, and each of its spaces alone."""
    table: dict[str, dict[str, Any]] = {}
    retriever = index.as_retriever(similarity_top_k=DEPTH)
    for kind in dict.fromkeys(one.kind for one in queries):
        modality = kind.partition(" -> ")[2].partition(" ")[0]
        part = kind.partition(" -> ")[0]
        asked = [replace(one, query=_towards(one.query, modality, ())) for one in queries if one.kind == kind]
        reports = {"fused": evaluate(retriever, asked)}
        for space in index.preset.spaces:
            searched = modality in space.encoders and space.query_encoder(part) is not None  # type: ignore[arg-type]
            if searched and retriever._weight(part, space.name, modality) > 0:
                own = [replace(one, query=_towards(one.query, modality, (space.name,))) for one in asked]
                reports[space.name] = evaluate(retriever, own)
        table[kind] = {
            name: {metric: report.overall.metrics[metric].mean for metric in METRICS if metric in report.overall.metrics}
            for name, report in reports.items()
            if report.overall.queries
        }
        best = max(
            (name for name in table[kind] if name != "fused"), key=lambda name: table[kind][name]["nDCG@10"], default="fused"
        )
        row = compare(reports[best], reports["fused"]).overall.differences["nDCG@10"]
        table[kind]["fused - best"] = {"best": best, "nDCG@10": _interval(row)}
    return table


def _interval(found: Any) -> list[float]:
    return [found.mean, found.low, found.high]


def _towards(query: str | QueryBundle, modality: str, spaces: Sequence[str]) -> MediaQuery:
    asked = query if isinstance(query, MediaQuery) else MediaQuery(str(query))
    return replace(asked, modalities=[modality], spaces=spaces)  # type: ignore[list-item]


def main() -> None:
    """Parse the command line, make the index, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=100, help="at most so many of a kind, chosen at random (seed 0)")
    parser.add_argument("--kinds", default="", help="only kinds that begin with one of these, with commas between")
    parser.add_argument("--systems", default="", help="only systems that begin with one of these, and the calibrated one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, made(given.data, given.store) as index:
        queries = [
            one for one in judged(given.data, Path(folder), given.queries) if one.kind.startswith(tuple(given.kinds.split(",")))
        ]
        say: Callable[[str], None] = (lambda text: None) if given.json else (lambda text: print(text, flush=True))
        reports: dict[str, EvaluationReport] = {}
        table: dict[str, Any] = {"systems": {}, "differences": {}}
        for name, retriever in systems(index).items():
            if not name.startswith(("calibrated", *given.systems.split(","))):
                continue
            reports[name] = report = evaluate(retriever, queries)
            means = {metric: macro(report, metric).tolist() for metric in METRICS}
            table["systems"][name] = {
                "macro": means,
                "failed": report.overall.failed,
                "kinds": {
                    row.kind: {metric: row.metrics[metric].mean for metric in METRICS} for row in report.kinds if row.metrics
                },
            }
            cells = "  ".join(
                f"{row.kind} {100 * row.metrics['R@5'].mean:.0f}/{100 * row.metrics['nDCG@10'].mean:.0f}"
                for row in report.kinds
                if row.metrics
            )
            low, high = (100 * value for value in means["R@5"][1:])
            say(
                f"{name:30} R@5 {100 * means['R@5'][0]:4.1f} [{low:.1f}, {high:.1f}]  "
                f"nDCG@10 {100 * means['nDCG@10'][0]:4.1f}  R@5/nDCG@10: {cells}"
            )
            if name != "calibrated":
                row = compare(report, reports["calibrated"]).overall
                table["differences"][name] = {metric: _interval(row.differences[metric]) for metric in METRICS}
        for name, differences in table["differences"].items():
            mean, low, high = (100 * value for value in differences["nDCG@10"])
            say(f"calibrated - {name:26} nDCG@10 over all queries {mean:+.1f} [{low:+.1f}, {high:+.1f}]")
        table["alone"] = alone(index, queries)
        for kind, row in table["alone"].items():
            cells = "  ".join(f"{name} {100 * cell['nDCG@10']:.1f}" for name, cell in row.items() if name != "fused - best")
            mean, low, high = (100 * value for value in row["fused - best"]["nDCG@10"])
            say(f"{kind:20} nDCG@10 {cells}  fused - {row['fused - best']['best']} {mean:+.1f} [{low:+.1f}, {high:+.1f}]")
    if given.json:
        json.dump(table, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
