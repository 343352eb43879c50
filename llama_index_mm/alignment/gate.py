"""The gate: what joined must not make worse what was there, and must be worth having."""

from collections.abc import Mapping, Sequence

from llama_index_mm.alignment.card import AlignmentCard
from llama_index_mm.alignment.scoring import DIRECTIONS
from llama_index_mm.errors import AlignmentError
from llama_index_mm.evaluation import Comparison, EvaluationReport, compare

__all__ = ["check_adapter", "gate"]


def gate(
    before: EvaluationReport,
    after: EvaluationReport,
    *,
    metric: str = "MRR",
    tolerance: float = 0.01,
    vectors_before: Mapping[str, str] | None = None,
    vectors_after: Mapping[str, str] | None = None,
    card: AlignmentCard | None = None,
) -> Comparison:
    """Let a new modality in only if everything else is still found as well as before.

    Ask the same judged queries before and after with `evaluation.evaluate`: those that look for one old modality, which can't
    change as long as its vectors don't, and those that look for anything (`evaluation.mixed`), where what is new can take the
    places of what is sought.

    Args:
        before: without the new modality.
        after: with it; the same queries in the same order.
        metric: that is looked at.
        tolerance: how much its mean may fall for a kind of query, in [0, 1], whether by chance or not: each kind counts, not
            only the mean over all.
        vectors_before: of the old modalities, by `digest_vectors`.
        vectors_after: each digest of ``vectors_before`` must be in it, unchanged.
        card: of the adapter, for `check_adapter`.

    Returns:
        The comparison, with paired 95 % intervals.

    Raises:
        AlignmentError: something got worse, or changed, or the adapter is bad; all reasons are told, with figures.
        QueryError: the reports are not over the same queries.
    """
    found = compare(before, after)
    wrong = []
    for row in found.rows:
        if metric not in row.differences:
            wrong.append(f"{row.kind}: no query was answered both times")
            continue
        change = row.differences[metric]
        if change.mean < -tolerance:
            wrong.append(
                f"{row.kind}: {metric} fell by {-change.mean:.3f} (95 % interval of the change {change.low:+.3f} to "
                f"{change.high:+.3f}, {row.queries} queries)"
            )
    if len(after.failures) > len(before.failures):
        wrong.append(f"{len(after.failures)} queries fail, {len(before.failures)} did before")
    if vectors_before is not None:
        changed = [name for name, digest in vectors_before.items() if (vectors_after or {}).get(name) != digest]
        if changed:
            wrong.append(f"stored vectors are not what they were: {', '.join(changed)}")
    if card is not None:
        wrong += _faults(card)
    _refuse(wrong, tolerance)
    return found


def check_adapter(card: AlignmentCard, *, least_rank: float = 0.25) -> None:
    """Refuse an adapter that finds no better than chance, or has collapsed.

    Args:
        card: of the adapter.
        least_rank: share of the effective rank of the targets that the held-out vectors must have.

    Raises:
        AlignmentError: it is; all reasons are told, with figures.
    """
    _refuse(_faults(card, least_rank), None)


def _faults(card: AlignmentCard, least_rank: float = 0.25) -> list[str]:
    wrong = []
    for direction in DIRECTIONS:
        recall, chance = card.after[direction]["R@1"], card.chance[direction]
        if chance < 1 and recall.low <= chance:
            wrong.append(f"{direction}: held-out R@1 is {recall}, no better than chance ({chance:.3f})")
    if card.geometry.rank < least_rank * card.target_rank:
        wrong.append(
            f"it has collapsed: effective rank {card.geometry.rank:.1f}, that of what it belongs with is "
            f"{card.target_rank:.1f} (uniformity {card.geometry.uniformity:.2f})"
        )
    return wrong


def _refuse(wrong: Sequence[str], tolerance: float | None) -> None:
    if wrong:
        allowed = f", with {tolerance} allowed" if tolerance is not None else ""
        raise AlignmentError(
            f"The adapter is refused{allowed}: {'; '.join(wrong)}. Fit it on more or cleaner pairs, or leave it out."
        )
