"""``llama-index-mm map``: draw a space."""

from pathlib import Path
from typing import Annotated

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import DEFAULT_STORE, Quiet, Store, among, spaces_of

__all__ = ["map_space"]


def map_space(
    space: Annotated[str, typer.Argument(help="Name of the space, as info tells it.", autocompletion=spaces_of)],
    store: Store = DEFAULT_STORE,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture; ends in .png, .svg or .pdf.")] = Path("map.png"),
    method: Annotated[
        str, typer.Option("--method", help="pca, or tsne, which needs scikit-learn.", autocompletion=among("pca", "tsne"))
    ] = "pca",
    sample: Annotated[int, typer.Option("--sample", min=1, help="Points at most; more are drawn at random.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn at random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Also print the points as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Draw the vectors of a space in two dimensions, coloured by modality."""
    from llama_index_mm.display import space_map
    from llama_index_mm.retrieval.plots import check_plot
    from llama_index_mm.stores.opening import open_store

    check_plot(out)  # not after a large store was read
    with open_store(store) as opened:
        made = space_map(opened, space, method=method, sample=sample, seed=seed)  # type: ignore[arg-type]
    made.plot(out)
    output.note(f"{made.note}. Wrote {out}")
    if as_json:
        rows = zip(made.node_ids, made.modalities, made.labels, made.coordinates.tolist(), strict=True)
        names = ("node_id", "modality", "label", "at")
        told = {
            "space": made.space,
            "method": made.method,
            "picture": out,
            "there": made.there,
            "explained": made.explained,
            "points": [dict(zip(names, row, strict=True)) for row in rows],
        }
        output.print_json(told)
