"""How a text refers to sources by their numbers."""

import re

__all__ = ["CLOSED", "LONGEST", "OPENED", "numbers_of"]

OPENED, CLOSED = "\\[［【", "\\]］】"
"""Brackets around numbers, as they stand in a character class of a regular expression."""

LONGEST = 78
"""Characters between the brackets."""

_NUMBER = r"(?:sources?\s+|no\.\s*)?(\d{1,4})"
_NEXT = re.compile(r"(?:[,，、;；&]\s*(?:and\s)?|\band\s)\s*(?=sources?\s|no\.|\d)", re.IGNORECASE)
_ONE = re.compile(rf"\s*{_NUMBER}(?:†[^†]*)?(?:\s*[–-]\s*{_NUMBER}(?:†[^†]*)?)?\s*", re.IGNORECASE)
_WIDEST = 100  # numbers in one range


def numbers_of(within: str) -> list[int]:
    """Numbers of sources that stand within brackets; none if it is anything else, or more than `LONGEST` characters.

    Example:
        >>> numbers_of("Source 1, 3-5 and 7†talk.ogg"), numbers_of("2024 report")
        ([1, 3, 4, 5, 7], [])
    """
    found: list[int] = []
    if len(within) > LONGEST:
        return found
    for one in _NEXT.split(within):
        if (stated := _ONE.fullmatch(one)) is None:
            return []
        low, high = int(stated[1]), int(stated[2] or stated[1])
        found += range(low, high + 1) if low <= high < low + _WIDEST else [low, high]
    return found
