"""The presets that can be asked for by name."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

from llama_index_mm.errors import SpaceError
from llama_index_mm.presets.base import Preset

__all__ = ["PRESETS", "load_preset"]


def _offline() -> Preset:
    from llama_index_mm.presets.offline import offline_preset

    return offline_preset()


def _offline_english() -> Preset:
    from llama_index_mm.presets.offline import offline_preset

    return offline_preset(english=True)


def _clip() -> Preset:
    from llama_index_mm.presets.clip import clip_preset

    return clip_preset()


PRESETS: Mapping[str, Callable[[], Preset]] = MappingProxyType(
    {"offline": _offline, "offline-en": _offline_english, "clip": _clip}
)


@cache
def load_preset(name: str) -> Preset:
    """Give a preset by name; made once per process, so its models are loaded once.

    Raises:
        SpaceError: there is no preset of this name.
    """
    if name not in PRESETS:
        raise SpaceError(
            f"There is no preset {name!r}; there are: {', '.join(PRESETS)}. "
            "An index that was made with a preset of your own is opened by giving that preset."
        )
    return PRESETS[name]()
