"""LlamaIndex's event handlers hear of encoders what they hear of its own embeddings."""

import asyncio
from io import BytesIO

import numpy as np
import pytest
from llama_index.core import Settings
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.embeddings import MockEmbedding, MultiModalEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from PIL import Image

from llama_index_mm.embeddings.base import Encoder, TextEncoder
from llama_index_mm.embeddings.cache import CachedEncoder
from llama_index_mm.embeddings.llama import ImageEmbeddingEncoder
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.errors import EncodeError
from llama_index_mm.media import Mesh, Waveform
from llama_index_mm.testing import HashingEncoder

RED = Image.new("RGB", (8, 6), "red")


class Collect(BaseEventHandler):
    events: list = Field(default_factory=list)

    @classmethod
    def class_name(cls):
        return "Collect"

    def handle(self, event, **kwargs):
        self.events.append(event)


@pytest.fixture
def heard():
    """Events of embeddings, as a handler at the root gets them."""
    root, handler = get_dispatcher(), Collect()
    before = list(root.event_handlers)
    root.add_event_handler(handler)
    yield handler.events
    root.event_handlers = before


@pytest.fixture
def spans():
    root, handler = get_dispatcher(), SimpleSpanHandler()
    before = list(root.span_handlers)
    root.add_span_handler(handler)
    yield handler
    root.span_handlers = before


@pytest.fixture
def called():
    """A handler of LlamaIndex's older callbacks."""
    handler = LlamaDebugHandler(print_trace_on_end=False)
    before = Settings._callback_manager
    Settings.callback_manager = CallbackManager([handler])
    yield handler
    Settings._callback_manager = before


class MeanColour(MultiModalEmbedding):
    def _get_text_embedding(self, text):
        return [1.0, float(len(text)), 0.0]

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)

    def _get_image_embedding(self, img_file_path: str | BytesIO):
        return np.asarray(Image.open(img_file_path).convert("RGB"), float).mean((0, 1)).tolist()

    async def _aget_image_embedding(self, img_file_path):
        return self._get_image_embedding(img_file_path)


def doors(encoder):
    return [encoder.encode, lambda *items, **options: asyncio.run(encoder.aencode(*items, **options))]


@pytest.mark.parametrize("door", [0, 1], ids=["sync", "async"])
def test_an_encoder_tells_what_it_encoded(heard, door):
    encoder = HashingEncoder("text")
    vectors = doors(encoder)[door](["a chair", "bad \ud800"])
    start, end = heard
    assert isinstance(start, EmbeddingStartEvent)
    assert start.model_dict == {
        "class_name": "HashingEncoder",
        "model_name": "HashingEncoder",
        "embed_batch_size": 16,
        "payload": "text",
        "dimension": 32,
        "fingerprint": encoder.fingerprint,
    }
    assert isinstance(end, EmbeddingEndEvent)
    assert end.chunks == ["a chair", "bad ?"]
    assert end.embeddings == vectors.tolist()
    assert start.span_id == end.span_id
    assert start.span_id.startswith(f"HashingEncoder.{['encode', 'aencode'][door]}-")


class Ones(Encoder):
    dimension, fingerprint = 2, "ones"

    def __init__(self, payload):
        self.payload = payload

    def _encode(self, items, *, query):
        return np.ones((len(items), 2))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (RED, "image of 8 x 6 pixels"),
        (Waveform(np.zeros(24_000, np.float32)), "audio of 1.5 seconds"),
        ([RED, RED], "2 views"),
        (Mesh(np.eye(3, dtype=np.float32), np.asarray([[0, 1, 2]])), "mesh of 1 faces"),
        (np.zeros(3), "ndarray"),
    ],
)
def test_media_are_told_in_a_few_words(heard, item, words):
    Ones("image").encode([item])
    assert heard[-1].chunks == [words]


def test_a_call_without_items_tells_nothing(heard):
    HashingEncoder("text").encode([])
    assert heard == []


def test_a_llamaindex_embedding_is_not_told_of_twice(heard, called):
    embedding = MockEmbedding(embed_dim=3, callback_manager=Settings.callback_manager)
    encoder = TextEncoder(embedding, dimension=3)
    for encode in doors(encoder):
        heard.clear()
        encode(["a", "b"])
        assert [type(event) for event in heard] == [EmbeddingStartEvent, EmbeddingEndEvent]
        assert heard[-1].chunks == ["a", "b"]
    assert len(called.get_event_pairs(CBEventType.EMBEDDING)) == 2


