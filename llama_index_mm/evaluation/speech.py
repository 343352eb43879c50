"""How well speech is written down, and voices told apart. Pure functions, no models.

Error rates are those of the Levenshtein distance: the fewest insertions, deletions and substitutions, over what should be
there; so they can be above 1. Rates over several recordings weigh each by its length.
"""

import unicodedata
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["character_error_rate", "characters_of", "edit_distance", "equal_error_rate", "word_error_rate", "words_of"]


def edit_distance(wanted: Sequence[Hashable], got: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that make one sequence the other (Levenshtein 1966)."""
    row = list(range(len(got) + 1))
    for at, one in enumerate(wanted, 1):
        before, row[0] = row[0], at
        for to, other in enumerate(got, 1):
            before, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, before + (one != other))
    return row[-1]


def words_of(text: str) -> list[str]:
    """Words as they are compared: lower case, without punctuation; apostrophes inside a word stay.

    Example:
        >>> words_of("Well-known: it's his, the Joneses' ...")
        ['well', 'known', "it's", 'his', 'the', 'joneses']
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    kept = "".join(one if one == "'" or _spoken(one) else " " for one in plain)
    return [word for part in kept.split() if (word := part.strip("'"))]


def characters_of(text: str) -> list[str]:
    """Characters as they are compared, for writing without spaces: lower case, full-width forms as plain ones, nothing else."""
    return [one for one in unicodedata.normalize("NFKC", text).lower() if _spoken(one)]


def word_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Errors in words over the words that were said.

    Args:
        pairs: (what was said, what was written down) of each recording.

    Raises:
        ValueError: nothing was said.
    """
    return _rate([(words_of(said), words_of(written)) for said, written in pairs])


def character_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Errors in characters over the characters that were said, for languages that are written without spaces.

    Args:
        pairs: (what was said, what was written down) of each recording.

    Raises:
        ValueError: nothing was said.
    """
    return _rate([(characters_of(said), characters_of(written)) for said, written in pairs])


def equal_error_rate(same: ArrayLike, different: ArrayLike) -> float:
    """Error rate at the threshold where as many pairs of one speaker are refused as pairs of two are taken for one.

    A pair is taken for one speaker if its similarity is at least the threshold. Where the two rates cross between two
    thresholds, their mean at the threshold at which they are closest is given.

    Args:
        same: ``(n,)`` similarities of pairs by one speaker.
        different: ``(m,)`` similarities of pairs by two.

    Returns:
        In [0, 1]: 0 if some threshold parts them, about 0.5 for chance.

    Raises:
        ValueError: one of the two is empty.
    """
    one, two = np.sort(np.asarray(same, np.float64).ravel()), np.sort(np.asarray(different, np.float64).ravel())
    if not len(one) or not len(two):
        raise ValueError(f"Expected pairs of one speaker and of two, got {len(one)} and {len(two)}.")
    thresholds = np.unique(np.concatenate([one, two, [np.inf]]))
    refused = np.searchsorted(one, thresholds, side="left") / len(one)
    taken = 1 - np.searchsorted(two, thresholds, side="left") / len(two)
    best = int(np.argmin(np.abs(refused - taken)))
    return float((refused[best] + taken[best]) / 2)


def _spoken(one: str) -> bool:
    """Whether a character is a letter, a mark on one, or a digit."""
    return unicodedata.category(one)[0] in "LMN"


def _rate(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> float:
    length = sum(len(said) for said, _ in pairs)
    if not length:
        raise ValueError("Expected at least one recording in which something is said, got none.")
    return sum(edit_distance(said, written) for said, written in pairs) / length
