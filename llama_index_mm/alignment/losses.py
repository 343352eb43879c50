"""Losses that pull together what belongs together. Pure functions of torch tensors; the extra ``align`` brings torch.

All take two sets of unit vectors, ``(n, d)`` of the new modality and ``(m, d)`` of the space, and a mask ``(n, m)`` of what
belongs together. Without a mask row i belongs with row i, and n equals m. Similarities are inner products. What the mask joins
is never a negative of one another: several items of one class may be in a batch.

With ``hardest`` only the k negatives most similar to each vector count, from both sides, where there are more: most of the
others are far away already and teach nothing (Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard
Negatives", BMVC 2018, arXiv:1707.05612). Wrong labels are among the hardest negatives: leave it out where labels are noisy.

What is learned beside the adapter, temperature and bias, is given as a tensor of one number.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from llama_index_mm._optional import require
from llama_index_mm.errors import AlignmentError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LEARNED", "LOSSES", "LossName", "info_nce", "margin_loss", "sigmoid_loss"]

LossName = Literal["info_nce", "margin", "sigmoid"]

LOSSES: tuple[LossName, ...] = ("info_nce", "margin", "sigmoid")

LEARNED: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "info_nce": {"log_scale": math.log(1 / 0.07)},
        "margin": {},
        "sigmoid": {"log_scale": math.log(10.0), "bias": -10.0},
    }
)
"""What each loss learns beside the adapter, and where its authors let that begin."""

_MOST_SCALE = 100.0


def margin_loss(
    source: "Tensor",
    target: "Tensor",
    positives: "Tensor | None" = None,
    *,
    margin: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
    hardest: int | None = None,
) -> "Tensor":
    """Pull positives together, push negatives apart until they are far enough.

    ``sum over positives of ||v_i - v_j||^2  +  sum over negatives of max(0, a - ||v_i - v_k||^2)``

    With ``reduction="sum"`` it is just that. The default takes the mean over the positives plus the mean over the negatives:
    of n pairs n are positive and n(n - 1) negative, so that in the sum the negatives outweigh the positives ever more as the
    batch grows, and the best rate of learning changes with it.

    After Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, who square the
    hinge over the distance instead.

    Args:
        source: ``(n, d)`` unit vectors.
        target: ``(m, d)`` unit vectors.
        positives: ``(n, m)`` bool.
        margin: a, in (0, 4): squared distance at which negatives are left alone. A similarity s is a squared distance
            of 2 - 2s, so a = 1 leaves alone what is below 0.5.
        reduction: mean or sum, as said above.
        hardest: of the negatives of each row and of each column that many count.

    Returns:
        One number of at least 0.

    Raises:
        AlignmentError: shapes do not fit, nothing is positive, or the margin is out of its range.
    """
    if not 0 < margin < 4:
        raise AlignmentError(f"Expected a margin in (0, 4), the squared distances of unit vectors; got {margin}.")
    similar, together = _similarities(source, target, positives)
    squared = 2 - 2 * similar
    near = squared[together]
    far = (margin - squared[_counted(similar, together, hardest)]).clamp(min=0)
    if reduction == "sum":
        return near.sum() + far.sum()
    return near.mean() + far.sum() / max(1, far.numel())


def info_nce(
    source: "Tensor",
    target: "Tensor",
    positives: "Tensor | None" = None,
    *,
    log_scale: "Tensor | float" = LEARNED["info_nce"]["log_scale"],
    hardest: int | None = None,
) -> "Tensor":
    """CLIP's symmetric cross entropy: of all in the batch, tell which one belongs to it.

    With ``s_ij = scale * <v_i, w_j>`` and P(i) the positives of row i:

    ``L = mean over i of mean over p in P(i) of -log( exp(s_ip) / (exp(s_ip) + sum over negatives k of exp(s_ik)) )``

    and the same over columns; the loss is the mean of both. With one positive a row this is the cross entropy of CLIP, number
    for number. Rows and columns without a positive are left out.

    van den Oord et al., arXiv:1807.03748; Radford et al., "Learning Transferable Visual Models From Natural Language
    Supervision", ICML 2021, arXiv:2103.00020, figure 3. Several positives: Khosla et al., "Supervised Contrastive Learning",
    NeurIPS 2020, arXiv:2004.11362, here without the other positives in the denominator.

    Args:
        source: ``(n, d)`` unit vectors.
        target: ``(m, d)`` unit vectors.
        positives: ``(n, m)`` bool.
        log_scale: logarithm of the scale, which is 1 / temperature; learned as such so that it stays positive. The scale is
            cut at 100, as in CLIP. It starts at 1 / 0.07.
        hardest: of the negatives of each row and of each column that many count.

    Returns:
        One number of at least 0; log(n) where all of n vectors are the same.

    Raises:
        AlignmentError: shapes do not fit, or nothing is positive.
    """
    similar, together = _similarities(source, target, positives)
    scaled = _scale(log_scale) * similar
    rows = _one_side(scaled, together, _hardest(similar, together, hardest))
    columns = _one_side(scaled.T, together.T, _hardest(similar.T, together.T, hardest))
    return (rows + columns) / 2


def sigmoid_loss(
    source: "Tensor",
    target: "Tensor",
    positives: "Tensor | None" = None,
    *,
    log_scale: "Tensor | float" = LEARNED["sigmoid"]["log_scale"],
    bias: "Tensor | float" = LEARNED["sigmoid"]["bias"],
    hardest: int | None = None,
) -> "Tensor":
    """SigLIP's loss: for each pair on its own, tell whether it belongs together.

    ``L = -1/n * sum over all i, j of log sigmoid( z_ij * (scale * <v_i, w_j> + bias) )``

    with z = 1 for positives and -1 for negatives, and n the number of rows. Unlike in `info_nce`, no pair competes with
    another, so small batches and several positives are no special case. The bias starts at -10, as nearly all pairs are
    negative.

    Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, arXiv:2303.15343.

    Args:
        source: ``(n, d)`` unit vectors.
        target: ``(m, d)`` unit vectors.
        positives: ``(n, m)`` bool.
        log_scale: logarithm of the scale; cut where the scale is 100.
        bias: added to the scaled similarities.
        hardest: of the negatives of each row and of each column that many count.

    Returns:
        One number of at least 0.

    Raises:
        AlignmentError: shapes do not fit, or nothing is positive.
    """
    torch: Any = require("torch", extra="align")
    similar, together = _similarities(source, target, positives)
    signs = together.to(similar.dtype) * 2 - 1
    likely: Tensor = torch.nn.functional.logsigmoid(signs * (_scale(log_scale) * similar + bias))
    counted = together | _counted(similar, together, hardest)
    return -(likely * counted).sum() / len(source)


def _similarities(source: "Tensor", target: "Tensor", positives: "Tensor | None") -> "tuple[Tensor, Tensor]":
    """Inner products ``(n, m)``, and what belongs together."""
    torch: Any = require("torch", extra="align")
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
        raise AlignmentError(f"Expected vectors (n, d) and (m, d), got {tuple(source.shape)} and {tuple(target.shape)}.")
    shape = (len(source), len(target))
    if positives is None:
        if shape[0] != shape[1]:
            raise AlignmentError(
                f"Expected as many vectors on both sides or a mask of positives; got {shape[0]} and {shape[1]}."
            )
        positives = torch.eye(shape[0], dtype=torch.bool, device=source.device)
    if positives.shape != shape or positives.dtype != torch.bool:
        raise AlignmentError(f"Expected a mask {shape} of bool, got {tuple(positives.shape)} of {positives.dtype}.")
    if not positives.any():
        raise AlignmentError("Expected at least one positive pair, got none: there is nothing to learn from.")
    return source @ target.T, positives


def _scale(log_scale: "Tensor | float") -> "Tensor | float":
    return min(math.exp(log_scale), _MOST_SCALE) if isinstance(log_scale, float) else log_scale.exp().clamp(max=_MOST_SCALE)


def _hardest(similar: "Tensor", together: "Tensor", count: int | None) -> "Tensor":
    """Negatives of each row that count: all, or the most similar ones."""
    if count is None:
        return ~together
    if count < 1:
        raise AlignmentError(f"Expected hardest to be 1 or more, or None for all negatives; got {count}.")
    torch: Any = require("torch", extra="align")
    ranked = similar.detach().masked_fill(together, -math.inf)
    kept = ranked.topk(min(count, ranked.shape[1]), dim=1).indices
    mask: Tensor = torch.zeros_like(together).scatter(1, kept, value=True) & ~together
    return mask


def _counted(similar: "Tensor", together: "Tensor", count: int | None) -> "Tensor":
    """Negatives that count from either side."""
    return _hardest(similar, together, count) | _hardest(similar.T, together.T, count).T


def _one_side(scaled: "Tensor", together: "Tensor", negatives: "Tensor") -> "Tensor":
    """Mean over rows, each the mean over its positives."""
    against = scaled.masked_fill(~negatives, -math.inf).logsumexp(1, keepdim=True)
    torch: Any = require("torch", extra="align")
    each = torch.logaddexp(scaled, against) - scaled
    having = together.any(1)
    total = each.masked_fill(~together, 0.0).sum(1)[having] / together.sum(1)[having]
    mean: Tensor = total.mean()
    return mean
