"""How well things are found, speech is written down, and voices are told apart."""

from llama_index_mm.evaluation.metrics import QueryScores, hit_at, precision_at, reciprocal_rank_of, summarise
from llama_index_mm.evaluation.speech import (
    character_error_rate,
    characters_of,
    edit_distance,
    equal_error_rate,
    word_error_rate,
    words_of,
)

__all__ = [
    "QueryScores",
    "character_error_rate",
    "characters_of",
    "edit_distance",
    "equal_error_rate",
    "hit_at",
    "precision_at",
    "reciprocal_rank_of",
    "summarise",
    "word_error_rate",
    "words_of",
]
