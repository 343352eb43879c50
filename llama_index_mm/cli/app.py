"""Commands of ``llama-index-mm``. Results go to standard output, progress and errors to standard error.

Exit status: 0 done, also where nothing was found; 1 an error of this package, told in one line, or something is not sound;
2 a wrong call; 130 stopped by Ctrl-C; 141 nobody reads on. Commands import what they need when they run, so that help and
completion come at once.
"""

import sqlite3
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from llama_index_mm import __version__
from llama_index_mm.cli import output
from llama_index_mm.cli.align import align
from llama_index_mm.cli.ask import ask
from llama_index_mm.cli.calibrate import calibrate
from llama_index_mm.cli.check_store import check_store
from llama_index_mm.cli.copy import copy
from llama_index_mm.cli.demo import demo
from llama_index_mm.cli.evaluate import evaluate
from llama_index_mm.cli.ingest import ingest, merge, reembed
from llama_index_mm.cli.map import map_space
from llama_index_mm.cli.mcp import mcp
from llama_index_mm.cli.models import models_app
from llama_index_mm.cli.presets import presets
from llama_index_mm.cli.search import search
from llama_index_mm.cli.serve import serve
from llama_index_mm.cli.stores import check, compact, info, optimize, repair
from llama_index_mm.cli.train_gcn import train_gcn
from llama_index_mm.errors import MultiModalError

__all__ = ["app", "main"]

_NAME = "llama-index-mm"

app = typer.Typer(
    name=_NAME,
    help="Find images, 3D meshes, sound and speech next to text, and answer from what is found.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
_FIRST: tuple[Callable[..., None], ...] = (demo, ingest, search, ask, info, presets)
_THEN: tuple[Callable[..., None], ...] = (calibrate, evaluate, align, reembed, copy, merge, check, repair, compact, optimize)
for _command in _FIRST:
    app.command()(_command)
app.add_typer(models_app, name="models")
for _command in _THEN:
    app.command()(_command)
app.command("check-store")(check_store)
app.command("map")(map_space)
app.command("train-gcn")(train_gcn)
app.command()(serve)
app.command()(mcp)


def _tell_version(wanted: bool) -> None:
    if wanted:
        output.write(f"{_NAME} {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and exit.")
    ] = False,
) -> None:
    """Find images, 3D meshes, sound and speech next to text, and answer from what is found."""


def main() -> None:
    """Run the command line; errors of this package become one line on standard error and exit status 1."""
    output.setup()
    try:
        app(prog_name=_NAME)
    except (MultiModalError, OSError, sqlite3.Error) as error:
        output.error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
