"""``llama-index-mm map``: draw a space."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

__all__ = ["map_space"]


def map_space(
    space: Annotated[str, typer.Argument(help="Name of the space, as info tells it.")],
    store: Annotated[Path, typer.Option("--store", "-s", envvar="LLAMA_INDEX_MM_STORE", help="Folder of the index.")] = Path(
        "mm-index"
    ),
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture; ends in .png, .svg or .pdf.")] = Path("map.png"),
    method: Annotated[str, typer.Option("--method", help="pca, or tsne, which needs scikit-learn.")] = "pca",
    sample: Annotated[int, typer.Option("--sample", min=1, help="Points at most; more are drawn at random.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn at random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Also print the points as JSON.")] = False,
) -> None:
    """Draw the vectors of a space in two dimensions, coloured by modality."""
    from llama_index_mm.display import space_map
    from llama_index_mm.retrieval.plots import check_plot
    from llama_index_mm.stores import MediaStore

    check_plot(out)  # not after a large store was read
    with MediaStore(store, create=False) as opened:
        made = space_map(opened, space, method=method, sample=sample, seed=seed)  # type: ignore[arg-type]
    made.plot(out)
    Console(stderr=True, highlight=False).print(f"[dim]{escape(made.note)}. Wrote {escape(str(out))}[/dim]")
    if as_json:
        rows = zip(made.node_ids, made.modalities, made.labels, made.coordinates.tolist(), strict=True)
        names = ("node_id", "modality", "label", "at")
        told = {
            "space": made.space,
            "method": made.method,
            "there": made.there,
            "explained": made.explained,
            "points": [dict(zip(names, row, strict=True)) for row in rows],
        }
        sys.stdout.write(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
