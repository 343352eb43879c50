"""Opening a file for reading, and nothing but a file."""

import os
import stat
from pathlib import Path
from typing import IO

from llama_index_mm.errors import DecodeError

__all__ = ["open_regular"]

# Never wait for a pipe, close in child processes, and change no bytes; each where the system knows it.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOINHERIT", "O_BINARY"))


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file. What became a pipe or a device since it was looked at is refused, and never waited for.

    Raises:
        DecodeError: the path is missing or no regular file.
        OSError: the file can't be opened.
    """
    try:
        number = os.open(path, os.O_RDONLY | _FLAGS)
    except FileNotFoundError as error:
        raise DecodeError(f"Expected a regular file, but {path} is missing.") from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise DecodeError(f"Expected a regular file, but {path} is no regular file.")
    return os.fdopen(number, "rb")
