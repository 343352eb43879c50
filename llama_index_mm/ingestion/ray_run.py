"""Ingestion on many machines: Ray Data hands out batches of files, and each actor runs the pipeline of one machine."""

import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from llama_index.core.schema import TransformComponent
from tqdm import tqdm

from llama_index_mm import errors
from llama_index_mm._optional import require
from llama_index_mm.errors import ClusterError, MultiModalError, SpaceError, StoreError
from llama_index_mm.ingestion.found import examined
from llama_index_mm.ingestion.listing import gone, list_sources
from llama_index_mm.ingestion.ray_actor import (
    Batch,
    IngestActor,
    Ledger,
    Outcome,
    Task,
    ingestor_of,
    make_preset,
    report_from,
)
from llama_index_mm.ingestion.ray_cluster import connected, room_for_actors
from llama_index_mm.ingestion.ray_options import RayOptions
from llama_index_mm.ingestion.report import IngestReport
from llama_index_mm.ingestion.run import Run
from llama_index_mm.ingestion.shards import ShardStore
from llama_index_mm.ingestion.shards_sink import ShardSink
from llama_index_mm.media import LIMITS, MediaLimits
from llama_index_mm.media.pool import DecodePool
from llama_index_mm.presets import Preset
from llama_index_mm.readers import FetchLimits, Problem
from llama_index_mm.stores import NodeStore, Source

__all__ = ["ingest_with_ray"]

_BLOCKS = 10_000  # at most; above that several batches are handed out together
_PATIENCE = 2  # batches that wait at an actor


def ingest_with_ray(
    sink: str | ShardStore,
    preset: str | Callable[[], Preset],
    source: Path | str | Iterable[Path | str],
    *,
    options: RayOptions | None = None,
    index: NodeStore | None = None,
    text_splitter: TransformComponent | None = None,
    transformations: Sequence[TransformComponent] = (),
    show_progress: bool = False,
    prune: bool = False,
    dry_run: bool = False,
    retry_failed: bool = False,
    follow_links: bool = False,
    num_workers: int | None = None,
    limits: FetchLimits | None = None,
    media_limits: MediaLimits = LIMITS,
) -> IngestReport:
    """Take files and folders in on all machines of a Ray cluster, as `Ingestor.ingest` does on one.

    Readers, transforms, encoders, node ids and limits are the same. This process lists the files; actors read, decode, encode
    and store them in batches. Files must be found under the same names on every machine, and this package and the weights of
    the preset must be installed there. A run that was stopped, even killed, goes on where it stopped when it is called again:
    what the sink knows by name and content is not encoded again.

    Files that a lost machine had stored already count as unchanged. Equal files in different batches are found to be equal when
    they are stored; by then both may have been encoded, and both count as added.

    Args:
        sink: address of a store to which many may write, or `ShardStore` for shards that `merge_shards` loads into any store.
        preset: name of a preset, or a function that makes one, which every machine can import.
        source: a path, a folder, an address such as ``https://...`` or ``s3://...``, or several of these.
        options: how the work is spread.
        index: the store that shards are for, if it has some of the files already: these are not encoded again.
        text_splitter: as in `Ingestor`; it is pickled.
        transformations: as in `Ingestor`; they are pickled.
        show_progress: show a bar on standard error.
        prune: take files out of the sink that were in one of these folders and are gone.
        dry_run: change nothing, and ask no cluster; the report tells what would be done.
        retry_failed: also try files again that could not be decoded in an earlier run and have not changed since.
        follow_links: also take what links within folders lead to.
        num_workers: processes that decode, for each actor; None for one on each of its processors.
        limits: of what is fetched from elsewhere.
        media_limits: on each file, and on the processes that decode.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: the cluster can't be reached, or has no room for an actor.
        StoreError, SpaceError, ModelError: of an actor.
    """
    began = time.monotonic()
    asked = options or RayOptions()
    made = make_preset(preset)
    report = IngestReport()
    given = [source] if isinstance(source, str | os.PathLike) else list(source)
    files = list_sources(given, report.problems, media_limits, follow_links=follow_links)
    task = Task(
        sink=str(sink.folder.resolve()) if isinstance(sink, ShardStore) else sink,
        is_shards=isinstance(sink, ShardStore),
        preset=preset,
        transformations=tuple(transformations),
        text_splitter=text_splitter,
        retry_failed=retry_failed,
        num_workers=max(1, round(asked.cpus_per_actor)) if num_workers is None else num_workers,
        limits=limits,
        media_limits=media_limits,
        retries=asked.retries,
    )
    target = _Shards(sink, index) if isinstance(sink, ShardStore) else _Address(sink, create=not dry_run)
    with closing(target):
        if not dry_run:
            target.declare(made)
        if dry_run:
            _look(target, ingestor_of(target.notes, made, task), files, report, media_limits)
        elif files:
            batches = [
                target.batch(at, [str(one) for one in files[at : at + asked.files_per_batch]])
                for at in range(0, len(files), asked.files_per_batch)
            ]
            with (
                connected(asked) as ray,
                tqdm(total=len(files), desc="ingest", unit="file", disable=not show_progress) as bar,
            ):
                _Job(ray, task, asked, target, report, bar).run(batches)
        for name in gone(cast(NodeStore, target.notes), given, files) if prune else []:
            report.removed += 1
            if not dry_run:
                target.release(name)
        if not dry_run:
            target.finish()
    report.seconds = time.monotonic() - began
    return report


