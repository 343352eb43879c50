"""Files and folders to documents, one per file."""

import mimetypes
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core.readers.base import BasePydanticReader
from llama_index.core.schema import BaseNode, Document

from llama_index_mm.errors import DecodeError, MediaError
from llama_index_mm.media import digest_file, modality_of
from llama_index_mm.media.files import INDEX_FILE, check_readable
from llama_index_mm.nodes import PREFIX, AudioMedia, ImageMedia, MediaNode, MeshMedia, title_of

__all__ = ["MediaReader", "Problem", "document_of", "list_files"]

_HIDDEN = ("file_name", "file_path", PREFIX + "modality", PREFIX + "path", PREFIX + "digest")
_NODES: dict[str, type[MediaNode]] = {"image": ImageMedia, "audio": AudioMedia, "mesh": MeshMedia}


@dataclass(frozen=True)
class Problem:
    """A file that could not be taken.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    path: Path
    reason: str


def list_files(source: Path | str | Iterable[Path | str]) -> Iterator[Path]:
    """List the files of a folder and its subfolders, of a single path, or of several, in a steady order.

    Hidden files and folders and folders that hold an index are left out, and links to folders are not followed.

    Raises:
        DecodeError: a path that was given does not exist.
    """
    for given in [source] if isinstance(source, str | os.PathLike) else source:
        path = Path(given)
        if path.is_dir():
            for folder, inside, names in os.walk(path):
                if INDEX_FILE in names:  # an index, with the views that it made
                    inside.clear()
                    continue
                inside[:] = sorted(name for name in inside if not name.startswith("."))
                yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))
        elif path.exists() or path.is_symlink():
            yield path
        else:
            raise DecodeError(f"There is no file or folder {path}.")


def document_of(path: Path, digest: str | None = None, *, name: str | None = None, url: str | None = None) -> BaseNode:
    """Make the document of one file: a `Document` for text, a media node for everything else.

    The document's id is made of the content's digest, so it stays the same wherever the file lies.

    Args:
        path: the file.
        digest: SHA-256 of its content if it is known already.
        name: of the file, where its path has another one.
        url: where it came from.

    Raises:
        MediaError: the file is missing, empty, of no known kind, or no text in UTF-8 though it should be.
    """
    check_readable(path)
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
    stated = {} if url is None else {PREFIX + "url": url}
    return Document(
        id_=digest[:32],
        text=_read_text(path),
        metadata={
            "file_name": name,
            "file_path": str(path),
            PREFIX + "modality": "text",
            PREFIX + "path": str(path),
            PREFIX + "digest": digest,
            **stated,
        },
        excluded_embed_metadata_keys=[*_HIDDEN, *stated],
        excluded_llm_metadata_keys=[*_HIDDEN, *stated],
    )


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DecodeError(f"{path.name} is not text in UTF-8 ({error.reason} at byte {error.start}). Convert it.") from error
    if "\0" in text:
        raise DecodeError(f"{path.name} is not text: it has NUL characters.")
    if not text.strip():
        raise DecodeError(f"{path.name} has nothing but white space.")
    return text


class MediaReader(BasePydanticReader):
    """Reads text, pictures, sound and meshes; usable alone or as ``file_extractor`` of ``SimpleDirectoryReader``.

    Example:
        >>> documents = MediaReader().load_data("holiday/")
    """

    is_remote: bool = False

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "MediaReader"

    def lazy_load_data(self, source: Any, extra_info: dict[str, Any] | None = None, **kwargs: Any) -> Iterator[Any]:
        """Read documents one by one.

        Args:
            source: a path, a folder, or several.
            extra_info: metadata for every document.
            **kwargs: ``problems``, a list that gets a `Problem` for every file that can't be taken.

        Raises:
            MediaError: a file can't be taken, and no list of problems was given.
        """
        problems: list[Problem] | None = kwargs.get("problems")
        for path in list_files(source):
            try:
                document = document_of(path)
            except (MediaError, OSError) as error:
                if problems is None:
                    raise
                problems.append(Problem(path, str(error)))
                continue
            document.metadata.update(extra_info or {})
            yield document

    def load_data(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Read all documents; arguments as in `lazy_load_data`."""
        return list(self.lazy_load_data(*args, **kwargs))
