"""The presets that can be asked for by name."""

import importlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any

from llama_index_mm.errors import SpaceError
from llama_index_mm.presets.base import Preset
from llama_index_mm.presets.facts import PresetFacts

__all__ = ["PRESETS", "load_preset", "preset_facts"]


def _made(module: str, name: str, **options: Any) -> Preset:
    """Import the module of a preset, which takes a while, and make it."""
    preset: Preset = getattr(_home(module), name)(**options)
    return preset


def _home(module: str) -> Any:
    return importlib.import_module(f"llama_index_mm.presets.{module}")


PRESETS: Mapping[str, Callable[[], Preset]] = MappingProxyType(
    {
        "offline": partial(_made, "offline", "offline_preset"),
        "offline-en": partial(_made, "offline", "offline_preset", english=True),
        "clip": partial(_made, "clip", "clip_preset"),
        "multilingual": partial(_made, "multilingual", "multilingual_preset"),
        "quality": partial(_made, "quality", "quality_preset"),
    }
)

_FACTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "offline": ("offline", "OFFLINE"),
        "offline-en": ("offline", "OFFLINE_ENGLISH"),
        "clip": ("clip", "CLIP"),
        "multilingual": ("multilingual", "MULTILINGUAL"),
        "quality": ("quality", "QUALITY"),
    }
)


@cache
def load_preset(name: str) -> Preset:
    """Give a preset by name; made once per process, so its models are loaded once.

    Raises:
        SpaceError: there is no preset of this name.
    """
    _check(name)
    return PRESETS[name]()


def preset_facts(name: str) -> PresetFacts:
    """Give what is known of a preset without making it: no model is read, no hub is asked.

    Raises:
        SpaceError: there is no preset of this name.
    """
    _check(name)
    module, constant = _FACTS[name]
    facts: PresetFacts = getattr(_home(module), constant)
    return facts


def _check(name: str) -> None:
    if name not in PRESETS:
        raise SpaceError(
            f"There is no preset {name!r}; there are: {', '.join(PRESETS)}. "
            "An index that was made with a preset of your own is opened by giving that preset."
        )
