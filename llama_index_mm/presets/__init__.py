"""Presets: complete choices of spaces, encoders and weights, by name."""

from llama_index_mm.presets.base import Preset
from llama_index_mm.presets.facts import ModelFacts, PresetFacts
from llama_index_mm.presets.registry import PRESETS, load_preset, preset_facts

__all__ = ["PRESETS", "ModelFacts", "Preset", "PresetFacts", "load_preset", "preset_facts"]