# -- where nodes go ---------------------------------------------------------------------------------------------------


class _Address:
    """A store, as the process that hands out the work sees it."""

    def __init__(self, address: str, *, create: bool) -> None:
        from llama_index_mm.stores.opening import is_address, open_store

        if not is_address(address):
            raise StoreError(
                f"Many processes can't write to the folder {address} at once. Ingest into shards and merge them, or into "
                "PostgreSQL: postgresql://user:password@host:5432/database."
            )
        self._store = open_store(address, create=create)

    @property
    def notes(self) -> NodeStore:
        return self._store

    def declare(self, preset: Preset) -> None:
        made = self._store.meta("preset")
        if made not in (None, preset.name):
            raise SpaceError(f"The index in {self._store.name} was made with preset {made!r}, not {preset.name!r}.")
        for space in preset.spaces:
            self._store.declare_space(space.name, space.dimension, space.fingerprint)
        if made is None:
            self._store.set_meta("preset", preset.name)

    def batch(self, at: int, files: list[str]) -> Batch:
        return Batch(f"{at:010}-{len(files)}", tuple(files))

    def finished(self, batch: Batch) -> dict[str, Any] | None:
        return None

    def note(self, source: Source) -> None:
        _note(self._store, source)

    def release(self, name: str) -> None:
        self._store.release(name)

    def finish(self) -> None:
        self._store.checkpoint(everything=True)

    def close(self) -> None:
        self._store.close()


class _Shards:
    """Shards, as the process that hands out the work sees them."""

    def __init__(self, shards: ShardStore, index: NodeStore | None) -> None:
        self._shards = shards
        self._name = shards.new_run()
        known = {one.path: one for one in [*(index.sources() if index is not None else ()), *shards.sources()]}
        self._known = known
        self.notes = ShardSink(shards, known.values())
        self._last = ShardSink(shards, known.values())

    def declare(self, preset: Preset) -> None:
        ShardStore.create(self._shards.folder, preset)

    def batch(self, at: int, files: list[str]) -> Batch:
        known = tuple(self._known[one] for one in files if one in self._known)
        return Batch(f"{self._name}-{at:010}-{len(files)}", tuple(files), known)

    def finished(self, batch: Batch) -> dict[str, Any] | None:
        return dict(self._shards.part(batch.name).report) if self._shards.has(batch.name) else None

    def note(self, source: Source) -> None:
        _note(self._last, source)

    def release(self, name: str) -> None:
        self._last.release(name)

    def finish(self) -> None:
        self._last.write(f"{self._name}-z", {})  # after those of the batches

    def close(self) -> None: ...


def _note(store: NodeStore | ShardSink, source: Source) -> None:
    """Note that a file could not be taken; what is there of it stays."""
    known = store.source(source.path)
    if known is None or known.status != "indexed":
        store.note_sources([source])


def _look(
    target: _Address | _Shards, ingestor: Any, files: Sequence[Path | str], report: IngestReport, to: MediaLimits
) -> None:
    """Tell what would become of files; addresses are not fetched."""
    with DecodePool(0, to) as pool, tqdm(disable=True) as bar:
        run = Run(ingestor.stages, report, pool, to, bar)
        for found in examined([one for one in files if isinstance(one, Path)], cast(NodeStore, target.notes), to, None):
            run.look(found)


# -- the work ---------------------------------------------------------------------------------------------------------


