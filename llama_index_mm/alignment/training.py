"""Training an adapter on vectors that were computed once. The extra ``align`` brings torch."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from llama_index_mm._optional import require
from llama_index_mm.alignment.adapter import Adapter, AdapterKind, Start, make_adapter
from llama_index_mm.alignment.losses import LEARNED, LOSSES, LossName, info_nce, margin_loss, sigmoid_loss
from llama_index_mm.alignment.pairs import Encoded
from llama_index_mm.alignment.scoring import ranks_of
from llama_index_mm.errors import AlignmentError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHECKPOINT", "Epoch", "FitOptions", "Fitted", "train"]

CHECKPOINT = "checkpoint.safetensors"
_FIXED = ("mean", "scale")


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
    """What training came to.

    Attributes:
        start: adapter before training.
        adapter: that of the best epoch by score.
        history: of all epochs.
        best: number of the best epoch; 0 if training did not help.
        stopped: ``"epochs"``, ``"patience"`` or ``"seconds"``: which bound was met.
    """

    start: Adapter
    adapter: Adapter
    history: tuple[Epoch, ...]
    best: int
    stopped: str


def train(
    data: Encoded,
    held: Encoded,
    options: FitOptions,
    *,
    epochs: int = 200,
    patience: int = 20,
    seconds: float | None = None,
    folder: Path | None = None,
    run: str = "",
    checkpoint_seconds: float = 2.0,
    show_progress: bool = False,
) -> Fitted:
    """Fit an adapter by AdamW, and stop where held-out pairs are not found any better.

    The same pairs and options give the same adapter on the same machine, whether the run was stopped in between or not.

    Args:
        data: pairs to train on.
        held: pairs to measure on.
        options: how.
        epochs: at most so many passes over the pairs.
        patience: passes without a better score after which it stops.
        seconds: time after which it stops, checked after each pass; what earlier runs took counts.
        folder: where checkpoints go; a run that was killed goes on there.
        run: digest of all that decides the result; a checkpoint of another one is refused.
        checkpoint_seconds: at most this much work is lost.
        show_progress: show a bar on standard error.

    Raises:
        AlignmentError: the folder holds a checkpoint of another run, or numbers went out of bounds.
    """
    if epochs < 0 or patience < 1:
        raise AlignmentError(f"Expected epochs of at least 0 and patience of at least 1, got {epochs} and {patience}.")
    firsts = data.pairs[:, 0], data.pairs[:, 1]
    start = make_adapter(
        options.adapter,
        data.features[firsts[0]],
        data.targets[firsts[1]],
        start=options.start,
        hidden=options.hidden,
        seed=options.seed,
    )
    state = _State(start, options)
    first = _measured(0, None, start, held)
    history, spent = [first], 0.0
    best, best_adapter = first, start
    if folder is not None and (found := _read(folder / CHECKPOINT, run)) is not None:
        told, tensors = found
        state.load(tensors)
        history, spent = [Epoch(**row) for row in told["history"]], told["seconds"]
        best = history[told["best"]]
        best_adapter = _adapter(options.adapter, {name[5:]: one for name, one in tensors.items() if name.startswith("best.")})
    began, kept, stopped = time.monotonic() - spent, time.monotonic(), "epochs"
    with tqdm(total=epochs, initial=len(history) - 1, desc="align", unit="epoch", disable=not show_progress) as bar:
        while len(history) <= epochs:
            if len(history) - 1 - best.epoch >= patience:
                stopped = "patience"
                break
            if seconds is not None and time.monotonic() - began >= seconds:
                stopped = "seconds"
                break
            loss = state.pass_over(data, len(history))
            adapter = state.adapter()
            history.append(_measured(len(history), loss, adapter, held))
            if history[-1].score > best.score:
                best, best_adapter = history[-1], adapter
            bar.set_postfix(loss=f"{loss:.3f}", recall=f"{history[-1].recall:.3f}", best=f"{best.recall:.3f}")
            bar.update()
            if folder is not None and time.monotonic() - kept >= checkpoint_seconds:
                _write(folder / CHECKPOINT, run, state, history, best, best_adapter, time.monotonic() - began)
                kept = time.monotonic()
    if folder is not None:
        _write(folder / CHECKPOINT, run, state, history, best, best_adapter, time.monotonic() - began)
    return Fitted(start, best_adapter, tuple(history), best.epoch, stopped)


class _State:
    """Weights in training, with the optimiser."""

    def __init__(self, start: Adapter, options: FitOptions) -> None:
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
        decayed = [tensor for tensor in self.free.values() if tensor.ndim == 2]
        others = [tensor for tensor in self.free.values() if tensor.ndim != 2]
        groups = [{"params": decayed, "weight_decay": options.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = self.torch.optim.AdamW(groups, lr=options.rate)

    def pass_over(self, data: Encoded, epoch: int) -> float:
        """Train on all pairs once; gives the mean loss."""
        torch, count, total = self.torch, len(data.pairs), 0.0
        order = np.random.default_rng([self.options.seed, epoch]).permutation(count)
        for at in range(0, count, self.options.batch):
            items, targets = data.pairs[order[at : at + self.options.batch]].T
            vectors = self._forward(torch.from_numpy(data.features[items]))
            wanted = torch.from_numpy(data.targets[targets])
            loss = self._loss(vectors, wanted, torch.from_numpy(data.together(items, targets)))
            if not torch.isfinite(loss):
                raise AlignmentError(f"The loss became {loss.item()} in epoch {epoch}. Lower the rate ({self.options.rate}).")
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
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

    def adapter(self) -> Adapter:
        """The adapter as it is now."""
        tensors = {name: tensor for name, tensor in self.free.items() if not name.startswith("loss.")}
        return _adapter(self.kind, {**self.fixed, **tensors})

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
                parts = {what: tensors.get(f"{what}.{name}") for what in ("step", "exp_avg", "exp_avg_sq")}
                if parts["step"] is not None:
                    self.optimiser.state[tensor] = parts


def _adapter(kind: AdapterKind, tensors: Mapping[str, Any]) -> Adapter:
    return Adapter(kind, {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()})


def _measured(epoch: int, loss: float | None, adapter: Adapter, held: Encoded) -> Epoch:
    ranks = ranks_of(adapter(held.features), held)
    return Epoch(epoch, loss, ranks.score, ranks.mean("R@1"), ranks.mean("MRR"))


def _write(
    path: Path, run: str, state: _State, history: list[Epoch], best: Epoch, best_adapter: Adapter, seconds: float
) -> None:
    """One file, put in place at once: a run that is killed leaves the last one or this one."""
    safetensors: Any = require("safetensors.torch", extra="align")
    tensors = state.tensors()
    tensors |= {f"best.{name}": state.torch.from_numpy(tensor.copy()) for name, tensor in best_adapter.tensors.items()}
    told = {"run": run, "history": [asdict(one) for one in history], "best": best.epoch, "seconds": seconds}
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}")
    half.write_bytes(safetensors.save(tensors, metadata={"state": json.dumps(told)}))
    half.replace(path)


def _read(path: Path, run: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What `_write` wrote; None if there is nothing."""
    if not path.exists():
        return None
    safetensors: Any = require("safetensors", extra="align")
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            told: dict[str, Any] = json.loads(opened.metadata()["state"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    except Exception as error:  # safetensors raises its own kind
        raise AlignmentError(f"{path} can't be read ({error}). Delete it to begin anew.") from error
    if told["run"] != run:
        raise AlignmentError(
            f"{path} is of a run on other pairs, with other options or encoders. Give another folder, or delete it."
        )
    return told, tensors
