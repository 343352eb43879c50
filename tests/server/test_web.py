"""The web page's API over real HTTP: a server of uvicorn in a thread, and a real index without weights."""

import asyncio
import importlib.util
import io
import json
import re
import socket
import struct
import threading
import time
import wave
import zlib
from contextlib import contextmanager
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import TextNode
from PIL import Image
from pydantic import PrivateAttr
from typer.testing import CliRunner

if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
    pytest.skip("needs fastapi and uvicorn", allow_module_level=True)

import uvicorn

from llama_index_mm import MultiModalIndex
from llama_index_mm.cli import app as cli
from llama_index_mm.errors import QueryError
from llama_index_mm.media import MediaLimits
from llama_index_mm.server.web import check_token, make_app
from llama_index_mm.server.web_errors import RefusedError
from llama_index_mm.server.web_guard import HEADERS, names_of
from llama_index_mm.server.web_kept import Kept
from llama_index_mm.server.web_limits import WebLimits
from llama_index_mm.server.web_media import span_of
from llama_index_mm.server.web_run import address_to_open
from llama_index_mm.testing import tiny_preset

TOKEN = "correct-horse-battery-staple"
LIMITS = WebLimits(
    uploads=MediaLimits(file_bytes=200_000, pixels=4_000_000, seconds=5.0, faces=1_000, decode_seconds=20.0),
    upload_seconds=2.0,
    kept_uploads=3,
    waiting_answers=2,
    answers=1,
)
TRIES = [
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "..\\..\\secret.png",
    "secret.png",
    "red boat.png",
    "%00",
    "nobody\x7f",
]


class Scripted(CustomLLM):
    """Says its words one by one; keeps what it read, how far it came, and how many answered at once."""

    words: tuple[str, ...] = ("At ", "noon ", "[1]", " or [9].")
    pause: float = 0.0
    _read: list[str] = PrivateAttr(default_factory=list)
    _said: list[str] = PrivateAttr(default_factory=list)
    _closed: threading.Event = PrivateAttr(default_factory=threading.Event)
    _now: list[int] = PrivateAttr(default_factory=lambda: [0, 0])
    _gate: threading.Event | None = PrivateAttr(default=None)

    accepts_media: tuple[str, ...] = ()

    @property
    def metadata(self):
        return LLMMetadata(is_chat_model=True, model_name="scripted")

    def complete(self, prompt, formatted=False, **kwargs):
        return CompletionResponse(text="".join(self.words))

    def stream_complete(self, prompt, formatted=False, **kwargs):
        def pieces():
            self._read.append(prompt)
            assert self._gate is None or self._gate.wait(20)
            self._now[0] += 1
            self._now[1] = max(self._now)
            text = ""
            try:
                for word in self.words:
                    time.sleep(self.pause)
                    text += word
                    self._said.append(word)
                    yield CompletionResponse(text=text, delta=word)
            finally:
                self._now[0] -= 1
                self._closed.set()

        return pieces()


@contextmanager
def serving(index, **options):
    """A server on a free port, and a client that knows it by its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = make_app(index, **{"limits": LIMITS, **options})
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def files(make_once):
    make_once.picture("in/red boat.png", "red", (2000, 1000))
    make_once.picture("in/blue door.png", "blue")
    make_once.text("in/tide.txt", "High tide is at noon.")
    make_once.tone("in/tone.wav", 440.0, seconds=3.0)
    make_once.obj("in/cube.obj")
    make_once.text("in/broken.png", "no picture")
    make_once.picture("secret.png", "red")
    with MultiModalIndex.open(make_once.folder / "index", preset=tiny_preset(), create=True) as made:
        assert made.ingest(make_once.folder / "in", num_workers=0).added == 5
    return make_once.folder


@pytest.fixture(scope="module")
def index(files):
    with MultiModalIndex.open(files / "index", preset=tiny_preset()) as opened:
        yield opened


@pytest.fixture(scope="module")
def llm():
    return Scripted()


@pytest.fixture(scope="module")
def web(index, llm):
    with serving(index, llm=llm) as client:
        yield client


@pytest.fixture(scope="module")
def found(web):
    """Results by the name of their file."""
    answer = web.post("/api/search", json={"text": "boat"})
    assert answer.status_code == 200
    return {one["name"]: one for one in answer.json()["results"]}


def png(width, height, colour=(255, 0, 0)):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(side):
    """A PNG that states ``side`` pixels a side in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def sound(seconds, hertz=440.0):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((np.sin(np.arange(round(seconds * 8000)) * hertz / 8000 * 2 * np.pi) * 9000).astype("<i2").tobytes())
    return buffer.getvalue()


