"""Packages of optional extras: imported on first use, with an error that names the extra."""

import importlib
from types import ModuleType

from llama_index_mm.errors import MissingExtraError

__all__ = ["require"]


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module``, or say which extra of this package brings it.

    Args:
        module: dotted name of the module, e.g. ``"open3d"``.
        extra: the extra of ``llama-index-mm`` that installs it, e.g. ``"mesh"``.

    Raises:
        MissingExtraError: the module, or something it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        # LlamaIndex's integrations are packages of one namespace.
        package = module if module.startswith("llama_index.") else module.partition(".")[0]
        raise MissingExtraError(
            f"This needs the package {package!r}, which can't be imported ({error}). "
            f"Install it with: pip install 'llama-index-mm[{extra}]'"
        ) from error
