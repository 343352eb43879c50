"""Files that lie elsewhere: on the web, in archives, or wherever fsspec reaches (``s3://``, ``gs://``, ``memory://``, ...)."""

from collections.abc import Iterator
from pathlib import PurePosixPath

import fsspec

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import LIMITS, MediaLimits
from llama_index_mm.readers.archives import list_members, read_member
from llama_index_mm.readers.fetch import Fetched, FetchLimits, fetch

__all__ = ["is_remote", "list_remote", "read_remote"]

_WEB = ("http", "https")


def is_remote(source: object) -> bool:
    """Whether something is an address with a scheme, such as ``https://...`` or ``s3://...``."""
    return isinstance(source, str) and "://" in source


def list_remote(address: str, *, media: MediaLimits = LIMITS) -> Iterator[str]:
    """The files below an address, in a steady order; the address itself if it is no folder. The web has no folders.

    Args:
        address: of a file or folder; ``zip://::/home/me/photos.zip`` is the inside of an archive.
        media: limits on archives.

    Raises:
        DecodeError: nothing reaches such an address, or nothing is there.
    """
    first, scheme, path, beyond = _parts(address)
    if scheme in _WEB:
        yield address
        return
    if scheme == "zip":
        yield from list_members(f"zip://{path}{beyond}", limits=media)
        return
    try:
        system, path = fsspec.core.url_to_fs(address)
        if not system.isdir(path):
            yield address
            return
        found = sorted(system.find(path))
    except ImportError as error:
        raise DecodeError(f"{address} needs another package: {error}") from error
    except (OSError, ValueError) as error:
        raise DecodeError(f"{address} can't be listed: {error}.") from error
    yield from (f"{first}{scheme}://{str(one).lstrip('/') if scheme != 'file' else one}{beyond}" for one in found)


def read_remote(address: str, limits: FetchLimits | None = None, *, media: MediaLimits = LIMITS) -> Fetched:
    """Read a file that lies elsewhere.

    Args:
        address: of a file.
        limits: on what is fetched.
        media: limits on archives.

    Raises:
        DecodeError: it can't be reached, is empty, or is larger than the limits say.
    """
    limits = limits or FetchLimits()
    _, scheme, path, beyond = _parts(address)
    if scheme in _WEB:
        return fetch(address, limits)
    if scheme == "zip":
        return read_member(f"zip://{path}{beyond}", limits, media=media)
    try:
        with fsspec.open(address, "rb") as file:
            data = file.read(limits.max_bytes + 1)
    except ImportError as error:
        raise DecodeError(f"{address} needs another package: {error}") from error
    except (OSError, ValueError) as error:
        raise DecodeError(f"{address} can't be read: {error}.") from error
    if len(data) > limits.max_bytes:
        raise DecodeError(f"{address} has more than {limits.max_bytes:,} bytes, which is the limit (FetchLimits.max_bytes).")
    if not data:
        raise DecodeError(f"{address} is empty (0 bytes).")
    return Fetched(data, PurePosixPath(path.partition("?versionId=")[0]).name, address)


def _parts(address: str) -> tuple[str, str, str, str]:
    """Split an address of fsspec's, which may be a chain such as ``tar://a.png::s3://b/c.tar``.

    Returns:
        What stands before the first scheme, the scheme, the path with it, and the rest of the chain.

    Raises:
        DecodeError: a web address is within the chain, where fsspec would ask it without any checks.
    """
    chain = address.split("::")
    if any(one.split(":", 1)[0].lower() in _WEB for one in chain[1:]):
        raise DecodeError(f"{address} is not read: web addresses are fetched by themselves only. Download the file first.")
    at = next((place for place, one in enumerate(chain) if "://" in one), 0)
    scheme, _, path = chain[at].partition("://")
    return "".join(f"{one}::" for one in chain[:at]), scheme.lower(), path, "".join(f"::{one}" for one in chain[at + 1 :])
