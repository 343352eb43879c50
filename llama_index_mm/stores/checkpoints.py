"""What a partition held at some moment, in files that are mapped into memory."""

import io
import logging
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.stores.approximate import ApproximateFacts, load_approximate
from llama_index_mm.stores.partition import Block, Ids, Partition

__all__ = ["Checkpoint", "DamagedFileError", "file_digest", "load_checkpoint", "paths_of", "remove_others", "write_vectors"]

logger = logging.getLogger(__name__)

_CHUNK = 16 * 2**20  # bytes


class DamagedFileError(Exception):
    """A file is not what was written; never leaves this package, for it can be made again."""


@dataclass(frozen=True)
class Checkpoint:
    """The note that the database keeps on the files of one partition.

    Attributes:
        partition: its number.
        change: the last change that they show.
        vectors: how many.
        digest: CRC-32 of vectors and ids.
        approximate: what is known of the approximate index, if one was built.
    """

    partition: int
    change: int
    vectors: int
    digest: int
    approximate: ApproximateFacts | None = None


def paths_of(folder: Path, partition: int, change: int) -> tuple[Path, Path, Path]:
    """Files of vectors, of ids, and of the approximate index."""
    stem = f"{partition}-{change}"
    return folder / f"{stem}.vectors.npy", folder / f"{stem}.ids.npy", folder / f"{stem}.faiss"


def file_digest(path: Path, start: int = 0) -> int:
    """CRC-32 of a file's bytes, going on from that of others."""
    digest = start
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest = zlib.crc32(chunk, digest)
    return digest


def write_vectors(folder: Path, partition: int, change: int, shape: tuple[int, int], blocks: Iterable[Block]) -> int:
    """Write vectors and ids, block by block, as NumPy files.

    Args:
        folder: where to.
        partition: its number.
        change: the last change that they show.
        shape: of all vectors, ``(n, d)``.
        blocks: with ascending ids.

    Returns:
        The digest of both files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    to_vectors, to_ids, _ = paths_of(folder, partition, change)
    ids: list[Ids] = []

    def parts() -> Iterator[bytes | memoryview]:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        yield header.getvalue()
        for block in blocks:
            ids.append(block.ids)
            yield np.ascontiguousarray(block.vectors, "<f4").data.cast("B")

    digest = _write(to_vectors, parts(), 0)
    saved = io.BytesIO()
    np.save(saved, np.concatenate([np.zeros(0, np.int64), *ids]).astype("<i8"), allow_pickle=False)
    return _write(to_ids, [saved.getbuffer()], digest)


def _write(path: Path, parts: Iterable[bytes | memoryview], digest: int) -> int:
    """Write a file that is there whole or not at all; give the CRC-32 of its bytes, going on from that of others."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        for data in parts:
            file.write(data)
            digest = zlib.crc32(data, digest)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return digest


def load_checkpoint(folder: Path, checkpoint: Checkpoint, dimension: int, *, verify: bool = True) -> Partition:
    """Map the files of a partition into memory.

    Args:
        folder: where they are.
        checkpoint: what the database says of them.
        dimension: of the space.
        verify: whether to compare digests.

    Raises:
        DamagedFileError: the vectors are missing or not what was written. An approximate index that is damaged is left aside.
    """
    to_vectors, to_ids, to_index = paths_of(folder, checkpoint.partition, checkpoint.change)
    try:
        if verify and file_digest(to_ids, file_digest(to_vectors)) != checkpoint.digest:
            raise DamagedFileError(f"{to_vectors.name} or {to_ids.name} is not what was written.")
        vectors: Vectors = np.load(to_vectors, mmap_mode="r", allow_pickle=False)
        ids: Ids = np.load(to_ids, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DamagedFileError(f"{to_vectors.name} or {to_ids.name} can't be read: {error}.") from error
    if vectors.shape != (checkpoint.vectors, dimension) or ids.shape != (checkpoint.vectors,):
        raise DamagedFileError(f"{to_vectors.name} has shape {vectors.shape}; expected {(checkpoint.vectors, dimension)}.")
    blocks = (Block(ids, np.asarray(vectors)),) if len(ids) else ()
    facts = checkpoint.approximate
    approximate = None
    if facts is not None and facts.settings:
        try:
            if file_digest(to_index) != facts.digest:
                raise DamagedFileError(f"{to_index.name} is not what was written.")
            approximate = load_approximate(to_index, facts)
        except (OSError, RuntimeError, DamagedFileError) as error:
            logger.warning("The approximate index %s is left aside: %s Run: llama-index-mm repair", to_index, error)
    return Partition(dimension, checkpoint.change, blocks, approximate)


def remove_others(folder: Path, kept: Iterable[Checkpoint]) -> list[Path]:
    """Remove the files of all other checkpoints; give what was removed."""
    wanted = {path for one in kept for path in paths_of(folder, one.partition, one.change)}
    gone = [path for path in folder.glob("*") if path not in wanted] if folder.is_dir() else []
    for path in gone:
        path.unlink(missing_ok=True)
    return gone
