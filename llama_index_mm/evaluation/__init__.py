"""How well things are found, speech is written down, and voices are told apart."""

from llama_index_mm.evaluation.asking import aevaluate, evaluate, score_ranking
from llama_index_mm.evaluation.bridge import ItemRetriever
from llama_index_mm.evaluation.comparison import Comparison, compare
from llama_index_mm.evaluation.coverage import ItemCheck, check_items
from llama_index_mm.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    difference_intervals,
    paired_interval,
)
from llama_index_mm.evaluation.judgments import Identity, Judged, item_of, mixed
from llama_index_mm.evaluation.metrics import (
    QueryScores,
    average_precision,
    hit_at,
    ndcg_at,
    precision_at,
    recall_at,
    reciprocal_rank_of,
    summarise,
)
from llama_index_mm.evaluation.report import EvaluationReport, KindScores, QueryOutcome
from llama_index_mm.evaluation.skew import FactRanking, LanguageSkew, language_skew
from llama_index_mm.evaluation.speech import (
    character_error_rate,
    characters_of,
    edit_distance,
    equal_error_rate,
    word_error_rate,
    words_of,
)
from llama_index_mm.evaluation.tables import Judgments, load_judgments
from llama_index_mm.evaluation.weights import WeightFit, afit_weights, fit_weights

__all__ = [
    "Comparison",
    "EvaluationReport",
    "FactRanking",
    "Identity",
    "Interval",
    "ItemCheck",
    "ItemRetriever",
    "Judged",
    "Judgments",
    "KindScores",
    "LanguageSkew",
    "QueryOutcome",
    "QueryScores",
    "WeightFit",
    "aevaluate",
    "afit_weights",
    "average_precision",
    "bootstrap_interval",
    "bootstrap_intervals",
    "character_error_rate",
    "characters_of",
    "check_items",
    "compare",
    "difference_intervals",
    "edit_distance",
    "equal_error_rate",
    "evaluate",
    "fit_weights",
    "hit_at",
    "item_of",
    "language_skew",
    "load_judgments",
    "mixed",
    "ndcg_at",
    "paired_interval",
    "precision_at",
    "recall_at",
    "reciprocal_rank_of",
    "score_ranking",
    "summarise",
    "word_error_rate",
    "words_of",
]
