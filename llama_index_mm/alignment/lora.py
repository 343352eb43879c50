"""LoRA: low-rank changes inside a frozen encoder, with an adapter on top, where an adapter alone is not enough.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv:2106.09685: a linear map W ``(out, in)`` gets
``alpha / rank * B A`` added, with A ``(rank, in)`` drawn at random and B ``(out, rank)`` zero at first. The extra ``lora``
brings peft, which does it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from llama_index_mm._optional import require
from llama_index_mm.alignment.adapter import Adapter
from llama_index_mm.alignment.aligner import Aligner, _Options
from llama_index_mm.alignment.backbones import Backbone, backbone_of
from llama_index_mm.alignment.lora_encoder import (
    LoraCard,
    LoraEncoder,
    LoraOptions,
    digest_of_changes,
    injected,
    parted,
    put,
    seeded,
    weights_of,
)
from llama_index_mm.alignment.pairs import Encoded, Pair, payload_of
from llama_index_mm.alignment.training import FitOptions, Learner, Tensors, start_of, train
from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, Vectors
from llama_index_mm.embeddings.cache import EmbeddingCache
from llama_index_mm.errors import AlignmentError
from llama_index_mm.media import Modality

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LoraAligner"]

_RATE = 1e-4  # of learning; ten times that breaks a model sooner than it helps
_AT_ONCE = 64  # items that are loaded and encoded together


class LoraAligner(Aligner):
    """Fits low-rank changes inside a frozen encoder with an adapter on top, so that it gives vectors of a frozen space.

    Everything is as in `Aligner`: pairs, split, losses, when it stops, seed, checkpoints and card. Epoch 0 is the adapter's
    closed form on the unchanged encoder, so the result is never worse on the held-out pairs than that. No weight of the two
    models changes, nor does what they give.

    An adapter sees each item once, as a vector; this runs the model forward and back for each item in each epoch, some 3 to 4
    times the time of encoding it. An epoch over n items so takes about as long as encoding them four times: on CPU cores
    that is minutes per thousand photos for a base-sized model, on a GPU seconds. Take few ``epochs`` and little ``patience``.
    Memory: weights once; what goes in for ``batch`` items; activations for ``source.batch_size`` of these at a time, as
    gradients are brought back in parts (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    RepL4NLP 2021, arXiv:2101.06983); a long recording goes through as one item. Items are loaded anew in each epoch: give
    paths, not what they hold, where there are many.

    It takes the source's device. On a CPU the same fit gives the same bytes; on a GPU that is not promised.

    Example:
        >>> source = ClipImageEncoder(ClipEmbedding(model_name="openai/clip-vit-base-patch32"))
        >>> encoder = LoraAligner(source, text_space, rank=8).fit(labelled(scans, findings), folder="scans", epochs=10)

    Args:
        source: encoder of the new modality: a `ClipImageEncoder`, `ClapAudioEncoder` or `Wav2Vec2Encoder`.
        target: as in `Aligner`, like the other arguments.
        part: of the space, that gives the targets.
        templates: for texts.
        as_query: encode targets as what is asked with.
        cache: of the vectors of the unchanged encoders.
        rank: see `LoraOptions`, like the next three.
        alpha: how much the change counts.
        dropout: in training.
        modules: last names of what is changed, such as ``("q_proj", "k_proj", "v_proj", "fc1", "fc2")``.
        **options: see `FitOptions`; ``adapter`` and ``start`` are of the adapter on top, and ``rate`` is 1e-4 if not given.

    Raises:
        SpaceError: the space can't be asked with that part.
        AlignmentError: an option is out of its range, or LoRA can't change this source.
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
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        modules: Sequence[str] | None = None,
        **options: Unpack[_Options],
    ) -> None:
        options.setdefault("rate", _RATE)
        super().__init__(source, target, part=part, templates=templates, as_query=as_query, cache=cache, **options)
        self.backbone = backbone_of(source)
        self.lora = LoraOptions(rank, alpha, dropout, None if modules is None else tuple(modules))

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
    ) -> LoraEncoder:
        """Like `Aligner.fit`; checkpoints are written after a pass, so the pass under way is lost when it is killed.

        Raises:
            AlignmentError: there are too few pairs or groups, the folder holds another run, the model has no such modules, or
                it does not run them.
            MissingExtraError: peft, torch or safetensors is not installed.
        """
        require("peft", extra="lora")
        folder = Path(folder) if folder is not None else None
        data, held = self._split(pairs, folder, show_progress)
        training, measured = data.part(~held), data.part(held)
        first = np.unique(data.pairs[:, 0], return_index=True)[1]  # a pair of each item
        items = [[pairs[first[number]].item for number in np.unique(data.pairs[some, 0])] for some in (~held, held)]
        lora = replace(self.lora, modules=self.lora.modules or self.backbone.modules)
        learner = _LoraLearner(start_of(training, self.options), self.options, lora, self.backbone, *items)
        fitted = train(
            learner,
            training,
            measured,
            epochs=epochs,
            patience=patience,
            seconds=seconds,
            folder=folder,
            run=self._run(data),
            checkpoint_seconds=checkpoint_seconds,
            show_progress=show_progress,
        )
        adapter, changes = parted(self.options, fitted.taken)
        card = self._card(
            data,
            measured,
            fitted,
            (learner.vectors(measured, fitted.start), learner.vectors(measured, fitted.taken)),
            digest=digest_of_changes(adapter, lora, changes),
            parameters=adapter.parameters + sum(change.size for change in changes.values()),
        )
        encoder = LoraEncoder(self.source, adapter, LoraCard(**vars(card), lora=lora), changes)
        if folder is not None:
            encoder.save(folder)
        return encoder

    def _run(self, data: Encoded) -> str:
        told = json.dumps(["lora", super()._run(data), asdict(self.lora)])
        return hashlib.sha256(told.encode()).hexdigest()[:16]


