"""``llama-index-mm serve``: a web page over an index."""

import secrets
from typing import Annotated

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import DEFAULT_STORE, Quiet, Store

__all__ = ["serve"]


def serve(
    store: Store = DEFAULT_STORE,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8080,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="LLAMA_INDEX_MM_TOKEN", help="That visitors need; made up where needed."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Further name that the server is called by. Repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as a line of JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Serve a web page on which to search and ask: by words, pictures, sounds and 3D models. It only reads."""
    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.server.transports import is_loopback
    from llama_index_mm.server.web import check_token
    from llama_index_mm.server.web_run import address_to_open, run_web

    if made_up := token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    check_token(host, token)  # before the models are loaded
    with MultiModalIndex.open(store) as index:
        address = address_to_open(host, port, token if made_up else None)
        first = " the first time with ?token= and the token" if token and not made_up else ""
        output.told(f"Open {address}{first} (Ctrl-C stops it)")
        if as_json:
            output.print_json({"address": address, "token": token if made_up else None}, lines=True)
        run_web(index, host=host, port=port, token=token, allowed_hosts=tuple(allow_host or ()))
