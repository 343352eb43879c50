"""What kind of media a file holds, and the digest that identifies its content."""

import hashlib
from itertools import chain
from pathlib import Path
from typing import Literal

from llama_index_mm.errors import DecodeError, UnsupportedMediaError
from llama_index_mm.media.formats import HEIF, NOT_TAKEN, PICTURES, SOUNDS
from llama_index_mm.media.limits import LIMITS, MediaLimits
from llama_index_mm.media.regular import open_regular

__all__ = ["MODALITIES", "Modality", "check_readable", "digest_bytes", "digest_file", "modality_of", "suffixes"]

Modality = Literal["text", "image", "audio", "mesh"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "audio", "mesh")

_TEXT = (".txt", ".md", ".markdown", ".rst", ".pdf")
_MESH = (".ply", ".obj", ".stl", ".off", ".glb", ".gltf")

_BY_SUFFIX: dict[str, Modality] = {
    **dict.fromkeys(_TEXT, "text"),
    **dict.fromkeys(SOUNDS, "audio"),
    **dict.fromkeys(_MESH, "mesh"),
    **dict.fromkeys((*chain.from_iterable(PICTURES.values()), *HEIF), "image"),
}
INDEX_FILE = "store.sqlite"  # by which a folder is known for an index
_CHUNK = 1 << 20  # bytes read at a time


def suffixes(modality: Modality | None = None) -> tuple[str, ...]:
    """File name endings that are taken, all of them or those of one modality."""
    return tuple(suffix for suffix, of in _BY_SUFFIX.items() if modality in (None, of))


def modality_of(path: Path) -> Modality:
    """Tell the modality of a file by its name's ending.

    Raises:
        UnsupportedMediaError: no decoder takes such a file; the message says what it is and what to do, or lists the
            endings that are taken.
    """
    suffix = path.suffix.lower()
    try:
        return _BY_SUFFIX[suffix]
    except KeyError:
        if suffix in NOT_TAKEN:
            raise UnsupportedMediaError(f"{path.name} {NOT_TAKEN[suffix]}") from None
        raise UnsupportedMediaError(
            f"No decoder for {repr(path.suffix) if path.suffix else 'a name without an ending'} ({path.name}). "
            f"Taken are: {' '.join(sorted(_BY_SUFFIX))}"
        ) from None


def check_readable(path: Path, limits: MediaLimits = LIMITS) -> None:
    """Refuse what is no regular file with something in it, or too large.

    Raises:
        DecodeError: the path is missing, is no regular file, is empty, or has more than ``limits.file_bytes``.
    """
    if not path.is_file():
        raise DecodeError(f"Expected a regular file, but {path} is {'no regular file' if path.exists() else 'missing'}.")
    size = path.stat().st_size
    if size == 0:
        raise DecodeError(f"{path.name} is empty (0 bytes).")
    if size > limits.file_bytes:
        raise DecodeError(f"{path.name} has {size:,} bytes; at most {limits.file_bytes:,} are read (MediaLimits.file_bytes).")


def digest_bytes(data: bytes) -> str:
    """SHA-256 of the bytes: 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content: 64 lower-case hexadecimal digits. Reads 1 MiB at a time."""
    sha = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()
