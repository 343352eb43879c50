"""An index filled by a cluster: straight into a database, or by way of shards into a folder."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.schema import TransformComponent

from llama_index_mm.errors import ModelError
from llama_index_mm.ingestion.ray_options import RayOptions
from llama_index_mm.ingestion.ray_run import ingest_with_ray
from llama_index_mm.ingestion.report import IngestReport
from llama_index_mm.ingestion.shards import ShardStore
from llama_index_mm.ingestion.shards_merge import merge_shards
from llama_index_mm.presets import PRESETS, Preset, load_preset
from llama_index_mm.stores import MediaStore, NodeStore

__all__ = ["ingest_on_cluster"]

_SHARDS = "shards"


def ingest_on_cluster(
    store: NodeStore,
    preset: Preset,
    source: Path | str | Iterable[Path | str],
    options: RayOptions,
    *,
    transformations: Sequence[TransformComponent] = (),
    show_progress: bool = False,
    dry_run: bool = False,
    **rest: Any,
) -> IngestReport:
    """Fill the store of an index by a Ray cluster.

    A database is written to by every actor. Into a folder only one process may write: there the actors write shards, and this
    process merges them.

    Args:
        store: of the index.
        preset: of the index; the machines load it by its name, or make it by ``options.preset``.
        source: as in `ingest_with_ray`.
        options: how the work is spread.
        transformations: as in `ingest_with_ray`.
        show_progress: show bars on standard error.
        dry_run: as in `ingest_with_ray`.
        **rest: as in `ingest_with_ray`.

    Raises:
        ModelError: the preset is none that is known by name, and ``options.preset`` is not given.
    """
    given = {"options": options, "transformations": transformations, "show_progress": show_progress, "dry_run": dry_run, **rest}
    made_by = options.preset or _name_of(preset)
    if not isinstance(store, MediaStore):
        return ingest_with_ray(store.address, made_by, source, **given)
    folder = Path(options.shards) if options.shards is not None else store.folder / _SHARDS
    is_new = not folder.exists()
    shards = ShardStore.create(folder, preset)
    report = ingest_with_ray(shards, made_by, source, index=store, **given)
    if not dry_run:
        merge_shards(shards, store, show_progress=show_progress)
    if options.shards is None and (not dry_run or is_new):
        shutil.rmtree(folder)  # all of it is in the index by now
    return report


def _name_of(preset: Preset) -> str | Callable[[], Preset]:
    """The name by which other machines get the same preset."""
    if preset.name in PRESETS:
        named = load_preset(preset.name)
        if [(one.name, one.fingerprint) for one in named.spaces] == [(one.name, one.fingerprint) for one in preset.spaces]:
            return preset.name
    raise ModelError(
        f"Other machines can't make preset {preset.name!r} by its name. Give a function that makes it, in a module which they "
        "can import: RayOptions(preset=my_module.my_preset)."
    )
