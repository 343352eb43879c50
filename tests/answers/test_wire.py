"""LlamaIndex's real OpenAI clients against a server on loopback that is as strict as the real one."""

import base64
import binascii
import io
import json
import threading
import wave
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.memory import ChatMemoryBuffer
from PIL import Image

pytest.importorskip("llama_index.llms.openai_like")
pytest.importorskip("av")
pytest.importorskip("open3d")

from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike

from llama_index_mm import MediaBudget, MultiModalIndex, citations_of, left_out_of
from llama_index_mm.answers import MediaFallbackLLM
from llama_index_mm.testing import tiny_preset

SIDE, SECONDS, IMAGES = 512, 4.0, 3
REFUSALS = {
    "image": "Invalid content type. image_url is only supported by certain models.",
    "audio": "Invalid content type. input_audio is only supported by certain models.",
}
TEXTS = "The tide comes in at noon [1]."
PICTURES = ("red-door.jpg", "blue-door.png", "green-door.png", "red-boat.png")


@dataclass
class Asked:
    """A request as the server understood it."""

    texts: str = ""
    pictures: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    streamed: bool = False
    status: int = 200


class Refused(Exception):
    pass


def expect(condition, message):
    if not condition:
        raise Refused(message)


def picture_of(part):
    expect(set(part) == {"type", "image_url"}, f"Unknown parameters in {sorted(part)}")
    expect(set(part["image_url"]) <= {"url", "detail"}, "Unknown parameter in image_url")
    head, _, data = part["image_url"]["url"].partition(";base64,")
    expect(head in ("data:image/jpeg", "data:image/png"), f"Unsupported image {head[:40]}")
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    expect(f"data:image/{image.format.lower()}" == head, f"A {image.format} that says it is {head}")
    return image.format, image.size


def seconds_of(part):
    expect(set(part) == {"type", "input_audio"}, f"Unknown parameters in {sorted(part)}")
    expect(set(part["input_audio"]) == {"data", "format"}, "Expected data and format")
    expect(part["input_audio"]["format"] == "wav", f"Unsupported format {part['input_audio']['format']!r}")
    with wave.open(io.BytesIO(base64.b64decode(part["input_audio"]["data"], validate=True))) as file:
        return file.getnframes() / file.getframerate()


def understand(body, service, asked):
    expect(isinstance(body.get("model"), str), "you must provide a model parameter")
    expect(isinstance(body.get("messages"), list) and body["messages"], "Expected messages")
    asked.streamed = bool(body.get("stream"))
    kinds = set()
    for message in body["messages"]:
        expect(message.get("role") in ("system", "user", "assistant", "tool"), f"Unknown role {message.get('role')!r}")
        content = message.get("content")
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            kind = part.get("type")
            expect(kind in ("text", "image_url", "input_audio"), f"Invalid value: {kind!r}")
            expect(kind == "text" or message["role"] == "user", "Media are for users")
            if kind == "text":
                expect(isinstance(part.get("text"), str), "Expected a string")
                asked.texts += part["text"] + "\n"
            elif kind == "image_url":
                kinds.add("image")
                asked.pictures.append(picture_of(part))
            else:
                kinds.add("audio")
                asked.seconds.append(seconds_of(part))
    for kind in service.refused:
        expect(kind not in kinds, REFUSALS[kind])
    expect(all(max(size) <= service.side for _, size in asked.pictures), "image too large")
    expect(len(asked.pictures) <= service.images, "too many images")
    expect(sum(asked.seconds) <= SECONDS, "too much audio")


