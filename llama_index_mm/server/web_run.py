"""Run the web page until it is stopped."""

from collections.abc import Collection
from urllib.parse import urlencode

from llama_index.core.llms.llm import LLM

from llama_index_mm._optional import require
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.server.web import make_app
from llama_index_mm.server.web_limits import WebLimits

__all__ = ["address_to_open", "run_web"]

_STOPPING_SECONDS = 5  # that requests get to end when the server stops
_CONNECTIONS = 500


def address_to_open(host: str, port: int, token: str | None) -> str:
    """The address for a browser on this machine, with the token if one is needed."""
    name = "127.0.0.1" if host in ("0.0.0.0", "") else "::1" if host == "::" else host  # noqa: S104 - looked for, not bound to
    name = f"[{name}]" if ":" in name else name
    asked = "?" + urlencode({"token": token}) if token is not None else ""
    return f"http://{name}:{port}/{asked}"


def run_web(
    index: MultiModalIndex,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    llm: LLM | None = None,
    limits: WebLimits | None = None,
) -> None:
    """Serve the page by uvicorn, until it is told to stop (Ctrl-C, or SIGTERM).

    Args:
        index: what is searched.
        host: address to listen on.
        port: to listen on.
        token: as `make_app` takes it.
        allowed_hosts: as `make_app` takes them.
        llm: what answers; default is the preset's own.
        limits: on what is taken, kept and done at a time.

    Raises:
        MissingExtraError: fastapi or uvicorn is not installed.
        QueryError: ``host`` is not loopback and there is no token, or the token is short.
    """
    uvicorn = require("uvicorn", extra="serve")
    app = make_app(index, llm=llm, host=host, allowed_hosts=allowed_hosts, token=token, limits=limits)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,  # questions are nobody's business, and the first visit has the token in its address
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_STOPPING_SECONDS,
    )
