"""The adapter: from vectors of one encoder to vectors of a space. It runs in NumPy; only fitting it takes torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors, unit
from llama_index_mm.errors import AlignmentError

__all__ = ["ADAPTERS", "STARTS", "Adapter", "AdapterKind", "Start", "make_adapter", "procrustes", "ridge"]

AdapterKind = Literal["linear", "mlp", "residual"]
Start = Literal["identity", "procrustes", "random", "ridge"]

ADAPTERS: tuple[AdapterKind, ...] = ("linear", "mlp", "residual")
STARTS: tuple[Start, ...] = ("identity", "procrustes", "random", "ridge")

_WEIGHTS = {
    "linear": {"bias", "weight"},
    "mlp": {"bias", "hidden.bias", "hidden.weight", "out.weight"},
    "residual": {"bias", "hidden.bias", "hidden.weight", "out.weight", "weight"},
}
_FIXED = {"mean", "scale"}
_RIDGES = np.geomspace(1e-5, 1e3, 25)  # times the mean squared singular value


@dataclass(frozen=True)
class Adapter:
    """A small map between vectors.

    With ``z = (x - mean) / scale``, it gives ``W z + b`` (linear), ``U relu(H z + h) + b`` (mlp), or the sum of both
    (residual), scaled to length 1.

    Attributes:
        kind: as said above.
        tensors: float32: ``mean (s,)``, ``scale (1,)``, ``bias (d,)``; ``weight (d, s)`` is W, ``hidden.weight (w, s)`` H,
            ``hidden.bias (w,)`` h, ``out.weight (d, w)`` U.

    Raises:
        AlignmentError: tensors are missing, too many, of wrong shapes or not finite.
    """

    kind: AdapterKind
    tensors: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        if self.kind not in ADAPTERS:
            raise AlignmentError(f"Expected an adapter of kind {', '.join(ADAPTERS)}, got {self.kind!r}.")
        wanted = _WEIGHTS[self.kind] | _FIXED
        if set(self.tensors) != wanted:
            raise AlignmentError(f"Expected tensors {sorted(wanted)} of a {self.kind} adapter, got {sorted(self.tensors)}.")
        source, target = self.tensors["mean"].size, self.tensors["bias"].size
        width = self.tensors["hidden.bias"].size if self.kind != "linear" else 0
        shapes = {
            "mean": (source,),
            "scale": (1,),
            "bias": (target,),
            "weight": (target, source),
            "hidden.weight": (width, source),
            "hidden.bias": (width,),
            "out.weight": (target, width),
        }
        for name, tensor in self.tensors.items():
            if tensor.shape != shapes[name] or not np.isfinite(tensor).all():
                raise AlignmentError(f"Expected {name} of shape {shapes[name]} and finite, got shape {tensor.shape}.")

    def __call__(self, features: NDArray[Any]) -> Vectors:
        """Map ``(n, source_dimension)`` to ``(n, dimension)`` float32, rows of length 1."""
        wide = {name: tensor.astype(np.float64) for name, tensor in self.tensors.items()}
        z = (np.asarray(features, np.float64) - wide["mean"]) / wide["scale"]
        out = np.broadcast_to(wide["bias"], (len(z), self.dimension))
        if self.kind != "mlp":
            out = out + z @ wide["weight"].T
        if self.kind != "linear":
            out = out + np.maximum(z @ wide["hidden.weight"].T + wide["hidden.bias"], 0) @ wide["out.weight"].T
        return unit(out)

    @property
    def source_dimension(self) -> int:
        """Length of what goes in."""
        return self.tensors["mean"].size

    @property
    def dimension(self) -> int:
        """Length of what comes out."""
        return self.tensors["bias"].size

    @property
    def parameters(self) -> int:
        """Numbers that were fitted."""
        return sum(tensor.size for name, tensor in self.tensors.items() if name not in _FIXED)

    @property
    def digest(self) -> str:
        """SHA-256 of kind and tensors: 64 hexadecimal digits."""
        digest = hashlib.sha256(self.kind.encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"\x1f{name} {tensor.shape}\x1f".encode() + np.ascontiguousarray(tensor, "<f4").tobytes())
        return digest.hexdigest()


def make_adapter(
    kind: AdapterKind,
    features: NDArray[Any],
    targets: NDArray[Any],
    *,
    start: Start = "ridge",
    hidden: int = 256,
    seed: int = 0,
) -> Adapter:
    """An adapter before training, by a closed form where there is one.

    ``ridge`` and ``procrustes`` fit W of a linear or residual adapter, where U is 0 at first. In an mlp, ``ridge`` fits U
    over a random H (Huang, Zhu and Siew, "Extreme learning machine", Neurocomputing 2006); it has no ``procrustes`` and no
    ``identity``. ``identity`` gives what comes in: for a source whose vectors are in the space already, and find something.

    Args:
        kind: of adapter.
        features: ``(n, s)`` of the pairs to fit on.
        targets: ``(n, d)`` what they belong with.
        start: how to begin.
        hidden: width of the hidden layer.
        seed: of what is drawn at random.

    Raises:
        AlignmentError: a name that is not known, an mlp by ``procrustes`` or ``identity``, or ``identity`` between different
            dimensions.
    """
    if kind not in ADAPTERS or start not in STARTS or (kind == "mlp" and start in ("procrustes", "identity")):
        raise AlignmentError(
            f"Expected an adapter of {', '.join(ADAPTERS)} and a start of {', '.join(STARTS)} (an mlp has no procrustes and "
            f"no identity); got {kind!r} and {start!r}."
        )
    wide, wanted = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    if start == "identity" and wide.shape[1] != wanted.shape[1]:
        raise AlignmentError(
            f"Expected vectors of the same length on both sides to start from identity, got {wide.shape[1]} and "
            f"{wanted.shape[1]}. Take ridge."
        )
    rng = np.random.default_rng(seed)
    mean = wide.mean(0)
    scale = float(np.sqrt(((wide - mean) ** 2).mean())) or 1.0
    z = (wide - mean) / scale
    tensors: dict[str, NDArray[np.float64]] = {"mean": mean, "scale": np.array([scale]), "bias": np.zeros(wanted.shape[1])}
    size, into = z.shape[1], wanted.shape[1]
    if kind != "mlp":
        if start == "random":
            tensors["weight"] = rng.normal(0, size**-0.5, (into, size))
        elif start == "identity":
            tensors["weight"], tensors["bias"] = scale * np.eye(size), mean
        else:
            tensors["weight"], tensors["bias"] = (ridge if start == "ridge" else procrustes)(z, wanted)
    if kind != "linear":
        tensors["hidden.weight"] = rng.normal(0, (2 / size) ** 0.5, (hidden, size))
        tensors["hidden.bias"] = np.zeros(hidden)
        tensors["out.weight"] = np.zeros((into, hidden))
        if kind == "mlp":
            tensors["out.weight"] = rng.normal(0, hidden**-0.5, (into, hidden))
            if start == "ridge":
                raised = np.maximum(z @ tensors["hidden.weight"].T, 0)
                tensors["out.weight"], tensors["bias"] = ridge(raised, wanted)
    return Adapter(kind, {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()})


def ridge(features: NDArray[Any], targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares with a penalty on the weights (Hoerl and Kennard 1970): ``min ||X W' + b - Y||^2 + r ||W||^2``.

    Of 25 penalties r that one is taken that predicts each row best from all the others, which has a closed form: the residual
    divided by 1 - h, with h the row's entry on the diagonal of the hat matrix (Allen's PRESS, 1974).

    Args:
        features: ``(n, s)``.
        targets: ``(n, d)``.

    Returns:
        W ``(d, s)`` and b ``(d,)``.
    """
    x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    centre, middle = x.mean(0), y.mean(0)
    left, values, right = np.linalg.svd(x - centre, full_matrices=False)
    kept = values > 1e-10 * max(values.max(initial=0.0), 1e-300)
    left, values, right = left[:, kept], values[kept], right[kept]
    if not len(values):
        return np.zeros((y.shape[1], x.shape[1])), middle
    inner = left.T @ (y - middle)
    errors = []
    for penalty in _RIDGES * (values**2).mean():
        shrink = values**2 / (values**2 + penalty)
        leverage = 1 / len(x) + (left**2 @ shrink)
        residual = (y - middle - left @ (shrink[:, None] * inner)) / np.maximum(1 - leverage, 1e-12)[:, None]
        errors.append(float((residual**2).sum()))
    penalty = _RIDGES[int(np.argmin(errors))] * (values**2).mean()
    weight = (right.T @ ((values / (values**2 + penalty))[:, None] * inner)).T
    return weight, middle - weight @ centre


def procrustes(features: NDArray[Any], targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rotation (or reflection) with one scale that brings X nearest to Y: ``min ||c X R' + b - Y||^2``, R orthogonal.

    Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966. Where the dimensions differ,
    R has orthonormal rows or columns. It keeps angles, so it needs few pairs, and can't drop what does not matter.

    Args:
        features: ``(n, s)``.
        targets: ``(n, d)``.

    Returns:
        c R ``(d, s)`` and b ``(d,)``.
    """
    x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    centre, middle = x.mean(0), y.mean(0)
    left, values, right = np.linalg.svd((y - middle).T @ (x - centre), full_matrices=False)
    power = float(((x - centre) ** 2).sum())
    weight = (left @ right) * (values.sum() / power if power else 0.0)
    return weight, middle - weight @ centre
