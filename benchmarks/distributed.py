"""What ingestion on Ray costs and gains against one process, on the same files.

    python benchmarks/distributed.py --data DATA [--count 200] [--preset tiny] [--actors N] [--address auto] [--batch 16]
        [--postgres URL] [--json]

Files are taken out of all folders of DATA. Each way starts with nothing stored:

    one process  `Ingestor.ingest` into a folder
    ray          `ingest_with_ray` into shards: with the start of a cluster where there is none, and of its actors
    merge        `merge_shards` into a folder
    postgres     `ingest_with_ray` into PostgreSQL, with --postgres; into a schema of its own, which stays

The stores of both ways are compared: they must hold the same node ids.
"""

import argparse
import json
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llama_index_mm.ingestion import Ingestor
from llama_index_mm.ingestion.ray_options import RayOptions
from llama_index_mm.ingestion.ray_run import ingest_with_ray
from llama_index_mm.ingestion.shards import ShardStore
from llama_index_mm.ingestion.shards_merge import merge_shards
from llama_index_mm.presets import Preset, load_preset
from llama_index_mm.stores import MediaStore, NodeStore
from llama_index_mm.stores.opening import open_store
from llama_index_mm.testing import tiny_preset

SUFFIXES = (".jpg", ".png", ".txt", ".md", ".wav", ".flac", ".mp3", ".obj", ".off", ".ply", ".stl")


def pick(data: Path, count: int) -> list[Path]:
    """Files of all folders, evenly."""
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return files[:: max(1, len(files) // count)][:count]


def ids(store: NodeStore) -> set[str]:
    """Ids of all nodes."""
    return {node.node_id for node in store.nodes(store.find().tolist()).values()}


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Do it in every way; gives seconds by way, and counts."""
    files = pick(arguments.data, arguments.count)
    preset: Preset = tiny_preset() if arguments.preset == "tiny" else load_preset(arguments.preset)
    given: Any = tiny_preset if arguments.preset == "tiny" else arguments.preset
    options = RayOptions(address=arguments.address, actors=arguments.actors, files_per_batch=arguments.batch)
    seconds: dict[str, float] = {}

    with MediaStore(folder / "plain") as store:
        for space in preset.spaces:
            store.declare_space(space.name, space.dimension, space.fingerprint)
        report = Ingestor(store, preset).ingest(files)
        seconds["one process"], wanted = report.seconds, ids(store)

    shards = ShardStore.create(folder / "shards", preset)
    on_ray = ingest_with_ray(shards, given, files, options=options)
    seconds["ray"] = on_ray.seconds
    with MediaStore(folder / "merged") as store:
        seconds["merge"] = merge_shards(shards, store).seconds
        same = {"merge": ids(store) == wanted}

    if arguments.postgres:
        mark = "&" if "?" in arguments.postgres else "?"
        address = f"{arguments.postgres}{mark}schema=benchmark_{secrets.token_hex(4)}"
        seconds["postgres"] = ingest_with_ray(address, given, files, options=options).seconds
        with open_store(address) as stored:
            same["postgres"] = ids(stored) == wanted
    return {
        "files": len(files),
        "nodes": report.nodes,
        "seconds": {way: round(value, 2) for way, value in seconds.items()},
        "of one process": {way: round(value / seconds["one process"], 2) for way, value in seconds.items()},
        "same nodes": same,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--actors", type=int)
    parser.add_argument("--address")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--postgres")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mm-distributed-") as folder:
        result = run(arguments, Path(folder))
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['files']} files, {result['nodes']} nodes, {time.monotonic() - began:.0f} s in all")
    for way, value in result["seconds"].items():
        told = "" if result["same nodes"].get(way, True) else "  NOT THE SAME NODES"
        print(f"{way:12} {value:8.2f} s {result['of one process'][way]:6.2f} x{told}")
    if not all(result["same nodes"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
