"""How servers talk to their clients: a standard output that is theirs alone, and names that clients on HTTP may use."""

import ipaddress
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama_index_mm._optional import require

if TYPE_CHECKING:
    from mcp.server.transport_security import TransportSecuritySettings

__all__ = ["clean_stdout", "http_security", "is_loopback"]


@contextmanager
def clean_stdout() -> Iterator[None]:
    """Let all that is written on standard output, by whatever library, go to standard error meanwhile.

    On stdio the protocol owns standard output; once it runs, the library keeps others off by itself.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def is_loopback(host: str) -> bool:
    """Whether a host is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def http_security(host: str, allowed_hosts: Sequence[str] = ()) -> "TransportSecuritySettings":
    """Which names clients on HTTP may call the server by, so that no page in a browser gets to it by DNS rebinding.

    Args:
        host: that it is bound to. Where that is all interfaces, and no names are given, every name is taken: then the token is
            what protects it.
        allowed_hosts: names, without port.
    """
    require("mcp.server", extra="mcp")
    from mcp.server.transport_security import TransportSecuritySettings

    names = list(allowed_hosts)
    if is_loopback(host):
        names += ["127.0.0.1", "localhost", "[::1]"]
    if host not in ("0.0.0.0", "::", ""):  # noqa: S104 - looked for, not bound to
        names.append(f"[{host}]" if ":" in host else host)
    names = list(dict.fromkeys(names))
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=bool(names),
        allowed_hosts=[one for name in names for one in (name, f"{name}:*")],
        allowed_origins=[f"{scheme}://{name}{port}" for name in names for scheme in ("http", "https") for port in ("", ":*")],
    )
