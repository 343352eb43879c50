"""How well meshes find meshes: by views, by a mesh network, by both, and after a mesh was changed.

    python benchmarks/meshes.py --data DATA [--seconds 240] [--graph surface] [--up y] [--save FOLDER] [--load FOLDER]
                                [--changed 60] [--json]

DATA has the folder meshes with labels.csv. Each mesh asks for the others: R@1 is the share whose nearest neighbour is of their
class, mAP the mean average precision over all that have another of their class, equally weighted by mesh.

The network is trained here on shapes made from random numbers alone: a recipe draws some parts (boxes, tubes, bodies turned on
a lathe, cushions), where they stand, and whether they are mirrored or repeated about the up axis. Two executions of one recipe,
with the sizes drawn anew around the recipe's, turned about the up axis, cut into other faces, thinned out or jittered, are to
be alike, and executions of different recipes unlike (NT-Xent, Chen et al. 2020). No mesh of DATA and no label takes part, and
the recipes know no classes. What is chosen by looking at DATA, if anything, are the few numbers at the top of this file.

Robustness: a changed mesh asks among all the originals. R@1 is the share that finds its own original first; "same" and
"others" are the mean similarities to the original and to all other meshes, "margin" how many standard deviations of the
latter lie between.
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

from llama_index_mm.demo import shapes
from llama_index_mm.embeddings.mesh_gcn import MeshGCN, MeshGCNConfig, MeshGCNEncoder
from llama_index_mm.embeddings.mesh_graph import MeshGraph
from llama_index_mm.media import Mesh, load_mesh
from llama_index_mm.media.views import render_views
from llama_index_mm.presets import load_preset

RECIPES = 500
EXECUTIONS = 3  # of each recipe
PAIRS = 32  # recipes in a batch
TEMPERATURE = 0.1
RATE = 1e-3
SPREAD = 0.25  # standard deviation of the logarithm of what an execution changes in a size
VIEWS_SHARE = 0.7  # of views in the fused similarity; the rest is the network's
Parts = list[shapes.Mesh]


def part(recipe: np.random.Generator, change: np.random.Generator) -> shapes.Mesh:
    """One part about the origin, of size about 1, from the recipe's numbers and an execution's."""
    size = np.exp(recipe.normal(0, 0.6, 3) + change.normal(0, SPREAD, 3))
    kind = recipe.integers(5)
    bends = recipe.uniform(0.15, 1, 6)
    if kind == 0:
        return shapes._box((0, 0, 0), size)
    if kind == 1:
        return shapes._cushion((0, 0, 0), size, radius=0.3 * size.min(), bulge=0.2 * size[1] * bends[0])
    if kind == 2:
        profile = [(0, -size[1] / 2), *zip(bends * size[0] / 2, np.linspace(-0.5, 0.5, 6) * size[1], strict=True)]
        return shapes._turned([*profile, (0, size[1] / 2)])
    if kind == 3:
        turn = np.linspace(0, np.pi * (0.2 + 1.3 * bends[0]), 12)
        path = np.stack([np.cos(turn) * size[0], np.sin(turn) * size[1], 0 * turn], 1)
        return shapes._tube(path - path.mean(0), np.linspace(bends[1], bends[2], 12) * 0.15 * size[2], corners=10)
    angle = np.linspace(0, np.pi, 10)[1:-1]
    globe = [(0, -size[1] / 2), *np.stack([np.sin(angle) * size[0] / 2, -np.cos(angle) * size[1] / 2], 1), (0, size[1] / 2)]
    vertices, faces = shapes._turned(globe)
    return vertices * [1, 1, size[2] / size[0]], faces


def about_y(angle: float) -> np.ndarray:
    """The rotation about the up axis."""
    return np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])


def execute(seed: int, change: np.random.Generator) -> Mesh:
    """One shape of a recipe."""
    recipe = np.random.default_rng(seed)
    parts: Parts = []
    for number in range(recipe.integers(1, 6)):
        vertices, faces = part(recipe, change)
        if recipe.random() < 0.5:  # lie it down or lean it
            tilt = recipe.choice([np.pi / 2, recipe.uniform(-0.8, 0.8)])
            vertices = vertices @ about_y(tilt)[[1, 0, 2]][:, [1, 0, 2]]
        vertices = vertices @ about_y(recipe.choice([0, np.pi / 2, recipe.uniform(0, 6.3)]))
        away = (number > 0) * recipe.normal(0, 1, 3) * [0.8, 1.0, 0.8] * np.exp(change.normal(0, SPREAD / 2, 3))
        vertices = vertices * np.exp(recipe.normal(-0.3 * (number > 0), 0.3)) + away
        how = recipe.random()
        copies = 1 if how < 0.4 else int(recipe.choice([2, 3, 4, 4, 6]))
        if 0.4 <= how < 0.7:
            parts += [(vertices, faces), (vertices * [-1, 1, 1], faces[:, ::-1])]
        else:
            parts += [(vertices @ about_y(2 * np.pi * turn / copies), faces) for turn in range(copies)]
    vertices, faces = shapes._join(*parts)
    vertices = vertices * np.exp(change.normal(0, SPREAD, 3)) @ about_y(change.uniform(0, 6.3))
    mesh = Mesh(vertices.astype(np.float32), faces)
    if change.random() < 0.25:
        mesh = decimated(mesh, change.uniform(0.3, 0.8))
    extent = np.ptp(mesh.vertices, axis=0).max()
    noise = change.normal(0, change.choice([0, 0, 0.004, 0.01]), mesh.vertices.shape) * extent
    return Mesh((mesh.vertices + noise).astype(np.float32), mesh.faces)


def decimated(mesh: Mesh, share: float = 0.5) -> Mesh:
    """The mesh with that share of its faces, by Open3D's quadric decimation."""
    import open3d as o3d

    full = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices.astype(np.float64)), o3d.utility.Vector3iVector(mesh.faces.astype(np.int32))
    )
    less = full.simplify_quadric_decimation(max(4, int(share * len(mesh.faces))))
    faces = np.asarray(less.triangles, dtype=np.int64)
    return Mesh(np.asarray(less.vertices, dtype=np.float32), faces) if len(faces) else mesh


