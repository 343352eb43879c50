"""Fitting: an encoder of a new modality, a space that is there, and pairs that tell what belongs together."""

import copy
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from typing_extensions import TypedDict, Unpack

from llama_index_mm.alignment.adapter import Adapter, AdapterKind, Start
from llama_index_mm.alignment.card import AlignmentCard
from llama_index_mm.alignment.encoder import AlignedEncoder
from llama_index_mm.alignment.geometry import effective_rank, geometry_of
from llama_index_mm.alignment.losses import LossName
from llama_index_mm.alignment.pairs import Encoded, Pair, digest_of, digest_pairs, numbered, payload_of, split_groups
from llama_index_mm.alignment.scoring import figures, ranks_of
from llama_index_mm.alignment.training import FitOptions, Fitted, train_adapter
from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, Vectors
from llama_index_mm.embeddings.cache import CachedEncoder, EmbeddingCache
from llama_index_mm.embeddings.labels import encode_labels, label_prompts
from llama_index_mm.errors import AlignmentError, SpaceError
from llama_index_mm.media import Modality

__all__ = ["WAYS", "Aligner"]

_AT_ONCE = 64  # items that are loaded and encoded together


class _Options(TypedDict, total=False):
    """What `FitOptions` takes."""

    adapter: AdapterKind
    loss: LossName
    start: Start
    hidden: int
    margin: float
    hardest: int | None
    rate: float
    decay: float
    batch: int
    held_out: float
    seed: int


WAYS: tuple[_Options, ...] = ({"start": "ridge"}, {"start": "identity"}, {"start": "identity", "rate": 1e-4})
"""How `Aligner.fit_best` fits."""


