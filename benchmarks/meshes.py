"""How well meshes find meshes: by views, by a mesh network, by both, and after a mesh was changed.

    python benchmarks/meshes.py --data DATA [--load FOLDER] [--changed 60] [--json]

DATA has the folder meshes with labels.csv. Each mesh asks for the others: R@1 is the share whose nearest neighbour is of their
class, mAP the mean average precision over all that have another of their class, equally weighted by mesh.

The network is the one that comes with the package, or one that `llama-index-mm train-gcn FOLDER` trained: on shapes made from
random numbers, if no other meshes were given. No mesh of DATA and no label takes part in that.

Robustness: a changed mesh asks among all the originals. R@1 is the share that finds its own original first; "same" and
"others" are the mean similarities to the original and to all other meshes, "margin" how many standard deviations of the
latter lie between. "unlike" are similarities of meshes of different classes: the presets' backgrounds come from there.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_index_mm.alignment.shapes import decimated
from llama_index_mm.embeddings.mesh_gcn import MeshGCN, MeshGCNEncoder
from llama_index_mm.media import Mesh, load_mesh
from llama_index_mm.media.views import render_views
from llama_index_mm.presets import load_preset
from llama_index_mm.presets.offline import MESH_WEIGHTS

VIEWS_SHARE = 0.7  # of views in the fused similarity; the rest is the network's


def by_class(similarity: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """R@1 and mAP of each mesh asking for the others."""
    firsts, precisions = [], []
    for at, label in enumerate(labels):
        relevant = np.delete(labels == label, at)[np.argsort(-np.delete(similarity[at], at), kind="stable")]
        if relevant.any():
            firsts.append(relevant[0])
            precisions.append((np.cumsum(relevant) / np.arange(1, len(relevant) + 1))[relevant].mean())
    return {"R@1": float(np.mean(firsts)), "mAP": float(np.mean(precisions)), "meshes": len(firsts)}


def unlike(similarity: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean and deviation of the similarities of meshes of different classes."""
    others = similarity[labels[:, None] != labels]
    return {"mean": float(others.mean()), "deviation": float(others.std())}


def own_found(similarity: np.ndarray, picked: np.ndarray) -> dict[str, float]:
    """R@1 of the picked meshes, changed, in rows, for their originals among all, in columns; and how far these stand out."""
    own = np.arange(similarity.shape[1]) == picked[:, None]
    same, others = similarity[own], similarity[~own]
    return {
        "R@1": float((similarity.argmax(1) == picked).mean()),
        "same": float(same.mean()),
        "others": float(others.mean()),
        "margin": float((same.mean() - others.mean()) / others.std()),
    }


def permuted(mesh: Mesh) -> Mesh:
    """The same mesh, its vertices and faces in another order."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(mesh.vertices))
    return Mesh(mesh.vertices[order], np.argsort(order)[rng.permutation(mesh.faces)])


CHANGES: dict[str, Callable[[Mesh], Mesh]] = {
    "permuted": permuted,
    "up y to z": lambda mesh: Mesh(mesh.vertices[:, [0, 2, 1]] * np.array([1, -1, 1], np.float32), mesh.faces),
    "scaled x 1000": lambda mesh: Mesh(mesh.vertices * np.float32(1000), mesh.faces),
    "moved by its size": lambda mesh: Mesh(mesh.vertices + np.ptp(mesh.vertices), mesh.faces),
    "half the faces": decimated,
}


def report(name: str, encode: Callable[[list[Mesh]], np.ndarray], meshes: list[Mesh], picked: np.ndarray) -> dict[str, Any]:
    """Vectors of all meshes by one way to encode, those of the picked ones after each change, and the time for a mesh."""
    began = time.monotonic()
    vectors = encode(meshes)
    took = 1000 * (time.monotonic() - began) / len(meshes)
    changed = {change: encode([make(meshes[at]) for at in picked]) for change, make in CHANGES.items()}
    return {"name": name, "vectors": vectors, "changed": changed, "ms": took}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--load", type=Path, default=MESH_WEIGHTS, help="folder of a network; default is the package's own")
    parser.add_argument("--changed", type=int, default=60, help="meshes that are changed and asked with, evenly picked")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with (given.data / "meshes" / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    meshes = [load_mesh(given.data / "meshes" / row["file"]) for row in rows]
    labels = np.array([row["label"] for row in rows])
    picked = np.unique(np.linspace(0, len(meshes) - 1, given.changed).astype(int))
    network = MeshGCN.load(given.load)
    torch.manual_seed(0)
    untrained = MeshGCN(network.config)
    found = [report("GCN untrained", MeshGCNEncoder(untrained).encode, meshes, picked)]
    found.append(report("GCN trained", MeshGCNEncoder(network).encode, meshes, picked))
    say("network")
    (views,) = (space.encoders["mesh"] for space in load_preset("offline").spaces if space.name == "picture")
    say("views")
    found.append(report("views", lambda some: views.encode([render_views(mesh) for mesh in some]), meshes, picked))

    def fused(vectors: Callable[[dict[str, Any]], np.ndarray]) -> np.ndarray:
        """Similarities of both, each scaled by its mean and deviation among unlike originals, weighted."""
        total = np.zeros(())
        for share, one in ((VIEWS_SHARE, found[-1]), (1 - VIEWS_SHARE, found[-2])):
            among = (one["vectors"] @ one["vectors"].T)[~np.eye(len(meshes), dtype=bool)]
            total = total + share * (vectors(one) @ one["vectors"].T - among.mean()) / among.std()
        return total

    table: dict[str, Any] = {"network": str(given.load), "config": vars(network.config), "ways": {}}
    for one in found:
        table["ways"][one["name"]] = {
            "class": by_class(one["vectors"] @ one["vectors"].T, labels),
            "unlike": unlike(one["vectors"] @ one["vectors"].T, labels),
            "ms": one["ms"],
            **{change: own_found(vectors @ one["vectors"].T, picked) for change, vectors in one["changed"].items()},
        }
    table["ways"]["fused 0.7/0.3"] = {
        "class": by_class(fused(lambda one: one["vectors"]), labels),
        "ms": found[-1]["ms"] + found[-2]["ms"],
        **{change: own_found(fused(lambda one, change=change: one["changed"][change]), picked) for change in CHANGES},
    }
    if given.json:
        json.dump(table, sys.stdout, indent=2)
        return
    for name, way in table["ways"].items():
        print(
            f"{name:16} R@1 {100 * way['class']['R@1']:5.1f}  mAP {100 * way['class']['mAP']:5.1f}  {way['ms']:.0f} ms a mesh"
        )
        if "unlike" in way:
            print(f"    {'unlike':18} mean {way['unlike']['mean']:6.3f}  deviation {way['unlike']['deviation']:6.3f}")
        for change in CHANGES:
            cells = "  ".join(f"{key} {value:6.3f}" for key, value in way[change].items())
            print(f"    {change:18} {cells}")


if __name__ == "__main__":
    main()
