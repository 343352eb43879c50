"""Results as a page that people can look at."""

from llama_index_mm.display.html import MAX_BYTES, Section, results_page, write_page

__all__ = ["MAX_BYTES", "Section", "results_page", "write_page"]
