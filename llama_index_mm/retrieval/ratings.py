"""What an LLM says of numbered items, made out of whatever it answers."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Rating", "read_ratings"]

_BEST = 10.0  # on the scale that the LLM rates on
_REASON = 200  # characters of a reason that are kept
_FLAT = re.compile(r"\{[^{}]*\}")
_NUMBER = re.compile(r"[-+]?\d{1,9}(?:\.\d{1,9})?")


@dataclass(frozen=True)
class Rating:
    """What an LLM says of one item.

    Attributes:
        relevance: in [0, 1]; higher is better.
        reason: in its words; may be empty.
    """

    relevance: float
    reason: str


def read_ratings(answer: Any, count: int) -> dict[int, Rating]:
    """Make out ratings in an answer, whatever it is; never raises.

    Args:
        answer: arguments of function calls, or text with JSON in it: whole, fenced, between other words, or cut off.
        count: of items. Numbers beyond it are dropped, and of several ratings of one item all but the first.

    Returns:
        Ratings by number, from 1; empty where there are none.
    """
    ratings: dict[int, Rating] = {}
    for entry in _entries(answer):
        number, relevance, reason = _number(entry.get("number")), _number(entry.get("relevance")), entry.get("reason")
        if number is None or relevance is None or number != int(number) or not 1 <= number <= count or int(number) in ratings:
            continue
        words = " ".join(reason.split()) if isinstance(reason, str) else ""
        printable = words.encode("utf-8", "replace").decode("utf-8")  # JSON can hold halves of characters
        ratings[int(number)] = Rating(min(max(relevance / _BEST, 0.0), 1.0), printable[:_REASON])
    return ratings


def _entries(answer: Any) -> list[Mapping[str, Any]]:
    """Everything in an answer that has a number and a relevance, in the order in which it stands there."""
    if isinstance(answer, str):
        # One object, or one list, or else each object that is whole and holds no other.
        whole = [_decoded(answer[at:]) for at in map(answer.find, "{[") if at >= 0]
        return max(map(_entries, [*whole, list(map(_decoded, _FLAT.findall(answer)))]), key=len)
    found, left = [], [answer]
    while left:  # not by recursion, as what comes from a model may be nested without end
        value = left.pop()
        if isinstance(value, Mapping):
            if "number" in value and "relevance" in value:
                found.append(value)
            else:
                left += reversed(list(value.values()))
        elif isinstance(value, list | tuple):
            left += reversed(value)
        elif isinstance(value, str) and "number" in value:
            left.append(_decoded(value))  # some models write lists in arguments as text
    return found


def _decoded(text: str) -> Any:
    """The JSON that a text begins with; None if it begins with none."""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float | None:
    """A number, or one that a text begins with, such as ``"7/10"``; None for anything else."""
    if isinstance(value, str):
        match = _NUMBER.match(value.strip())
        return float(match.group()) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None
