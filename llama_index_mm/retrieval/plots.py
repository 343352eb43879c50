"""Pictures of figures, drawn by matplotlib."""

from pathlib import Path
from typing import Any

from llama_index_mm._optional import require
from llama_index_mm.errors import QueryError

__all__ = ["check_plot"]


def check_plot(path: Path | str) -> Any:
    """Refuse what could not be written, before there is anything to draw; gives ``matplotlib.figure``.

    Raises:
        MissingExtraError: matplotlib is not installed.
        QueryError: there is no such folder, or the name ends in no format that can be written.
    """
    figures = require("matplotlib.figure", extra="plots")
    kinds = figures.Figure().canvas.get_supported_filetypes()
    if Path(path).suffix.lower().removeprefix(".") not in kinds:
        raise QueryError(f"Can't draw {path}: the name must end in one of {', '.join(f'.{kind}' for kind in sorted(kinds))}.")
    if not Path(path).parent.is_dir():
        raise QueryError(f"Can't draw {path}: there is no folder {Path(path).parent}.")
    return figures
