"""What runs on every machine of a cluster: the pipeline of one machine, over one batch after the other."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from llama_index.core.schema import TransformComponent
from tqdm import tqdm

from llama_index_mm.errors import StoreError
from llama_index_mm.ingestion.found import examined
from llama_index_mm.ingestion.ingestor import Ingestor
from llama_index_mm.ingestion.report import IngestReport
from llama_index_mm.ingestion.run import Run
from llama_index_mm.ingestion.shards import ShardStore
from llama_index_mm.ingestion.shards_sink import ShardSink
from llama_index_mm.media import MediaLimits
from llama_index_mm.media.pool import DecodePool
from llama_index_mm.presets import Preset, load_preset
from llama_index_mm.readers import FetchLimits, Problem
from llama_index_mm.readers.remote import is_remote
from llama_index_mm.stores import NodeStore, Source

__all__ = ["Batch", "IngestActor", "Outcome", "Task", "ingestor_of", "make_preset", "report_from", "report_to"]


@dataclass(frozen=True)
class Task:
    """What an actor needs to work.

    Attributes:
        sink: address of a store, or folder of shards.
        is_shards: which of the two.
        preset: name of a preset, or what makes one.
        transformations: of media nodes, after those of the preset.
        text_splitter: cuts texts into nodes.
        retry_failed: also try files again that could not be decoded earlier.
        num_workers: processes that decode.
        limits: of what is fetched from elsewhere.
        media_limits: on each file.
        retries: how often a batch is begun again.
    """

    sink: str
    is_shards: bool
    preset: str | Callable[[], Preset]
    transformations: Sequence[TransformComponent]
    text_splitter: TransformComponent | None
    retry_failed: bool
    num_workers: int
    limits: FetchLimits | None
    media_limits: MediaLimits
    retries: int


@dataclass(frozen=True)
class Batch:
    """Files that are worked on together.

    Attributes:
        name: of the part that they become, if they become one.
        files: paths and addresses.
        known: what was noted on them before; for shards only.
    """

    name: str
    files: tuple[str, ...]
    known: tuple[Source, ...] = ()

    def to_json(self) -> str:
        """As text, whatever bytes are in the names of the files."""
        return json.dumps([self.name, self.files, [list(asdict(one).values()) for one in self.known]])

    @classmethod
    def from_json(cls, text: str) -> "Batch":
        """Undo `to_json`."""
        name, files, known = json.loads(text)
        return cls(name, tuple(files), tuple(Source(*one) for one in known))


@dataclass(frozen=True)
class Outcome:
    """What became of a batch.

    Attributes:
        name: of the batch.
        report: what was done, None if it was not.
        error: class of the error that stopped it; empty if its process was lost, again and again.
        message: of the error.
    """

    name: str
    report: dict[str, Any] | None = None
    error: str = ""
    message: str = ""


def make_preset(preset: str | Callable[[], Preset]) -> Preset:
    """A preset by its name or by what makes it."""
    return load_preset(preset) if isinstance(preset, str) else preset()


def report_to(report: IngestReport) -> dict[str, Any]:
    """A report as JSON takes it."""
    return {**asdict(report), "problems": [(one.name, one.reason) for one in report.problems]}


def report_from(facts: dict[str, Any]) -> IngestReport:
    """Undo `report_to`."""
    return IngestReport(**{**facts, "problems": [Problem.of(name, reason) for name, reason in facts["problems"]]})


def ingestor_of(store: NodeStore | ShardSink, preset: Preset, task: Task) -> Ingestor:
    """The pipeline of one machine that writes to a store or into shards."""
    to = cast(NodeStore, store)  # a run asks no more of a store than a sink of shards does
    return Ingestor(to, preset, text_splitter=task.text_splitter, transformations=task.transformations)


@dataclass
class _Open:
    """What an actor has loaded."""

    preset: Preset
    shards: ShardStore | None = None
    store: NodeStore | None = None
    ingestor: Ingestor | None = field(default=None)


class IngestActor:
    """Works on one batch after the other; models are loaded and the store is opened with the first.

    Args:
        task: what to do.
        ledger: handle of the `Ledger`.
    """

    def __init__(self, task: Task, ledger: Any) -> None:
        self._task = task
        self._ledger = ledger
        self._opened: _Open | None = None

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Work on batches, given and answered as JSON."""
        return {"outcome": [json.dumps(asdict(self._outcome(Batch.from_json(str(one))))) for one in rows["batch"]]}

    def _outcome(self, batch: Batch) -> Outcome:
        import ray

        if ray.get(self._ledger.begin.remote(batch.name)) > self._task.retries + 1:
            return Outcome(batch.name)
        try:
            return Outcome(batch.name, self._work(batch))
        except Exception as error:  # errors go as what they say: not all can be pickled
            if isinstance(error, StoreError):
                self._close()  # the next batch connects anew
            return Outcome(batch.name, None, type(error).__name__, str(error))

    def _open(self) -> _Open:
        if self._opened is None:
            preset = make_preset(self._task.preset)
            opened = _Open(preset)
            if self._task.is_shards:
                opened.shards = ShardStore.create(self._task.sink, preset)
            else:
                from llama_index_mm.stores.opening import open_store

                opened.store = open_store(self._task.sink)
                for space in preset.spaces:
                    opened.store.declare_space(space.name, space.dimension, space.fingerprint)
                opened.ingestor = ingestor_of(opened.store, preset, self._task)
            self._opened = opened
        return self._opened

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None and opened.store is not None:
            opened.store.close()

    def _work(self, batch: Batch) -> dict[str, Any]:
        opened = self._open()
        if opened.shards is None:
            return report_to(self._run(batch, cast(Ingestor, opened.ingestor)))
        if opened.shards.has(batch.name):  # written before its process was lost
            return dict(opened.shards.part(batch.name).report)
        sink = ShardSink(opened.shards, batch.known)
        report = report_to(self._run(batch, ingestor_of(sink, opened.preset, self._task)))
        sink.write(batch.name, report)
        return report

    def _run(self, batch: Batch, ingestor: Ingestor) -> IngestReport:
        task, report = self._task, IngestReport()
        files = [one if is_remote(one) else Path(one) for one in batch.files]
        with DecodePool(task.num_workers, task.media_limits) as pool, tqdm(disable=True) as bar:
            run = Run(ingestor.stages, report, pool, task.media_limits, bar, retry_failed=task.retry_failed)
            for found in examined(files, ingestor.stages.store, task.media_limits, task.limits):
                run.take(found)
            run.finish()
        return report


class Ledger:
    """Counts how often each batch was begun, so that one which takes its process along is not begun for ever."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def begin(self, name: str) -> int:
        """How often this batch was begun, this time included."""
        self._begun[name] = self._begun.get(name, 0) + 1
        return self._begun[name]
