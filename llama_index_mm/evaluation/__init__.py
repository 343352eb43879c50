"""How well things are found."""

from llama_index_mm.evaluation.metrics import QueryScores, hit_at, precision_at, reciprocal_rank_of, summarise

__all__ = ["QueryScores", "hit_at", "precision_at", "reciprocal_rank_of", "summarise"]
