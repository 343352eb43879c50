"""``llama-index-mm check-store``: what a vector store holds, lacks, or gets wrong without a word."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import AsJson, Quiet

__all__ = ["check_store"]


def check_store(
    make: Annotated[
        str, typer.Argument(metavar="MODULE:FUNCTION", help="What makes a fresh, empty LlamaIndex vector store at each call.")
    ],
    dimension: Annotated[
        int, typer.Option("--dimension", min=2, help="Length of the vectors, if the store is particular.")
    ] = 8,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Tell what a vector store lacks. Exit status 1 if it would not do for media search."""
    if markdown and as_json:
        raise typer.BadParameter("Expected one of --json and --markdown, got both.", param_hint="--markdown")
    found = _load(make)

    from llama_index_mm.testing import check_vector_store

    report = check_vector_store(found, dimension=dimension)
    if as_json:
        output.print_json(report.to_dict())
    else:
        output.write(output.visible(report.markdown() if markdown else str(report)) + "\n")
    if not report.sound:
        raise typer.Exit(1)


def _load(name: str) -> Callable[[], Any]:
    """The function, from a module that Python finds or that lies in the working folder.

    Raises:
        BadParameter: there is no such module or function.
    """
    module, _, path = name.partition(":")
    if not module or not path:
        raise typer.BadParameter(
            f"Expected MODULE:FUNCTION, such as my_stores:make, got {name!r}.", param_hint="MODULE:FUNCTION"
        )
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
        for one in path.split("."):
            found = getattr(found, one)
    except (ImportError, AttributeError) as error:
        raise typer.BadParameter(f"Expected a function that can be imported, got {name!r}: {error}.") from error
    if not callable(found):
        raise typer.BadParameter(f"Expected a function, got {name!r}, which is of type {type(found).__name__}.")
    return found  # type: ignore[no-any-return]
