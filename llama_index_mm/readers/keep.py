"""Bytes without a file of their own, kept as files."""

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from llama_index_mm.media import digest_bytes
from llama_index_mm.models import cache_folder

__all__ = ["MediaBytes", "default_folder", "keep"]


@dataclass(frozen=True)
class MediaBytes:
    """Content that came without a file.

    Attributes:
        data: what a file of it would hold.
        name: a file name; its ending tells what it is.
    """

    data: bytes = field(repr=False)
    name: str


def default_folder() -> Path:
    """Where bytes are kept if no folder is named: ``media`` in the user's cache folder, or in ``$LLAMA_INDEX_MM_HOME``."""
    return cache_folder() / "media"


def keep(folder: Path, data: bytes, suffix: str) -> Path:
    """Write bytes to a file that is named by their SHA-256, if it is not there yet. Only the user may read it.

    Raises:
        OSError: the folder can't be written.
    """
    digest = digest_bytes(data)
    path = folder / digest[:2] / f"{digest}{suffix}"
    if path.is_file():
        return path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
        Path(part).replace(path)
    except OSError:
        with suppress(OSError):
            Path(part).unlink()
        raise
    return path
