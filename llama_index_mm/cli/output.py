"""Where results, notes and errors go, for every command: results to standard output, all else to standard error."""

import json
import math
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "PIPE_CLOSED",
    "error",
    "note",
    "plain",
    "print_json",
    "progress",
    "quieten",
    "results",
    "setup",
    "told",
    "visible",
    "write",
]

PIPE_CLOSED = 141
"""Exit status where nobody reads on, as in ``| head -1``: that of a program which SIGPIPE ends."""


def setup() -> None:
    """Write and read UTF-8 whatever the locale is; what can't be written becomes an escape, which is valid in JSON as well."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")


def results() -> "Console":
    """The console on standard output, as wide as it is now: colours on terminals only, none with ``NO_COLOR``."""
    return _console(stderr=False)


@cache
def _notes() -> "Console":
    return _console(stderr=True)


@cache
def _errors() -> "Console":
    return _console(stderr=True)


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    class Piped(Console):
        """Ends quietly where nobody reads on."""

        def on_broken_pipe(self) -> None:
            _end_of_pipe()

    return Piped(stderr=stderr, highlight=False, soft_wrap=stderr)


def quieten(quiet: bool) -> None:
    """Give no notes and show no progress from here on, or do so again; errors and warnings come all the same."""
    _notes().quiet = quiet


def progress() -> bool:
    """Whether to show bars: on a terminal, if not told to be quiet."""
    return sys.stderr.isatty() and not _notes().quiet


def error(message: str, what: str = "error:", style: str = "red") -> None:
    """Say what went wrong, on standard error and in one line.

    Args:
        message: free of markup.
        what: in front of it.
        style: of that.
    """
    from rich.markup import escape

    _errors().print(f"[{style}]{escape(what)}[/{style}] {escape(visible(' '.join(message.split())))}")


def note(message: str) -> None:
    """Say something on the side, on standard error."""
    from rich.markup import escape

    _notes().print(f"[dim]{escape(visible(message))}[/dim]")


def told(message: str) -> None:
    """Say something that people should see, on standard error, also where notes are not wanted; it goes out at once."""
    from rich.markup import escape

    _errors().print(escape(visible(message)))


def write(text: str) -> None:
    """Write to standard output, at once."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _end_of_pipe()


def _end_of_pipe() -> None:
    """End where nobody reads on. What Python still holds for standard output goes nowhere, and makes no noise."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    raise typer.Exit(PIPE_CLOSED)


def print_json(value: Any, *, lines: bool = False) -> None:
    """Write a value as JSON: paths as strings, numbers that are none as null.

    Args:
        value: of dictionaries, lists, numbers, strings, paths.
        lines: in one line.
    """
    write(json.dumps(plain(value), ensure_ascii=False, indent=None if lines else 2, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """A value as JSON knows it; NaN and infinity, which JSON doesn't know, become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a number of NumPy
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def visible(text: str, keep: str = "\n\t") -> str:
    """A text from outside, fit for a terminal: control characters as escapes.

    Args:
        text: from a file, its name, or an LLM.
        keep: characters to leave.
    """
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape", "backslashreplace").decode() for one in text
    )
