"""The command line: ``llama-index-mm``."""

from llama_index_mm.cli.app import app, main

__all__ = ["app", "main"]
