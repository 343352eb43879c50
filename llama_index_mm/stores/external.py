"""LlamaIndex vector stores in place of FAISS: one for each space, which follow the database as FAISS does."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llama_index_mm.errors import StoreError, StoreLockedError
from llama_index_mm.stores.approximate import ApproximateFacts
from llama_index_mm.stores.checkpoints import Checkpoint
from llama_index_mm.stores.database import Database
from llama_index_mm.stores.external_search import ExternalPartition
from llama_index_mm.stores.external_space import BATCH, ExternalSpace
from llama_index_mm.stores.partition import Ids
from llama_index_mm.stores.partitions import Partitions, Searched, all_blocks, changed_since, vectors_of
from llama_index_mm.stores.rows import chunks

__all__ = ["ExternalPartitions", "VectorStores"]

logger = logging.getLogger(__name__)

VectorStores = Callable[[str, int], BasePydanticVectorStore]
"""Gives the vector store of a space: takes the name of the space and the length of its vectors."""

_NOTE = "vector store of "  # and the name of a space: key of the store's notes
_KEPT = 4  # marks that are remembered for a space
_WAIT = 500  # vectors; fewer wait for the next search, or for closing
_AGAIN = 10.0  # seconds until searches try again to write what could not be written

_Marks = dict[str, dict[str, int]]


class _Listed(NamedTuple):
    """A partition in the database."""

    number: int
    modality: str
    change: int
    listed_after: int


class ExternalPartitions(Partitions):
    """The side of a store that searches, where that is done by vector stores. All of it can be made again from the database.

    Vectors are written by whoever may write to the index, after the database has them. What could not be written, or was not
    yet, is told by the list of changes: searches read that from the database, so that they are right in any case.

    Args:
        database: of the store.
        folder: of the store.
        stores: gives the vector store of a space, by its name and dimension. Two calls for the same space give what holds the
            same vectors, or an empty one, which is filled then.
    """

    def __init__(self, database: Database, folder: Path, stores: VectorStores) -> None:
        super().__init__(database, folder, approximate_above=None, recall=1.0)
        self._make = stores
        self._spaces: dict[str, ExternalSpace] = {}
        self._marks: dict[str, str] = {}
        self._newest: dict[
            int, int
        ] = {}  # highest number that was ever sent, while nobody else could send and nothing has failed
        self._failed: dict[str, float] = {}
        self._making = threading.Lock()
        self._sending = False

    # -- for searching ----------------------------------------------------------------------------------------------

    def get(self, space: str, modality: str) -> ExternalPartition:
        """The partition; what it reads is always what the database has now.

        Raises:
            SpaceError: the space is unknown.
        """
        number, _, dimension = self._state(space, modality)
        return ExternalPartition(self, space, modality, number, dimension)

    def local(self, space: str, modality: str) -> Searched:
        """The partition in memory, as FAISS would search it."""
        return super().get(space, modality)

    @property
    def database(self) -> Database:
        """Where the nodes and vectors are."""
        return self._database

    def at(self, space: str) -> ExternalSpace:
        """The vector store of a space.

        Raises:
            StoreError: it can't be made.
        """
        with self._making:
            if space not in self._spaces:
                ((dimension,),) = self._database.read("SELECT dimension FROM spaces WHERE name = ?", [space])
                ((identity,),) = self._database.read("SELECT value FROM meta WHERE key = 'identity'")
                try:
                    store = self._make(space, dimension)
                except Exception as error:
                    raise StoreError(
                        f"The vector store of space {space!r} can't be opened: {error}. See that it runs and can be reached. "
                        "All nodes and vectors are safe in the index; it opens without a vector store too."
                    ) from error
                self._spaces[space] = ExternalSpace(store, space, dimension, identity)
            return self._spaces[space]

    def held(self, space: str, number: int) -> int | None:
        """The change up to which a vector store holds a partition; None if it does not hold it at all.

        It is brought up to date first, unless somebody else is writing.

        Raises:
            StoreError: it is not known whether it holds anything, and it can't be asked.
        """
        failed: StoreError | None = None
        if not self._is_marked(space):
            try:
                self._recognise(space)
            except StoreError as error:  # which some stores that are empty can't help
                failed = error
        noted = self._noted(space)
        behind = any(noted.get(str(one.number), 0) < one.change for one in self._listed(space))
        waits = time.monotonic() - self._failed.get(space, -math.inf) < _AGAIN
        if (behind or space not in self._marks) and not waits and not self._sending:
            try:
                self.send(space)
            except StoreLockedError:
                logger.debug("Space %r: whoever is writing will bring the vector store up to date.", space)
            except StoreError as error:
                self._failed[space] = time.monotonic()
                logger.warning("%s", error)
                failed = error
        if space not in self._marks:
            if failed is not None:
                raise failed
            return None
        change = self._noted(space).get(str(number))
        listed = {one.number: one.listed_after for one in self._listed(space)}
        return change if change is not None and number in listed and change >= listed[number] else None

    def _is_marked(self, space: str) -> bool:
        """Whether the mark in the vector store is known, and nobody has emptied the store since."""
        if space in self._marks and self._marks[space] not in self._notes(space):
            del self._marks[space]
        return space in self._marks

    def _recognise(self, space: str) -> list[str]:
        """Look for a mark that is known; give all that are there."""
        found = self.at(space).marks()
        mine = [mark for mark in self._notes(space) if mark in found]
        if mine:
            self._marks[space] = mine[-1]
        return found

    def _listed(self, space: str) -> list[_Listed]:
        sql = "SELECT id, modality, change, listed_after FROM partitions WHERE space = ? ORDER BY id"
        return [_Listed(*row) for row in self._database.read(sql, [space])]

    # -- notes: which changes are where -------------------------------------------------------------------------------

    def _notes(self, space: str) -> _Marks:
        """For each mark, the last change of each partition that is there."""
        rows = self._database.read("SELECT value FROM meta WHERE key = ?", [_NOTE + space])
        marks: _Marks = json.loads(rows[0][0]) if rows else {}
        return marks

    def _noted(self, space: str) -> dict[str, int]:
        return self._notes(space).get(self._marks.get(space, ""), {})

    def _note(self, space: str, mark: str, changes: Mapping[str, int]) -> None:
        marks = self._notes(space)
        marks[mark] = {**marks.pop(mark, {}), **changes}
        self._write_notes(space, dict(list(marks.items())[-_KEPT:]))

    def _forget_note(self, space: str, mark: str | None) -> None:
        marks = self._notes(space)
        if mark is not None and marks.pop(mark, None) is not None:
            self._write_notes(space, marks)

    def _write_notes(self, space: str, marks: _Marks) -> None:
        with self._database.writing() as database:
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [_NOTE + space, json.dumps(marks)])

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, space: str, *, anew: bool = False) -> None:
        """Bring the vector store of a space up to date.

        Args:
            space: name of the space.
            anew: empty it first.

        Raises:
            StoreError: it can't be reached or written, or holds something else. What was not sent is sent next time.
            StoreLockedError: somebody else is writing.
        """
        if not (writer := self._database.is_writer):  # others may have sent something
            self._newest.clear()
        with self._database.briefly():
            listed = self._listed(space)
            if not listed and space not in self._marks and not anew:
                return
            self._sending = True  # searches of other threads need not wait for it
            try:
                mark, fresh = self._mark(space)
                noted = self._notes(space).get(mark, {})
                lost = any(noted.get(str(one.number), 0) < one.listed_after for one in listed)
                strange = set(noted) - {str(one.number) for one in listed}
                if not fresh and (anew or lost or strange):
                    mark, fresh = self._emptied(space)
                for one in listed:
                    if fresh:
                        self._send_all(space, mark, one)
                    elif noted.get(str(one.number), 0) < one.change:
                        self._send_changes(space, mark, one, noted.get(str(one.number), 0))
            except StoreError:
                self._newest.clear()
                raise
            finally:
                self._sending = False
                if not writer:
                    self._newest.clear()
            self._failed.pop(space, None)

    def _mark(self, space: str) -> tuple[str, bool]:
        """The mark in a space's vector store, and whether it was put there now."""
        if self._is_marked(space):
            return self._marks[space], False
        try:
            found = self._recognise(space)
        except StoreError as error:
            if error.__cause__ is None:  # nothing failed: it belongs to somebody else
                raise
            found = []  # some stores can't be asked while they are empty
        if space in self._marks:
            return self._marks[space], False
        if found:  # of this index, but forgotten
            return self._emptied(space)
        self._marks[space] = self.at(space).set_mark()
        self._note(space, self._marks[space], {})
        return self._marks[space], True

    def _emptied(self, space: str) -> tuple[str, bool]:
        """Empty the vector store of a space, and put a new mark there."""
        self._forget_note(space, self._marks.get(space))  # other handles must not believe that it is full
        self.at(space).clear()
        for known in (self._spaces, self._marks):
            known.pop(space, None)  # a client may not know that its table is gone
        self._newest.clear()
        self._marks[space] = self.at(space).set_mark()
        self._note(space, self._marks[space], {})
        return self._marks[space], True

    def _send_all(self, space: str, mark: str, one: _Listed) -> None:
        """Write all vectors of a partition, of which nothing is there."""
        elsewhere = self.at(space)
        with self._database.reading() as database:
            ((dimension,),) = database.execute("SELECT dimension FROM spaces WHERE name = ?", [space])
            newest = 0
            for block in all_blocks(database, one.number, dimension):
                elsewhere.put(one.modality, block.ids, block.vectors, self._told(block.ids), ())
                newest = int(block.ids[-1])
        self._newest[one.number] = newest
        self._note(space, mark, {str(one.number): one.change})

    def _send_changes(self, space: str, mark: str, one: _Listed, after: int) -> None:
        """Delete what came, went or changed, and write those of it that are there."""
        elsewhere = self.at(space)
        with self._database.reading() as database:
            ((dimension,),) = database.execute("SELECT dimension FROM spaces WHERE name = ?", [space])
            touched = changed_since(database, one.number, after)
            newest = self._newest.pop(one.number, -1)  # nothing above was ever sent, if that is known
            for at in range(0, len(touched), BATCH):
                some = touched[at : at + BATCH]
                seqs, vectors = vectors_of(database, one.number, dimension, some)
                gone = some if newest < 0 else some[some <= newest]
                elsewhere.put(one.modality, seqs, vectors, self._told(seqs), gone.tolist())
        self._newest[one.number] = max([newest, *touched[-1:].tolist()])
        self._note(space, mark, {str(one.number): one.change})

    def _told(self, seqs: Ids) -> dict[int, tuple[str, str]]:
        """Id and text of nodes."""
        told: dict[int, tuple[str, str]] = {}
        for part in chunks(seqs.tolist()):
            sql = (
                "SELECT seq, node_id, CASE WHEN json_valid(body) THEN "
                "coalesce(json_extract(body, '$.text'), json_extract(body, '$.text_resource.text')) END "
                f"FROM nodes WHERE seq IN ({','.join('?' * len(part))})"
            )
            told.update({seq: (node_id, text or "") for seq, node_id, text in self._database.read(sql, part)})
        return {seq: told.get(seq, ("", "")) for seq in seqs.tolist()}

    # -- following ----------------------------------------------------------------------------------------------------

    def follow(self, changed: Mapping[int, int]) -> None:
        """Send what has changed, once it is enough to be worth a call."""
        for number, count in changed.items():
            self._followed[number] = self._followed.get(number, 0) + count
        if sum(self._followed.values()) >= _WAIT:
            for space in self._known():
                try:
                    self.send(space)
                except StoreError as error:  # what was added is safe, and must not seem refused
                    logger.warning("%s", error)
            self._followed.clear()

    def _known(self) -> list[str]:
        return [name for (name,) in self._database.read("SELECT name FROM spaces ORDER BY name")]

    def forget(self, space: str) -> None:
        """Empty the vector store of a space that has gone, if this handle has it open."""
        elsewhere = self._spaces.pop(space, None)
        self._marks.pop(space, None)
        self._newest.clear()
        if elsewhere is not None:
            try:
                elsewhere.clear()
            except StoreError as error:
                logger.warning("%s", error)
        if self._notes(space):
            with self._database.writing() as database:
                database.execute("DELETE FROM meta WHERE key = ?", [_NOTE + space])

    def checkpoint(self, *, everything: bool = False) -> None:
        """Send whatever has changed, and forget the list of changes that have been sent.

        Raises:
            StoreError: a vector store can't be reached or written.
            StoreLockedError: somebody else is writing.
        """
        for space in self._known():
            self.send(space)
            with self._database.writing() as database:
                for number, change in self._noted(space).items():
                    database.execute("DELETE FROM changes WHERE partition = ? AND change <= ?", [number, change])
                    database.execute("DELETE FROM checkpoints WHERE partition = ? AND change < ?", [number, change])
                    database.execute("UPDATE partitions SET listed_after = max(listed_after, ?) WHERE id = ?", [change, number])
        self._followed.clear()

    def rebuild(self) -> None:
        """Empty all vector stores and fill them from the database.

        Raises:
            StoreError: one can't be reached or written.
            StoreLockedError: somebody else is writing.
        """
        self.unload()
        for space in self._known():
            self.send(space, anew=True)

    # -- what FAISS would have ----------------------------------------------------------------------------------------

    def checkpoints(self) -> dict[int, Checkpoint]:
        """None: there are no FAISS files."""
        return {}

    def pending(self, number: int) -> int:
        """How many vectors of a partition came, went or changed since the vector store was brought up to date."""
        rows = self._database.read("SELECT space FROM partitions WHERE id = ?", [number])
        space = rows[0][0]
        notes = self._notes(space)
        noted = notes.get(self._marks.get(space) or next(reversed(notes), ""), {})
        with self._database.reading() as database:
            return len(changed_since(database, number, noted.get(str(number), 0)))

    def searched_by(self, space: str) -> str:
        """Class of the vector store."""
        try:
            return self.at(space).name
        except StoreError:
            return "a vector store that can't be reached"

    def approximate(self, space: str, modality: str | None) -> dict[tuple[str, str], ApproximateFacts]:
        """Not here.

        Raises:
            StoreError: always.
        """
        raise StoreError(
            f"Space {space!r} is searched by {self.searched_by(space)}; the kind of its index is chosen where that is made."
        )
