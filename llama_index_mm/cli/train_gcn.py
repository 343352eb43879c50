"""``llama-index-mm train-gcn``: train a mesh network, without labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import AsJson, Quiet

if TYPE_CHECKING:
    from llama_index_mm.embeddings.base import Encoder

__all__ = ["train_gcn"]


def train_gcn(
    out: Annotated[Path, typer.Argument(help="Folder for the network and its card; a run that was killed goes on there.")],
    meshes: Annotated[
        Path | None, typer.Option("--meshes", help="Folder of meshes to train on as well, with all below it.", exists=True)
    ] = None,
    views: Annotated[
        bool, typer.Option("--views", help="Also train towards the preset offline's vectors of their views.")
    ] = False,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of training.", show_default="700")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all that is drawn.")] = 0,
    start: Annotated[
        str | None, typer.Option("--start", help="Folder of a network to start from; offline for that of the preset.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a network that finds meshes by their shape, on shapes made from random numbers, and on meshes of yours.

    Use it with MeshGCNEncoder, or fit it to words with: llama-index-mm align --source gcn:OUT.
    """
    from llama_index_mm.alignment import PretrainOptions, pretrain_gcn
    from llama_index_mm.errors import AlignmentError
    from llama_index_mm.media import suffixes
    from llama_index_mm.presets.offline import MESH_WEIGHTS

    files = []
    if meshes is not None:
        files = sorted(path for path in meshes.rglob("*") if path.suffix.lower() in suffixes("mesh") and path.is_file())
        if not files:
            raise AlignmentError(f"Expected meshes in {meshes}, found none that ends in {' '.join(suffixes('mesh'))}.")
    options = PretrainOptions(seed=seed) if steps is None else PretrainOptions(seed=seed, steps=steps)
    card = pretrain_gcn(
        out,
        files,
        options=options,
        start=MESH_WEIGHTS if start == "offline" else start,
        views=_views() if views else None,
        show_progress=output.progress(),
    )
    if as_json:
        output.print_json(card.to_dict())
        return
    output.results().print(card.table())
    for note in card.notes:
        output.note(note)


def _views() -> "Encoder":
    """What the preset ``offline`` sees in meshes."""
    from llama_index_mm.presets import load_preset

    (picture,) = (space for space in load_preset("offline").spaces if space.name == "picture")
    return picture.encoders["mesh"]
