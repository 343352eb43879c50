"""Who may ask the web page, from where, and how much: the first thing that a request meets."""

import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from llama_index_mm.server.transports import is_loopback
from llama_index_mm.server.web_errors import RefusedError, failure_of, refusal_of

__all__ = ["HEADERS", "Guard", "names_of"]

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
"""Headers of every response."""

_ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - looked for, not bound to
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_READING = ("GET", "HEAD")
_COOKIE = "llama_index_mm_{port}"
_logger = logging.getLogger(__name__)

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def names_of(host: str, allowed: Collection[str] = ()) -> frozenset[str] | None:
    """Names by which a server may be called, so that no other page gets to it by DNS rebinding; None for any.

    Args:
        host: that it is bound to. Where that is all interfaces, and no names are given, every name is taken: then the token is
            what protects it.
        allowed: further names, without port.
    """
    names = [f"[{name}]" if ":" in name and not name.startswith("[") else name for name in allowed]
    if is_loopback(host):
        names += ["127.0.0.1", "localhost", "[::1]"]
    if host not in _ANYWHERE:
        names.append(f"[{host}]" if ":" in host else host)
    return frozenset(name.lower() for name in names) or None


class Guard:
    """ASGI middleware that lets through only requests that name this server, come from its own page, and have the token.

    - ``Host`` must be one of the names, against DNS rebinding.
    - What writes or computes must come from the page itself or from no page: ``Origin`` must be this server, and browsers'
      ``Sec-Fetch-Site`` must not say otherwise; neither may other pages embed what the API gives.
    - The token is taken as ``Authorization: Bearer TOKEN``, or once as ``/?token=TOKEN``, which becomes a cookie that
      scripts can't read and that other sites' requests don't carry. It is compared in constant time.
    - Bodies are bounded while they arrive, whatever ``Content-Length`` says.
    - Every response gets `HEADERS`, and every error the form of `Failure`; nobody is told a traceback.

    Args:
        app: what requests are for.
        names: see `names_of`.
        token: None if none is needed.
        request_bytes: of bodies, but for those of uploads.
        upload_bytes: of bodies that are sent to ``/api/uploads``.
    """

    def __init__(
        self, app: _App, *, names: frozenset[str] | None, token: str | None, request_bytes: int, upload_bytes: int
    ) -> None:
        self._app = app
        self._names = names
        self._token = None if token is None else token.encode()
        # What the cookie holds can't be used as the token.
        self._pass = None if token is None else hmac.new(token.encode(), b"cookie", hashlib.sha256).hexdigest()
        self._request_bytes, self._upload_bytes = request_bytes, upload_bytes

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the server closes what is no HTTP
        begun = False

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": _with_headers(message.get("headers", ()))}
            await send(message)

        try:
            headers = _headers(scope)
            self._check_names(scope, headers)
            if (given := self._arriving(scope, headers)) is not None:
                await _respond(guarded, 303, [("location", given), ("set-cookie", self._cookie(scope))], b"")
                return
            self._check_token(scope, headers)
            await self._app(scope, self._bounded(scope, headers, receive), guarded)
        except Exception as error:
            refused = refusal_of(error)
            if refused is None or refused.status == 500:
                _logger.exception("%s %s failed.", scope["method"], scope["path"])
            if not begun:
                await _refuse(guarded, refused or RefusedError(500, "This went wrong; the server's log tells more."), scope)
            elif refused is None:
                raise

    def _check_names(self, scope: _Scope, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        found = _HOST.fullmatch(host)
        if found is None or (self._names is not None and found[1].lower() not in self._names):
            raise RefusedError(
                421, f"This server isn't known as {host[:80]!r}. Call it by its own name, or start it with --allow-host."
            )
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        origin = headers.get("origin")
        if scope["method"] not in _READING and (foreign or (origin is not None and urlsplit(origin).netloc != host)):
            raise RefusedError(403, "This request comes from another page, which may not use this server.")
        if foreign and scope["path"].startswith("/api/"):
            raise RefusedError(403, "Another page tries to show what is in this index, which it may not.")

    def _arriving(self, scope: _Scope, headers: Mapping[str, str]) -> str | None:
        """Where a first visit with the token goes on; None if this is none."""
        if self._token is None or scope["path"] != "/" or scope["method"] != "GET":
            return None
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in asked if name == "token"]
        if len(given) != 1 or not hmac.compare_digest(given[0].encode(), self._token):
            return None
        rest = urlencode([one for one in asked if one[0] != "token"])
        return f"/?{rest}" if rest else "/"

    def _check_token(self, scope: _Scope, headers: Mapping[str, str]) -> None:
        if self._token is None or self._pass is None:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
            return
        try:
            held = SimpleCookie(headers.get("cookie", "")).get(self._cookie_name(scope))
        except CookieError:
            held = None
        if held is None or not hmac.compare_digest(held.value.encode(), self._pass.encode()):
            raise RefusedError(
                401, "A token is needed. Open the address that llama-index-mm serve printed, or send Authorization: Bearer."
            )

    def _cookie_name(self, scope: _Scope) -> str:
        """Ports of a host share their cookies, so each has a name of its own."""
        return _COOKIE.format(port=(scope.get("server") or ("", 0))[1] or 0)

    def _cookie(self, scope: _Scope) -> str:
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        return f"{self._cookie_name(scope)}={self._pass}; HttpOnly; SameSite=Lax; Path=/{secure}"

    def _bounded(self, scope: _Scope, headers: Mapping[str, str], receive: _Receive) -> _Receive:
        """What receives a body until it is too large."""
        most = self._upload_bytes if scope["path"] == "/api/uploads" else self._request_bytes
        too_large = f"At most {most:,} bytes are taken here."
        stated = headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > most:
            raise RefusedError(413, f"{too_large} These are {int(stated):,}.")
        count = 0

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > most:
                from starlette.exceptions import HTTPException  # which FastAPI lets through

                raise HTTPException(413, too_large)
            return message

        return bounded


def _headers(scope: _Scope) -> Mapping[str, str]:
    """Headers by their names; where one that decides is there twice, the request is refused."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in found and key in ("host", "origin", "authorization", "content-length"):
            raise RefusedError(400, f"The header {key} is there more than once.")
        found[key] = value.decode("latin-1")
    return found


def _with_headers(given: Any) -> list[tuple[bytes, bytes]]:
    kept = list(given)
    there = {name.lower() for name, _ in kept}
    added = {"cache-control": "no-store", **HEADERS}
    return kept + [(key.encode(), value.encode()) for key, value in added.items() if key.encode() not in there]


async def _refuse(send: _Send, refused: RefusedError, scope: _Scope) -> None:
    more = [("retry-after", "2")] if refused.status == 503 else []
    if refused.status == 401 and scope["path"] == "/":
        await _respond(send, 401, [("content-type", "text/plain; charset=utf-8")], str(refused).encode())
        return
    body = failure_of(refused).model_dump_json().encode()
    await _respond(send, refused.status, [("content-type", "application/json"), *more], body)


async def _respond(send: _Send, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    told = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in [*headers, ("content-length", str(len(body)))]]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})
