"""Results as a page or a notebook's output that people can look at, and spaces as maps."""

from llama_index_mm.display.html import MAX_BYTES, Section, results_page, write_page
from llama_index_mm.display.maps import SpaceMap, space_map
from llama_index_mm.display.notebook import Shown, show

__all__ = ["MAX_BYTES", "Section", "Shown", "SpaceMap", "results_page", "show", "space_map", "write_page"]
