"""Bytes from the web, with limits on size and time, and not from inside one's own network."""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import httpcore
import httpx

from llama_index_mm.errors import DecodeError

__all__ = ["FetchLimits", "Fetched", "fetch"]

_AGENT = "llama-index-mm"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses behind IPv6
_SUFFIXES = {  # of media whose address has no ending that tells
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tif",
    "image/avif": ".avif",
    "image/heic": ".heic",
    "image/jp2": ".jp2",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/flac": ".flac",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
    "audio/mp4": ".m4a",
    "audio/aac": ".aac",
    "audio/opus": ".opus",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "video/quicktime": ".mov",
    "video/x-matroska": ".mkv",
    "model/gltf+json": ".gltf",
    "model/gltf-binary": ".glb",
    "model/obj": ".obj",
    "model/stl": ".stl",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "application/pdf": ".pdf",
}


@dataclass(frozen=True)
class FetchLimits:
    """What a fetch may take.

    Attributes:
        max_bytes: of content, after decompression.
        seconds: in all.
        redirects: how many are followed.
        allow_private: whether loopback, private, link-local and other addresses that are not global may be asked.
    """

    max_bytes: int = 200 * 2**20
    seconds: float = 60.0
    redirects: int = 5
    allow_private: bool = False


@dataclass(frozen=True)
class Fetched:
    """What came.

    Attributes:
        data: the content.
        name: a file name with an ending that tells the kind.
        url: where it came from, after redirects.
    """

    data: bytes
    name: str
    url: str


def fetch(url: str, limits: FetchLimits | None = None) -> Fetched:
    """Fetch a file over HTTP or HTTPS.

    The address that is connected to is the one that was checked, for every redirect too, so that a name that changes its
    address in between gains nothing. Proxies of the environment are not used, for behind one nothing could be checked.

    Raises:
        DecodeError: another scheme, an address that is not global, too large, too slow, or an answer other than 200.
    """
    limits = limits or FetchLimits()
    deadline = time.monotonic() + limits.seconds
    shown = url.split("?", 1)[0]
    if url.split(":", 1)[0].lower() not in ("http", "https"):
        raise DecodeError(f"{shown} is not fetched: only http and https are.")
    try:
        with (
            httpx.Client(
                transport=_Transport(limits, deadline),
                follow_redirects=True,
                max_redirects=limits.redirects,
                timeout=limits.seconds,
                headers={"User-Agent": _AGENT},
            ) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != 200:
                raise DecodeError(f"{shown} can't be fetched: the server answers {response.status_code}.")
            data = _read(response, limits, deadline, shown)
            kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
            return Fetched(data, _name(str(response.url), kind), str(response.url))
    except DecodeError:
        raise
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        if time.monotonic() > deadline:
            raise DecodeError(_too_slow(shown, limits)) from error
        raise DecodeError(f"{shown} can't be fetched: {error or type(error).__name__}.") from error


def _read(response: httpx.Response, limits: FetchLimits, deadline: float, shown: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    for part in response.iter_bytes(2**16):
        size += len(part)
        if size > limits.max_bytes:
            raise DecodeError(f"{shown} has more than {limits.max_bytes:,} bytes, which is the limit (FetchLimits.max_bytes).")
        if time.monotonic() > deadline:
            raise DecodeError(_too_slow(shown, limits))
        parts.append(part)
    if not size:
        raise DecodeError(f"{shown} is empty (0 bytes).")
    return b"".join(parts)


def _too_slow(shown: str, limits: FetchLimits) -> str:
    return f"{shown} took longer than {limits.seconds:g} s, which is the limit (FetchLimits.seconds)."


def _name(url: str, kind: str) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name or urlsplit(url).hostname or "file"
    told = _SUFFIXES.get(kind)
    return name if told is None or PurePosixPath(name).suffix else name + told


class _Transport(httpx.BaseTransport):
    """HTTP whose connections are made by `_Network`."""

    def __init__(self, limits: FetchLimits, deadline: float) -> None:
        network = _Network(limits, deadline)
        self._pool = httpcore.ConnectionPool(ssl_context=ssl.create_default_context(), network_backend=network)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path
        )
        stream: Any = request.stream
        try:
            answer = self._pool.handle_request(
                httpcore.Request(
                    request.method, url, headers=request.headers.raw, content=stream, extensions=request.extensions
                )
            )
        except (
            httpcore.NetworkError,
            httpcore.TimeoutException,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
        ) as error:
            raise httpx.TransportError(str(error) or type(error).__name__) from error
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Stream(answer.stream), extensions=answer.extensions
        )

    def close(self) -> None:
        self._pool.close()


class _Stream(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise httpx.TransportError(str(error) or type(error).__name__) from error

    def close(self) -> None:
        if hasattr(self._stream, "close"):
            self._stream.close()


class _Network(httpcore.SyncBackend):
    """Connections to checked addresses only."""

    def __init__(self, limits: FetchLimits, deadline: float) -> None:
        self._limits = limits
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Look the name up, refuse it if any of its addresses is not global, and connect to one of these addresses."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} has no address ({error})") from error
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        if not self._limits.allow_private and (inside := [one for one in addresses if not _is_global(one)]):
            raise DecodeError(
                f"{host} is not asked: its address {inside[0]} is private, loopback or link-local. "
                "If that is meant, set FetchLimits(allow_private=True)."
            )
        last: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return _Timed(super().connect_tcp(address, port, timeout, local_address, socket_options), self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last


class _Timed(httpcore.NetworkStream):
    """A connection that ends at a moment, however slowly its other side sends."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def _left(self, timeout: float | None) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("time is up")
        return left if timeout is None else min(left, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, self._left(timeout)), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _is_global(address: str) -> bool:
    """Whether an address belongs to the internet at large; addresses within addresses are looked at too."""
    one = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(one, ipaddress.IPv6Address):
        inner = one.ipv4_mapped or one.sixtofour or (one.teredo[1] if one.teredo else None)
        if one in _NAT64:
            inner = ipaddress.IPv4Address(int(one) & 0xFFFFFFFF)
        if inner is not None:
            return _is_global(str(inner))
    return one.is_global and not one.is_multicast
