"""The web page over an index, and its JSON API. It only reads.

FastAPI speaks HTTP: https://fastapi.tiangolo.com. The page is plain HTML, CSS and JavaScript, and fetches nothing from
elsewhere.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

from llama_index.core.llms.llm import LLM

from llama_index_mm._optional import require
from llama_index_mm.display.style import STYLE
from llama_index_mm.display.viewer import SCRIPT
from llama_index_mm.errors import QueryError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.server.transports import is_loopback
from llama_index_mm.server.web_api import Asked, Failure, Found, Status, Uploaded
from llama_index_mm.server.web_errors import RefusedError
from llama_index_mm.server.web_guard import Guard, names_of
from llama_index_mm.server.web_limits import WebLimits
from llama_index_mm.server.web_media import Form, Ready, span_of
from llama_index_mm.server.web_service import AnswerEvent, WebService
from llama_index_mm.server.web_uploads import Upload

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["check_token", "make_app"]

_LEAST_TOKEN = 16  # characters
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def check_token(host: str, token: str | None) -> None:
    """See that whoever reaches a server on this host needs a token that can't be guessed.

    Raises:
        QueryError: there is none and the host is not loopback, or it is short.
    """
    if token is None:
        if not is_loopback(host):
            raise QueryError(
                f"Expected a token, since others can reach {host or 'all addresses'}: give --token, or --host 127.0.0.1."
            )
    elif len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise QueryError(f"Expected a token of at least {_LEAST_TOKEN} letters, digits and signs of ASCII, got {len(token)}.")


def make_app(
    index: MultiModalIndex,
    *,
    llm: LLM | None = None,
    host: str = "127.0.0.1",
    allowed_hosts: Collection[str] = (),
    token: str | None = None,
    limits: WebLimits | None = None,
) -> "FastAPI":
    """Make the ASGI app of an index, for uvicorn or another server.

    Searching, decoding and answering run in threads, files that are asked with are decoded in other processes. Everything is
    guarded by `Guard`.

    Args:
        index: what is searched. It has to stay open.
        llm: what answers; default is the preset's own. Without any, the page searches alone.
        host: that the server will listen on; it decides which names it may be called by.
        allowed_hosts: further names, such as that of a proxy before it.
        token: that visitors need; None is taken for loopback only.
        limits: on what is taken, kept and done at a time.

    Raises:
        MissingExtraError: the package fastapi is not installed.
        QueryError: ``host`` is not loopback and there is no token, or the token is short.
    """
    require("fastapi", extra="serve")
    from fastapi import FastAPI, Header, Path, Query, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import StreamingResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    import llama_index_mm

    check_token(host, token)
    limits = limits or WebLimits()
    files = {
        **_static(),
        "cards.css": Ready(STYLE.encode(), _TYPES[".css"]),
        "viewer.js": Ready(SCRIPT.encode(), _TYPES[".js"]),
    }
    held: dict[str, WebService] = {}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        held["service"] = WebService(index, llm, limits)
        try:
            yield
        finally:
            held.pop("service").close()

    app = FastAPI(
        title="llama-index-mm",
        description="Pictures, recordings, 3D models and texts: search and ask.",
        version=llama_index_mm.__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses={"4XX": {"model": Failure}, "5XX": {"model": Failure}},
    )
    app.add_middleware(
        Guard,
        names=names_of(host, allowed_hosts),
        token=token,
        request_bytes=limits.request_bytes,
        upload_bytes=limits.uploads.file_bytes,
    )

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        raise RefusedError(error.status_code, str(error.detail))  # to the guard, which gives errors their form

    @app.exception_handler(RequestValidationError)
    async def not_understood(_: Request, error: RequestValidationError) -> Response:
        wrong = [f"{'.'.join(map(str, one['loc'][1:])) or 'request'}: {one['msg']}" for one in error.errors()]
        raise RefusedError(422, "; ".join(wrong))

    def service() -> WebService:
        return held["service"]

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(files["index.html"].data, media_type=files["index.html"].mimetype)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in files:
            raise RefusedError(404, "There is no such page.")
        return Response(files[name].data, media_type=files[name].mimetype, headers={"cache-control": "no-cache"})

    @app.get("/api/status")
    def status() -> Status:
        """Tell what is in the index, and what the server takes."""
        return service().status()

    @app.post("/api/search")
    async def search(asked: Asked) -> Found:
        """Find things by words, by uploaded files, by results, or by several of these at once."""
        return await service().search(asked)

    @app.post(
        "/api/ask",
        response_class=StreamingResponse,
        responses={200: {"description": "Events, one JSON object a line.", "content": {"application/x-ndjson": {}}}},
    )
    async def ask(asked: Asked) -> Any:
        """Answer a question. Lines: waiting, sources, words again and again, then answered or error. Closing it stops it."""
        events = await service().answer(asked)
        return StreamingResponse(_lines(events), media_type="application/x-ndjson", headers={"x-accel-buffering": "no"})

    @app.post("/api/uploads", status_code=201)
    async def upload(
        request: Request, name: Annotated[str, Query(min_length=1, max_length=1024, description="Of the file.")]
    ) -> Uploaded:
        """Take a file to ask with; the body is the file itself."""
        try:
            upload_id, taken = await service().uploads.receive(name, request.stream())
        except ClientDisconnect:
            raise RefusedError(400, "The file broke off.") from None
        return _uploaded(upload_id, taken)

    @app.get("/api/uploads/{upload_id}", response_class=Response)
    async def preview(
        upload_id: Annotated[str, Path(max_length=64)], asked_range: Annotated[str | None, Header(alias="range")] = None
    ) -> Response:
        """Show an uploaded file, encoded anew."""
        return part(service().uploads.get(upload_id).preview, asked_range)

    @app.delete("/api/uploads/{upload_id}", status_code=204)
    async def forget(upload_id: Annotated[str, Path(max_length=64)]) -> None:
        """Let an uploaded file go."""
        service().uploads.drop(upload_id)

    @app.get("/api/media/{form}/{node_id:path}", response_class=Response)
    async def media(
        form: Form,
        node_id: Annotated[str, Path(min_length=1, max_length=4096)],
        asked_range: Annotated[str | None, Header(alias="range")] = None,
    ) -> Response:
        """Give a result's picture (or views of a mesh), the sound of its span, or its mesh, by its id."""
        return part(await service().show(form, node_id), asked_range)

    def part(ready: Ready, asked_range: str | None) -> Response:
        size = len(ready.data)
        span = span_of(asked_range, size)
        headers = {"accept-ranges": "bytes", "cache-control": "private, max-age=300", "content-disposition": "inline"}
        if span is None:
            return Response(ready.data, media_type=ready.mimetype, headers=headers)
        headers["content-range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
        return Response(ready.data[span[0] : span[1]], 206, media_type=ready.mimetype, headers=headers)

    return app


def _static() -> dict[str, Ready]:
    """The files of the page, read once; nothing else is ever served."""
    folder = resources.files(__package__).joinpath("static")
    found = {}
    for file in folder.iterdir():
        ending = file.name[file.name.rfind(".") :]
        if ending in _TYPES:
            found[file.name] = Ready(file.read_bytes(), _TYPES[ending])
    return found


async def _lines(events: Any) -> AsyncIterator[str]:
    try:
        async for event in events:
            told: AnswerEvent = event
            yield told.model_dump_json() + "\n"
    finally:
        await events.aclose()


def _uploaded(upload_id: str, taken: Upload) -> Uploaded:
    address = f"/api/uploads/{upload_id}"
    sound = taken.modality == "audio"
    return Uploaded(
        upload=upload_id,
        name=taken.name,
        modality=taken.modality,
        facts=taken.facts,
        picture=None if sound else address,
        sound=address if sound else None,
    )
