"""Training: an adapter on vectors that were computed once, or with more before it. The extra ``align`` brings torch."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from llama_index_mm._optional import require
from llama_index_mm.alignment.adapter import Adapter, AdapterKind, Start, make_adapter
from llama_index_mm.alignment.checkpoint import read_checkpoint, write_checkpoint
from llama_index_mm.alignment.losses import LEARNED, LOSSES, LossName, info_nce, margin_loss, sigmoid_loss
from llama_index_mm.alignment.pairs import Encoded
from llama_index_mm.alignment.scoring import ranks_of
from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import AlignmentError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHECKPOINT", "Epoch", "FitOptions", "Fitted", "Learner", "Tensors", "start_of", "train", "train_adapter"]

CHECKPOINT = "checkpoint.safetensors"
_FIXED = ("mean", "scale")
Tensors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class FitOptions:
    """How an adapter is fitted.

    Attributes:
        adapter: ``"linear"``, ``"mlp"`` or ``"residual"``, see `Adapter`.
        loss: ``"info_nce"``, ``"margin"`` or ``"sigmoid"``, see `llama_index_mm.alignment.losses`.
        start: ``"ridge"``, ``"procrustes"``, ``"identity"`` or ``"random"``, see `make_adapter`.
        hidden: width of the hidden layer of ``mlp`` and ``residual``.
        margin: of the margin loss.
        hardest: of the negatives that many count; None for all.
        rate: of learning.
        decay: of weights, as in AdamW (Loshchilov and Hutter 2019).
        batch: pairs in a step.
        held_out: share of the groups that is not trained on: it decides when to stop, and the card's figures are over it.
        seed: of the split, of what is drawn at random, and of the order of pairs.

    Raises:
        AlignmentError: a value is out of its range.
    """

    adapter: AdapterKind = "linear"
    loss: LossName = "info_nce"
    start: Start = "ridge"
    hidden: int = 256
    margin: float = 1.0
    hardest: int | None = None
    rate: float = 1e-3
    decay: float = 1e-2
    batch: int = 256
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise AlignmentError(f"Expected a loss of {', '.join(LOSSES)}, got {self.loss!r}.")
        for name, least in (("hidden", 1), ("rate", 0), ("decay", 0), ("batch", 2)):
            if not getattr(self, name) >= least:
                raise AlignmentError(f"Expected {name} of at least {least}, got {getattr(self, name)!r}.")


@dataclass(frozen=True)
class Epoch:
    """What one pass over the pairs came to.

    Attributes:
        epoch: its number; 0 is the adapter before training.
        loss: mean over the pairs trained on; None for epoch 0.
        score: mean of R@1 and MRR of the held-out pairs, over both directions.
        recall: R@1 of the held-out pairs, over both directions.
        mrr: their mean reciprocal rank.
    """

    epoch: int
    loss: float | None
    score: float
    recall: float
    mrr: float


@dataclass(frozen=True)
class Fitted:
    """What training came to; tensors are those of `Learner.now`.

    Attributes:
        start: tensors before training.
        taken: those of the best epoch by score.
        history: of all epochs.
        best: number of the best epoch; 0 if training did not help.
        stopped: ``"epochs"``, ``"patience"`` or ``"seconds"``: which bound was met.
    """

    start: Tensors
    taken: Tensors
    history: tuple[Epoch, ...]
    best: int
    stopped: str


def start_of(data: Encoded, options: FitOptions) -> Adapter:
    """The adapter that training begins with."""
    return make_adapter(
        options.adapter,
        data.features[data.pairs[:, 0]],
        data.targets[data.pairs[:, 1]],
        start=options.start,
        hidden=options.hidden,
        seed=options.seed,
    )


def train(
    learner: "Learner",
    data: Encoded,
    held: Encoded,
    *,
    epochs: int = 200,
    patience: int = 20,
    seconds: float | None = None,
    folder: Path | None = None,
    run: str = "",
    checkpoint_seconds: float = 2.0,
    show_progress: bool = False,
) -> Fitted:
    """Train by AdamW, and stop where held-out pairs are not found any better.

    The same pairs and options give the same tensors on the same machine, whether the run was stopped in between or not.

    Args:
        learner: what is trained.
        data: pairs to train on.
        held: pairs to measure on.
        epochs: at most so many passes over the pairs.
        patience: passes without a better score after which it stops.
        seconds: time after which it stops, checked after each pass; what earlier runs took counts.
        folder: where checkpoints go; a run that was killed goes on there.
        run: digest of all that decides the result; a checkpoint of another one is refused.
        checkpoint_seconds: at most this much work is lost, and the pass that was under way.
        show_progress: show a bar on standard error.

    Raises:
        AlignmentError: the folder holds a checkpoint of another run, or numbers went out of bounds.
    """
    if epochs < 0 or patience < 1:
        raise AlignmentError(f"Expected epochs of at least 0 and patience of at least 1, got {epochs} and {patience}.")
    start = taken = learner.now()
    if folder is not None and (found := read_checkpoint(folder / CHECKPOINT, run)) is not None:
        told, tensors = found
        learner.load(tensors)
        history, spent = [Epoch(**row) for row in told["history"]], told["seconds"]
        best = history[told["best"]]
        taken = {name[5:]: one.numpy() for name, one in tensors.items() if name.startswith("best.")}
    else:
        best = _measured(0, None, learner.vectors(held, start), held)
        history, spent = [best], 0.0
    began, kept, stopped = time.monotonic() - spent, time.monotonic(), "epochs"
    with tqdm(total=epochs, initial=len(history) - 1, desc="align", unit="epoch", disable=not show_progress) as bar:
        while len(history) <= epochs:
            if len(history) - 1 - best.epoch >= patience:
                stopped = "patience"
                break
            if seconds is not None and time.monotonic() - began >= seconds:
                stopped = "seconds"
                break
            loss = learner.pass_over(data, len(history))
            now = learner.now()
            history.append(_measured(len(history), loss, learner.vectors(held, now), held))
            if history[-1].score > best.score:
                best, taken = history[-1], now
            bar.set_postfix(loss=f"{loss:.3f}", recall=f"{history[-1].recall:.3f}", best=f"{best.recall:.3f}")
            bar.update()
            if folder is not None and time.monotonic() - kept >= checkpoint_seconds:
                _write(folder, run, learner, history, best, taken, time.monotonic() - began)
                kept = time.monotonic()
    if folder is not None:
        _write(folder, run, learner, history, best, taken, time.monotonic() - began)
    return Fitted(start, taken, tuple(history), best.epoch, stopped)


class Learner(ABC):
    """Weights in training, with the optimiser: an adapter, and in a subclass what comes before it.

    Args:
        start: the adapter before training.
        options: how.
        more: further weights by name, which the subclass made.
    """

    def __init__(self, start: Adapter, options: FitOptions, more: Mapping[str, "Tensor"] | None = None) -> None:
        self.torch: Any = require("torch", extra="align")
        self.options = options
        self.kind = start.kind
        self.fixed = {name: self.torch.from_numpy(start.tensors[name].copy()) for name in _FIXED}
        free = {name: tensor for name, tensor in start.tensors.items() if name not in _FIXED}
        learned = {name: np.float32(value) for name, value in LEARNED[options.loss].items()}
        values = {**free, **{f"loss.{name}": value for name, value in learned.items()}}
        self.free: dict[str, Any] = {
            name: self.torch.from_numpy(np.array(value)).requires_grad_() for name, value in sorted(values.items())
        }
        self.free |= more or {}
        decayed = [tensor for tensor in self.free.values() if tensor.ndim == 2]
        others = [tensor for tensor in self.free.values() if tensor.ndim != 2]
        groups = [{"params": decayed, "weight_decay": options.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = self.torch.optim.AdamW(groups, lr=options.rate)

    @abstractmethod
    def vectors(self, held: Encoded, tensors: Tensors) -> Vectors:
        """Vectors ``(i, d)`` of the held-out items by the tensors that `now` gave at some time."""

    @abstractmethod
    def _features(self, data: Encoded, items: NDArray[np.int64], step: tuple[int, int]) -> "Tensor":
        """What goes into the adapter, ``(n, s)``, of items by number; a step is told by its epoch and first pair."""

    def _pass_back(self) -> None:  # noqa: B027 - most have nothing to do
        """Called once gradients have come back to what `_features` gave, before the weights are changed."""

    def pass_over(self, data: Encoded, epoch: int) -> float:
        """Train on all pairs once; gives the mean loss."""
        torch, count, total = self.torch, len(data.pairs), 0.0
        order = np.random.default_rng([self.options.seed, epoch]).permutation(count)
        for at in range(0, count, self.options.batch):
            items, targets = data.pairs[order[at : at + self.options.batch]].T
            vectors = self._forward(self._features(data, items, (epoch, at)))
            wanted = torch.from_numpy(data.targets[targets])
            loss = self._loss(vectors, wanted, torch.from_numpy(data.together(items, targets)))
            if not torch.isfinite(loss):
                raise AlignmentError(f"The loss became {loss.item()} in epoch {epoch}. Lower the rate ({self.options.rate}).")
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._pass_back()
            self.optimiser.step()
            total += loss.item() * len(items)
        return total / count

    def _forward(self, features: "Tensor") -> "Tensor":
        """As `Adapter` computes it."""
        z = (features - self.fixed["mean"]) / self.fixed["scale"]
        out = self.free["bias"]
        if self.kind != "mlp":
            out = out + z @ self.free["weight"].T
        if self.kind != "linear":
            out = out + (z @ self.free["hidden.weight"].T + self.free["hidden.bias"]).relu() @ self.free["out.weight"].T
        vectors: Tensor = self.torch.nn.functional.normalize(out.expand(len(z), -1), dim=1)
        return vectors

    def _loss(self, vectors: "Tensor", targets: "Tensor", together: "Tensor") -> "Tensor":
        options = self.options
        if options.loss == "margin":
            return margin_loss(vectors, targets, together, margin=options.margin, hardest=options.hardest)
        scale = self.free["loss.log_scale"]
        if options.loss == "info_nce":
            return info_nce(vectors, targets, together, log_scale=scale, hardest=options.hardest)
        return sigmoid_loss(vectors, targets, together, log_scale=scale, bias=self.free["loss.bias"], hardest=options.hardest)

    def now(self) -> dict[str, NDArray[np.float32]]:
        """All that it has learned up to now and that the result is made of: a copy, by name."""
        kept = {name: tensor for name, tensor in self.free.items() if not name.startswith("loss.")}
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in {**self.fixed, **kept}.items()}

    def tensors(self) -> dict[str, Any]:
        """All that training goes on from."""
        out = {f"now.{name}": tensor.detach() for name, tensor in self.free.items()}
        for name, tensor in self.free.items():
            for what, value in self.optimiser.state[tensor].items():
                out[f"{what}.{name}"] = value
        return out

    def load(self, tensors: Mapping[str, Any]) -> None:
        """Take up what `tensors` gave."""
        with self.torch.no_grad():
            for name, tensor in self.free.items():
                tensor.copy_(tensors[f"now.{name}"])
                if (step := tensors.get(f"step.{name}")) is not None:
                    means = {what: tensors[f"{what}.{name}"].to(tensor.device) for what in ("exp_avg", "exp_avg_sq")}
                    self.optimiser.state[tensor] = {"step": step, **means}


class _State(Learner):
    """An adapter alone, on vectors that were computed once."""

    def vectors(self, held: Encoded, tensors: Tensors) -> Vectors:
        return Adapter(self.kind, tensors)(held.features)

    def _features(self, data: Encoded, items: NDArray[np.int64], step: tuple[int, int]) -> "Tensor":
        features: Tensor = self.torch.from_numpy(data.features[items])
        return features


def train_adapter(data: Encoded, held: Encoded, options: FitOptions, **bounds: Any) -> Fitted:
    """Fit an adapter to vectors; see `train` for what bounds there are."""
    return train(_State(start_of(data, options), options), data, held, **bounds)


def _measured(epoch: int, loss: float | None, vectors: Vectors, held: Encoded) -> Epoch:
    ranks = ranks_of(vectors, held)
    return Epoch(epoch, loss, ranks.score, ranks.mean("R@1"), ranks.mean("MRR"))


def _write(folder: Path, run: str, learner: Learner, history: list[Epoch], best: Epoch, taken: Tensors, seconds: float) -> None:
    best_of = {f"best.{name}": learner.torch.from_numpy(tensor.copy()) for name, tensor in taken.items()}
    told = {"history": [asdict(one) for one in history], "best": best.epoch, "seconds": seconds}
    write_checkpoint(folder / CHECKPOINT, run, {**learner.tensors(), **best_of}, told)