def error(response):
    """Code and message of an error, which has that form and no other."""
    told = response.json()
    assert set(told) == {"event", "error"}
    assert set(told["error"]) == {"code", "message"}
    assert "Traceback" not in response.text
    return told["error"]["code"], told["error"]["message"]


def upload(web, name, data, **options):
    return web.post("/api/uploads", params={"name": name}, content=data, **options)


def events(response):
    return [json.loads(line) for line in response.text.splitlines()]


# -- what the API gives -------------------------------------------------------------------------------------------------------


def test_search_gives_results_with_reasons_and_addresses(found):
    assert set(found) == {"red boat.png", "blue door.png", "tide.txt", "tone.wav", "cube.obj"}
    boat = found["red boat.png"]
    assert (boat["number"], boat["modality"], boat["text"], boat["start"]) == (1, "image", "", None)
    assert boat["picture"] == f"/api/media/picture/{quote(boat['node_id'], safe='')}"
    assert (boat["sound"], boat["mesh"]) == (None, None)
    assert sum(one["share"] for one in boat["reasons"]) == pytest.approx(boat["score"])
    assert {one["space"] for one in boat["reasons"]} <= {"text", "picture"}
    assert found["tone.wav"]["sound"].startswith("/api/media/sound/")
    assert found["cube.obj"]["mesh"].startswith("/api/media/mesh/")
    assert found["tide.txt"]["picture"] is None
    assert found["tide.txt"]["text"] == "High tide is at noon."


def test_nothing_tells_where_files_lie(web, files):
    for text in (web.post("/api/search", json={"text": "boat"}).text, web.get("/api/status").text):
        assert str(files) not in text


def test_search_is_narrowed_and_counted(web):
    answer = web.post("/api/search", json={"text": "boat", "modalities": ["mesh", "audio"], "k": 9}).json()
    assert {one["modality"] for one in answer["results"]} == {"mesh", "audio"}
    one = web.post("/api/search", json={"text": "boat", "k": 1}).json()["results"]
    assert [result["name"] for result in one] == ["red boat.png"]


def test_more_like_a_result(web, found):
    answer = web.post("/api/search", json={"like": [found["red boat.png"]["node_id"]], "modalities": ["image"]}).json()
    assert answer["results"][0]["name"] == "red boat.png"
    words = web.post("/api/search", json={"like": [found["tide.txt"]["node_id"]], "k": 1}).json()
    assert words["results"][0]["name"] == "tide.txt"


def test_status(web):
    told = web.get("/api/status").json()
    assert (told["preset"], told["files"], told["not_taken"]) == ("tiny", 5, 1)
    assert told["nodes"] == {"text": 1, "image": 2, "audio": 1, "mesh": 1}
    assert [one["name"] for one in told["problems"]] == ["broken.png"]
    assert told["spaces"] == ["picture", "sound", "text"]
    assert (told["answers_with"], told["searches"], told["answers"]) == ("scripted", 0, 0)
    assert told["accepts"]["upload_bytes"] == 200_000
    assert ".glb" in told["accepts"]["endings"]["mesh"]


