"""Presets: complete choices of spaces, encoders and weights, by name."""

from llama_index_mm.presets.base import Preset
from llama_index_mm.presets.registry import PRESETS, load_preset

__all__ = ["PRESETS", "Preset", "load_preset"]
