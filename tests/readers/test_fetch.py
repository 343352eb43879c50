"""Fetching from a server of our own, and refusing to ask others that nobody should be made to ask."""

import gzip
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llama_index_mm.errors import DecodeError
from llama_index_mm.readers.fetch import FetchLimits, fetch

PRIVATE = FetchLimits(allow_private=True)
JPEG = b"\xff\xd8\xff" + b"x" * 1000


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status=200, data=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        path = self.path.split("?")[0]
        self.server.asked.append(self.path)
        if path == "/photo":
            self.answer(data=JPEG, Content_Type="image/jpeg; charset=x")
        elif path == "/a%20b.png":
            self.answer(data=b"png")
        elif path == "/moved":
            self.answer(302, Location="/photo")
        elif path == "/around":
            self.answer(302, Location="/around")
        elif path == "/inside":
            self.answer(302, Location="http://169.254.169.254/latest/meta-data")
        elif path == "/file":
            self.answer(302, Location="file:///etc/passwd")
        elif path == "/bomb":
            self.answer(data=gzip.compress(b"\0" * 10_000_000), Content_Encoding="gzip")
        elif path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        elif path == "/slow-head":
            for _ in range(100):
                self.wfile.write(b"HTTP/1.0 200 OK\r\n" if _ == 0 else b"A: b\r\n")
                self.wfile.flush()
                time.sleep(0.05)
        elif path == "/torn":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x")
        elif path == "/nothing":
            self.answer()
        else:
            self.answer(404)


@pytest.fixture(scope="module")
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked = []
    made.handle_error = lambda *_: None  # clients that hang up
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server.server_port}"


def refusal(address, limits=None):
    with pytest.raises(DecodeError) as caught:
        fetch(address, limits)
    return str(caught.value)


def test_fetch(url):
    found = fetch(url + "/photo?token=secret", PRIVATE)
    assert (found.data, found.name, found.url) == (JPEG, "photo.jpg", url + "/photo?token=secret")
    assert fetch(url + "/a%20b.png", PRIVATE).name == "a b.png"
    assert fetch(url + "/moved", PRIVATE).url == url + "/photo"


@pytest.mark.parametrize(
    ("path", "limits", "message"),
    [
        ("/none?token=secret", PRIVATE, "/none can't be fetched: the server answers 404."),
        ("/nothing", PRIVATE, "/nothing is empty (0 bytes)."),
        ("/around", PRIVATE, "/around can't be fetched: Exceeded maximum allowed redirects"),
        ("/torn", PRIVATE, "/torn can't be fetched: peer closed connection"),
        ("/photo", FetchLimits(max_bytes=999, allow_private=True), "/photo has more than 999 bytes, which is the limit"),
        ("/bomb", FetchLimits(max_bytes=10**6, allow_private=True), "/bomb has more than 1,000,000 bytes"),
        ("/slow", FetchLimits(seconds=0.3, allow_private=True), "/slow took longer than 0.3 s"),
        ("/slow-head", FetchLimits(seconds=0.3, allow_private=True), "/slow-head took longer than 0.3 s"),
        ("/file", PRIVATE, "/file can't be fetched: Request URL has an unsupported protocol 'file://'."),
    ],
)
def test_what_can_not_be_fetched(url, path, limits, message):
    assert refusal(url + path, limits).startswith(url + message)


ADDRESSES = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0.0.0.0",
    "localhost",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[fe80::1]",
    "[fc00::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[ff02::1]",
]


@pytest.mark.parametrize("host", ADDRESSES)
def test_addresses_inside_are_not_asked(server, host):
    server.asked.clear()
    message = refusal(f"http://{host}:{server.server_port}/photo")
    assert "private, loopback or link-local" in message or "can't be fetched" in message  # names that some systems don't know
    assert server.asked == []


def test_a_name_with_one_address_inside_is_not_asked(server, monkeypatch):
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 80)) for one in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    assert refusal("http://example.com/photo").startswith("example.com is not asked: its address 127.0.0.1 is private")


def test_the_address_that_was_checked_is_the_one_asked(server, monkeypatch):
    """A name whose address changes between the look and the call."""
    looked_up, asked = [], []

    def changing(host, port, **_):
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34" if len(looked_up) == 1 else "127.0.0.1", port))]

    def connect(address, *_, **__):
        asked.append(address[0])
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert "can't be fetched" in refusal("http://example.com/photo")
    assert (looked_up, asked) == (["example.com"], ["93.184.216.34"])


def test_a_redirect_to_the_inside_is_not_followed(server, url, monkeypatch):
    from llama_index_mm.readers import fetch as module

    known = module._is_global
    monkeypatch.setattr(module, "_is_global", lambda address: address == "127.0.0.1" or known(address))
    assert refusal(url + "/inside").startswith("169.254.169.254 is not asked: its address 169.254.169.254 is private")


@pytest.mark.parametrize(
    "given", ["file:///etc/passwd", "ftp://example.com/a.png", "gopher://x", "/etc/passwd", "data:,a", "a.png"]
)
def test_other_schemes(given):
    assert refusal(given).endswith("is not fetched: only http and https are.")


def test_a_name_that_is_not_there():
    assert "can't be fetched: nowhere.invalid has no address" in refusal("http://nowhere.invalid/a.png")


def test_odd_addresses():
    for given in ("http://", "http://[::1", "http://a b/", "http://example.com:99999/"):
        assert refusal(given)
