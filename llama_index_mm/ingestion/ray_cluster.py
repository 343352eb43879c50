"""The connection to a Ray cluster, and the room that it has."""

import logging
import math
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index_mm._optional import require
from llama_index_mm.errors import ClusterError
from llama_index_mm.ingestion.ray_options import RayOptions

__all__ = ["connected", "room_for_actors"]

_OBJECT_STORE_BYTES = 200 << 20  # of a cluster that is started here: only names and reports go through it
_SECONDS = 10.0  # in which a cluster must answer; Ray itself waits for minutes


@contextmanager
def connected(options: RayOptions) -> Iterator[Any]:
    """Connect to a cluster, or start one on this machine; gives the module ``ray``.

    A connection that is there already is used, and stays. A cluster that is started here asks for a token, as Ray does
    from 2.60 on, and tells nobody that it is used.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: the cluster can't be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray", extra="ray")
    require("ray.data", extra="ray")
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, options.address)
    try:
        with _quiet():
            yield ray
    finally:
        if mine:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    asked: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            try:
                ray.init(address="auto", **asked)
            except ConnectionError:
                ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **asked)
        else:
            _knock(ray, address)
            ray.init(address=address, **asked)
    except Exception as error:
        raise ClusterError(
            f"The Ray cluster at {address or 'this machine'} can't be reached: {str(error).strip() or type(error).__name__}. "
            "Start it with: ray start --head; and give every machine the same RAY_AUTH_TOKEN or token file."
        ) from error


def _knock(ray: Any, address: str) -> None:
    """See that somebody listens at ``host:port``; other addresses are Ray's to understand.

    Raises:
        OSError: nobody does.
    """
    found = re.fullmatch(r"([\w.-]+):(\d{1,5})", address)
    if found is None:
        return
    host, port = found[1], int(found[2])
    if host in ("localhost", "127.0.0.1"):  # for which Ray takes the address of this machine
        host = ray.util.get_node_ip_address()
    socket.create_connection((host, port), timeout=_SECONDS).close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data tells of each batch that it begins; what matters of that comes with the report."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def room_for_actors(ray: Any, options: RayOptions) -> int:
    """How many actors run at once.

    Raises:
        ClusterError: none.
    """
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    room = math.floor((cpus - options.headroom_cpus) / options.cpus_per_actor + 1e-9)
    if options.gpus_per_actor:
        room = min(room, math.floor(gpus / options.gpus_per_actor + 1e-9))
    if room < 1:
        raise ClusterError(
            f"The Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs; an actor takes {options.cpus_per_actor:g} and "
            f"{options.gpus_per_actor:g}, and {options.headroom_cpus:g} CPUs stay free. Add machines, or ask for less "
            "(RayOptions.cpus_per_actor, gpus_per_actor, headroom_cpus)."
        )
    return int(min(room, options.actors or room))
