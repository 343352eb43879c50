"""What a mesh network is trained and measured on: graphs of procedural shapes and of the user's meshes, copies of each."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.alignment.graphs import kept_graphs, kept_vectors
from llama_index_mm.alignment.pairs import digest_of
from llama_index_mm.alignment.pretrain_card import PretrainOptions
from llama_index_mm.alignment.shapes import distorted, procedural_mesh
from llama_index_mm.embeddings.base import Encoder, Vectors, fingerprint
from llama_index_mm.embeddings.mesh_graph import MeshGraph
from llama_index_mm.errors import AlignmentError, DecodeError, EncodeError
from llama_index_mm.media import Mesh, load_mesh, render_views

if TYPE_CHECKING:
    from llama_index_mm.embeddings.mesh_gcn import MeshGCN

__all__ = ["OwnMeshes", "ShapeData", "load_own", "shape_data"]

_HELD_SHARE = 0.2  # of the user's meshes
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnMeshes:
    """The user's meshes, in the order of their digests.

    Attributes:
        loaded: what was read.
        digests: of the contents, 32 hexadecimal digits each.
        left_out: how many can't be read.
    """

    loaded: list[Mesh]
    digests: list[str]
    left_out: int


@dataclass(frozen=True)
class ShapeData:
    """Graphs by shape and execution; those of recipes come first.

    Attributes:
        recipes: number of recipes to train on.
        train: graphs of the recipes, then of the user's meshes.
        held: graphs of the held-out recipes, two of each.
        held_own: the same of the user's meshes.
        teacher: ``(len(train), e)`` vectors of their views, if asked for.
        digest: of the contents of the user's meshes.
        graphs_digest: of all graphs.
        left_out: meshes that can't be used.
    """

    recipes: int
    train: list[list[MeshGraph]]
    held: list[list[MeshGraph]]
    held_own: list[list[MeshGraph]]
    teacher: Vectors | None
    digest: str
    graphs_digest: str
    left_out: int


def load_own(meshes: Sequence[Mesh | Path]) -> OwnMeshes:
    """Read meshes; of equal ones only one is kept, and those that can't be read are left out, with a warning in the log."""
    loaded: dict[str, Mesh] = {}
    left_out = 0
    for given in meshes:
        try:
            mesh = given if isinstance(given, Mesh) else load_mesh(given)
            loaded[digest_of(given)] = mesh
        except DecodeError as error:
            left_out += 1
            _LOG.warning("Left out: %s", error)
    digests = sorted(loaded)
    return OwnMeshes([loaded[digest] for digest in digests], digests, left_out)


def shape_data(
    network: "MeshGCN",
    own: OwnMeshes,
    options: PretrainOptions,
    views: Encoder | None,
    work: Path,
    run: str,
    show_progress: bool,
) -> ShapeData:
    """Make everything that is trained and measured on, or read it where it was made before.

    Args:
        network: whose kind of graph is made.
        own: the user's meshes; one in five is held out, where that makes two or more.
        options: of the training.
        views: encoder of views, for vectors of what is trained on.
        work: folder that graphs and vectors are kept in.
        run: digest of all that decides these.
        show_progress: show bars on standard error.

    Raises:
        AlignmentError: there are fewer than two shapes to train on.
    """
    up, copies, recipes, seed = network.config.up, options.executions, options.recipes, options.seed

    def shape(number: int) -> MeshGraph:
        return network.graph_of(procedural_mesh(*divmod(number, copies), up=up, seed=seed))

    def copy(number: int) -> MeshGraph | None:
        """The mesh itself, and then distorted ones."""
        which, which_copy = divmod(number, copies)
        mesh = own.loaded[which]
        try:
            if which_copy:
                mesh = distorted(mesh, np.random.default_rng([seed, 2, int(own.digests[which], 16), which_copy]), up=up)
            return network.graph_of(mesh)
        except EncodeError:
            return None

    count = recipes + options.held_out
    shapes = _by_shape(kept_graphs(work, run, count * copies, shape, name="shapes", show_progress=show_progress), copies)
    every = _by_shape(
        kept_graphs(work, run, len(own.loaded) * copies, copy, name="meshes", show_progress=show_progress), copies
    )
    usable = [at for at, graphs in enumerate(every) if len(graphs) == copies]
    for at in sorted(set(range(len(every))) - set(usable)):
        _LOG.warning("Left out: the mesh of digest %s has no surface.", own.digests[at])
    held_count = round(_HELD_SHARE * len(usable))
    order = np.random.default_rng([seed, 3]).permutation(len(usable)).tolist()
    held = [usable[at] for at in order[:held_count]] if held_count > 1 else []
    trained = [at for at in usable if at not in held]
    if recipes + len(trained) < 2:
        raise AlignmentError(
            f"Expected at least two shapes to train on, got {recipes} recipes and {len(trained)} meshes: one is told from "
            "another. Give more meshes, or recipes."
        )
    teacher = None
    if views is not None:

        def seen(numbers: range) -> NDArray[Any]:
            chosen = [
                procedural_mesh(number, up=up, seed=seed) if number < recipes else own.loaded[trained[number - recipes]]
                for number in numbers
            ]
            return views.encode([render_views(mesh) for mesh in chosen])

        teacher = kept_vectors(work, run, recipes + len(trained), seen, name="views", show_progress=show_progress)
    return ShapeData(
        recipes=recipes,
        train=[*shapes[:recipes], *(every[at] for at in trained)],
        held=shapes[recipes:],
        held_own=[every[at] for at in held],
        teacher=teacher,
        digest=fingerprint(*(own.digests[at] for at in usable)) if usable else "",
        graphs_digest=_digest([*shapes, *every]),
        left_out=own.left_out + len(every) - len(usable),
    )


def _by_shape(graphs: Sequence[MeshGraph | None], copies: int) -> list[list[MeshGraph]]:
    return [[graph for graph in graphs[at : at + copies] if graph is not None] for at in range(0, len(graphs), copies)]


def _digest(shapes: Sequence[Sequence[MeshGraph]]) -> str:
    """Digest of graphs: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for graphs in shapes:
        for graph in graphs:
            for array in (graph.features, graph.weights, graph.edges, graph.strengths):
                digest.update(array.tobytes())
    return digest.hexdigest()[:16]
