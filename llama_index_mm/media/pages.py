"""PDF files to the text of their pages, by pypdf."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llama_index_mm._optional import require
from llama_index_mm.errors import DecodeError
from llama_index_mm.media.files import check_readable
from llama_index_mm.media.limits import LIMITS, MediaLimits
from llama_index_mm.media.regular import open_regular

__all__ = ["PAGE_BREAK", "Page", "read_pages"]

PAGE_BREAK = "\f"  # between pages in one text; no page has it within
_PAGES = 20_000


@dataclass(frozen=True)
class Page:
    """A page of a document.

    Attributes:
        label: what the document calls it: ``"iv"``, ``"4"``.
        text: its words; empty for a page of pictures.
    """

    label: str
    text: str


def read_pages(path: Path | str, *, limits: MediaLimits = LIMITS) -> list[Page]:
    """Read the text of a PDF, page by page. Pages without text are kept, so that the n-th is the n-th of the file.

    A file that is encrypted so that everybody may read it, though not print or change it, is read.

    Args:
        path: the PDF.
        limits: on bytes and characters. What a compressed stream may become (75 MB) and how deep pages may be nested is
            bounded by pypdf; how long it may take is for the caller to bound.

    Raises:
        DecodeError: the file is missing, empty, broken, wants a password, is beyond the limits, or has no text at all.
        MissingExtraError: pypdf is not installed.
    """
    pypdf: Any = require("pypdf", extra="pdf")
    path = Path(path)
    check_readable(path, limits)
    with open_regular(path) as file:
        pages = _decode(pypdf, file, path.name, limits)
    if not any(page.text.strip() for page in pages):
        raise DecodeError(
            f"{path.name} has no text on its {len(pages):,} pages. If they were scanned, run OCR over it first (ocrmypdf)."
        )
    return pages


def _decode(pypdf: Any, file: IO[bytes], name: str, limits: MediaLimits) -> list[Page]:
    doing = "opened"
    try:
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DecodeError(f"{name} wants a password. Save it without one.")
        doing = "counted"
        count = len(reader.pages)
        if not 0 < count <= _PAGES:
            raise DecodeError(f"{name} has {count:,} pages; 1 to {_PAGES:,} are read.")
        labels = reader.page_labels
        watch = _Watch(name, limits.characters)
        pages = []
        for at, page in enumerate(reader.pages):
            doing = f"read at page {at + 1}"
            text = _clean(page.extract_text(visitor_text=watch.within()))
            watch.take(text)
            pages.append(Page(str(labels[at]), text))
        return pages
    except DecodeError:
        raise
    except Exception as error:  # pypdf raises whatever its parsers raise
        raise DecodeError(
            f"{name} can't be {doing} as a PDF: {error or type(error).__name__}. Is it complete, and what its name says?"
        ) from error


class _Watch:
    """Counts characters while they are read, as a page can repeat a form thousands of times."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._taken = 0

    def take(self, text: str) -> None:
        """Count a page that is done."""
        self._taken += len(text)
        self._check(self._taken)

    def within(self) -> Callable[..., None]:
        """Give a visitor that counts the pieces of one page."""
        seen = self._taken

        def visit(text: str, *_: object) -> None:
            nonlocal seen
            seen += len(text.strip())  # spaces and line breaks may go again
            self._check(seen)

        return visit

    def _check(self, characters: int) -> None:
        if characters > self._most:
            raise DecodeError(
                f"{self._name} has more than {self._most:,} characters, which is the limit (MediaLimits.characters)."
            )


def _clean(text: str) -> str:
    """Put surrogates together, and take out NUL characters, page breaks and the white space around."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "").replace(PAGE_BREAK, "\n").strip()
