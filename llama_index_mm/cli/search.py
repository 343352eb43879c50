"""What ``llama-index-mm search`` is told in short: seats, as ``image=2``, and times, as ``0:10-1:05``."""

import math
import re
from collections.abc import Sequence

import typer

__all__ = ["seats_of", "span_of"]

_SECONDS = r"(?:\d+:)*\d+(?:\.\d+)?"
_SPAN = re.compile(rf"\s*({_SECONDS})?\s*-\s*({_SECONDS})?\s*")


def seats_of(option: str, given: Sequence[str] | None) -> dict[str, int]:
    """Read numbers of seats: ``["image=2", "language:zh=1"]``.

    Args:
        option: that they were given with.
        given: as typed.

    Raises:
        BadParameter: one is written in another way, or a kind comes twice.
    """
    seats: dict[str, int] = {}
    for one in given or ():
        kind, _, count = one.rpartition("=")
        if not kind or not count.strip().isdecimal() or kind.strip() in seats:
            raise typer.BadParameter(
                f"Expected each modality or language once, with a number, such as image=2 or language:zh=1, got {one!r}.",
                param_hint=option,
            )
        seats[kind.strip()] = int(count)
    return seats


def span_of(given: str | None) -> tuple[float, float] | None:
    """Read a span of time: ``"10-20"``, ``"1:05-1:20"``, ``"90-"`` and ``"-30"`` in seconds; None for None.

    Raises:
        BadParameter: it is written in another way, or is empty.
    """
    if given is None:
        return None
    written = _SPAN.fullmatch(given)
    start, end = (_seconds(written[1], 0.0), _seconds(written[2], math.inf)) if written else (0.0, 0.0)
    if not start < end:
        raise typer.BadParameter(
            f"Expected first and last second, such as 10-20, 1:05-1:20 or 90-, got {given!r}.", param_hint="--between"
        )
    return start, end


def _seconds(written: str | None, otherwise: float) -> float:
    if written is None:
        return otherwise
    *larger, last = written.split(":")
    return float(last) + sum(60.0**power * int(one) for power, one in enumerate(reversed(larger), 1))
