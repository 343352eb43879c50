"""``llama-index-mm align``: fit a modality to a space that is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import PRESET_NAMES, AsJson, Quiet, among

if TYPE_CHECKING:
    from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder
    from llama_index_mm.presets import Preset

__all__ = ["align"]


def align(
    items: Annotated[Path, typer.Argument(help="Folder of the items of the new modality.")],
    table: Annotated[Path, typer.Argument(help="CSV with the columns file and label, caption or pair.")],
    out: Annotated[Path, typer.Argument(help="Folder for the adapter and its card; a run that was killed goes on there.")],
    source: Annotated[
        str, typer.Option("--source", help="Encoder of the items: SPACE:MODALITY of the preset, or gcn:FOLDER.")
    ] = "sound:audio",
    target: Annotated[str, typer.Option("--target", help="Space of the preset to fit to.")] = "text",
    preset: Annotated[
        str, typer.Option("--preset", help="Where the encoders come from.", autocompletion=among(*PRESET_NAMES))
    ] = "offline",
    by: Annotated[str | None, typer.Option("--by", help="Column: label, caption, pair, or file for the file itself.")] = None,
    template: Annotated[list[str] | None, typer.Option("--template", help="Text with {} for the label. Repeatable.")] = None,
    unseen: Annotated[bool, typer.Option("--unseen", help="Hold out whole labels.")] = False,
    adapter: Annotated[str, typer.Option("--adapter", help="linear, mlp, residual, or lora with a linear one.")] = "linear",
    rank: Annotated[int, typer.Option("--rank", min=1, help="Of the changes by lora.")] = 8,
    loss: Annotated[str, typer.Option("--loss", help="info_nce, margin or sigmoid.")] = "info_nce",
    start: Annotated[str, typer.Option("--start", help="ridge, procrustes, identity or random.")] = "ridge",
    rate: Annotated[float | None, typer.Option("--rate", min=0, help="Of learning; 0.001, by lora 0.0001.")] = None,
    held_out: Annotated[float, typer.Option("--held-out", help="Share that is measured on.")] = 0.2,
    best: Annotated[
        bool, typer.Option("--best", help="Begin in several ways, and take what finds held-out pairs best.")
    ] = False,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="At most so many passes; 0 for the closed form.")] = 200,
    patience: Annotated[int, typer.Option("--patience", min=1, help="Passes without gain after which it stops.")] = 20,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0, help="At most so long.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the split and of all that is drawn.")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw loss and recall (.png, .svg, .pdf).")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit a small adapter, so that items of a new modality are found in a space that is there; nothing else changes.

    Exit status 1 if the adapter is no better than chance or has collapsed; it is written all the same.
    """
    from llama_index_mm.alignment import Aligner, LoraAligner, check_adapter
    from llama_index_mm.alignment.tables import load_pairs
    from llama_index_mm.errors import AlignmentError
    from llama_index_mm.media import modality_of
    from llama_index_mm.presets import load_preset

    pairs = load_pairs(table, items, by=by, unseen=unseen)
    made = load_preset(preset)
    space = _space(made, target)
    part = "text" if isinstance(pairs[0].target, str) else modality_of(pairs[0].target)
    given: dict[str, Any] = {"loss": loss, "start": start, "held_out": held_out, "seed": seed}
    given |= {"part": part, "templates": template or ("{}",)} | ({} if rate is None else {"rate": rate})
    encoder = _encoder(made, source)
    if adapter == "lora":
        aligner: Aligner = LoraAligner(encoder, space, rank=rank, **given)
    else:
        given["adapter"] = adapter
        aligner = Aligner(encoder, space, **given)
    fit = aligner.fit_best if best else aligner.fit
    fitted = fit(pairs, folder=out, epochs=epochs, patience=patience, seconds=seconds, show_progress=output.progress())
    card = fitted.card
    if as_json:
        output.print_json(card.to_dict())
    else:
        output.results().print(card.table())
        for note in card.notes:
            output.note(note)
    if plot is not None:
        card.plot(plot)
        output.note(f"Wrote {plot}")
    try:
        check_adapter(card)
    except AlignmentError as error:
        output.error(str(error), "bad adapter")
        raise typer.Exit(1) from error


def _space(preset: "Preset", name: str) -> "EmbeddingSpace":
    from llama_index_mm.errors import SpaceError

    for space in preset.spaces:
        if space.name == name:
            return space
    names = ", ".join(space.name for space in preset.spaces)
    raise SpaceError(f"Preset {preset.name!r} has no space {name!r}; it has {names}.")


def _encoder(preset: "Preset", told: str) -> "Encoder":
    """The encoder that ``SPACE:MODALITY`` or ``gcn:FOLDER`` names."""
    from llama_index_mm.errors import SpaceError

    first, _, second = told.partition(":")
    if first == "gcn" and second:
        from llama_index_mm.embeddings.mesh_gcn import MeshGCNEncoder

        return MeshGCNEncoder(second)
    encoders = _space(preset, first).encoders
    if second not in encoders:
        raise SpaceError(
            f"Expected an encoder such as {first}:{next(iter(encoders))} or gcn:FOLDER, got {told!r}; space {first!r} has "
            f"encoders for {', '.join(encoders)}."
        )
    return encoders[second]  # type: ignore[index]
