"""Shards: what was read and encoded, in a folder, in parts that a store takes in later.

Any number of processes on any number of machines may write to one folder, each its own parts. ``shards.json`` says which preset
and spaces they are of. A part is a Parquet file of nodes, an array of vectors for each space, and a JSON file that names and
notes them; that is written last, so that a part is there whole or not at all. ``media`` holds files that belong to nodes.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import SpaceError, StoreError
from llama_index_mm.media import digest_bytes, digest_file
from llama_index_mm.presets import Preset
from llama_index_mm.stores import Source, StoredSpace
from llama_index_mm.stores.media_folder import MediaFolder

__all__ = ["Part", "ShardStore", "StoredNode", "write_whole"]

_VERSION = 1
_FACTS = "shards.json"
_PARTS = "parts"


@dataclass(frozen=True)
class StoredNode:
    """A node as it is written.

    Attributes:
        node_id: its id.
        document_id: of the document that it belongs to.
        class_name: of the node.
        body: the node as JSON, as `MediaFolder.pack` gives it.
        vectors: ``(d,)`` float32 each, by space.
    """

    node_id: str
    document_id: str
    class_name: str
    body: str
    vectors: Mapping[str, Vectors]


@dataclass(frozen=True)
class Part:
    """What a part says of itself.

    Attributes:
        name: parts are merged in the order of their names.
        sources: what became of files.
        released: files that are gone.
        nodes: how many there are.
        vectors: how many there are of each space.
        files: SHA-256 of each of its files, by name.
        report: what the run that wrote it had to tell.
    """

    name: str
    sources: tuple[Source, ...] = ()
    released: tuple[str, ...] = ()
    nodes: int = 0
    vectors: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


class ShardStore:
    """A folder of shards, on a disk that all who write to it reach.

    Example:
        >>> shards = ShardStore.create("/shared/shards", load_preset("offline"))
        >>> ingest_with_ray(shards, "offline", "/shared/photos")
        >>> merge_shards(shards, MediaStore("my-index"))

    Attributes:
        folder: where it is.
        identity: by which it is known, wherever it is moved: 16 hexadecimal digits.
        preset: name of the preset.
        spaces: what is known of every space.

    Args:
        folder: of shards that are there.

    Raises:
        StoreError: there are none, or of a version that can't be read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        try:
            facts = json.loads((self.folder / _FACTS).read_bytes())
        except FileNotFoundError:
            raise StoreError(f"There are no shards in {folder}. Make them with: llama-index-mm ingest --shards.") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.folder / _FACTS} can't be read: {error}.") from error
        if facts.get("version") != _VERSION:
            raise StoreError(
                f"The shards in {folder} are of version {facts.get('version')}; this package reads version {_VERSION}. "
                "Take the version of the package that wrote them, or ingest again."
            )
        self.identity: str = facts["identity"]
        self.preset: str = facts["preset"]
        self.spaces = {name: StoredSpace(*one) for name, one in facts["spaces"].items()}
        self.media = MediaFolder(self.folder)

    @classmethod
    def create(cls, folder: Path | str, preset: Preset) -> "ShardStore":
        """Start shards in a folder, or open those that are there.

        Raises:
            SpaceError: those that are there are of another preset, or of other weights.
            StoreError: the folder can't be written.
        """
        place = Path(folder)
        spaces = {space.name: StoredSpace(space.dimension, space.fingerprint) for space in preset.spaces}
        if not (place / _FACTS).exists():
            facts = {"version": _VERSION, "identity": uuid.uuid4().hex[:16], "preset": preset.name, "spaces": spaces}
            write_whole(place / _FACTS, json.dumps(facts, indent=1).encode())
        made = cls(place)
        made.check(preset.name, spaces)
        return made

    def check(self, preset: str, spaces: Mapping[str, StoredSpace]) -> None:
        """Compare with a preset.

        Raises:
            SpaceError: it is another one, or has other weights.
        """
        if preset != self.preset:
            raise SpaceError(
                f"The shards in {self.folder} were made with preset {self.preset!r}, not {preset!r}. Take that preset, or "
                "another folder."
            )
        for name in sorted(set(spaces) | set(self.spaces)):
            if spaces.get(name) != self.spaces.get(name):
                raise SpaceError(
                    f"Space {name!r} of the shards in {self.folder} is {_told(self.spaces.get(name))}; that of preset "
                    f"{preset!r} here is {_told(spaces.get(name))}. Take the same weights on every machine, or another folder."
                )

    # -- reading ----------------------------------------------------------------------------------------------------

    def parts(self) -> list[str]:
        """Names of the parts that are whole, in order."""
        return sorted(path.stem for path in (self.folder / _PARTS).glob("*.json"))

    def has(self, name: str) -> bool:
        """Whether there is such a part."""
        return self._path(name, ".json").exists()

    def part(self, name: str) -> Part:
        """What a part says of itself.

        Raises:
            StoreError: it can't be read.
        """
        try:
            facts = json.loads(self._path(name, ".json").read_bytes())
            return Part(**{**facts, "sources": tuple(Source(*one) for one in facts["sources"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._damaged(name, str(error)) from error

    def nodes(self, part: Part) -> list[StoredNode]:
        """Read the nodes of a part, with their vectors.

        Raises:
            StoreError: its files are not what they were when they were written.
        """
        try:
            for file, digest in part.files.items():
                if digest_file(self.folder / _PARTS / file) != digest:
                    raise self._damaged(part.name, f"{file} has changed")
            if not part.nodes:
                return []
            table = require("pyarrow.parquet", extra="ray").read_table(self._path(part.name, ".parquet")).to_pydict()
            arrays = {space: np.load(self._array(part.name, space), allow_pickle=False) for space in part.vectors}
        except OSError as error:
            raise self._damaged(part.name, str(error)) from error
        return [
            StoredNode(
                table["node_id"][at],
                table["document_id"][at],
                table["class"][at],
                table["body"][at],
                {space: array[row] for space, array in arrays.items() if (row := table[f"row:{space}"][at]) is not None},
            )
            for at in range(part.nodes)
        ]

    def sources(self) -> list[Source]:
        """What became of files, by path: of each the last note."""
        notes: dict[str, Source] = {}
        for name in self.parts():
            part = self.part(name)
            notes.update({one.path: one for one in part.sources})
            for path in part.released:
                notes.pop(path, None)
        return [notes[path] for path in sorted(notes)]

    def _damaged(self, name: str, why: str) -> StoreError:
        manifest = self._path(name, ".json")
        return StoreError(f"Part {name} of the shards in {self.folder} is damaged: {why}. Remove {manifest} and ingest again.")

    # -- writing ----------------------------------------------------------------------------------------------------

    def new_run(self) -> str:
        """What the names of the parts of a run begin with; it comes after those of all earlier runs."""
        last = max((int(name.partition("-")[0]) for name in self.parts()), default=0)
        return f"{last + 1:06}-{uuid.uuid4().hex[:6]}"

    def write(
        self,
        name: str,
        nodes: Sequence[StoredNode],
        sources: Iterable[Source] = (),
        released: Iterable[str] = (),
        report: Mapping[str, Any] | None = None,
    ) -> Part:
        """Write a part; one of the same name is replaced.

        Raises:
            StoreError: the disk is full or fails.
        """
        columns: dict[str, list[Any]] = {
            "node_id": [one.node_id for one in nodes],
            "document_id": [one.document_id for one in nodes],
            "class": [one.class_name for one in nodes],
            "body": [one.body for one in nodes],
        }
        files: dict[Path, Any] = {}
        counts: dict[str, int] = {}
        for space in self.spaces:
            having = [at for at, one in enumerate(nodes) if space in one.vectors]
            rows = {at: row for row, at in enumerate(having)}
            columns[f"row:{space}"] = [rows.get(at) for at in range(len(nodes))]
            if having:
                counts[space] = len(having)
                files[self._array(name, space)] = np.stack([nodes[at].vectors[space] for at in having])
        digests = {path.name: write_whole(path, _as_npy(array)) for path, array in files.items()}
        if nodes:
            path = self._path(name, ".parquet")
            digests[path.name] = write_whole(path, _as_parquet(columns))
        part = Part(name, tuple(sources), tuple(released), len(nodes), counts, digests, report or {})
        facts = {**asdict(part), "sources": [list(asdict(one).values()) for one in part.sources]}
        write_whole(self._path(name, ".json"), json.dumps(facts).encode())
        return part

    def keep(self, data: bytes, suffix: str) -> Path:
        """Write bytes to a file in the media folder that is named by their digest.

        Raises:
            StoreError: the disk is full or fails.
        """
        digest = digest_bytes(data)
        path = self.media.folder / digest[:2] / f"{digest}{suffix}"
        if not path.is_file():
            write_whole(path, data)
        return path

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / _PARTS / f"{name}{suffix}"

    def _array(self, name: str, space: str) -> Path:
        return self._path(name, f".{quote(space, safe='')}.npy")


def _told(space: StoredSpace | None) -> str:
    return "missing" if space is None else f"of {space.dimension} dimensions and fingerprint {space.fingerprint}"


def _as_npy(array: Vectors) -> Callable[[BinaryIO], None]:
    return lambda file: np.save(file, array, allow_pickle=False)


def _as_parquet(columns: Mapping[str, list[Any]]) -> Callable[[BinaryIO], None]:
    arrow = require("pyarrow", extra="ray")
    types = {name: arrow.int64() if name.startswith("row:") else arrow.string() for name in columns}
    table = arrow.table(dict(columns), schema=arrow.schema(list(types.items())))
    return lambda file: require("pyarrow.parquet", extra="ray").write_table(table, file, compression="zstd")


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], None]) -> str:
    """Write a file so that it is there whole or not at all, whoever else writes it; give its SHA-256.

    Raises:
        StoreError: the disk is full or fails.
    """
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        digest = digest_file(part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StoreError(f"{path} can't be written: {error}.") from error
    return digest
