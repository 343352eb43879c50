"""Meshes by a graph convolutional network, over torch-geometric.

Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional Networks", ICLR 2017, arXiv:1609.02907. The weights
come from training, for example by contrasting two distorted copies of a shape with other shapes (Chen et al., "A Simple
Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv:2002.05709). Importing this module needs the
extra ``gcn``.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import Encoder, Payload, fingerprint
from llama_index_mm.embeddings.mesh_graph import FEATURES, GraphKind, MeshGraph, Up, surface_graph, vertex_graph
from llama_index_mm.errors import EncodeError, ModelError
from llama_index_mm.media import Mesh

if TYPE_CHECKING:
    from torch import Tensor, nn
else:
    Tensor = require("torch", extra="gcn").Tensor
    nn = require("torch.nn", extra="gcn")

__all__ = ["MeshGCN", "MeshGCNConfig", "MeshGCNEncoder"]

torch: Any = require("torch", extra="gcn")
with warnings.catch_warnings():  # that they are deprecated and in beta, each said once in the life of a process
    warnings.simplefilter("ignore")
    _GCNConv: Any = require("torch_geometric.nn", extra="gcn").GCNConv
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1))

_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"
_VERSION = 1  # of how graphs are made and what the network computes


@dataclass(frozen=True)
class MeshGCNConfig:
    """How a `MeshGCN` is built and what it is fed.

    Attributes:
        graph: ``"surface"``: cells that the surface passes through, and mean and maximum over them; ``"vertices"``: the
            mesh's own vertex graph, and the mean over its vertices.
        up: which axis of the meshes points up; with ``"any"`` a mesh's vector is the mean over all six directions, so that
            it stays the same when the mesh is turned from one axis to another.
        width: numbers at a node between the layers.
        layers: graph convolutions.
        dimension: length of a vector.

    Raises:
        ModelError: a value is out of its range.
    """

    graph: GraphKind = "surface"
    up: Up = "y"
    width: int = 64
    layers: int = 3
    dimension: int = 128

    def __post_init__(self) -> None:
        for name, taken in (("graph", get_args(GraphKind)), ("up", get_args(Up))):
            if (value := getattr(self, name)) not in taken:
                raise ModelError(f"Expected {name} to be one of {', '.join(taken)}, got {value!r}.")
        for name in ("width", "layers", "dimension"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 4096:
                raise ModelError(f"Expected {name} to be a whole number from 1 to 4096, got {value!r}.")


class MeshGCN(nn.Module):
    """Graph convolutions over a mesh: ``h <- h + relu(norm(A h W))``, pooled over the nodes to one vector.

    A node's share in its neighbours and in the pooled vector goes to zero with its weight, so the vector is continuous in
    the surface. Nothing in it depends on other graphs of the batch.

    Args:
        config: sizes and kind of graph.
    """

    def __init__(self, config: MeshGCNConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.lift = nn.Linear(FEATURES[config.graph], width)
        # The strengths of the edges are normalised when the graph is made, and self-loops are among them.
        self.convs = nn.ModuleList(_GCNConv(width, width, normalize=False) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.layers))
        pooled = 2 * width if config.graph == "surface" else width
        self.head = nn.Sequential(nn.Linear(pooled, pooled), nn.ReLU(), nn.Linear(pooled, config.dimension))

    def forward(self, graphs: Sequence[MeshGraph]) -> Tensor:
        """Encode graphs; each up direction of a graph gives a row.

        Args:
            graphs: of the kind that the config says.

        Returns:
            ``(sum of up directions, dimension)``, of any length.
        """
        features, adjacency, weights, of = _joined(graphs, next(self.parameters()).device)
        count = sum(len(graph.features) for graph in graphs)
        h = self.lift(features).relu()
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = h + norm(conv(h, adjacency)).relu()
        weighted = h * weights[:, None]
        totals = torch.zeros(count, device=h.device).index_add(0, of, weights)
        means = torch.zeros(count, h.shape[1], device=h.device).index_add(0, of, weighted) / totals[:, None]
        pooled = means
        if self.config.graph == "surface":
            zeros = torch.zeros_like(means)  # nothing that is pooled is below zero
            highest = zeros.scatter_reduce(0, of[:, None].expand_as(weighted), weighted, "amax")
            pooled = torch.cat([means, highest], 1)
        vectors: Tensor = self.head(pooled)
        return vectors

    def graph_of(self, mesh: Mesh) -> MeshGraph:
        """Make the graph of a mesh that this network takes.

        Raises:
            EncodeError: the mesh has no surface.
        """
        make = surface_graph if self.config.graph == "surface" else vertex_graph
        return make(mesh, up=self.config.up)

    def save(self, folder: Path | str) -> Path:
        """Write config.json and model.safetensors into a folder, which is made if need be; gives the folder."""
        safetensors: Any = require("safetensors.torch", extra="gcn")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        (folder / _WEIGHTS).write_bytes(safetensors.save(state))
        config = {"model_type": "mesh_gcn", "version": _VERSION, **asdict(self.config)}
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "MeshGCN":
        """Read what `save` wrote; the network comes in evaluation mode, on the CPU.

        Raises:
            ModelError: a file is missing or broken, is of another model or version, or weights are missing, too many, of
                another shape or not finite.
        """
        folder = Path(folder)
        network = cls(_read_config(folder / _CONFIG))
        try:
            state = require("safetensors.torch", extra="gcn").load((folder / _WEIGHTS).read_bytes())
        except Exception as error:  # safetensors raises its own kind
            raise _model_error(folder / _WEIGHTS, f"can't be read ({error})") from error
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise _model_error(folder / _WEIGHTS, f"does not fit {_CONFIG}: {' '.join(str(error).split())}") from error
        if bad := [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]:
            raise _model_error(folder / _WEIGHTS, f"holds numbers that are not finite, in {', '.join(bad)}")
        return network.eval()


class MeshGCNEncoder(Encoder):
    """Meshes to vectors by a `MeshGCN`.

    A vector does not depend on the order of vertices and faces, nor on place and size; with the graph ``"surface"`` hardly
    on how the surface is cut into faces. Graphs go through the network one by one, so a vector is the same, bit for bit,
    whatever else is in the batch; making the graph takes longer than the network. Safe to use from several threads.

    Args:
        network: the trained network, or the folder that `MeshGCN.save` wrote. It is used as it is now: its fingerprint is
            taken here.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.

    Raises:
        ModelError: the folder can't be read, or the device does not exist.
    """

    payload: Payload = "mesh"

    def __init__(self, network: MeshGCN | Path | str, *, device: str = "cpu") -> None:
        found = network if isinstance(network, MeshGCN) else MeshGCN.load(network)
        try:
            self.network = found.eval().to(device)
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
            raise ModelError(f"The mesh network can't be put on device {device!r}: {error}. Take 'cpu'.") from error
        self.dimension = found.config.dimension
        digest = hashlib.sha256()
        for name, tensor in sorted(found.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        self.fingerprint = fingerprint("mesh-gcn", _VERSION, *asdict(found.config).values(), digest.hexdigest())

    def _encode(self, items: Sequence[Mesh], *, query: bool) -> NDArray[Any]:
        for item in items:
            if not isinstance(item, Mesh):
                raise EncodeError(f"Expected meshes, got {type(item).__name__}. Read them with load_mesh.")
        with torch.inference_mode():
            rows = [self.network([self.network.graph_of(item)]) for item in items]
            return np.stack([nn.functional.normalize(row, dim=1).mean(0).cpu().numpy() for row in rows])


def _joined(graphs: Sequence[MeshGraph], device: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Graphs as one without edges between them: features, adjacency, weights, and the number of the graph of each node."""
    features, weights, of, starts, ends, strengths = [], [], [], [], [], []
    nodes = count = 0
    for graph in graphs:
        for one in graph.features:
            features.append(one)
            weights.append(graph.weights)
            of.append(np.full(len(one), count))
            starts.append(graph.edges[0] + nodes)
            ends.append(graph.edges[1] + nodes)
            strengths.append(graph.strengths)
            nodes += len(one)
            count += 1
    rows = np.concatenate([[0], np.cumsum(np.bincount(np.concatenate(starts), minlength=nodes))])
    adjacency = torch.sparse_csr_tensor(
        torch.from_numpy(rows),
        torch.from_numpy(np.concatenate(ends)),
        torch.from_numpy(np.concatenate(strengths)),
        (nodes, nodes),
    )
    every = (torch.from_numpy(np.concatenate(part)) for part in (features, weights, of))
    found, weight, number = (part.to(device) for part in every)
    return found, adjacency.to(device), weight, number


def _read_config(path: Path) -> MeshGCNConfig:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, version = config.pop("model_type"), config.pop("version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _model_error(path, f"can't be read as a config ({type(error).__name__}: {error})") from error
    if (kind, version) != ("mesh_gcn", _VERSION):
        raise _model_error(path, f"is of model {kind!r}, version {version!r}; expected 'mesh_gcn', version {_VERSION}")
    try:
        return MeshGCNConfig(**config)
    except (TypeError, ModelError) as error:
        raise _model_error(path, f"is no config of a MeshGCN ({error})") from error


def _model_error(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} {reason.rstrip('.')}. Give a folder with {_CONFIG} and {_WEIGHTS}, as MeshGCN.save writes it.")
