"""How well each kind of query finds what it should: a table of R@1/5/10, P@5 and MRR.

    python benchmarks/retrieval.py --data DATA --store STORE [--queries 100] [--json]

DATA has the folders photos (captions.csv), sounds (labels.csv), speech (transcripts.csv) and meshes (labels.csv); STORE is an
index of it: llama-index-mm ingest DATA --store STORE. A query that is itself in the index never counts as found.

Kinds of queries:
    text -> photo      a caption finds its photo
    text -> speech     the middle 60 % of what is said finds the recording, among all recordings
    text -> mesh       the name of a class finds a mesh of it
    text -> sound      the name of a class finds a sound of it (by file name only: the offline preset has no such space)
    photo -> photo     the mirrored middle of a photo finds the photo
    sound -> sound     a sound finds another of its class
    speech -> speaker  a recording finds another of its speaker, in the space of speakers
    mesh -> mesh       a mesh finds another of its class
    text -> anything   captions, said words and class names, each over the whole mixed index
"""

import argparse
import csv
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import ImageOps

from llama_index_mm import MediaQuery, MultiModalIndex
from llama_index_mm.evaluation import QueryScores, summarise
from llama_index_mm.media import load_image

DEPTH = 10
Judged = tuple[MediaQuery, set[str], str]  # query, names of the files that should be found, name of the file asked with


def rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV with a header."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def middle(text: str) -> str:
    """The middle 60 % of a text: of its words, or of its characters where it has no spaces."""
    parts = text.split() if " " in text.strip() else list(text.strip())
    cut = len(parts) // 5
    return (" " if " " in text.strip() else "").join(parts[cut : len(parts) - cut])


def by_label(table: list[dict[str, str]]) -> dict[str, set[str]]:
    """Files of each class."""
    classes: dict[str, set[str]] = {}
    for row in table:
        classes.setdefault(row["label"], set()).add(row["file"])
    return classes


def photo_captions(data: Path) -> Iterator[Judged]:
    """Captions for photos."""
    for row in rows(data / "photos" / "captions.csv"):
        yield MediaQuery(row["caption"], modalities=["image"]), {row["file"]}, ""


def said(data: Path, language: str) -> Iterator[Judged]:
    """Parts of transcripts for recordings."""
    for row in rows(data / "speech" / "transcripts.csv"):
        if row["language"] == language:
            yield MediaQuery(middle(row["text"]), modalities=["audio"]), {row["file"]}, ""


def named(data: Path, folder: str, modality: str) -> Iterator[Judged]:
    """Class names for meshes or sounds."""
    for label, files in by_label(rows(data / folder / "labels.csv")).items():
        yield MediaQuery(label.replace("_", " "), modalities=[modality]), files, ""  # type: ignore[list-item]


def like(data: Path, folder: str, part: str) -> Iterator[Judged]:
    """Each sound or mesh, for others of its class."""
    table = rows(data / folder / "labels.csv")
    classes = by_label(table)
    for row in table:
        others = classes[row["label"]] - {row["file"]}
        if others:
            asked = {part: data / folder / row["file"]}
            yield MediaQuery(modalities=[part], **asked), others, row["file"]  # type: ignore[list-item, arg-type]


def speakers(data: Path) -> Iterator[Judged]:
    """Each recording, for others of its speaker."""
    table = rows(data / "speech" / "transcripts.csv")
    for row in table:
        others = {other["file"] for other in table if other["speaker"] == row["speaker"]} - {row["file"]}
        if others:
            asked = data / "speech" / row["file"]
            yield MediaQuery(audio=asked, modalities=["audio"], spaces=["speaker"]), others, row["file"]


def mirrored(data: Path, folder: Path) -> Iterator[Judged]:
    """The mirrored middle of each photo, for the photo."""
    for file in sorted({row["file"] for row in rows(data / "photos" / "captions.csv")}):
        photo = load_image(data / "photos" / file)
        width, height = photo.size
        part = ImageOps.mirror(photo.crop((width // 5, height // 5, width * 4 // 5, height * 4 // 5)))
        part.save(folder / f"{file}.png")
        yield MediaQuery(image=folder / f"{file}.png", modalities=["image"]), {file}, ""


def anywhere(judged: Iterator[Judged]) -> Iterator[Judged]:
    """The same queries over all modalities."""
    for query, relevant, own in judged:
        yield MediaQuery(query.query_str), relevant, own


def run(index: MultiModalIndex, judged: list[Judged]) -> dict[str, float]:
    """Ask all and sum up."""
    retriever = index.as_retriever(similarity_top_k=DEPTH * 3)
    scores = []
    began = time.monotonic()
    for query, relevant, own in judged:
        files = [str(node.node.metadata["file_name"]) for node in retriever.retrieve(query)]
        ranking = [file for file in dict.fromkeys(files) if file != own][:DEPTH]
        scores.append(QueryScores(ranking, relevant))
    return {**summarise(scores), "ms": 1000 * (time.monotonic() - began) / len(judged)}


def main() -> None:
    """Parse the command line, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=100, help="at most so many of a kind, chosen at random (seed 0)")
    parser.add_argument("--only", default="", help="only kinds whose name holds this")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    data: Path = given.data
    with tempfile.TemporaryDirectory() as folder, MultiModalIndex.open(given.store) as index:
        kinds: dict[str, Callable[[], Iterator[Judged]]] = {
            "text -> photo": lambda: photo_captions(data),
            "text -> speech (en)": lambda: said(data, "en"),
            "text -> speech (zh)": lambda: said(data, "zh"),
            "text -> mesh": lambda: named(data, "meshes", "mesh"),
            "text -> sound": lambda: named(data, "sounds", "audio"),
            "photo -> photo": lambda: mirrored(data, Path(folder)),
            "sound -> sound": lambda: like(data, "sounds", "audio"),
            "speech -> speaker": lambda: speakers(data),
            "mesh -> mesh": lambda: like(data, "meshes", "mesh"),
            "text -> anything (captions)": lambda: anywhere(photo_captions(data)),
            "text -> anything (said, en)": lambda: anywhere(said(data, "en")),
            "text -> anything (said, zh)": lambda: anywhere(said(data, "zh")),
            "text -> anything (meshes)": lambda: anywhere(named(data, "meshes", "mesh")),
        }
        table = {}
        for kind, make in kinds.items():
            if given.only not in kind:
                continue
            judged = list(make())
            if len(judged) > given.queries:
                judged = random.Random(0).sample(judged, given.queries)
            table[kind] = run(index, judged)
            if not given.json:
                row = table[kind]
                cells = " ".join(f"{name} {100 * row[name]:5.1f}" for name in ("R@1", "R@5", "R@10", "P@5", "MRR"))
                print(f"{kind:28} {cells}  n {row['queries']:.0f}  {row['ms']:.0f} ms", flush=True)
    if given.json:
        json.dump({"preset": index.preset.name, "kinds": table}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