def test_media_are_made_anew(web, found):
    picture = web.get(found["red boat.png"]["picture"])
    assert picture.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(picture.content)) as image:
        assert image.size == (960, 480)
    played = web.get(found["tone.wav"]["sound"])
    assert played.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(played.content)) as file:
        assert (file.getframerate(), file.getnframes()) == (16_000, 48_000)
    mesh = web.get(found["cube.obj"]["mesh"]).json()
    assert (mesh["vertices"], mesh["faces"]) == (8, 12)
    views = web.get(found["cube.obj"]["picture"])
    with Image.open(io.BytesIO(views.content)) as sheet:
        assert sheet.width / sheet.height == 1.5  # three views in two rows


def test_ranges_of_a_sound(web, found):
    address = found["tone.wav"]["sound"]
    whole = web.get(address).content
    part = web.get(address, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole)}"
    assert web.get(address, headers={"Range": "bytes=-44"}).content == whole[-44:]
    assert web.get(address, headers={"Range": f"bytes=0-{len(whole) * 9}"}).content == whole
    beyond = web.get(address, headers={"Range": f"bytes={len(whole)}-"})
    assert (beyond.status_code, error(beyond)[0]) == (416, "no_such_range")
    several = web.get(address, headers={"Range": "bytes=0-1,4-5"})
    assert (several.status_code, several.content) == (200, whole)


@pytest.mark.parametrize(
    ("given", "span"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=2-99", (2, 10)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("items=0-1", None),
        ("bytes=" + "9" * 200 + "-", None),
    ],
)
def test_spans(given, span):
    assert span_of(given, 10) == span


