"""Graphs of meshes, made once and kept in files: making one takes longer than a step of training on it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from llama_index_mm._optional import require
from llama_index_mm.alignment.checkpoint import read_checkpoint, write_checkpoint
from llama_index_mm.embeddings.mesh_graph import MeshGraph

__all__ = ["kept_graphs", "kept_vectors"]

_AT_ONCE = 64  # graphs, or vectors, in a file


def kept_graphs(
    folder: Path, run: str, count: int, make: Callable[[int], MeshGraph | None], *, name: str, show_progress: bool = False
) -> list[MeshGraph | None]:
    """Give graphs, from files where these are there; a run that was killed goes on with those that are missing.

    Args:
        folder: of the files.
        run: digest of all that decides the graphs.
        count: of graphs.
        make: gives the graph of a number from 0; None where there is none.
        name: what the files' names begin with, and what the bar says.
        show_progress: show a bar on standard error.

    Raises:
        AlignmentError: a file is broken, or of another run.
    """

    def packed(numbers: range) -> dict[str, NDArray[Any]]:
        return _packed([make(number) for number in numbers])

    found: list[MeshGraph | None] = []
    for part in _parts(folder, run, count, packed, name, show_progress):
        found += _unpacked(part)
    return found


def kept_vectors(
    folder: Path, run: str, count: int, make: Callable[[range], NDArray[Any]], *, name: str, show_progress: bool = False
) -> NDArray[np.float32]:
    """Give vectors ``(count, d)`` in the same way.

    Args:
        folder: of the files.
        run: digest of all that decides the vectors.
        count: of vectors, at least 1.
        make: gives the vectors ``(n, d)`` of n numbers.
        name: what the files' names begin with, and what the bar says.
        show_progress: show a bar on standard error.

    Raises:
        AlignmentError: a file is broken, or of another run.
    """

    def packed(numbers: range) -> dict[str, NDArray[Any]]:
        return {"vectors": np.ascontiguousarray(make(numbers), dtype=np.float32)}

    return np.concatenate([part["vectors"] for part in _parts(folder, run, count, packed, name, show_progress)])


def _parts(
    folder: Path, run: str, count: int, make: Callable[[range], dict[str, NDArray[Any]]], name: str, show_progress: bool
) -> Iterator[dict[str, NDArray[Any]]]:
    """Arrays of numbers in turn, `_AT_ONCE` of these in a file."""
    torch: Any = require("torch", extra="align")
    with tqdm(total=count, desc=name, unit="mesh", disable=not (show_progress and count)) as bar:
        for at in range(0, count, _AT_ONCE):
            numbers = range(at, min(at + _AT_ONCE, count))
            path = folder / f"{name}-{at:06}.safetensors"
            found = read_checkpoint(path, run)
            if found is None:
                made = make(numbers)
                write_checkpoint(path, run, {key: torch.from_numpy(array) for key, array in made.items()}, {})
                yield made
            else:
                yield {key: tensor.numpy() for key, tensor in found[1].items()}
            bar.update(len(numbers))


def _packed(graphs: list[MeshGraph | None]) -> dict[str, NDArray[Any]]:
    """Graphs one after the other, with the numbers of nodes and edges of each; 0 where there is none."""
    there = [graph for graph in graphs if graph is not None]
    sizes = [(0, 0) if graph is None else (len(graph.weights), len(graph.strengths)) for graph in graphs]
    out = {"sizes": np.array(sizes, np.int64)}
    if there:
        out |= {
            "features": np.concatenate([graph.features for graph in there], 1),
            "weights": np.concatenate([graph.weights for graph in there]),
            "edges": np.concatenate([graph.edges for graph in there], 1).astype(np.int32),
            "strengths": np.concatenate([graph.strengths for graph in there]),
        }
    return out


def _unpacked(part: Mapping[str, NDArray[Any]]) -> list[MeshGraph | None]:
    graphs: list[MeshGraph | None] = []
    nodes = edges = 0
    for more_nodes, more_edges in part["sizes"].tolist():
        if not more_nodes:
            graphs.append(None)
            continue
        own, between = slice(nodes, nodes + more_nodes), slice(edges, edges + more_edges)
        nodes, edges = nodes + more_nodes, edges + more_edges
        graphs.append(
            MeshGraph(
                features=np.ascontiguousarray(part["features"][:, own]),
                weights=part["weights"][own],
                edges=part["edges"][:, between].astype(np.int64),
                strengths=part["strengths"][between],
            )
        )
    return graphs
