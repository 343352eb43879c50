"""Commands that look at a store or care for it: ``info``, ``check``, ``repair``, ``compact`` and ``optimize``."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import DEFAULT_STORE, AsJson, ModalityName, Quiet, Store, folder_of, spaces_of

if TYPE_CHECKING:
    from llama_index_mm.stores import CheckReport

__all__ = ["check", "compact", "info", "optimize", "repair"]


def info(store: Store = DEFAULT_STORE, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Tell what is in an index: preset, spaces, counts, files that could not be taken."""
    from llama_index_mm.cli import show
    from llama_index_mm.stores.opening import open_store

    with open_store(store) as opened:
        told = show.store_facts(opened)
    if as_json:
        output.print_json(told)
    else:
        show.facts(told)


def check(store: Store = DEFAULT_STORE, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Look whether an index is sound: every row, count, FAISS file and media file of its own. Exit status 1 if it is not."""
    from llama_index_mm.stores.opening import open_store

    with open_store(store) as opened:
        _tell(opened.check(), as_json)


def repair(store: Store = DEFAULT_STORE, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Make FAISS files and what filters look at anew from the nodes and vectors in the database, and check again."""
    from llama_index_mm.stores import MediaStore

    with MediaStore(folder_of(store), create=False) as opened:
        _tell(opened.repair(), as_json)


def _tell(report: "CheckReport", as_json: bool) -> None:
    from llama_index_mm.cli import show

    if as_json:
        output.print_json({**asdict(report), "ok": report.ok})
    else:
        show.checked(report)
    if not report.ok:
        raise typer.Exit(1)


def compact(store: Store = DEFAULT_STORE, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Give back the space of what was deleted."""
    from llama_index_mm.stores import MediaStore

    with MediaStore(folder_of(store), create=False) as opened:
        before, after = opened.compact()
    if as_json:
        output.print_json({"bytes_before": before, "bytes_after": after})
    else:
        output.write(f"{output.visible(str(store))}: {before / 1e6:.1f} MB, now {after / 1e6:.1f} MB\n")


def optimize(
    space: Annotated[str, typer.Argument(help="Name of the space, as info tells it.", autocompletion=spaces_of)],
    store: Store = DEFAULT_STORE,
    modality: Annotated[ModalityName | None, typer.Option("--modality", "-m", help="Only this one.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Build approximate indexes for a space, where they find nearly all that exact ones find and are faster."""
    from llama_index_mm.cli import show
    from llama_index_mm.stores.opening import open_store

    with open_store(store) as opened:
        opened.build_approximate(space, modality)
        told = show.store_facts(opened)
    if as_json:
        output.print_json([one for one in told["vectors"] if one["space"] == space])
    else:
        show.facts(told)
