"""For tests of what is built on this package: encoders and a preset without weights, and a contract test for vector stores."""

from llama_index_mm.testing.encoders import HashingEncoder, tiny_preset
from llama_index_mm.testing.store_contract import check_vector_store
from llama_index_mm.testing.store_report import Level, Status, StoreCheck, StoreReport, compare_reports

__all__ = [
    "HashingEncoder",
    "Level",
    "Status",
    "StoreCheck",
    "StoreReport",
    "check_vector_store",
    "compare_reports",
    "tiny_preset",
]
