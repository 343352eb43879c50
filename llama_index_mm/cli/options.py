"""Options that commands share, and values that shells complete. Nothing here takes long to import."""

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

import typer

from llama_index_mm.cli import output

__all__ = [
    "DEFAULT_STORE",
    "MODALITY_NAMES",
    "PRESET_NAMES",
    "STORE_FILE",
    "AsJson",
    "FusionName",
    "Html",
    "Modalities",
    "ModalityName",
    "Quiet",
    "Store",
    "StoreArgument",
    "Workers",
    "among",
    "folder_of",
    "modalities_of",
    "read_words",
    "spaces_of",
    "store_of",
]

# What the package itself calls so would take seconds to import; a test sees to it that these are the same.
ModalityName: TypeAlias = Literal["text", "image", "audio", "mesh"]
MODALITY_NAMES: tuple[ModalityName, ...] = get_args(ModalityName)
FusionName: TypeAlias = Literal["convex", "distribution_based", "maximum", "reciprocal_rank"]
PRESET_NAMES = ("offline", "offline-en", "clip", "multilingual", "quality")
STORE_FILE = "store.sqlite"

DEFAULT_STORE = "mm-index"


def among(*values: str) -> Callable[[str], list[str]]:
    """Let shells complete one of some values."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def spaces_of(ctx: typer.Context, incomplete: str) -> list[str]:
    """Let shells complete a space of the index that is given; none where there is no index."""
    path = Path(ctx.params.get("store") or DEFAULT_STORE) / STORE_FILE
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            names = [name for (name,) in database.execute("SELECT name FROM spaces ORDER BY name")]
    except sqlite3.Error:
        return []
    return [name for name in names if name.startswith(incomplete)]


def modalities_of(given: list[str] | None) -> list[str] | None:
    """Refuse what is no modality; the callback of options that take several.

    Raises:
        BadParameter: one is none.
    """
    if unknown := [one for one in given or () if one not in MODALITY_NAMES]:
        raise typer.BadParameter(f"Expected one of {', '.join(MODALITY_NAMES)}, got {unknown[0]!r}.")
    return given


def _be_quiet(quiet: bool) -> bool:
    output.quieten(quiet)
    return quiet


Store = Annotated[
    str,
    typer.Option(
        "--store", "-s", envvar="LLAMA_INDEX_MM_STORE", help="Folder of the index, or postgresql://USER@HOST/DATABASE."
    ),
]
StoreArgument = Annotated[str | None, typer.Argument(metavar="[STORE]", help="The index, if not by --store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Modalities = Annotated[
    list[str] | None,
    typer.Option(
        "--modality",
        "-m",
        metavar="|".join(MODALITY_NAMES),
        callback=modalities_of,
        autocompletion=among(*MODALITY_NAMES),
        help="Only these. Repeatable.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_be_quiet, help="No progress and no notes.")]
Html = Annotated[Path | None, typer.Option("--html", help="Also write one page with photos, players, and meshes to turn.")]
Workers = Annotated[int | None, typer.Option("--workers", min=0, help="Processes that decode; one on each core.")]


def store_of(ctx: typer.Context, given: str | None, option: str) -> str:
    """Where the index is, by argument or by option.

    Args:
        ctx: of the call.
        given: the argument.
        option: the value of ``--store``.

    Raises:
        BadParameter: both are given, and are not the same.
    """
    source = ctx.get_parameter_source("store")
    if given is not None and source is not None and source.name == "COMMANDLINE" and given != option:
        raise typer.BadParameter(f"Expected one index, got {given} and {option}.", param_hint="--store")
    return option if given is None else given


def folder_of(store: str) -> Path:
    """The folder of an index that must be in one.

    Raises:
        BadParameter: it is in a database.
    """
    if "://" in store:
        raise typer.BadParameter(
            "Expected a folder: PostgreSQL looks after its files by itself (VACUUM, REINDEX).", param_hint="--store"
        )
    return Path(store)


def read_words(given: str, what: str) -> str:
    """Words as given, or from standard input for ``-``.

    Args:
        given: the argument.
        what: it is called, in the message.

    Raises:
        BadParameter: there are none on standard input.
    """
    if given != "-":
        return given.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if not (words := sys.stdin.read().strip()):
        raise typer.BadParameter("Expected words on standard input, got none.", param_hint=what)
    return words
