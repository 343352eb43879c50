"""``python -m llama_index_mm`` is ``llama-index-mm``."""

from llama_index_mm.cli import main

main()