@dataclass
class _Job:
    """One run on the cluster: batches, and then, one by one, the files of those that were lost."""

    ray: Any
    task: Task
    options: RayOptions
    target: _Address | _Shards
    report: IngestReport
    bar: Any
    _failed: Outcome | None = None
    _problems: dict[str, list[Problem]] = field(default_factory=dict)

    def run(self, batches: Sequence[Batch]) -> None:
        lost = self._round(batches)
        again = [self.target.batch(at, [name]) for at, name in _numbered(batches, lost)]
        for batch in self._round(again) if again else []:
            if self._failed is not None:
                raise _error(self._failed)
            self._give_up(batch.files[0])
        for name in sorted(self._problems):
            self.report.problems += self._problems[name]

    def _round(self, batches: Sequence[Batch]) -> list[Batch]:
        """Work on batches; gives those that were lost."""
        self._failed = None
        waiting = {batch.name: batch for batch in batches}
        lost: list[Batch] = []
        with closing(self._outcomes(batches)) as outcomes:
            for outcome in outcomes:
                batch = waiting.pop(outcome.name)
                if outcome.report is not None:
                    self._count(batch, outcome.report)
                    continue
                if outcome.error:
                    self._failed = outcome
                    if outcome.error not in ("StoreError", "StoreLockedError"):  # a database may be back by then
                        raise _error(outcome)
                lost.append(batch)
        lost += waiting.values()
        found = {batch.name: self.target.finished(batch) for batch in lost}
        for batch in lost:
            if (facts := found[batch.name]) is not None:
                self._count(batch, facts)
        left = [batch for batch in lost if found[batch.name] is None]
        if self._failed is not None and len(left) == len(batches):
            raise _error(self._failed)
        return left

    def _outcomes(self, batches: Sequence[Batch]) -> Generator[Outcome, None, None]:
        data = require("ray.data", extra="ray")
        actors = room_for_actors(self.ray, self.options)
        here = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self.ray.get_runtime_context().get_node_id(), soft=False
        )
        ledger = self.ray.remote(num_cpus=0)(Ledger).options(scheduling_strategy=here).remote()
        rows = data.from_items([{"batch": one.to_json()} for one in batches], override_num_blocks=min(len(batches), _BLOCKS))
        context = rows.context
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.max_errored_blocks = -1  # what is missing in the end is tried again
        done = rows.map_batches(
            IngestActor,
            fn_constructor_args=(self.task, ledger),
            compute=data.ActorPoolStrategy(
                min_size=1, max_size=actors, initial_size=actors, max_tasks_in_flight_per_actor=_PATIENCE
            ),
            batch_size=1,
            num_cpus=self.options.cpus_per_actor,
            num_gpus=self.options.gpus_per_actor or None,
        )
        try:
            for block in done.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                for text in block["outcome"]:
                    yield Outcome(**json.loads(str(text)))
        except self.ray.exceptions.RayError as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ClusterError(f"The run stopped on the cluster: {said[-1]}. What was stored stays.") from error
        finally:
            with suppress(self.ray.exceptions.RayError):
                self.ray.kill(ledger)

    def _count(self, batch: Batch, facts: dict[str, Any]) -> None:
        part = report_from(facts)
        self.report.added += part.added
        self.report.unchanged += part.unchanged
        self.report.duplicates += part.duplicates
        self.report.nodes += part.nodes
        self._problems[batch.name] = part.problems
        self.bar.update(len(batch.files))

    def _give_up(self, name: str) -> None:
        reason = (
            f"{Path(name).name} can't be worked on: the process that did so was lost {self.options.retries + 1} times. "
            "It may take too much memory."
        )
        self.report.problems.append(Problem.of(name, reason))
        self.target.note(Source(name, "", "failed", reason))
        self.bar.update()


def _numbered(batches: Sequence[Batch], some: Sequence[Batch]) -> Iterator[tuple[int, str]]:
    """The files of some batches, with their places among all."""
    wanted = {batch.name for batch in some}
    at = 0
    for batch in batches:
        for name in batch.files:
            if batch.name in wanted:
                yield at, name
            at += 1


def _error(outcome: Outcome) -> Exception:
    """What stopped an actor, as an error of this process."""
    kind = getattr(errors, outcome.error, None)
    if isinstance(kind, type) and issubclass(kind, MultiModalError):
        return kind(outcome.message)
    return ClusterError(f"An actor stopped with {outcome.error}: {outcome.message}")
