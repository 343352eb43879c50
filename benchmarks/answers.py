"""How many of 30 questions a small local LLM answers right, and with the right source, with retrieval and without.

    python benchmarks/answers.py --data DATA --store FOLDER [--questions FILE.csv] [--model FILE.gguf] [--json]

The recordings, photos and meshes of DATA are taken into the index in FOLDER (once; later runs find them there), and as texts
one caption of each photo that a question asks for in words, with those of 100 others. The questions are in questions.csv
beside this program; a file of the same form asks other data. ``right`` has words that all have to be in the answer
(alternatives are parted by |) and ``where`` the recording or text; for photos ``where`` is a noun, and right is the name of
any photo of which a caption has it; for meshes it is a class, and right is the number of faces or vertices of any mesh of it.

"source" is the share of the answers of which a source is the right file, "both" of those that are right as well. Asked are
the preset's own query engine over everything, the same with the modality given (what a router or an agent would do), and the
LLM alone. Answers are read by these rules, not by people.
"""

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.llms import ChatMessage

from llama_index_mm import MultiModalIndex, citations_of
from llama_index_mm.evaluation.intervals import bootstrap_interval
from llama_index_mm.llms import LocalLLM
from llama_index_mm.media import load_mesh

MODALITIES = {"speech": "audio", "text": "text", "photo": "image", "mesh": "mesh"}
OTHERS = 100  # texts that no question asks for


@dataclass(frozen=True)
class Question:
    """A question, the answers that are right, each as words that it must have, and the files that are right as a source."""

    kind: str
    text: str
    right: tuple[str, ...]
    files: tuple[str, ...]

    def answered(self, answer: str) -> bool:
        """Whether an answer is right."""
        found = set(re.findall(r"[^\W_]+", re.sub(r"(?<=\d),(?=\d)", "", answer.lower())))
        return any(set(re.findall(r"[^\W_]+", one.lower())) <= found for one in self.right)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def prepare(given: argparse.Namespace) -> tuple[list[Question], list[Path]]:
    """The questions, and the files that are to be in the index; texts are written beside it."""
    data: Path = given.data
    captions: dict[str, list[str]] = {}
    for row in rows_of(data / "photos" / "captions.csv"):
        captions.setdefault(row["file"], []).append(row["caption"])
    meshes = {row["file"]: row["label"] for row in rows_of(data / "meshes" / "labels.csv")}
    rows = rows_of(given.questions)
    asked = [row["where"] for row in rows if row["kind"] == "text"]
    texts = given.store.with_name(given.store.name + "-texts")
    texts.mkdir(parents=True, exist_ok=True)
    others = [name for name in captions if Path(name).stem not in asked][:: max(1, len(captions) // OTHERS)]
    notes = []
    for name in [f"{stem}.jpg" for stem in asked] + others:
        notes.append(texts / f"{Path(name).stem}.txt")
        notes[-1].write_text(captions[name][0] + "\n", encoding="utf-8")
    questions = []
    for row in rows:
        kind, where = row["kind"], row["where"]
        right, files = tuple(row["right"].split("|")), (f"{where}.txt" if kind == "text" else where,)
        if kind == "photo":
            files = tuple(n for n, many in captions.items() if any(where in re.findall("[a-z]+", one.lower()) for one in many))
            right = tuple(Path(name).stem for name in files)
        elif kind == "mesh":
            files = tuple(name for name, label in meshes.items() if label == where)
            made = [load_mesh(data / "meshes" / name) for name in files]
            right = tuple(str(len(mesh.faces if "faces" in row["question"] else mesh.vertices)) for mesh in made)
        questions.append(Question(kind, row["question"], right, files))
    media = [path for folder in ("speech", "photos", "meshes") for path in sorted((data / folder).iterdir())]
    return questions, [*notes, *(path for path in media if path.suffix != ".csv")]


def ask(questions: Sequence[Question], answer: Callable[[Question], tuple[str, list[str]]], name: str) -> dict[str, Any]:
    """Ask all questions one way."""
    rows = []
    for question in questions:
        began = time.monotonic()
        told, sources = answer(question)
        right, source = question.answered(told), bool(set(sources) & set(question.files))
        took = round(time.monotonic() - began, 1)
        rows.append({"kind": question.kind, "question": question.text, "answer": told, "sources": sources, "right": right}
                    | {"source": source, "both": right and source, "seconds": took})  # fmt: skip
        print(f"{name}: {question.text} -> {told[:90]!r} {'right' if right else 'wrong'}", file=sys.stderr, flush=True)
    out: dict[str, Any] = {"answers": rows}
    for kind in ("all", *MODALITIES):
        some = [row for row in rows if kind in ("all", row["kind"])]
        if some:
            out[kind] = {
                key: asdict(bootstrap_interval([float(row[key]) for row in some])) for key in ("right", "source", "both")
            }
    out["seconds"] = float(np.median([row["seconds"] for row in rows]))
    return out


def main() -> None:
    """Parse the command line, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="GGUF file of another chat model")
    parser.add_argument("--questions", type=Path, default=Path(__file__).with_name("questions.csv"))
    parser.add_argument("--max-tokens", type=int, default=80)
    parser.add_argument("--penalty", type=float, help="repeat_penalty of the LLM")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    questions, files = prepare(given)
    options: dict[str, Any] = {"model_path": given.model, "max_tokens": given.max_tokens}
    if given.penalty is not None:
        options["repeat_penalty"] = given.penalty
    llm = LocalLLM(**options)
    with MultiModalIndex.open(given.store, create=True) as index:
        print(index.ingest(files, show_progress=True), file=sys.stderr)

        def engine(**asked: Any) -> Callable[[str], tuple[str, list[str]]]:
            made = index.as_query_engine(llm, **asked)

            def told(text: str) -> tuple[str, list[str]]:
                response = made.query(text)
                return str(response), [one.file.name for one in citations_of(response.source_nodes) if one.file]

            return told

        within = {kind: engine(modalities=[MODALITIES[kind]]) for kind in MODALITIES}
        everything = engine()
        table = {
            "over everything": ask(questions, lambda one: everything(one.text), "over everything"),
            "modality given": ask(questions, lambda one: within[one.kind](one.text), "modality given"),
            "LLM alone": ask(questions, lambda one: (alone(llm, one.text), []), "LLM alone"),
        }
    if given.json:
        json.dump(table, sys.stdout, indent=2, ensure_ascii=False)
        return
    print(f"{'':18}{'':8}{'right':>8}{'source':>10}{'both':>8}")
    for name, way in table.items():
        for kind in ("all", *MODALITIES):
            if kind in way:
                cells = [f"{100 * way[kind][key]['mean']:6.1f}" for key in ("right", "source", "both")]
                low, high = (100 * way[kind]["right"][end] for end in ("low", "high"))
                print(f"{name if kind == 'all' else '':18}{kind:8}{'  '.join(cells)}   right in [{low:.0f}, {high:.0f}]")
        print(f"{'':18}{way['seconds']:.1f} s an answer")


def alone(llm: LocalLLM, text: str) -> str:
    """What the LLM says without anything retrieved."""
    return llm.chat([ChatMessage(role="user", content=text)]).message.content or ""


if __name__ == "__main__":
    main()
