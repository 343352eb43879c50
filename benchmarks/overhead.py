"""What fusing costs: the whole of `retrieve` less encoding and less what the store does.

    python benchmarks/overhead.py [--nodes 4000] [--rounds 300] [--json]

An index of texts and pictures with random vectors in two spaces, both of which a question in words can be asked in: four
channels, k = 10, calibrated and not. Times are the calling thread's CPU time, so that other programs hardly count. What is
taken off are calls into encoders and the store; "bare" is LlamaIndex's own `BaseRetriever.retrieve` around nothing.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llama_index_mm import EmbeddingSpace, MediaQuery
from llama_index_mm.nodes import ImageMedia
from llama_index_mm.retrieval import FusionRetriever
from llama_index_mm.retrieval.calibration import calibrate
from llama_index_mm.stores import MediaStore, Record
from llama_index_mm.testing import HashingEncoder

DIMENSION = 256
TAKEN_OFF = ("search", "similarities", "sample", "nodes", "find", "vectors")


class Bare(BaseRetriever):
    """Finds nothing."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return []


class Clock:
    """Adds up the time of some calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, owner: Any, name: str) -> None:
        """Count the calls of a method from now on; of nested ones the outermost."""
        call = getattr(owner, name)

        def timed(*args: Any, **named: Any) -> Any:
            before, began = self.seconds, time.thread_time()
            try:
                return call(*args, **named)
            finally:
                self.seconds = before + time.thread_time() - began

        setattr(owner, name, timed)


def filled(folder: Path, spaces: list[EmbeddingSpace], count: int) -> MediaStore:
    """A store of texts and pictures in turns."""
    store = MediaStore(folder)
    for space in spaces:
        store.declare_space(space.name, space.dimension, space.fingerprint)
    vectors = np.random.default_rng(0).normal(size=(len(spaces), count, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    records = []
    for at in range(count):
        path = folder / f"{at}.png"
        node = (
            TextNode(text=f"text number {at}") if at % 2 else ImageMedia.create(path, digest=f"{at:064x}", text=f"image {at}")
        )
        records.append(Record(node, {space.name: vectors[place, at] for place, space in enumerate(spaces)}))
    store.add(records)
    return store


def measured(ask: Callable[[int], object], clock: Clock, rounds: int) -> dict[str, float]:
    """Milliseconds of one call: in all, and what remains."""
    totals, rest = [], []
    for at in range(-20, rounds):
        clock.seconds, began = 0.0, time.thread_time()
        ask(at)
        total = time.thread_time() - began
        if at >= 0:
            totals.append(1000 * total)
            rest.append(1000 * (total - clock.seconds))
    return {
        "total p50": float(np.median(totals)),
        "overhead p50": float(np.median(rest)),
        "overhead p95": float(np.quantile(rest, 0.95)),
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    encoders = [HashingEncoder("text", DIMENSION) for _ in range(2)]
    spaces = [EmbeddingSpace(f"space {at}", {"text": one, "image": one}) for at, one in enumerate(encoders)]
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, filled(Path(folder), spaces, given.nodes) as store:
        learned = calibrate(store, spaces)
        clock = Clock()
        for name in TAKEN_OFF:
            clock.watch(store, name)
        for encoder in encoders:
            clock.watch(encoder, "encode")
        ways: dict[str, BaseRetriever] = {
            "calibrated": FusionRetriever(store, spaces, similarity_top_k=10, calibration=learned),
            "uncalibrated": FusionRetriever(store, spaces, similarity_top_k=10),
            "one per document": FusionRetriever(store, spaces, similarity_top_k=10, calibration=learned, collapse="document"),
            "diverse": FusionRetriever(store, spaces, similarity_top_k=10, calibration=learned, diversity=0.3),
            "bare": Bare(),
        }
        for name, retriever in ways.items():

            def ask(at: int, retriever: BaseRetriever = retriever) -> list[NodeWithScore]:
                return retriever.retrieve(MediaQuery(f"text number {at} of all", modalities=["text", "image"]))

            table[name] = measured(ask, clock, given.rounds)
            if not given.json:
                print(f"{name:18}" + "  ".join(f"{key} {value:6.2f} ms" for key, value in table[name].items()), flush=True)
    if given.json:
        json.dump(table, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
