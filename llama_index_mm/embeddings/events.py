"""What encoders tell LlamaIndex's event handlers: the same events that its own embeddings send."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeVar, cast

from llama_index.core import Settings
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm.media import Mesh, Waveform

__all__ = ["Events", "spanned", "telling"]

Events = Literal["all", "instrumentation", "none"]
"""Which events an encoder sends: instrumentation events and callbacks, the first alone, or none."""

_F = TypeVar("_F", bound=Callable[..., Any])
_DISPATCHER = get_dispatcher(__name__)


def spanned(function: _F) -> _F:
    """Make every call of a function, sync or async, a span of LlamaIndex's instrumentation."""
    return cast(_F, _DISPATCHER.span(function))


@contextmanager
def telling(model: Mapping[str, Any], items: Sequence[Any], events: Events) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Send an event now that items are about to be encoded, and another when the vectors are given.

    Callbacks go to ``Settings.callback_manager``. Where nobody listens, nothing is made or copied.

    Args:
        model: what the events say of the encoder.
        items: what is encoded; texts are told as they are, media in a few words.
        events: which are sent.

    Yields:
        What takes the vectors, ``(len(items), d)``.
    """
    heard = events != "none" and _heard()
    called = events == "all" and bool(Settings.callback_manager.handlers)
    if not heard and not called:
        yield lambda vectors: None
        return
    with ExitStack() as stack:
        if heard:
            _DISPATCHER.event(EmbeddingStartEvent(model_dict=dict(model)))
        if called:
            payload: dict[Any, Any] = {EventPayload.SERIALIZED: dict(model)}
            event = stack.enter_context(Settings.callback_manager.event(CBEventType.EMBEDDING, payload=payload))

        def tell(vectors: NDArray[Any]) -> None:
            chunks, rows = [_in_words(item) for item in items], vectors.tolist()
            if called:
                event.on_end(payload={EventPayload.CHUNKS: chunks, EventPayload.EMBEDDINGS: rows})
            if heard:
                _DISPATCHER.event(EmbeddingEndEvent(chunks=chunks, embeddings=rows))

        yield tell


def _heard() -> bool:
    """Whether an event handler is attached that an event would reach."""
    at = _DISPATCHER
    while not any(not isinstance(handler, NullEventHandler) for handler in at.event_handlers):
        if not at.propagate:
            return False
        at = at.parent
    return True


def _in_words(item: object) -> str:
    if isinstance(item, str):
        return item.encode("utf-8", "replace").decode("utf-8")
    if isinstance(item, Image.Image):
        return f"image of {item.width} x {item.height} pixels"
    if isinstance(item, Waveform):
        return f"audio of {item.seconds:.1f} seconds"
    if isinstance(item, Mesh):
        return f"mesh of {len(item.faces)} faces"
    if isinstance(item, list | tuple):
        return f"{len(item)} views"
    return type(item).__name__
