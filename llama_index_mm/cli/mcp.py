"""``llama-index-mm mcp``: an index as a server for agents of other programs."""

import secrets
from pathlib import Path
from typing import Annotated, Literal

import typer

from llama_index_mm.cli import output
from llama_index_mm.cli.options import DEFAULT_STORE, Quiet, Store

__all__ = ["mcp"]


def mcp(
    store: Store = DEFAULT_STORE,
    transport: Annotated[
        Literal["stdio", "http"], typer.Option("--transport", help="stdio: the client starts this program; http: it connects.")
    ] = "stdio",
    host: Annotated[
        str, typer.Option("--host", help="http: address to listen on; others than loopback need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="http: port to listen on.")] = 8765,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="LLAMA_INDEX_MM_TOKEN", help="http: that clients must send; made up where needed."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="http: further name that clients call it by. Repeatable.")
    ] = None,
    media_root: Annotated[
        list[Path] | None, typer.Option("--media-root", help="Folder whose files may be asked with. Repeatable.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, max=20, help="Results of a search that doesn't say.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="http: print the address as a line of JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Serve an index to agents by the Model Context Protocol: search, get_media, ask, index_status. It only reads.

    On stdio, standard output is the protocol's; all else goes to standard error.
    """
    if as_json and transport == "stdio":
        raise typer.BadParameter("On stdio there is no address, and standard output is the protocol's.", param_hint="--json")

    from llama_index_mm.index import MultiModalIndex
    from llama_index_mm.server.mcp import make_server
    from llama_index_mm.server.transports import clean_stdout, http_security, is_loopback

    if made_up := transport == "http" and token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
        output.told(f"Clients must send: Authorization: Bearer {token}")
    with clean_stdout():
        index = MultiModalIndex.open(store)
    with index:
        with clean_stdout():
            server = make_server(
                index, media_roots=media_root or (), similarity_top_k=k, token=token if transport == "http" else None
            )
        if transport == "stdio":
            server.run("stdio")
        else:
            address = f"http://{host}:{port}/mcp"
            output.told(f"Listening on {address}")
            if as_json:
                output.print_json({"address": address, "token": token if made_up else None}, lines=True)
            server.run("streamable-http", host=host, port=port, transport_security=http_security(host, tuple(allow_host or ())))
