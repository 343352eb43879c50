"""A small collection of real files, in every kind of media, to try the package on."""

from llama_index_mm.demo.collection import write_collection

__all__ = ["write_collection"]
