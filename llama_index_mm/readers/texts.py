"""Text files to text."""

import codecs
import re
from pathlib import Path

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import LIMITS, MediaLimits
from llama_index_mm.media.regular import open_regular

__all__ = ["read_text"]

_MARKS = (  # the longer first: UTF-32 begins as UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HOLE = re.compile(r"\s{1000,}")  # says nothing, and tokenizers run out of stack over it
_WIDEST = 4  # bytes of a character


def read_text(path: Path, *, limits: MediaLimits = LIMITS) -> str:
    r"""Read UTF-8, or UTF-16 or UTF-32 where a byte order mark says so. Lines end with ``\n``.

    Long runs of white space become one empty line.

    Raises:
        DecodeError: the file is missing, has another encoding, NUL characters, nothing but white space, or is beyond the
            limit on characters.
    """
    with open_regular(path) as file:
        data = file.read(_WIDEST * limits.characters + _WIDEST + 1)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    too_long = f"{path.name} has more than {limits.characters:,} characters, which is the limit (MediaLimits.characters)."
    if len(data) > _WIDEST * limits.characters + _WIDEST:
        raise DecodeError(too_long)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        named = encoding.removesuffix("-sig").upper()
        raise DecodeError(f"{path.name} is not text in {named} ({error.reason} at byte {error.start}). Convert it.") from error
    if len(text) > limits.characters:
        raise DecodeError(too_long)
    if "\0" in text:
        raise DecodeError(f"{path.name} is not text: it has NUL characters.")
    if not text.strip():
        raise DecodeError(f"{path.name} has nothing but white space.")
    return _HOLE.sub("\n\n", text.replace("\r\n", "\n").replace("\r", "\n"))
