"""Files, folders, archives, addresses and bytes to documents, one per file."""

import asyncio
import json
import mimetypes
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from llama_index.core.bridge.pydantic import field_serializer
from llama_index.core.readers.base import BasePydanticReader
from llama_index.core.schema import BaseNode, Document

from llama_index_mm.errors import DecodeError, MediaError
from llama_index_mm.media import LIMITS, MediaLimits, digest_bytes, digest_file, modality_of, suffixes
from llama_index_mm.media.files import check_readable
from llama_index_mm.media.pages import PAGE_BREAK, Page, read_pages
from llama_index_mm.nodes import PREFIX, AudioMedia, ImageMedia, MediaNode, MeshMedia, title_of
from llama_index_mm.readers.archives import is_archive, list_archive
from llama_index_mm.readers.fetch import FetchLimits
from llama_index_mm.readers.folders import Problem, list_files
from llama_index_mm.readers.keep import MediaBytes, default_folder, keep
from llama_index_mm.readers.remote import is_remote, list_remote, read_remote
from llama_index_mm.readers.texts import read_text

__all__ = ["PAGES", "PAGE_LABELS", "MediaReader", "document_of"]

PAGES = PREFIX + "pages"  # how many pages the text has, between page breaks
PAGE_LABELS = PREFIX + "page_labels"  # a JSON list, if they are not 1, 2, 3, ...
_HIDDEN = ("file_name", "file_path")
_NODES: dict[str, type[MediaNode]] = {"image": ImageMedia, "audio": AudioMedia, "mesh": MeshMedia}