@pytest.mark.parametrize("given", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_spans_behind_the_end(given):
    with pytest.raises(RefusedError, match="behind"):
        span_of(given, 10)


def test_what_is_kept_has_bounds():
    kept = Kept(10, most=3)
    assert kept.put("a", 1, 4)
    assert kept.put("b", 2, 4)
    assert kept.get("a") == 1
    assert kept.put("c", 3, 4)  # b was not asked for the longest
    assert [kept.get(name) for name in "abc"] == [1, None, 3]
    assert not kept.put("d", 4, 11)
    assert all(kept.put(name, 0, 1) for name in "defg")
    assert len(kept) == 3
    assert (kept.drop("g"), kept.drop("g"), len(kept)) == (True, False, 2)


# -- files to ask with --------------------------------------------------------------------------------------------------------


def test_asking_with_files(web):
    taken = upload(web, "C:\\pictures\\my boat.PNG", png(600, 300))
    assert taken.status_code == 201
    told = taken.json()
    assert (told["name"], told["modality"], told["facts"]) == ("my boat.PNG", "image", "600 × 300 pixels")
    with Image.open(io.BytesIO(web.get(told["picture"]).content)) as preview:
        assert (preview.format, preview.size) == ("JPEG", (320, 160))
    first = web.post("/api/search", json={"uploads": [told["upload"]]}).json()["results"][0]
    assert (first["name"], first["reasons"][0]["part"], first["reasons"][0]["raw"]) == (
        "red boat.png",
        "image",
        pytest.approx(1),
    )
    tone = upload(web, "hum.wav", sound(2.0)).json()
    assert (tone["modality"], tone["facts"], tone["picture"]) == ("audio", "0:02", None)
    assert web.get(tone["sound"], headers={"Range": "bytes=0-3"}).content == b"RIFF"
    mesh = upload(web, "box.off", b"OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n").json()
    assert (mesh["modality"], mesh["facts"]) == ("mesh", "4 faces")
    asked = {"text": "boat", "uploads": [tone["upload"], mesh["upload"]], "modalities": ["audio", "mesh"]}
    assert {one["name"] for one in web.post("/api/search", json=asked).json()["results"]} == {"tone.wav", "cube.obj"}
    assert web.delete(f"/api/uploads/{tone['upload']}").status_code == 204
    gone = web.post("/api/search", json={"uploads": [tone["upload"]]})
    assert (gone.status_code, error(gone)) == (404, ("not_found", "This file is no longer kept here. Add it again."))


def test_older_files_make_room(web):
    ids = [upload(web, "a.png", png(9 + at, 9)).json()["upload"] for at in range(4)]
    assert [web.get(f"/api/uploads/{one}").status_code for one in ids] == [404, 200, 200, 200]


@pytest.mark.parametrize(
    ("name", "data", "status", "says"),
    [
        ("bomb.png", bomb(60_000), 422, r"bomb\.png has .*pixels.*at most 4,000,000"),
        ("half.png", png(300, 300)[:200], 422, r"half\.png"),
        ("empty.png", b"", 422, r"empty\.png is empty"),
        ("page.png", b"<script>alert(1)</script>" * 9, 422, r"page\.png can't be decoded as a picture"),
        ("long.wav", sound(6.0), 422, r"long\.wav is longer than 5 s"),
        ("noise.mp3", np.random.default_rng(1).bytes(5000), 422, r"noise\.mp3"),
        ("many.off", b"OFF\n3 5000 0\n0 0 0\n1 0 0\n0 1 0\n" + b"3 0 1 2\n" * 5000, 422, r"many\.off .*1,000"),
        ("billions.off", b"OFF\n3000000000 3000000000 0\n0 0 0\n", 422, r"billions\.off"),
        (
            "leads-out.gltf",
            json.dumps({"asset": {"version": "2.0"}, "buffers": [{"byteLength": 9, "uri": "../../etc/passwd"}]}).encode(),
            422,
            r"leads-out\.gltf",
        ),
        ("letter.docx", b"PK", 415, "No decoder"),
        ("notes.txt", b"words", 415, "is a text"),
        ("../../../etc/passwd", b"root", 415, "No decoder for a name without an ending"),
        ("\0.png\0", b"", 415, "without an ending"),
        ("x" * 999 + ".png", b"no", 422, "can't be decoded"),
    ],
)
def test_hostile_files_are_refused_and_nothing_falls(web, name, data, status, says):
    answer = upload(web, name, data)
    assert answer.status_code == status
    code, message = error(answer)
    assert code == {415: "unsupported", 422: "not_understood"}[status]
    assert re.search(says, message)
    assert "llama-index-mm-upload" not in message
    assert web.get("/api/status").status_code == 200


def test_files_are_counted_while_they_arrive(web):
    stated = upload(web, "a.png", bytes(200_001))
    assert (stated.status_code, error(stated)[0]) == (413, "too_large")

    def stream():
        for _ in range(30):
            yield bytes(10_000)

    streamed = upload(web, "a.png", stream())  # chunked: nothing tells its length
    assert (streamed.status_code, error(streamed)[0]) == (413, "too_large")


def test_files_that_never_end_are_given_up(web):
    with socket.create_connection((web.base_url.host, web.base_url.port), timeout=20) as slow:
        head = f"POST /api/uploads?name=a.png HTTP/1.1\r\nHost: 127.0.0.1:{web.base_url.port}\r\nContent-Length: 1000\r\n\r\n"
        slow.sendall(head.encode() + b"\x89PNG")
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_no_file_stays_on_disk(web, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert upload(web, "a.png", png(9, 9)).status_code == 201
    assert upload(web, "b.png", b"broken").status_code == 422
    assert upload(web, "c.png", iter([bytes(150_000)] * 2)).status_code == 413
    assert list(tmp_path.iterdir()) == []


# -- answers ------------------------------------------------------------------------------------------------------------------


def test_an_answer_streams_its_sources_and_its_words(web, llm):
    answer = web.post("/api/ask", json={"text": "When is high tide?", "modalities": ["text"]})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    told = events(answer)
    kinds = [one["event"] for one in told]
    assert kinds[:2] == ["waiting", "sources"]
    assert kinds[-1] == "answered"
    assert set(kinds[2:-1]) == {"words"}
    assert told[0]["before"] == 0
    source = told[1]["results"][0]
    assert (source["number"], source["name"], source["text"]) == (1, "tide.txt", "High tide is at noon.")
    assert "".join(one["text"] for one in told if one["event"] == "words") == "At noon [1] or."
    assert (told[-1]["text"], told[-1]["cited"], told[-1]["left_out"]) == ("At noon [1] or.", [1], [])
    assert "High tide is at noon." in llm._read[-1]


def test_an_answer_from_a_file(web):
    taken = upload(web, "boat.png", png(60, 30)).json()["upload"]
    told = events(web.post("/api/ask", json={"text": "What is this?", "uploads": [taken], "modalities": ["image"], "k": 2}))
    assert {one["name"] for one in told[1]["results"]} == {"red boat.png", "blue door.png"}


def test_questions_are_answered_one_after_the_other(index):
    llm = Scripted(pause=0.01)
    llm._gate = threading.Event()
    with serving(index, llm=llm) as web:
        answers = []
        ask = lambda: answers.append(web.post("/api/ask", json={"text": "tide"}))  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 20
        while len(answers) < 3 and time.monotonic() < until:  # those that are refused
            time.sleep(0.01)
        llm._gate.set()
        for thread in threads:
            thread.join()
    assert llm._now == [0, 1]
    done = [events(one) for one in answers if one.status_code == 200]
    busy = [one for one in answers if one.status_code == 503]
    assert (len(done), len(busy)) == (3, 3)  # one at a time, and two that wait
    assert all(error(one)[0] == "busy" and one.headers["retry-after"] == "2" for one in busy)
    assert sorted(told[0]["before"] for told in done) == [0, 1, 2]
    assert all(told[-1]["event"] == "answered" for told in done)


def test_who_goes_away_stops_the_answer(index):
    llm = Scripted(words=("word ",) * 1000, pause=0.02)
    with serving(index, llm=llm) as web:
        with web.stream("POST", "/api/ask", json={"text": "tide"}) as response:
            lines = response.iter_lines()
            while json.loads(next(lines))["event"] != "words":
                pass
        assert llm._closed.wait(5)
        assert len(llm._said) < 100
        llm._closed.clear()
        again = web.stream("POST", "/api/ask", json={"text": "tide"})  # and the next one gets its turn
        with again as response:
            assert json.loads(next(response.iter_lines())) == {"event": "waiting", "before": 0}


def test_the_server_stops_in_the_middle_of_an_answer(index):
    llm = Scripted(words=("word ",) * 3000, pause=0.01)
    began = time.monotonic()
    with serving(index, llm=llm) as web:
        response = web.send(web.build_request("POST", "/api/ask", json={"text": "tide"}), stream=True)
        lines = response.iter_lines()
        while json.loads(next(lines))["event"] != "words":
            pass
    assert time.monotonic() - began < 15
    assert llm._closed.is_set()
    assert len(llm._said) < 3000


class Failing(Scripted):
    def stream_complete(self, prompt, formatted=False, **kwargs):
        def pieces():
            yield CompletionResponse(text="At", delta="At")
            raise RuntimeError("secret of the inside")

        return pieces()


def test_an_answer_that_fails_says_so_and_no_more(index):
    with serving(index, llm=Failing()) as web:
        told = events(web.post("/api/ask", json={"text": "tide"}))
    assert told[-1]["event"] == "error"
    assert told[-1]["error"] == {"code": "failed", "message": "This went wrong; the server's log tells more."}


def test_without_an_llm_it_says_so(index):
    with serving(index) as web:
        assert web.get("/api/status").json()["answers_with"] is None
        answer = web.post("/api/ask", json={"text": "tide"})
        assert (answer.status_code, error(answer)[0]) == (422, "not_understood")
        assert "no LLM" in error(answer)[1]


# -- wrong calls --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "Type what to look for"),
        ({"text": " \n"}, "Type what to look for"),
        ({"text": "a", "k": 0}, "k: .*greater than or equal to 1"),
        ({"text": "a", "k": 51}, "at most 50 results"),
        ({"text": "a" * 4001}, "text: .*at most 4000 characters"),
        ({"text": "a", "modalities": ["smell"]}, "modalities"),
        ({"text": "a", "path": "/etc/passwd"}, "path: Extra inputs"),
        ({"text": 7}, "text"),
        ([], "request"),
    ],
)
def test_wrong_searches(web, asked, says):
    answer = web.post("/api/search", json=asked)
    assert answer.status_code == 422
    assert re.search(says, error(answer)[1])


