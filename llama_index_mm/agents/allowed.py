"""Which files an agent may name, and which files it is shown."""

import os
from collections.abc import Sequence
from pathlib import Path

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

from llama_index_mm.errors import DecodeError, QueryError
from llama_index_mm.media import Modality, digest_file
from llama_index_mm.nodes import PREFIX, MediaNode, modality_of_node, retype
from llama_index_mm.stores import NodeStore

__all__ = ["AllowedFiles"]

_NOUNS = {"text": "a text", "image": "a picture", "audio": "a recording", "mesh": "a 3D model"}
_LONGEST = 4096  # characters of a path


class AllowedFiles:
    """The files of an index, and those in some folders; nothing else is opened for an agent.

    A file of the index counts while its content is what was indexed, so a link that took its place leads nowhere. Paths are
    followed through all links before they are held against the folders. Whether anything else exists is not told.

    Args:
        store: whose nodes and files may be named; None for none.
        media_roots: further folders in which every file may be named.

    Raises:
        QueryError: a folder of ``media_roots`` is none.
    """

    def __init__(self, store: NodeStore | None = None, media_roots: Sequence[Path | str] = ()) -> None:
        self._store = store
        self._roots = [Path(os.path.realpath(root)) for root in media_roots]
        if missing := [str(root) for root in self._roots if not root.is_dir()]:
            raise QueryError(f"Expected folders for media_roots, but there is no folder {', '.join(missing)}.")
        self._seen: dict[str, tuple[tuple[int, ...], str]] = {}

    def find(self, kind: Modality, given: str) -> BaseNode | Path:
        """Give what an agent named.

        Args:
            kind: of the part that it was named for.
            given: id of a node, name of an indexed file, or a path; a relative one is looked for in ``media_roots``.

        Returns:
            The node, which is asked with its stored vectors, or the file.

        Raises:
            QueryError: it is nothing that may be named, or is of another kind.
        """
        if "\0" in given or len(given) > _LONGEST or not _is_utf8(given):
            raise QueryError(f"Expected {_NOUNS[kind]} for {kind}, got what can't be the name of a file. {self._advice()}")
        found = self._node(kind, given) or self._named(kind, given) or self._in_roots(given) or self._indexed(given)
        if found is None:
            raise QueryError(f"{given!r} may not be opened, or is not there. {self._advice()}")
        return found

    def unchanged(self, node: MediaNode) -> bool:
        """Whether a node's file is there and has the content that was indexed."""
        try:
            return bool(self._digest(node.path) == node.digest)
        except (DecodeError, OSError):
            return False

    def node(self, node_id: str) -> BaseNode | None:
        """The node of the index with this id."""
        if self._store is None or not node_id or not _is_utf8(node_id):
            return None
        found = self._store.nodes(self._store.find(node_ids=[node_id]).tolist())
        return next(map(retype, found.values()), None)

    def _node(self, kind: Modality, given: str) -> BaseNode | None:
        node = self.node(given)
        if node is not None and (carried := modality_of_node(node)) != kind:
            raise QueryError(f"Expected {_NOUNS[kind]} for {kind}, but {given!r} is {_NOUNS[carried]}. Give it as {carried}.")
        return node

    def _named(self, kind: Modality, given: str) -> BaseNode | Path | None:
        """What has this file name, as results tell it."""
        if self._store is None or "/" in given or os.sep in given:
            return None
        filters = MetadataFilters(filters=[MetadataFilter(key="file_name", value=given)])
        nodes = list(self._store.nodes(self._store.find(modalities=[kind], filters=filters).tolist()).values())
        files = {node.metadata.get(PREFIX + "path") for node in nodes}
        if len(files) > 1:
            raise QueryError(f"{len(files)} files are named {given!r}. Give the id of one of them, as results tell it.")
        if len(nodes) == 1:
            return retype(nodes[0])
        return next((node.path for node in map(retype, nodes) if isinstance(node, MediaNode) and self.unchanged(node)), None)

    def _in_roots(self, given: str) -> Path | None:
        own = [Path(os.path.realpath(self._store.media_folder))] if self._store is not None else []
        for path in [Path(given)] if Path(given).is_absolute() else [root / given for root in self._roots]:
            real = Path(os.path.realpath(path))
            if any(real.is_relative_to(root) for root in [*self._roots, *own]) and real.is_file():
                return real
        return None

    def _indexed(self, given: str) -> Path | None:
        """A file by the path that it was indexed under."""
        if self._store is None or not Path(given).is_absolute():
            return None
        path = Path(os.path.abspath(given))  # noqa: PTH100 - the store knows links by their own names
        source = self._store.source(str(path))
        try:
            return path if source is not None and source.digest and self._digest(path) == source.digest else None
        except (DecodeError, OSError):
            return None

    def _digest(self, path: Path) -> str:
        """SHA-256 of a file, kept until the file changes."""
        facts = path.stat()
        mark = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        known = self._seen.get(str(path))
        if known is None or known[0] != mark:
            known = self._seen[str(path)] = mark, digest_file(path)
        return known[1]

    def _advice(self) -> str:
        ways = ["the id of a result, or the name of a file of the collection"] if self._store is not None else []
        if self._roots:
            ways.append(f"a path in {', '.join(map(str, self._roots))}")
        return f"Give {', or '.join(ways)}." if ways else "No files may be named here: ask with words."


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
