"""Language models that answer from what was retrieved, and the prompt for small ones."""

from llama_index_mm.llms.local import LocalLLM
from llama_index_mm.llms.prompts import SMALL_QA_PROMPT

__all__ = ["SMALL_QA_PROMPT", "LocalLLM"]