def test_other_wrong_calls(web):
    broken = web.post("/api/search", content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, error(broken)[0]) == (422, "not_understood")
    large = web.post("/api/search", json={"text": "a" * 70_000})
    assert (large.status_code, error(large)[0]) == (413, "too_large")
    chunks = web.post("/api/search", content=iter([b"a" * 50_000] * 2), headers={"content-type": "application/json"})
    assert (chunks.status_code, error(chunks)[0]) == (413, "too_large")
    for method, path, status in [
        ("GET", "/api/search", 405),
        ("PUT", "/api/status", 405),
        ("GET", "/api/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("POST", "/api/uploads", 422),
        ("GET", "/api/media/video/1", 422),
    ]:
        answer = web.request(method, path)
        assert answer.status_code == status, path
        error(answer)


# -- who may ask, and what for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", TRIES)
@pytest.mark.parametrize("form", ["picture", "sound", "mesh"])
def test_media_are_found_by_id_alone(web, form, given):
    for path in (given.replace("\x7f", "%7f").replace(" ", "%20").replace("\\", "%5c"), quote(given, safe="")):
        answer = web.get(f"/api/media/{form}/{path}")
        assert answer.status_code in (404, 422)
        assert error(answer)[0] in ("not_found", "not_understood")
        assert b"root:" not in answer.content


@pytest.mark.parametrize(
    "given", ["../web.py", "..%2fweb.py", "%2e%2e%2fweb.py", "/etc/passwd", "page.js/", "", "index", "__init__"]
)
def test_nothing_but_the_page_is_served(web, given):
    answer = web.get(f"/static/{given}")
    assert answer.status_code == 404
    error(answer)


def test_ids_of_another_kind(web, found):
    for form, name in [("sound", "red boat.png"), ("mesh", "red boat.png"), ("picture", "tide.txt"), ("picture", "tone.wav")]:
        answer = web.get(f"/api/media/{form}/{quote(found[name]['node_id'], safe='')}")
        assert (answer.status_code, error(answer)[0]) == (404, "not_found")
    unknown = web.post("/api/search", json={"like": ["/etc/passwd"]})
    assert (unknown.status_code, error(unknown)[0]) == (404, "not_found")


def test_files_that_changed_are_not_shown(make):
    path = make.picture("in/a.png", "red")
    with MultiModalIndex.open(make.folder / "index", preset=tiny_preset(), create=True) as index:
        index.ingest(make.folder / "in", num_workers=0)
        with serving(index) as web:
            address = web.post("/api/search", json={"text": "a"}).json()["results"][0]["picture"]
            assert web.get(address).status_code == 200
            path.unlink()
            path.symlink_to("/etc/passwd")
            answer = web.get(address)
            assert (answer.status_code, error(answer)) == (
                404,
                ("not_found", "The file is gone or has changed since it was indexed."),
            )


def test_names_that_are_no_text(tmp_path):
    nodes = [TextNode(text="a lone \ud800 surrogate", metadata={"file_name": "na\udcffme.txt"}, id_="one/two ü")]
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as index:
        try:
            index.insert_nodes(nodes)
        except UnicodeEncodeError:
            pytest.skip("the store takes no such text")
        with serving(index) as web:
            one = web.post("/api/search", json={"text": "lone"}).json()["results"][0]
    assert (one["name"], one["node_id"]) == ("na?me.txt", "one/two ü:0")


def test_every_response_forbids_the_rest(web, found):
    for answer in [
        web.get("/"),
        web.get("/static/page.js"),
        web.get("/api/status"),
        web.get("/api/nothing"),
        web.get(found["red boat.png"]["picture"]),
        web.get("/", headers={"Host": "evil.example"}),
        upload(web, "a.png", b""),
    ]:
        assert {key: answer.headers[key] for key in HEADERS} == dict(HEADERS)
    assert "unsafe" not in HEADERS["content-security-policy"]
    assert "http" not in HEADERS["content-security-policy"]


def test_the_page_names_nothing_elsewhere(web):
    page = web.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"\son\w+=|<style|style=|<script(?![^>]*src=)", page.text)
    for name in ("page.js", "cards.js", "api.js", "page.css", "cards.css", "viewer.js", "icon.svg"):
        answer = web.get(f"/static/{name}")
        assert answer.status_code == 200
        assert set(re.findall(r"https?://[^\s\"')]+", answer.text)) <= {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in answer.text


def test_other_names_of_the_host_are_refused(web):
    port = web.base_url.port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "", "[::1", "a b"):
        answer = web.get("/api/status", headers={"Host": host})
        assert answer.status_code in (400, 421), host
    for host in ("localhost", f"LOCALHOST:{port}", f"[::1]:{port}", "127.0.0.1:1"):
        assert web.get("/api/status", headers={"Host": host}).status_code == 200