@pytest.mark.parametrize("door", [0, 1], ids=["sync", "async"])
def test_pictures_of_a_multimodal_embedding_are_told_once_by_either_way(heard, called, door):
    embedding = MeanColour(callback_manager=Settings.callback_manager)
    doors(ImageEmbeddingEncoder(embedding, dimension=3))[door]([RED, RED])
    assert [type(event) for event in heard] == [EmbeddingStartEvent, EmbeddingEndEvent]
    assert heard[0].model_dict["model_name"] == "unknown"
    assert heard[1].chunks == ["image of 8 x 6 pixels"] * 2
    assert len(called.get_event_pairs(CBEventType.EMBEDDING)) == 1


def test_views_are_told_by_the_encoder_of_pictures(heard):
    ViewsEncoder(HashingEncoder("image")).encode([[RED, RED], [RED]])
    assert [event.chunks for event in heard[1::2]] == [["image of 8 x 6 pixels"] * 3]


def test_a_cache_tells_only_of_what_was_encoded(heard, tmp_path):
    encoder = CachedEncoder(HashingEncoder("text"), tmp_path)
    encoder.encode(["a"])
    encoder.encode(["a", "b"])
    encoder.encode(["a", "b"])
    assert [event.chunks for event in heard[1::2]] == [["a"], ["b"]]


@pytest.mark.parametrize("door", [0, 1], ids=["sync", "async"])
def test_callbacks_get_the_same_as_from_llamaindex(called, door):
    vectors = doors(HashingEncoder("text"))[door](["a", "b"])
    ((start, end),) = called.get_event_pairs(CBEventType.EMBEDDING)
    assert start.payload[EventPayload.SERIALIZED]["class_name"] == "HashingEncoder"
    assert end.payload == {EventPayload.CHUNKS: ["a", "b"], EventPayload.EMBEDDINGS: vectors.tolist()}


class Broken(HashingEncoder):
    def _encode(self, items, *, query):
        return np.zeros((len(items), self.dimension))


def test_a_failure_has_a_start_no_end_and_drops_its_span(heard, called, spans):
    with pytest.raises(EncodeError):
        Broken("text").encode(["a"])
    assert [event.class_name() for event in heard] == ["EmbeddingStartEvent", "SpanDropEvent"]
    assert [span.id_.partition("-")[0] for span in spans.dropped_spans] == ["Broken.encode"]
    ((_, end),) = called.get_event_pairs(CBEventType.EMBEDDING)
    assert isinstance(end.payload[EventPayload.EXCEPTION], EncodeError)


def test_spans_are_nested_and_cross_threads(spans):
    asyncio.run(TextEncoder(MockEmbedding(embed_dim=3), dimension=3).aencode(["a"]))
    names = {span.id_.partition("-")[0]: span for span in spans.completed_spans}
    inner, outer = names["MockEmbedding.aget_text_embedding_batch"], names["TextEncoder.aencode"]
    assert inner.parent_id == outer.id_
    spans.completed_spans.clear()
    asyncio.run(ViewsEncoder(HashingEncoder("image")).aencode([[RED]]))  # the inner call is in a thread
    names = {span.id_.partition("-")[0]: span for span in spans.completed_spans}
    assert names["HashingEncoder.encode"].parent_id == names["ViewsEncoder.aencode"].id_


class Watched(np.ndarray):
    """Vectors that note when they are made into lists."""

    lists = 0

    def tolist(self):
        type(self).lists += 1
        return super().tolist()


class Watching(HashingEncoder):
    def _check_vectors(self, vectors, count):
        return super()._check_vectors(vectors, count).view(Watched)


def test_nothing_is_copied_where_nobody_listens(heard):
    handlers = get_dispatcher().event_handlers
    listener = handlers.pop()
    Watched.lists = 0
    Watching("text").encode(["a"])
    assert Watched.lists == 0
    handlers.append(listener)
    Watching("text").encode(["a"])
    assert Watched.lists == 1
    assert len(heard) == 2
