"""What a run is about: files and addresses, and what of them is gone."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import MediaLimits
from llama_index_mm.readers import Problem, is_archive, list_archive, list_files
from llama_index_mm.readers.remote import is_remote, list_remote
from llama_index_mm.stores import NodeStore

__all__ = ["gone", "list_sources"]

Given = Sequence[Path | str]
_MEMBER = "zip://"
_ARCHIVE = "::"  # between a member of an archive and the path of the archive


def list_sources(given: Given, problems: list[Problem], limits: MediaLimits, *, follow_links: bool) -> list[Path | str]:
    """List files and addresses, each once: folders and archives by what is in them.

    Args:
        given: paths, folders, archives and addresses.
        problems: gets what can't be listed, with reasons.
        limits: on archives.
        follow_links: also take what links within folders lead to.

    Raises:
        DecodeError: a path that was given does not exist.
    """
    local = [one for one in given if not is_remote(one)]
    files: list[Path | str] = []
    # Links are kept as they are.
    for path in (Path(os.path.abspath(one)) for one in list_files(local, problems=problems, follow_links=follow_links)):  # noqa: PTH100
        _extend(files, path, list_archive(path, limits=limits) if is_archive(path) and path.is_file() else [path], problems)
    for address in [str(one) for one in given if is_remote(one)]:
        _extend(files, address, list_remote(address, media=limits), problems)
    return list(dict.fromkeys(files))


def _extend(files: list[Path | str], name: Path | str, more: Iterable[Path | str], problems: list[Problem]) -> None:
    try:
        files += more
    except DecodeError as error:
        problems.append(Problem.of(name, str(error)))


def gone(store: NodeStore, given: Given, files: Iterable[Path | str]) -> list[str]:
    """Files that the index knows, that lay in what was given, and that are there no more.

    Args:
        store: of the index.
        given: as in `list_sources`.
        files: what that gave.
    """
    roots = [Path(os.path.abspath(one)) for one in given if not is_remote(one)]  # noqa: PTH100 - links are kept
    there = set(map(str, files))

    def lay_in(path: Path) -> bool:
        return any(path == root or root in path.parents for root in roots)

    found = []
    for known in [one.path for one in store.sources()]:
        if known.startswith(_MEMBER):
            if lay_in(Path(known.rpartition(_ARCHIVE)[2])) and known not in there:
                found.append(known)
        elif not is_remote(known) and lay_in(Path(known)) and not os.path.lexists(known):
            found.append(known)
    return found
