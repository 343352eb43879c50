"""How an aligned encoder joins a space, or stands beside it, without touching the vectors that are there."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder
from llama_index_mm.errors import SpaceError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.ingestion import ReembedReport
from llama_index_mm.ingestion.reembed import UNFINISHED
from llama_index_mm.media import MODALITIES, Modality
from llama_index_mm.presets import Preset
from llama_index_mm.stores import NodeStore, Record
from llama_index_mm.stores.opening import open_store

__all__ = ["beside", "digest_vectors", "join", "with_encoder"]

_BATCH = 256  # nodes whose vectors are copied together


def with_encoder(space: EmbeddingSpace, modality: Modality, encoder: Encoder) -> EmbeddingSpace:
    """Give a copy of a space with an encoder for a modality that it had none for.

    The copy has another fingerprint, so an index of the old space can't be opened with it as it is: `join` brings it over.
    Where the space has an encoder for that modality already, such as that of a mesh's views, use `beside`.

    Args:
        space: to be joined.
        modality: of the nodes that the encoder is for.
        encoder: that gives vectors of the space.

    Raises:
        SpaceError: the space has an encoder for it, or the dimensions differ.
    """
    if modality in space.encoders:
        raise SpaceError(
            f"Space {space.name!r} has an encoder for {modality} already; put the new one beside it: beside(space, ...)."
        )
    return replace(space, encoders={**space.encoders, modality: encoder})


def beside(space: EmbeddingSpace, modality: Modality, encoder: Encoder, *, name: str) -> EmbeddingSpace:
    """Make a space that holds the new modality alone and is asked in all the ways that the old one is.

    This is a second signal for a modality that the space has already, or the way to leave the old space, its fingerprint and
    its weights as they are: `Preset.with_space` takes it, and `MultiModalIndex.reembed` then encodes only what lives in it.
    What is in the old space can't be found by asking with the new modality: that takes `with_encoder`.

    Args:
        space: whose encoders give the queries.
        modality: of the nodes that the encoder is for.
        encoder: that gives vectors of the space.
        name: of the new space.

    Raises:
        SpaceError: the dimensions differ.

    Example:
        >>> preset = preset.with_space(beside(picture, "mesh", aligned, name="shape"), weight=0.3)
    """
    asked: dict[Modality, Encoder] = {}
    for part in MODALITIES:
        found = space.query_encoder(part)
        if found is not None and part != modality:
            asked[part] = found
    return EmbeddingSpace(name, {modality: encoder}, asked)


def join(
    folder: Path | str,
    old: Preset,
    new: Preset,
    *,
    show_progress: bool = False,
    num_workers: int | None = None,
) -> ReembedReport:
    """Bring an index to a preset whose spaces were joined by more encoders; nothing that is there is encoded again.

    Of each space that changed, the vectors of modalities whose encoders stayed are copied, byte for byte, next to the old
    ones. What is missing is encoded by `MultiModalIndex.reembed`, which puts the new space in the place of the old one in one
    transaction. Until then the index works as before; a run that was stopped goes on when it is called again.

    Args:
        folder: where the index is; nobody else may be writing to it.
        old: the preset that it was made with.
        new: the preset with more encoders, of the same name or another.
        show_progress: show bars on standard error.
        num_workers: processes that decode what is encoded, as in `MultiModalIndex.ingest`.

    Raises:
        StoreError: there is no index.
        SpaceError: the index was made with another preset than the old one.
    """
    before = {space.name: space for space in old.spaces}
    with open_store(folder) as store:
        stored = store.spaces()
        for space in new.spaces:
            was = before.get(space.name)
            if was is None or space.name not in stored or stored[space.name].fingerprint == space.fingerprint:
                continue
            if stored[space.name][:2] != (was.dimension, was.fingerprint):
                raise SpaceError(
                    f"Space {space.name!r} of {folder} has fingerprint {stored[space.name].fingerprint}; that of preset "
                    f"{old.name!r} has {was.fingerprint}. Give the preset that the index was made with."
                )
            _copy(store, was, space, show_progress)
    return MultiModalIndex.reembed(folder, preset=new, show_progress=show_progress, num_workers=num_workers)


def digest_vectors(
    folder: Path | str, *, modalities: Sequence[Modality] = MODALITIES, spaces: Iterable[str] | None = None
) -> dict[str, str]:
    """Digest of the vectors of an index, by ``space/modality``: the same digest, the same bytes for the same nodes.

    Args:
        folder: where the index is.
        modalities: to look at.
        spaces: to look at; all if not given.

    Returns:
        SHA-256 over the nodes' ids and vectors, in the order of ids; partitions without vectors are left out.
    """
    out: dict[str, str] = {}
    with open_store(folder) as store:
        for space in sorted(store.spaces()) if spaces is None else spaces:
            for modality in modalities:
                seqs = store.find(space=space, modalities=[modality]).tolist()
                if not seqs:
                    continue
                ids = {seq: node.node_id for seq, node in store.nodes(seqs).items()}
                rows = sorted(zip((ids[seq] for seq in seqs), store.vectors(space, modality, seqs), strict=True), key=_first)
                digest = hashlib.sha256()
                for node_id, vector in rows:
                    digest.update(node_id.encode() + b"\x1f" + vector.tobytes())
                out[f"{space}/{modality}"] = digest.hexdigest()
    return out


def _first(row: tuple[str, object]) -> str:
    return row[0]


def _copy(store: NodeStore, was: EmbeddingSpace, space: EmbeddingSpace, show_progress: bool) -> None:
    """Copy the vectors that stay into the space that `reembed` goes on to fill."""
    name = UNFINISHED + space.name
    known = store.spaces().get(name)
    if known is not None and known[:2] != (space.dimension, space.fingerprint):
        store.drop_space(name)
    store.declare_space(name, space.dimension, space.fingerprint)
    have = set(store.find(space=name).tolist())
    for modality, encoder in was.encoders.items():
        stays = space.encoders.get(modality)
        if stays is None or stays.fingerprint != encoder.fingerprint:
            continue
        seqs = [seq for seq in store.find(space=space.name, modalities=[modality]).tolist() if seq not in have]
        with tqdm(total=len(seqs), desc=f"{space.name}/{modality}", unit="node", disable=not show_progress) as bar:
            for at in range(0, len(seqs), _BATCH):
                some = seqs[at : at + _BATCH]
                vectors = store.vectors(space.name, modality, some)
                nodes = store.nodes(some)
                store.add([Record(nodes[seq], {name: vector}) for seq, vector in zip(some, vectors, strict=True)])
                bar.update(len(some))
