"""``llama-index-mm ingest``, ``merge`` and ``reembed``: what changes an index."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import DEFAULT_STORE, PRESET_NAMES, AsJson, Quiet, Store, Workers, among, spaces_of

if TYPE_CHECKING:
    from llama_index_mm.ingestion import IngestReport, ReembedReport
    from llama_index_mm.ingestion.ray_options import RayOptions

__all__ = ["EngineName", "as_dict", "ingest", "merge", "reembed"]

EngineName: TypeAlias = Literal["local", "ray"]


def as_dict(report: "IngestReport | ReembedReport") -> dict[str, Any]:
    """A report as plain data, with its problems as path and reason."""
    return {**asdict(report), "problems": [{"path": one.name, "reason": one.reason} for one in report.problems]}


def ingest(
    source: Annotated[list[str], typer.Argument(help="Files, folders, and addresses (https://..., s3://...).")],
    store: Store = DEFAULT_STORE,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="For a new index; see: llama-index-mm presets.", autocompletion=among(*PRESET_NAMES)),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Take out files of these folders that are gone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Also try files again that could not be decoded before.")] = False,
    links: Annotated[bool, typer.Option("--follow-links", help="Take what links in folders lead to.")] = False,
    workers: Workers = None,
    engine: Annotated[EngineName, typer.Option("--engine", help="ray works on all machines of a Ray cluster.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="The cluster: auto, or HOST:PORT; default is one on this machine.")
    ] = None,
    actors: Annotated[
        int | None, typer.Option("--actors", min=1, help="Processes with models; as many as there is room for.")
    ] = None,
    shards: Annotated[
        Path | None, typer.Option("--shards", help="Folder that all machines reach; its shards stay, for merge.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Take files into an index. What is there already is skipped; what can't be read is reported, and the rest goes on."""
    from llama_index_mm.cli import show
    from llama_index_mm.errors import DecodeError
    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.readers.remote import is_remote

    if missing := [one for one in source if not is_remote(one) and not Path(one).exists()]:
        raise DecodeError(f"There is no file or folder {missing[0]}.")
    with MultiModalIndex.open(store, preset=preset, create=True) as index:
        report = index.ingest(
            source,
            show_progress=output.progress(),
            prune=prune,
            dry_run=dry_run,
            retry_failed=retry,
            follow_links=links,
            num_workers=workers,
            engine=engine,
            ray=_cluster(ray_address, actors, shards) if engine == "ray" else None,
        )
    if as_json:
        output.print_json(as_dict(report))
    else:
        show.report(report)


def _cluster(address: str | None, actors: int | None, shards: Path | None) -> "RayOptions":
    from llama_index_mm.ingestion.ray_options import RayOptions

    try:
        return RayOptions(address=address, actors=actors, shards=shards)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ray-address") from error


def merge(
    shards: Annotated[Path, typer.Argument(help="Folder of shards, as ingest --engine ray --shards makes it.")],
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Load shards into an index: every document once. Merging again changes nothing; a merge that was stopped goes on so."""
    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.ingestion.shards import ShardStore

    given = ShardStore(shards)
    with MultiModalIndex.open(store, preset=given.preset, create=True) as index:
        report = index.merge(shards, show_progress=output.progress())
    if as_json:
        output.print_json(asdict(report))
    else:
        output.write(f"{report}\n")


def reembed(
    store: Store = DEFAULT_STORE,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", help="Bring the index to this preset; default is its own.", autocompletion=among(*PRESET_NAMES)
        ),
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option("--space", help="Encode this space anew in any case. Repeatable.", autocompletion=spaces_of),
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Encode anew the spaces whose encoders are others than those that the index was made with. The rest is not touched."""
    from llama_index_mm.cli import show
    from llama_index_mm.index import MultiModalIndex

    report = MultiModalIndex.reembed(
        store, preset=preset, spaces=space or (), show_progress=output.progress(), num_workers=workers
    )
    if as_json:
        output.print_json(as_dict(report))
    else:
        show.reembedded(report)