class _LoraLearner(Learner):
    """An adapter, and low-rank changes of the model below it.

    Only the changes' dropout is in training mode: the model's own dropout and masks stay off, and running means as they are.
    """

    def __init__(
        self,
        start: Adapter,
        options: FitOptions,
        lora: LoraOptions,
        backbone: Backbone,
        items: Sequence[Any],
        held_items: Sequence[Any],
    ) -> None:
        self.backbone, self.items, self.held_items = backbone, items, held_items
        self.model = injected(backbone, lora, options.seed).eval()
        self.weights = weights_of(self.model)
        self.encoder = backbone.with_model(self.model)
        self.dropouts = [module for name, module in self.model.named_modules() if ".lora_dropout." in name]
        self.waiting: Callable[[], None] | None = None
        super().__init__(start, options, {f"lora.{name}": weight for name, weight in self.weights.items()})

    def vectors(self, held: Encoded, tensors: Tensors) -> Vectors:
        adapter, changes = parted(self.options, tensors)
        put(self.weights, changes)
        parts = []
        for at in range(0, len(self.held_items), _AT_ONCE):
            some = [payload_of(item, self.encoder) for item in self.held_items[at : at + _AT_ONCE]]
            parts.append(self.encoder.encode(some))
        return adapter(np.concatenate(parts))

    def _features(self, data: Encoded, items: NDArray[np.int64], step: tuple[int, int]) -> "Tensor":
        different, back = np.unique(items, return_inverse=True)
        size = self.encoder.batch_size
        chunks = [self._inputs(different[at : at + size]) for at in range(0, len(different), size)]
        if len(chunks) == 1:
            return self._run(chunks[0], (*step, 0))[back]
        with self.torch.no_grad():
            rows = self.torch.cat([self._run(chunk, (*step, number)) for number, chunk in enumerate(chunks)]).requires_grad_()

        def again() -> None:
            """Run each part once more, by the same random numbers, to bring its gradients further back."""
            for number, (chunk, gradients) in enumerate(zip(chunks, rows.grad.split(size), strict=True)):
                self._run(chunk, (*step, number)).backward(gradients)  # type: ignore[no-untyped-call]

        self.waiting = again
        features: Tensor = rows[back]
        return features

    def _pass_back(self) -> None:
        if self.waiting is not None:
            self.waiting()
            self.waiting = None
        idle = sorted({name.split(".")[-3] for name, weight in self.weights.items() if weight.grad is None})
        if idle:
            raise AlignmentError(
                f"The model does not run its modules {', '.join(idle)}, so nothing can be fitted there. Leave them out of "
                "modules, or take the default."
            )

    def _inputs(self, numbers: NDArray[np.int64]) -> Any:
        return self.backbone.inputs([payload_of(self.items[number], self.encoder) for number in numbers])

    def _run(self, inputs: Any, moment: tuple[int, ...]) -> "Tensor":
        seed = int(np.random.SeedSequence([self.options.seed, *moment]).generate_state(1)[0])
        for module in self.dropouts:
            module.train()
        with seeded(self.model.device, seed):
            rows = self.backbone.features(self.model, inputs)
        for module in self.dropouts:
            module.eval()
        return rows
