"""Files that lie elsewhere: on the web, or wherever fsspec reaches (``s3://``, ``gs://``, ``memory://``, ...)."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import fsspec

from llama_index_mm.errors import DecodeError
from llama_index_mm.readers.fetch import Fetched, FetchLimits, fetch

__all__ = ["is_remote", "list_remote", "read_remote"]

_WEB = ("http", "https")


def is_remote(source: object) -> bool:
    """Whether something is an address with a scheme, such as ``https://...`` or ``s3://...``."""
    return isinstance(source, str) and "://" in source


def list_remote(address: str) -> Iterator[str]:
    """The files below an address, in a steady order; the address itself if it is no folder. The web has no folders.

    Raises:
        DecodeError: nothing reaches such an address, or nothing is there.
    """
    scheme = urlsplit(address).scheme.lower()
    if scheme in _WEB:
        yield address
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
    yield from (f"{scheme}://{str(one).lstrip('/') if scheme != 'file' else one}" for one in found)


def read_remote(address: str, limits: FetchLimits | None = None) -> Fetched:
    """Read a file that lies elsewhere.

    Raises:
        DecodeError: it can't be reached, is empty, or is larger than the limits say.
    """
    limits = limits or FetchLimits()
    if urlsplit(address).scheme.lower() in _WEB:
        return fetch(address, limits)
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
    return Fetched(data, PurePosixPath(urlsplit(address).path).name, address)
