"""The files of a folder, without being led out of it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.files import INDEX_FILE

__all__ = ["Problem", "list_files"]


@dataclass(frozen=True)
class Problem:
    """A file that could not be taken.

    Attributes:
        path: the file.
        reason: what is wrong with it.
        address: where it lies, if that is not on this machine's disks.
    """

    path: Path
    reason: str
    address: str = ""

    @property
    def name(self) -> str:
        """The address, or else the path."""
        return self.address or str(self.path)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"

    @classmethod
    def of(cls, name: Path | str, reason: str) -> "Problem":
        """Tell paths from addresses."""
        return cls(Path(name), reason, str(name) if "://" in str(name) else "")


def list_files(
    source: Path | str | Iterable[Path | str], *, problems: list[Problem] | None = None, follow_links: bool = False
) -> Iterator[Path]:
    """List the files of a folder and its subfolders, of a single path, or of several, in a steady order.

    Hidden files and folders and folders that hold an index are left out. What is given is taken, link or not. Within a
    folder, a link to a file of that folder is listed; a link that leads out of it is a problem, for whoever may write there
    could make it show any file of this machine. Links to folders are not followed.

    Args:
        source: what to list.
        problems: gets what can't be listed, with reasons: folders that may not be read, links that lead out.
        follow_links: list what links lead to, files and folders, wherever it lies; each folder once.

    Raises:
        DecodeError: a path that was given does not exist, or there is a problem and no list for it.
    """
    for given in [source] if isinstance(source, str | os.PathLike) else source:
        path = Path(given)
        if path.is_dir():
            yield from _Walk(path, problems, follow_links)
        elif path.exists() or path.is_symlink():
            yield path
        else:
            raise DecodeError(f"There is no file or folder {path}.")


class _Walk:
    """One way through a folder: its files, then its subfolders, each by name."""

    def __init__(self, root: Path, problems: list[Problem] | None, follow_links: bool) -> None:
        self._root = root
        self._real = root.resolve()
        self._problems = problems
        self._follow = follow_links
        self._seen: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[Path]:
        folders = [str(self._root)]  # a stack of names: folders may be deeper than calls, and long paths are slow to take apart
        while folders:
            folder = folders.pop()
            try:
                if self._follow and not self._is_new(folder):
                    continue
                with os.scandir(folder) as found:
                    entries = sorted((one for one in found if not one.name.startswith(".")), key=lambda one: one.name)
            except OSError as error:
                self._tell(Path(folder), f"The folder can't be listed: {error.strerror or error}.")
                continue
            if any(one.name == INDEX_FILE for one in entries):  # an index, with the views that it made
                continue
            inside = []
            for entry in entries:
                if entry.is_symlink() and not self._follow and not self._stays(Path(entry.path)):
                    self._tell(Path(entry.path), self._way_out(Path(entry.path)))
                elif not self._is_folder(entry):
                    yield Path(entry.path)
                elif self._follow or not entry.is_symlink():
                    inside.append(entry.path)
            folders += reversed(inside)

    def _is_new(self, folder: str) -> bool:
        state = os.stat(folder)  # noqa: PTH116 - as above
        key = (state.st_dev, state.st_ino)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    @staticmethod
    def _is_folder(entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir()
        except OSError:  # a link to itself, or to where one may not look
            return False

    def _stays(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self._real)
        except (OSError, RuntimeError):  # a loop: nothing to read, so nothing to leak
            return True

    def _way_out(self, path: Path) -> str:
        return (
            f"{path} is a link that leads out of {self._root}, to {path.resolve()}. Give what it leads to, or allow it "
            "(follow_links=True)."
        )

    def _tell(self, path: Path, reason: str) -> None:
        if self._problems is None:
            raise DecodeError(reason if str(path) in reason else f"{path}: {reason}")
        self._problems.append(Problem(path, reason))
