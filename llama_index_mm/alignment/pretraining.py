"""Training a mesh network without labels: on procedural shapes, on the user's meshes, towards what is seen in their views.

Two executions of a recipe, or two copies of a mesh, are to be alike, and those of different ones unlike (Chen et al., "A Simple
Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv:2002.05709). The network keeps a space of its
own. To bring a network's vectors into a space that is there, fit an adapter with `Aligner` and `with_views` afterwards.

The extras ``gcn`` and ``mesh`` bring what is needed.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from llama_index_mm._optional import require
from llama_index_mm.alignment.checkpoint import read_checkpoint, write_checkpoint
from llama_index_mm.alignment.losses import LEARNED, info_nce, margin_loss, sigmoid_loss
from llama_index_mm.alignment.pretrain_card import Found, PretrainCard, PretrainOptions
from llama_index_mm.alignment.pretrain_data import ShapeData, load_own, shape_data
from llama_index_mm.alignment.shapes import SHAPES_VERSION
from llama_index_mm.embeddings.base import Encoder, fingerprint
from llama_index_mm.embeddings.mesh_graph import MeshGraph
from llama_index_mm.errors import AlignmentError
from llama_index_mm.media import Mesh, digest_file

if TYPE_CHECKING:
    from torch import Tensor

    from llama_index_mm.embeddings.mesh_gcn import MeshGCN, MeshGCNConfig

__all__ = ["CARD", "pretrain_gcn", "similarity_distillation"]

CARD = "card.json"
_WORK = "work"  # folder for what a run that was killed goes on from; gone at the end
_CHECKPOINT = "checkpoint.safetensors"
_WEIGHTS = "model.safetensors"
_LICENCE = "Apache-2.0"
_WARM_UP = 20  # steps
_CURVE = 20  # points
_PACKAGES = {"numpy": "gcn", "open3d": "mesh", "torch": "gcn", "torch_geometric": "gcn"}  # with the extras that bring them


def pretrain_gcn(
    folder: Path | str,
    meshes: Sequence[Mesh | Path] = (),
    *,
    options: PretrainOptions | None = None,
    config: "MeshGCNConfig | None" = None,
    start: Path | str | None = None,
    views: Encoder | None = None,
    checkpoint_steps: int = 50,
    show_progress: bool = False,
) -> PretrainCard:
    """Train a `MeshGCN`, and write config.json, model.safetensors and card.json into a folder.

    The same meshes, options and versions of packages give the same bytes on the same machine, whether the run was stopped in
    between or not. Meanwhile torch runs on one thread in the whole process. A folder that is done already is left as it is.

    Example:
        >>> pretrain_gcn("my-network", sorted(Path("meshes").glob("*.glb")))
        >>> encoder = MeshGCNEncoder("my-network")

    Args:
        folder: of the result; a run that was killed goes on there.
        meshes: of the user's, with or without them on procedural shapes. Equal ones count once; those that can't be read or
            have no surface are left out, with a warning in the log.
        options: how; the defaults take a few minutes on one core.
        config: of the network; that of ``start``, or the default one, if not given.
        start: folder of a network whose weights training starts from; random ones if not given.
        views: an encoder of payload ``"views"``; if given, shapes are to be as similar to one another as their views are
            (see `similarity_distillation`).
        checkpoint_steps: at most so many steps are lost.
        show_progress: show bars on standard error.

    Raises:
        AlignmentError: there is too little to train on, the folder holds another run, ``config`` is not that of ``start``, or
            numbers went out of bounds.
        ModelError: ``start`` can't be read.
        MissingExtraError: torch, torch-geometric, safetensors or Open3D is not installed.
    """
    folder, options = Path(folder), options or PretrainOptions()
    with _one_thread():
        network, started_from = _network(config, start, options.seed)
        if views is not None and views.payload != "views":
            raise AlignmentError(f"Expected an encoder of views, got one of {views.payload}. Take a ViewsEncoder.")
        own = load_own(meshes)
        told = [SHAPES_VERSION, options, network.config, started_from, views.fingerprint if views else "", *own.digests]
        run = fingerprint("mesh-gcn-training", *told)
        if (done := _done(folder, run)) is not None:
            return done
        data = shape_data(network, own, options, views, folder / _WORK, run, show_progress)
        before = _found(network, data)
        losses = _train(network, data, options, folder / _WORK / _CHECKPOINT, run, checkpoint_steps, show_progress)
        return _finish(folder, network, data, options, before, losses, run, started_from, views)


def similarity_distillation(vectors: "Tensor", teacher: "Tensor", *, temperature: float = 0.1) -> "Tensor":
    """Let vectors be as similar to one another as a teacher's vectors of the same things are.

    With s the inner products of ``vectors`` and t those of ``teacher``:

    ``L = mean over i of -sum over j != i of softmax_j(t_ij / T) log softmax_j(s_ij / T)``

    Nothing has to be in the same space, or of the same length. Fang et al., "SEED: Self-supervised Distillation for Visual
    Representation", ICLR 2021, arXiv:2101.04731, here among the batch in place of a queue.

    Args:
        vectors: ``(n, d)`` unit vectors, n at least 2.
        teacher: ``(n, e)`` unit vectors.
        temperature: T, above 0.

    Returns:
        One number: at least the mean entropy of the teacher's distributions.

    Raises:
        AlignmentError: shapes do not fit.
    """
    torch: Any = require("torch", extra="align")
    if len(vectors) != len(teacher) or len(vectors) < 2:
        raise AlignmentError(f"Expected as many vectors as of the teacher, at least 2; got {len(vectors)}, {len(teacher)}.")
    itself = torch.eye(len(vectors), dtype=torch.bool)
    wanted = (teacher @ teacher.T / temperature).masked_fill(itself, -torch.inf).softmax(1)
    likely = (vectors @ vectors.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0.0)
    loss: Tensor = -(wanted * likely).sum(1).mean()
    return loss


def _network(config: "MeshGCNConfig | None", start: Path | str | None, seed: int) -> "tuple[MeshGCN, str]":
    """The network that training starts from, and its fingerprint if it comes from a folder."""
    torch: Any = require("torch", extra="gcn")
    from llama_index_mm.embeddings.mesh_gcn import MeshGCN, MeshGCNConfig, MeshGCNEncoder

    if start is not None:
        network = MeshGCN.load(start)
        if config is not None and config != network.config:
            raise AlignmentError(f"Expected the config of the network in {start}, {network.config}, or none; got {config}.")
        return network, MeshGCNEncoder(network).fingerprint
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MeshGCN(config or MeshGCNConfig()).eval(), ""


def _train(
    network: "MeshGCN",
    data: ShapeData,
    options: PretrainOptions,
    checkpoint: Path,
    run: str,
    checkpoint_steps: int,
    show_progress: bool,
) -> list[float]:
    """Train the network; gives the loss of each step."""
    torch: Any = require("torch", extra="gcn")
    named = dict(network.named_parameters())
    optimiser = torch.optim.AdamW(named.values(), lr=options.rate, weight_decay=options.decay)
    losses: list[float] = []
    if (found := read_checkpoint(checkpoint, run)) is not None:
        told, tensors = found
        losses = told["losses"]
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(tensors[f"now.{name}"])
                optimiser.state[parameter] = {what: tensors[f"{what}.{name}"] for what in ("step", "exp_avg", "exp_avg_sq")}
    network.train()
    with tqdm(total=options.steps, initial=len(losses), desc="train", unit="step", disable=not show_progress) as bar:
        while (step := len(losses)) < options.steps:
            for group in optimiser.param_groups:
                group["lr"] = (
                    options.rate * min(1.0, (step + 1) / _WARM_UP) * (0.5 + 0.5 * np.cos(np.pi * step / options.steps))
                )
            loss = _loss(network, data, options, step)
            if not torch.isfinite(loss):
                raise AlignmentError(f"The loss became {loss.item()} in step {step}. Lower the rate ({options.rate}).")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{np.mean(losses[-_WARM_UP:]):.3f}", refresh=False)
            bar.update()
            if len(losses) % checkpoint_steps == 0 or len(losses) == options.steps:
                now = {f"now.{name}": parameter.detach() for name, parameter in named.items()}
                for name, parameter in named.items():
                    now |= {f"{what}.{name}": value for what, value in optimiser.state[parameter].items()}
                write_checkpoint(checkpoint, run, now, {"losses": losses})
    network.eval()
    return losses


def _loss(network: "MeshGCN", data: ShapeData, options: PretrainOptions, step: int) -> "Tensor":
    """The loss of one step, over two executions of each of the shapes that are drawn for it."""
    torch: Any = require("torch", extra="gcn")
    rng = np.random.default_rng([options.seed, 4, step])
    mine = len(data.train) - data.recipes
    from_mine = min(mine, max(1, round(options.own * options.batch)) if data.recipes else options.batch)
    chosen = rng.choice(data.recipes, min(data.recipes, options.batch - from_mine), replace=False)
    chosen = np.concatenate([chosen, data.recipes + rng.choice(mine, from_mine, replace=False)]) if mine else chosen
    picked = [rng.choice(options.executions, 2, replace=False) for _ in chosen]
    graphs = [data.train[at][pick[side]] for side in (0, 1) for at, pick in zip(chosen, picked, strict=True)]
    first, second = _unit(network, graphs).chunk(2)
    scale = float(np.log(1 / options.temperature))
    loss: Tensor
    if options.loss == "margin":
        loss = margin_loss(first, second)
    elif options.loss == "info_nce":
        loss = info_nce(first, second, log_scale=scale)
    else:
        loss = sigmoid_loss(first, second, log_scale=scale, bias=LEARNED["sigmoid"]["bias"])
    if data.teacher is not None:
        seen = torch.from_numpy(data.teacher[chosen])
        loss = loss + options.views * similarity_distillation(first, seen, temperature=options.temperature)
    return loss


def _unit(network: "MeshGCN", graphs: Sequence[MeshGraph]) -> "Tensor":
    """Unit vectors ``(n, d)`` of graphs, each the mean over its up directions, as `MeshGCNEncoder` gives them."""
    torch: Any = require("torch", extra="gcn")
    normalize = torch.nn.functional.normalize
    vectors = network(graphs)
    vectors = normalize(vectors.reshape(len(graphs), -1, vectors.shape[1]), dim=2).mean(1)
    out: Tensor = normalize(vectors, dim=1)
    return out


def _found(network: "MeshGCN", data: ShapeData) -> tuple[float, float | None]:
    """R@1 of held-out recipes, and of held-out meshes if there are any: the second execution asks for the first."""
    torch: Any = require("torch", extra="gcn")

    def recall(shapes: list[list[MeshGraph]]) -> float:
        with torch.inference_mode():
            firsts, seconds = (torch.cat([_unit(network, [graphs[side]]) for graphs in shapes]).double() for side in (0, 1))
        return float(((seconds @ firsts.T).argmax(1) == torch.arange(len(shapes))).double().mean())

    return recall(data.held), recall(data.held_own) if data.held_own else None


def _finish(
    folder: Path,
    network: "MeshGCN",
    data: ShapeData,
    options: PretrainOptions,
    before: tuple[float, float | None],
    losses: list[float],
    run: str,
    started_from: str,
    views: Encoder | None,
) -> PretrainCard:
    """Write the network, then its card, and take away what a killed run would have gone on from."""
    from llama_index_mm.embeddings.mesh_gcn import MeshGCNEncoder

    after = _found(network, data)
    network.save(folder)
    mine = len(data.train) - data.recipes
    card = PretrainCard(
        options=options,
        config=asdict(network.config),
        run=run,
        shapes_version=SHAPES_VERSION,
        graphs_digest=data.graphs_digest,
        started_from=started_from,
        views_fingerprint=views.fingerprint if views else "",
        meshes=mine,
        meshes_digest=data.digest,
        left_out=data.left_out,
        loss_first=float(np.mean(losses[:_WARM_UP])),
        loss_last=float(np.mean(losses[-_WARM_UP:])),
        curve=tuple(float(part.mean()) for part in np.array_split(np.array(losses), min(_CURVE, len(losses)))),
        recipes_found=Found(len(data.held), 1 / len(data.held), before[0], after[0]),
        meshes_found=(
            Found(len(data.held_own), 1 / len(data.held_own), before[1], after[1])
            if before[1] is not None and after[1] is not None
            else None
        ),
        weights_digest=digest_file(folder / _WEIGHTS),
        fingerprint=MeshGCNEncoder(network).fingerprint,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        versions={name: str(require(name, extra=extra).__version__) for name, extra in _PACKAGES.items()},
        licence="" if mine or started_from or views else _LICENCE,
    )
    card.save(folder / CARD)
    shutil.rmtree(folder / _WORK, ignore_errors=True)
    return card


def _done(folder: Path, run: str) -> PretrainCard | None:
    """The card, if the run is done and its weights are still there.

    Raises:
        AlignmentError: another run is.
    """
    if not (folder / CARD).exists():
        return None
    card = PretrainCard.load(folder / CARD)
    if card.run != run:
        raise AlignmentError(
            f"{folder} holds a network of another run: other meshes, options or start. Give another folder, or delete it."
        )
    weights = folder / _WEIGHTS
    return card if weights.is_file() and digest_file(weights) == card.weights_digest else None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch run on one thread: with several, sums come in another order each time."""
    torch: Any = require("torch", extra="gcn")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