class Aligner:
    """Fits a small adapter, so that what a frozen encoder gives lands in a frozen space.

    Nothing but the adapter changes: neither of the two models, and no vector of the space.

    Example:
        >>> aligner = Aligner(WhisperSoundEncoder(), text_space, templates=SOUND_PROMPTS)
        >>> encoder = aligner.fit(labelled(paths, labels), folder="sound-to-text")
        >>> print(encoder.card)

    Args:
        source: encoder of the new modality.
        target: the space, or the very encoder whose vectors are the targets.
        part: which of the space's encoders gives the targets: that which a query with this kind of part is encoded with.
        templates: for texts: each is encoded as the mean over these, in which ``{}`` stands for it.
        as_query: encode targets as what is asked with rather than what is stored; default is that for texts, as the new
            modality is there to be found by them.
        cache: of the vectors of both encoders; default is the folder ``vectors`` in the folder of `fit`, if one is given.
        **options: see `FitOptions`.

    Raises:
        SpaceError: the space can't be asked with that part.
        AlignmentError: an option is out of its range.
    """

    def __init__(
        self,
        source: Encoder,
        target: EmbeddingSpace | Encoder,
        *,
        part: Modality = "text",
        templates: Sequence[str] = ("{}",),
        as_query: bool | None = None,
        cache: EmbeddingCache | Path | str | None = None,
        **options: Unpack[_Options],
    ) -> None:
        if isinstance(target, EmbeddingSpace):
            encoder = target.query_encoder(part)
            if encoder is None:
                raise SpaceError(f"Space {target.name!r} has no encoder for queries of kind {part}; fit to another part of it.")
            self.target, self.target_name = encoder, f"{target.name}:{part}"
        else:
            self.target, self.target_name = target, f"{type(target).__name__}:{target.payload}"
        label_prompts(["it"], templates)  # tells of a wrong one
        self.source = source
        self.templates = tuple(templates) if self.target.payload == "text" else ()
        self.as_query = self.target.payload == "text" if as_query is None else as_query
        self.cache = cache
        self.options = FitOptions(**options)

    def fit(
        self,
        pairs: Sequence[Pair],
        *,
        folder: Path | str | None = None,
        epochs: int = 200,
        patience: int = 20,
        seconds: float | None = None,
        show_progress: bool = False,
        checkpoint_seconds: float = 2.0,
    ) -> AlignedEncoder:
        """Encode all pairs once, hold some out, and fit the adapter on the others.

        It stops where held-out pairs are not found any better, and gives the adapter that found them best, which may be the
        one that it started from.

        Args:
            pairs: what belongs together, see `labelled`, `paired` and `with_views`.
            folder: where checkpoints, the adapter and its card go; a run that was killed goes on when it is called again
                with the same pairs and options.
            epochs: at most so many passes over the pairs; 0 gives the closed form.
            patience: passes without a better score after which it stops.
            seconds: time for training after which it stops; encoding is not counted.
            show_progress: show bars on standard error.
            checkpoint_seconds: at most so much training is lost when it is killed.

        Returns:
            The source with the adapter, ready to join the space.

        Raises:
            AlignmentError: there are too few pairs or groups, or the folder holds another run.
            MissingExtraError: torch or safetensors is not installed.
        """
        folder = Path(folder) if folder is not None else None
        data, held = self._split(pairs, folder, show_progress)
        training, measured = data.part(~held), data.part(held)
        fitted = train_adapter(
            training,
            measured,
            self.options,
            epochs=epochs,
            patience=patience,
            seconds=seconds,
            folder=folder,
            run=self._run(data),
            checkpoint_seconds=checkpoint_seconds,
            show_progress=show_progress,
        )
        before, adapter = (Adapter(self.options.adapter, tensors) for tensors in (fitted.start, fitted.taken))
        vectors = before(measured.features), adapter(measured.features)
        card = self._card(data, measured, fitted, vectors, digest=adapter.digest, parameters=adapter.parameters)
        encoder = AlignedEncoder(self.source, adapter, card)
        if folder is not None:
            encoder.save(folder)
        return encoder

    def fit_best(
        self,
        pairs: Sequence[Pair],
        ways: Sequence[_Options] = WAYS,
        *,
        folder: Path | str | None = None,
        epochs: int = 200,
        patience: int = 20,
        seconds: float | None = None,
        show_progress: bool = False,
    ) -> AlignedEncoder:
        """Fit in several ways, and take what finds the held-out pairs best, by the mean of R@1 and MRR of both directions.

        With whole labels held out (``labelled(..., unseen=True)``) this keeps a source that is in the space already from
        forgetting what the pairs do not show.

        Args:
            pairs: as in `fit`.
            ways: what differs from this aligner's options in each; default is ridge, and identity at two rates where the
                vectors of both sides have the same length. Of equals the first is taken.
            folder: as in `fit`; the ways lie in folders of their own in it, and what is taken in it itself.
            epochs: as in `fit`, of each.
            patience: as in `fit`.
            seconds: as in `fit`, of each.
            show_progress: as in `fit`.

        Raises:
            AlignmentError: as in `fit`, or there are no ways.
        """
        alike = self.source.dimension == self.target.dimension
        left = [way for way in ways if alike or way.get("start") != "identity"]
        if not left:
            raise AlignmentError(f"Expected a way to fit that does for vectors of different lengths, got {list(ways)}.")
        kept = Path(folder) if folder is not None else None
        made = []
        with tempfile.TemporaryDirectory() as scratch:
            for at, way in enumerate(left):
                aligner = copy.copy(self)
                aligner.options = replace(self.options, **way)
                aligner.cache = self.cache if self.cache is not None else (kept or Path(scratch)) / "vectors"
                where = kept / f"way-{at}" if kept else None
                bounds: Any = {"epochs": epochs, "patience": patience, "seconds": seconds, "show_progress": show_progress}
                made.append(aligner.fit(pairs, folder=where, **bounds))
        best = max(made, key=lambda one: 0.0 if one.card is None else one.card.score)
        if kept is not None:
            best.save(kept)
        return best

    def encode(
        self, pairs: Sequence[Pair], *, cache: EmbeddingCache | Path | str | None = None, show_progress: bool = False
    ) -> Encoded:
        """Encode pairs: each item and each target once.

        Args:
            pairs: what belongs together.
            cache: where vectors are kept.
            show_progress: show bars on standard error.

        Raises:
            AlignmentError: there are no pairs.
        """
        if not pairs:
            raise AlignmentError("Expected pairs to fit on, got none.")
        items = [digest_of(pair.item) for pair in pairs]
        targets = [digest_of(pair.target) for pair in pairs]
        keys = [pair.key or target for pair, target in zip(pairs, targets, strict=True)]
        groups = [pair.group or item for pair, item in zip(pairs, items, strict=True)]
        item_numbers, item_names = numbered(items)
        # A target that comes under two keys is two targets.
        target_numbers, target_names = numbered([f"{key}\x1f{one}" for key, one in zip(keys, targets, strict=True)])
        key_numbers, _ = numbered(keys)
        group_numbers, _ = numbered(groups)
        first_item = np.unique(item_numbers, return_index=True)[1]
        first_target = np.unique(target_numbers, return_index=True)[1]
        source, target = self.source, self.target
        kept = EmbeddingCache(cache) if isinstance(cache, Path | str) else cache
        if kept is not None:
            source, target = CachedEncoder(source, kept), CachedEncoder(target, kept)
        try:
            with tqdm(total=len(item_names) + len(target_names), desc="encode", unit="item", disable=not show_progress) as bar:
                features = _vectors(source, [pairs[at].item for at in first_item], bar, query=False)
                told = [pairs[at].target for at in first_target]
                wanted = _vectors(target, told, bar, self.templates, query=self.as_query)
        finally:
            if kept is not None and kept is not cache:  # it was opened here
                kept.close()
        return Encoded(
            features,
            wanted,
            key_numbers[first_target],
            np.stack([item_numbers, target_numbers], 1),
            group_numbers,
            digest_pairs(list(zip(items, targets, keys, groups, strict=True))),
        )

    def _split(self, pairs: Sequence[Pair], folder: Path | None, show_progress: bool) -> tuple[Encoded, NDArray[np.bool_]]:
        """Pairs as vectors, which are kept in the folder, and which of them are held out."""
        cache = self.cache if self.cache is not None else (folder / "vectors" if folder else None)
        data = self.encode(pairs, cache=cache, show_progress=show_progress)
        return data, split_groups(data, self.options.held_out, seed=self.options.seed)

    def _run(self, data: Encoded) -> str:
        """Digest of all that decides the result but for the bounds on training."""
        parts = [data.digest, self.source.fingerprint, self.target.fingerprint, self.target_name, self.as_query]
        told = json.dumps([*parts, *self.templates, asdict(self.options)])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _card(
        self,
        data: Encoded,
        measured: Encoded,
        fitted: Fitted,
        vectors: tuple[Vectors, Vectors],
        *,
        digest: str,
        parameters: int,
    ) -> AlignmentCard:
        """The card, with figures over the vectors of the held-out items before and after."""

        def told(vectors: Vectors) -> tuple[Any, Any, Any]:
            ranks = ranks_of(vectors, measured)
            wanted = measured.targets[measured.pairs[:, 1]]
            return figures(ranks), ranks.chance, geometry_of(vectors[measured.pairs[:, 0]], wanted)

        before, chance, geometry_before = told(vectors[0])
        after, _, geometry = told(vectors[1])
        return AlignmentCard(
            options=self.options,
            target=self.target_name,
            templates=self.templates,
            source_fingerprint=self.source.fingerprint,
            target_fingerprint=self.target.fingerprint,
            adapter_digest=digest,
            data_digest=data.digest,
            pairs=len(data.pairs),
            held_out=len(measured.pairs),
            items=len(data.features),
            targets=len(data.targets),
            parameters=parameters,
            before=before,
            after=after,
            chance=chance,
            geometry=geometry,
            geometry_before=geometry_before,
            target_rank=effective_rank(measured.targets[measured.pairs[:, 1]]),
            history=fitted.history,
            best=fitted.best,
            stopped=fitted.stopped,
        )


def _vectors(encoder: Encoder, items: Sequence[Any], bar: Any, templates: Sequence[str] = (), *, query: bool) -> Vectors:
    parts = []
    for at in range(0, len(items), _AT_ONCE):
        some = [payload_of(item, encoder) for item in items[at : at + _AT_ONCE]]
        if templates and tuple(templates) != ("{}",):
            parts.append(encode_labels(lambda texts: encoder.encode(texts, query=query), some, templates))
        else:
            parts.append(encoder.encode(some, query=query))
        bar.update(len(some))
    return np.concatenate(parts)