def test_other_origins_are_refused(web):
    port = web.base_url.port
    for headers in [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{port + 1}"},
        {"Origin": "http://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ]:
        answer = web.post("/api/search", json={"text": "boat"}, headers=headers)
        assert (answer.status_code, error(answer)[0]) == (403, "forbidden"), headers
        assert web.delete("/api/uploads/x", headers=headers).status_code == 403
    assert web.get("/api/status", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    own = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    assert web.post("/api/search", json={"text": "boat"}, headers=own).status_code == 200
    assert web.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to the page


def test_a_token_is_needed_once(index):
    with serving(index, token=TOKEN, host="0.0.0.0") as web:
        for answer in (web.get("/api/status"), web.post("/api/search", json={"text": "a"}), web.get("/static/page.js")):
            assert (answer.status_code, error(answer)[0]) == (401, "token_needed")
        assert web.get("/").status_code == 401
        for given in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ünïcode"):
            assert web.get("/", params={"token": given}).status_code == 401
            bearer = {"Authorization": f"Bearer {given}".strip().encode()}
            assert web.get("/api/status", headers=bearer).status_code == 401
        assert web.get("/api/status", params={"token": TOKEN}).status_code == 401  # only where a person arrives
        assert web.get("/api/status", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        first = web.get("/", params={"token": TOKEN, "x": "1"})
        assert (first.status_code, first.headers["location"]) == (303, "/?x=1")
        cookie = first.headers["set-cookie"]
        assert cookie.endswith("; HttpOnly; SameSite=Lax; Path=/")
        assert TOKEN not in cookie
        assert web.get("/").status_code == 200  # the client keeps its cookies
        assert web.post("/api/search", json={"text": "boat"}).status_code == 200
        web.cookies.clear()
        wrong = {"Cookie": cookie.partition(";")[0][:-1] + "x"}
        assert web.get("/api/status", headers=wrong).status_code == 401
        assert web.get("/api/status", headers={"Cookie": f"llama_index_mm_{web.base_url.port}={TOKEN}"}).status_code == 401


@pytest.mark.parametrize(
    ("host", "allowed", "names"),
    [
        ("127.0.0.1", (), {"127.0.0.1", "localhost", "[::1]"}),
        ("::1", ("Media.Local",), {"127.0.0.1", "localhost", "[::1]", "media.local"}),
        ("0.0.0.0", (), None),
        ("0.0.0.0", ("media.example",), {"media.example"}),
        ("192.168.1.5", (), {"192.168.1.5"}),
        ("fe80::5", (), {"[fe80::5]"}),
    ],
)
def test_names(host, allowed, names):
    assert names_of(host, allowed) == names


def test_tokens_have_to_be_there_and_long(index):
    check_token("localhost", None)
    check_token("0.0.0.0", TOKEN)
    for host, token in [
        ("0.0.0.0", None),
        ("192.168.1.5", None),
        ("", None),
        ("127.0.0.1", "short"),
        ("::", "with space in it!"),
    ]:
        with pytest.raises(QueryError, match="Expected a token"):
            check_token(host, token)
    with pytest.raises(QueryError, match="Expected a token"):
        make_app(index, host="0.0.0.0")


def test_addresses_to_open():
    assert address_to_open("127.0.0.1", 8080, None) == "http://127.0.0.1:8080/"
    assert address_to_open("0.0.0.0", 80, "a&b") == "http://127.0.0.1:80/?token=a%26b"
    assert address_to_open("::", 80, None) == "http://[::1]:80/"
    assert address_to_open("media.example", 80, None) == "http://media.example:80/"


# -- many at once -------------------------------------------------------------------------------------------------------------


async def test_fifty_at_once(web, found):
    sound_of = found["tone.wav"]["sound"]
    port = web.base_url.port
    data = png(50, 50)

    async def one(client, at):
        if at % 5 == 0:
            return await client.get(sound_of, headers={"Range": "bytes=0-43"})
        if at % 5 == 1:
            return await client.post("/api/uploads", params={"name": f"{at}.png"}, content=data)
        if at % 5 == 2:
            return await client.get("/api/status")
        return await client.post("/api/search", json={"text": f"boat {at}", "k": 1 + at % 4})

    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as client:
        answers = await asyncio.gather(*(one(client, at) for at in range(50)))
    assert [answer.status_code for answer in answers] == [(206, 201, 200, 200, 200)[at % 5] for at in range(50)]
    assert [len(answers[at].json()["results"]) for at in range(50) if at % 5 > 2] == [
        1 + at % 4 for at in range(50) if at % 5 > 2
    ]


async def test_too_many_searches_are_told_to_come_again(index):
    limits = WebLimits(searches=1, waiting_searches=1)
    with serving(index, limits=limits) as web:
        async with httpx.AsyncClient(base_url=web.base_url, timeout=60) as client:
            answers = await asyncio.gather(*(client.post("/api/search", json={"text": "boat"}) for _ in range(30)))
        codes = {answer.status_code for answer in answers}
        assert codes <= {200, 503}
        assert 200 in codes
        assert web.get("/api/status").json()["searches"] == 0


# -- on the command line ------------------------------------------------------------------------------------------------------


def test_the_command_refuses_before_it_loads_anything(tmp_path):
    done = CliRunner().invoke(cli, ["serve", "--store", str(tmp_path), "--host", "0.0.0.0", "--token", "short"])
    assert isinstance(done.exception, QueryError)
    assert "at least 16" in str(done.exception)


def test_the_command_makes_up_a_token(files, monkeypatch):
    started = {}
    monkeypatch.setattr("llama_index_mm.index.load_preset", lambda name: tiny_preset(name))  # the same without weights
    monkeypatch.setattr("uvicorn.run", lambda app, **options: started.update(options))
    runner = CliRunner()
    done = runner.invoke(cli, ["serve", "--store", str(files / "index"), "--port", "8123"])
    assert (done.exit_code, done.output) == (0, "Open http://127.0.0.1:8123/ (Ctrl-C stops it)\n")
    assert (started["host"], started["port"], started["access_log"]) == ("127.0.0.1", 8123, False)
    done = runner.invoke(cli, ["serve", "--store", str(files / "index"), "--host", "0.0.0.0"])
    assert re.fullmatch(r"Open http://127\.0\.0\.1:8080/\?token=[\w-]{32} \(Ctrl-C stops it\)\n", done.output)
    done = runner.invoke(cli, ["serve", "--store", str(files / "index"), "--token", TOKEN])
    assert TOKEN not in done.output