class Service(ThreadingHTTPServer):
    """OpenAI's chat completions: refuses what that would refuse, and what it is told to."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[Asked] = []
        self.refused: tuple[str, ...] = ()
        self.status = 400
        self.side, self.images = SIDE, IMAGES

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked()
        self.server.asked.append(asked)
        try:
            expect(self.path == "/v1/chat/completions", f"Unknown path {self.path}")
            expect(self.headers["Authorization"] == "Bearer key", "Incorrect API key")
            understand(body, self.server, asked)
        except (Refused, binascii.Error, OSError, wave.Error) as error:
            asked.status = self.server.status
            told = {"message": str(error), "type": "invalid_request_error", "param": "messages.[1].content", "code": None}
            return self.give(json.dumps({"error": told}), "application/json", asked.status)
        answer = '{"time": "noon"}' if "JSON" in asked.texts or "schema" in asked.texts else TEXTS
        facts = {"id": "1", "created": 1, "model": body["model"]}
        if not asked.streamed:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            whole = {**facts, "object": "chat.completion", "choices": [choice], "usage": usage}
            return self.give(json.dumps(whole), "application/json")
        deltas = [{"role": "assistant", "content": ""}, *({"content": f"{word} "} for word in answer.split())]
        events = [
            {**facts, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            for delta in deltas
        ]
        events[-1]["choices"][0]["finish_reason"] = "stop"
        lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return self.give(lines, "text/event-stream")

    def give(self, text, kind, status=200):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="module")
def index(make_once):
    make_once.picture("red-door.jpg", "red", (1600, 900))
    make_once.picture("blue-door.png", "blue", (900, 1600))
    make_once.picture("green-door.png", "green", (40, 30))
    make_once.picture("red-boat.png", (250, 10, 10), (600, 600))
    make_once.tone("low-hum.wav", 110.0, seconds=1.5)
    make_once.tone("high-hum.wav", 2200.0, seconds=2.0)
    make_once.tone("long-hum.wav", 440.0, seconds=5.0)
    make_once.obj("stool.obj")
    make_once.text("tide.txt", "The tide comes in at noon.")
    with MultiModalIndex.open(make_once.folder / "index", preset=tiny_preset(), create=True) as opened:
        opened.ingest(sorted(path for path in make_once.folder.iterdir() if path.is_file()), num_workers=0)
        yield opened


@pytest.fixture
def service(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def like(service, **options):
    options = {"is_chat_model": True, "context_window": 32_000, "max_retries": 0, **options}
    return OpenAILike(model="a-model", api_base=service.address, api_key="key", **options)


def real(service):
    return OpenAI(model="gpt-4o-mini", api_base=service.address, api_key="key", max_retries=0)


BUDGET = MediaBudget(max_images=IMAGES, max_audio_seconds=SECONDS, max_pixels=SIDE)
DOORS = {"modalities": ["image"], "similarity_top_k": 4}
HUMS = {"modalities": ["audio"], "similarity_top_k": 3}


@pytest.mark.parametrize("client", [like, real])
def test_pictures_arrive_scaled_down_and_in_budget(index, service, client):
    engine = index.as_query_engine(client(service), llm_media=("image",), budget=BUDGET, **DOORS)
    response = engine.query("a red door")
    (asked,) = service.asked
    assert asked.status == 200
    assert str(response) == TEXTS
    given = {"red-door.jpg": ("JPEG", (512, 288)), "blue-door.png": ("JPEG", (288, 512))}
    given |= {"green-door.png": ("PNG", (40, 30)), "red-boat.png": ("JPEG", (512, 512))}
    names = [one.file.name for one in citations_of(response.source_nodes)]
    assert sorted(names) == sorted(PICTURES)
    best = sorted(response.source_nodes, key=lambda found: -found.score)[:IMAGES]
    assert asked.pictures == [given[found.node.path.name] for found in response.source_nodes if found in best]
    (left,) = left_out_of(response)
    (beyond,) = (found.node.node_id for found in response.source_nodes if found not in best)
    assert (left.node_id, left.part) == (beyond, "media")
    for number, name in enumerate(names, 1):
        assert f"[{number}] {name}:" in asked.texts


def test_the_sources_are_what_was_found(index, service):
    engine = index.as_query_engine(like(service), budget=BUDGET, **DOORS)
    found = {hit.node.node_id: hit.node for hit in index.as_retriever(**DOORS).retrieve("a red door")}
    for source in engine.query("a red door").source_nodes:
        node = found[source.node.node_id]
        assert (source.node.path, source.node.text, source.node.image_resource) == (node.path, node.text, node.image_resource)
        assert {key: source.node.metadata[key] for key in node.metadata} == node.metadata
        assert source.node.path.is_file()


def test_sounds_arrive_within_their_seconds(index, service):
    engine = index.as_query_engine(like(service), llm_media=("image", "audio"), budget=BUDGET, **HUMS)
    response = engine.query("low high hum")
    (asked,) = service.asked
    assert asked.status == 200
    lengths = {"low-hum.wav": 1.5, "high-hum.wav": 2.0, "long-hum.wav": 5.0}
    names = [found.node.path.name for found in response.source_nodes]
    assert asked.seconds == pytest.approx([lengths[name] for name in names if name != "long-hum.wav"])
    (left,) = left_out_of(response)
    assert left.part == "media"
    assert "max_audio_seconds=4 leaves" in left.reason
    assert f"[{names.index('long-hum.wav') + 1}] long-hum.wav, 0:00-0:05:" in asked.texts


def test_views_of_a_mesh_arrive_as_one_picture(index, service):
    engine = index.as_query_engine(like(service), budget=BUDGET, modalities=["mesh"], similarity_top_k=1)
    engine.query("a stool")
    two = MediaBudget(max_pixels=SIDE, max_views=2)
    index.as_query_engine(like(service), budget=two, modalities=["mesh"], similarity_top_k=1).query("a stool")
    assert [asked.pictures for asked in service.asked] == [[("PNG", (512, 341))], [("PNG", (448, 224))]]


def test_a_small_context_window_gets_one_call(index, service):
    """Without a budget LlamaIndex would call once for each picture that does not fit."""
    service.side = 1024
    response = index.as_query_engine(like(service, context_window=4096), budget=None, **DOORS).query("a red door")
    assert [len(asked.pictures) for asked in service.asked] == [1]
    assert {note.part for note in left_out_of(response)} == {"media"}
    assert len(left_out_of(response)) == 3


@pytest.mark.parametrize("client", [like, real])
@pytest.mark.parametrize("kind", ["image", "audio"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_service_that_refuses_gets_text_the_second_time(index, service, caplog, client, kind, streaming):
    service.refused = (kind,)
    options = DOORS if kind == "image" else HUMS
    engine = index.as_query_engine(client(service), llm_media=("image", "audio"), budget=BUDGET, streaming=streaming, **options)
    response = engine.query("a red low door")
    assert str(response).strip() == TEXTS
    first, second = service.asked
    assert (first.status, second.status) == (400, 200)
    assert len(first.pictures if kind == "image" else first.seconds) >= 2
    assert (second.pictures, second.seconds) == ([], [])
    assert first.streamed == second.streamed == streaming
    for one in citations_of(response.source_nodes):
        assert f"{one}:" in second.texts
    assert sum("asked again" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_same_asynchronously(index, service, streaming):
    service.refused = ("image",)
    engine = index.as_query_engine(like(service), budget=BUDGET, streaming=streaming, **DOORS)
    response = await engine.aquery("a red door")
    text = "".join([piece async for piece in response.response_gen]) if streaming else str(response)
    assert text.strip() == TEXTS
    assert [(asked.status, len(asked.pictures)) for asked in service.asked] == [(400, 3), (200, 0)]


class Answer(BaseModel):
    """When."""

    time: str


@pytest.mark.parametrize("refused", [(), ("image",)])
async def test_structured_answers(index, service, refused):
    service.refused = refused
    engine = index.as_query_engine(like(service), budget=BUDGET, output_cls=Answer, **DOORS)
    assert json.loads(str(engine.query("When?"))) == {"time": "noon"}
    assert [len(asked.pictures) for asked in service.asked] == ([3] if not refused else [3, 0])
    assert json.loads(str(await engine.aquery("When?"))) == {"time": "noon"}


@pytest.mark.parametrize(("status", "error"), [(401, openai.AuthenticationError), (429, openai.RateLimitError)])
def test_errors_of_other_kinds_come_through(index, service, status, error):
    service.refused, service.status = ("image",), status
    with pytest.raises(error):
        index.as_query_engine(like(service), budget=BUDGET, **DOORS).query("a red door")
    assert len(service.asked) == 1


def test_a_request_that_is_wrong_without_media_too_comes_through(service):
    llm = MediaFallbackLLM(like(service))
    with pytest.raises(openai.BadRequestError, match="Unknown role"):
        llm.chat([ChatMessage(role="function", content="what?")])
    assert len(service.asked) == 1


def test_chat_engine_gives_pictures(index, service):
    service.side, service.images = 1024, 4
    chat = index.as_chat_engine(real(service), memory=ChatMemoryBuffer.from_defaults(token_limit=4096), **DOORS)
    answers = [str(chat.chat("a red door")), str(chat.chat("And the blue one?"))]
    assert answers == [TEXTS, TEXTS]
    assert [len(asked.pictures) for asked in service.asked] == [4, 0, 4]  # in between the LLM words the second question
    assert "And the blue one?" in service.asked[1].texts
