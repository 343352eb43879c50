"""``llama-index-mm copy``: an index from a folder into a database, or back."""

from dataclasses import asdict
from typing import Annotated

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import AsJson, Quiet

__all__ = ["copy"]


def copy(
    source: Annotated[str, typer.Argument(help="Folder of an index, or postgresql://USER@HOST/DATABASE.")],
    target: Annotated[str, typer.Argument(help="The same: empty, or an earlier copy, which is brought up to date.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Copy an index into another store without encoding anything again, and compare both. Exit status 1 if they differ."""
    from llama_index_mm.stores.copying import copy_store
    from llama_index_mm.stores.opening import open_store

    with open_store(source) as opened, open_store(target, create=True) as made:
        report = copy_store(opened, made, show_progress=output.progress())
    for file in report.missing:
        output.error(f"{file} is gone; what points to it was copied.", "note:", "yellow")
    if as_json:
        output.print_json({**asdict(report), "ok": report.ok})
    else:
        held = report.target
        vectors = ", ".join(f"{count} {name}" for name, count in held.vectors.items())
        output.write(f"{held.nodes} nodes, {held.sources} files, vectors: {vectors or 'none'}\n")
        output.write(f"{report.copied} copied, {report.removed} removed, {report.seconds:.1f} s\n")
        output.write(f"the same in both, digest {held.digest}\n" if report.ok else "the stores differ\n")
    if not report.ok:
        raise typer.Exit(1)