def train(network: MeshGCN, seconds: float, say: Callable[[str], None]) -> dict[str, float]:
    """Train by contrast for a while; the shapes are made first and are not part of the time."""
    began = time.monotonic()
    graphs: list[list[MeshGraph]] = []
    faces = 0
    for seed in range(RECIPES):
        change = np.random.default_rng([1, seed])
        made = [execute(seed, change) for _ in range(EXECUTIONS)]
        faces += sum(len(mesh.faces) for mesh in made)
        graphs.append([network.graph_of(mesh) for mesh in made])
    say(f"{RECIPES} recipes x {EXECUTIONS} in {time.monotonic() - began:.0f} s")
    rng = np.random.default_rng(2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    began, steps, losses = time.monotonic(), 0, []
    network.train()
    while (passed := (time.monotonic() - began) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (steps + 1) / 20) * (0.5 + 0.5 * np.cos(np.pi * passed))
        batch = rng.choice(RECIPES, PAIRS, replace=False)
        picked = np.array([rng.choice(EXECUTIONS, 2, replace=False) for _ in batch])
        chosen = [graphs[one][pick] for side in (0, 1) for one, pick in zip(batch, picked[:, side], strict=True)]
        vectors = network(chosen)
        if len(vectors) > 2 * PAIRS:
            vectors = vectors.reshape(2 * PAIRS, -1, vectors.shape[1])
            vectors = torch.nn.functional.normalize(vectors, dim=2).mean(1)
        vectors = torch.nn.functional.normalize(vectors, dim=1)
        alike = vectors @ vectors.T / TEMPERATURE - torch.eye(2 * PAIRS) * 1e4
        loss = torch.nn.functional.cross_entropy(alike, torch.arange(2 * PAIRS).roll(PAIRS))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        steps += 1
        if steps % 50 == 0:
            say(f"step {steps}, {time.monotonic() - began:.0f} s, loss {np.mean(losses[-50:]):.3f}")
    network.eval()
    return {"seconds": seconds, "steps": steps, "shapes": RECIPES * EXECUTIONS, "loss": float(np.mean(losses[-50:]))}


def by_class(similarity: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """R@1 and mAP of each mesh asking for the others."""
    firsts, precisions = [], []
    for at, label in enumerate(labels):
        relevant = np.delete(labels == label, at)[np.argsort(-np.delete(similarity[at], at), kind="stable")]
        if relevant.any():
            firsts.append(relevant[0])
            precisions.append((np.cumsum(relevant) / np.arange(1, len(relevant) + 1))[relevant].mean())
    return {"R@1": float(np.mean(firsts)), "mAP": float(np.mean(precisions)), "meshes": len(firsts)}


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
    """Parse the command line, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240, help="of training, on the CPU")
    parser.add_argument("--graph", choices=["surface", "vertices"], default="surface")
    parser.add_argument("--up", choices=["y", "z", "any"], default="y")
    parser.add_argument("--save", type=Path, help="folder to save the trained network in")
    parser.add_argument("--load", type=Path, help="folder of a network that was trained before, in place of training")
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
    torch.manual_seed(0)
    network = MeshGCN.load(given.load) if given.load else MeshGCN(MeshGCNConfig(graph=given.graph, up=given.up))
    training: dict[str, float] = {}
    found = []
    if not given.load:
        found.append(report("GCN untrained", MeshGCNEncoder(network).encode, meshes, picked))
        training = train(network, given.seconds, say)
    if given.save:
        network.save(given.save)
    found.append(report("GCN trained", MeshGCNEncoder(network).encode, meshes, picked))
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

    table: dict[str, Any] = {"training": training, "config": vars(network.config), "ways": {}}
    for one in found:
        table["ways"][one["name"]] = {
            "class": by_class(one["vectors"] @ one["vectors"].T, labels),
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
        for change in CHANGES:
            cells = "  ".join(f"{key} {value:6.3f}" for key, value in way[change].items())
            print(f"    {change:18} {cells}")


if __name__ == "__main__":
    main()