def document_of(
    path: Path,
    digest: str | None = None,
    *,
    name: str | None = None,
    url: str | None = None,
    limits: MediaLimits = LIMITS,
    pages: Sequence[Page] | None = None,
) -> BaseNode:
    """Make the document of one file: a `Document` for text, a media node for everything else.

    The document's id is made of the content's digest, so it stays the same wherever the file lies. The text of a PDF has a
    form feed between pages; ``SplitPages`` takes them apart.

    Args:
        path: the file.
        digest: SHA-256 of its content if it is known already.
        name: of the file, where its path has another one.
        url: where it came from.
        limits: on bytes, and on the characters of a text.
        pages: of a PDF, if they have been read already, for instance in another process.

    Raises:
        MediaError: the file is missing, empty, beyond the limits, of no known kind, or no text though it should be; or its
            name is not UTF-8.
        MissingExtraError: it is a PDF, and pypdf is not installed.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path.name).decode("utf-8", "backslashreplace")
        raise DecodeError(f"The name of {shown} is not UTF-8. Rename it.") from error
    check_readable(path, limits)
    modality = modality_of(path)
    path = path.resolve()
    digest = digest or digest_file(path)
    mimetype = mimetypes.guess_type(path.name)[0]
    name = name or path.name
    if modality != "text":
        title = title_of(Path(name))
        return _NODES[modality].create(
            path, digest=digest, id_=digest[:32], text=title, metadata={"file_name": name}, mimetype=mimetype, url=url
        )
    text, about = _read_words(path, limits, pages)
    metadata = {
        "file_name": name,
        "file_path": str(path),
        PREFIX + "modality": "text",
        PREFIX + "path": str(path),
        PREFIX + "digest": digest,
        **({} if url is None else {PREFIX + "url": url}),
        **about,
    }
    hidden = [key for key in metadata if key in _HIDDEN or key.startswith(PREFIX)]
    return Document(
        id_=digest[:32],
        text=text,
        metadata=metadata,
        excluded_embed_metadata_keys=hidden,
        excluded_llm_metadata_keys=list(hidden),
    )


def _read_words(path: Path, limits: MediaLimits, pages: Sequence[Page] | None) -> tuple[str, dict[str, int | str]]:
    """The text of a file, and what is known of its pages."""
    if path.suffix.lower() != ".pdf":
        return read_text(path, limits=limits), {}
    pages = read_pages(path, limits=limits) if pages is None else pages
    about: dict[str, int | str] = {PAGES: len(pages)}
    labels = [page.label for page in pages]
    if labels != [str(at + 1) for at in range(len(pages))]:
        about[PAGE_LABELS] = json.dumps(labels, ensure_ascii=False)
    return PAGE_BREAK.join(page.text for page in pages), about


@dataclass(frozen=True)
class _Elsewhere:
    """A file of an fsspec file system that somebody opened."""

    system: Any
    path: str

    @property
    def url(self) -> str:
        kind = self.system.protocol
        return f"{kind if isinstance(kind, str) else kind[0]}://{self.path.lstrip('/')}"


_Item = Path | str | MediaBytes | _Elsewhere


class MediaReader(BasePydanticReader):
    """Reads text, PDF, pictures, sound and meshes; usable alone or in ``SimpleDirectoryReader``.

    What has no file of its own (bytes, files in archives, on the web, or in a bucket) is kept in a folder under its SHA-256,
    for nodes point to files.

    Args:
        folder: where such content is kept; default is ``media`` in the user's cache folder. Name one for what must last.
        limits: on one file.
        fetch: limits on what comes from elsewhere.
        follow_links: whether links in a folder may lead out of it.

    Example:
        >>> documents = MediaReader().load_data(["holiday/", "scans.zip", "s3://bucket/talks"])
        >>> reader = SimpleDirectoryReader("holiday/", file_extractor=MediaReader().file_extractor())
    """

    is_remote: bool = False
    folder: Path | None = None
    limits: MediaLimits = LIMITS
    fetch: FetchLimits = FetchLimits()
    follow_links: bool = False

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "MediaReader"

    @field_serializer("folder")
    def _folder_as_text(self, folder: Path | None) -> str | None:
        return None if folder is None else str(folder)

    def file_extractor(self) -> dict[str, "MediaReader"]:
        """Give this reader for every ending that is taken, as ``SimpleDirectoryReader`` wants it."""
        return dict.fromkeys([*suffixes(), ".zip"], self)

    def lazy_load_data(self, source: Any, extra_info: dict[str, Any] | None = None, **kwargs: Any) -> Iterator[Any]:
        """Read documents one by one.

        Args:
            source: a path, a folder, a zip archive, an address (``https://...``, ``s3://...``), `MediaBytes`, or several
                of these.
            extra_info: metadata for every document.
            **kwargs: ``problems``, a list that gets a `Problem` for everything that can't be taken; ``fs``, an fsspec file
                system on which the paths lie.

        Raises:
            MediaError: something can't be taken, and no list of problems was given.
            MissingExtraError: a PDF is to be read, and pypdf is not installed.
        """
        problems: list[Problem] | None = kwargs.get("problems")
        for item in self._list(source, kwargs.get("fs"), problems):
            try:
                document = self._read(item)
            except (MediaError, OSError) as error:
                _tell(_shown(item), error, problems)
                continue
            document.metadata.update(extra_info or {})
            yield document

    def load_data(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Read all documents; arguments as in `lazy_load_data`."""
        return list(self.lazy_load_data(*args, **kwargs))

    async def alazy_load_data(self, *args: Any, **kwargs: Any) -> "_Documents":
        """Like `lazy_load_data`: ``async for`` reads each document off the event loop."""
        return _Documents(self.lazy_load_data(*args, **kwargs))

    def _list(self, source: Any, system: Any, problems: list[Problem] | None) -> Iterator[_Item]:
        """What there is to read, files of folders and archives one by one."""
        alone = isinstance(source, str | bytes | bytearray | os.PathLike | MediaBytes)
        every: Iterable[Any] = [source] if alone else source
        for given in every:
            try:
                if isinstance(given, MediaBytes):
                    yield given
                elif isinstance(given, bytes | bytearray):
                    raise DecodeError(
                        "Expected a path, an address or MediaBytes, got bytes. Give MediaBytes(data, 'name.png')."
                    )
                elif system is not None and not isinstance(system, LocalFileSystem):
                    yield _Elsewhere(system, str(given))
                elif is_remote(given):
                    yield from list_remote(given, media=self.limits)
                else:
                    yield from self._local(given, problems)
            except (MediaError, OSError) as error:
                _tell(_shown(given), error, problems)

    def _local(self, given: Path | str, problems: list[Problem] | None) -> Iterator[_Item]:
        for path in list_files(given, problems=problems, follow_links=self.follow_links):
            if not is_archive(path):
                yield path
                continue
            try:
                yield from list_archive(path, limits=self.limits)
            except (MediaError, OSError) as error:
                _tell(str(path), error, problems)

    def _read(self, item: _Item) -> BaseNode:
        if isinstance(item, Path):
            return document_of(item, limits=self.limits)
        if isinstance(item, str):
            fetched = read_remote(item, self.fetch, media=self.limits)
            return self._keep(fetched.data, fetched.name, item)
        if isinstance(item, MediaBytes):
            return self._keep(item.data, item.name, None)
        try:
            with item.system.open(item.path, "rb") as file:
                data = file.read(self.fetch.max_bytes + 1)
        except Exception as error:  # file systems raise whatever their clients raise
            raise DecodeError(f"{item.url} can't be read: {error or type(error).__name__}.") from error
        if len(data) > self.fetch.max_bytes:
            raise DecodeError(
                f"{item.url} has more than {self.fetch.max_bytes:,} bytes, which is the limit (FetchLimits.max_bytes)."
            )
        return self._keep(data, item.path, item.url)

    def _keep(self, data: bytes, name: str, url: str | None) -> BaseNode:
        """Make the document of content that has no file yet."""
        name = PurePosixPath(name).name
        modality_of(Path(name))
        if not data:
            raise DecodeError(f"{name} is empty (0 bytes).")
        path = keep(self.folder or default_folder(), data, Path(name).suffix.lower())
        return document_of(path, digest_bytes(data), name=name, url=url, limits=self.limits)


class _Documents:
    """Documents as they are read; ``async for`` reads in another thread."""

    def __init__(self, documents: Iterator[Any]) -> None:
        self._documents = documents

    def __iter__(self) -> Iterator[Any]:
        return self._documents

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (document := await asyncio.to_thread(next, self._documents, None)) is not None:
            yield document


def _shown(item: Any) -> str:
    if isinstance(item, MediaBytes):
        return item.name
    return item.url if isinstance(item, _Elsewhere) else str(item)


def _tell(name: str, error: Exception, problems: list[Problem] | None) -> None:
    if problems is None:
        raise error
    problems.append(Problem.of(name, str(error)))
