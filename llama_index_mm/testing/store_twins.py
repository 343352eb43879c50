"""Whether a vector store does asynchronously, and in threads, what it does otherwise."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import VectorStoreQueryResult

from llama_index_mm.testing.store_bench import CLOSE, Bench, Missing, Unlike, id_of, listed, numbers

__all__ = ["TWINS"]

_THREADS = 4
_ASKED = 40  # queries of all threads


def async_add_query(bench: Bench) -> str:
    """Added and asked asynchronously, the same comes as synchronously."""

    async def act() -> str:
        nodes = bench.row("a b c d")
        bench.know(nodes)
        bench.doing = "async_add"
        if await bench.store.async_add(nodes) != [node.node_id for node in nodes]:
            raise Unlike("async_add did not give the ids of the nodes")
        bench.doing = "aquery"
        return bench.names(await bench.store.aquery(bench.asked(3)))

    bench.compare(bench.run(act), "a b c", "aquery")
    return "3 of 4 in order"


def async_mixed(bench: Bench) -> str:
    """What was added synchronously is found asynchronously, with the same similarities."""
    bench.add(bench.row("a b c d"))
    plain = bench.query()

    async def act() -> VectorStoreQueryResult:
        bench.doing = "aquery"
        return await bench.store.aquery(bench.asked())

    other = bench.run(act)
    bench.compare(bench.names(other), bench.names(plain), "aquery after add")
    first, second = plain.similarities or [], other.similarities or []
    if len(first) != len(second) or any(abs(one - two) > CLOSE for one, two in zip(first, second, strict=True)):
        raise Unlike(f"aquery gave similarities {numbers(second)}, query {numbers(first)}")
    return "aquery after add gives what query gives"


def async_delete(bench: Bench) -> str:
    """Like the deletion of a document."""
    return _after(bench, "adelete", lambda: bench.store.adelete("first"), "c d")


def async_delete_ids(bench: Bench) -> str:
    """Like the deletion of nodes."""
    return _after(bench, "adelete_nodes", lambda: bench.store.adelete_nodes([id_of("b"), id_of("d")]), "a c")


def async_clear(bench: Bench) -> str:
    """Like `clear`."""
    return _after(bench, "aclear", bench.store.aclear, "")


def _after(bench: Bench, name: str, change: Callable[[], Awaitable[None]], expected: str) -> str:
    async def act() -> str:
        nodes = [*bench.row("a b", "first"), bench.node("c", 1.2), bench.node("d", 1.6)]
        bench.know(nodes)
        bench.doing = "async_add"
        await bench.store.async_add(nodes)
        bench.doing = name
        await change()
        bench.doing = "aquery"
        return bench.names(await bench.store.aquery(bench.asked()))

    bench.compare(bench.run(act), expected, f"aquery after {name}")
    return f"{4 - len(expected.split())} of 4 nodes gone"


def async_get(bench: Bench) -> str:
    """Like `get_nodes`."""

    async def act() -> list[BaseNode]:
        nodes = bench.row("a b c")
        bench.know(nodes)
        bench.doing = "async_add"
        await bench.store.async_add(nodes)
        bench.doing = "aget_nodes"
        return await bench.store.aget_nodes([id_of("a"), id_of("c")])

    bench.compare(" ".join(sorted(bench.names(listed(bench.run(act))).split())), "a c", "aget_nodes")
    return "2 of 3 nodes"


def event_loop(bench: Bench) -> str:
    """Other tasks of the event loop get their turn while the store adds and looks."""

    async def act() -> str:
        nodes = [bench.node(f"n{at}", 3.0 * (at + 1) / 200) for at in range(200)]
        bench.doing = "async_add"
        adding, add_pause = await _turns(lambda: bench.store.async_add(nodes))
        bench.doing = "aquery"
        asking, ask_pause = await _turns(lambda: bench.store.aquery(bench.asked(100)))
        held = [name for name, turns in (("async_add", adding), ("aquery", asking)) if not turns]
        pauses = f"longest pause {add_pause * 1000:.0f} ms in async_add, {ask_pause * 1000:.0f} in aquery"
        if held:
            raise Missing(f"{' and '.join(held)} hold up the event loop from beginning to end; {pauses}")
        return pauses

    return bench.run(act)


async def _turns(act: Callable[[], Awaitable[Any]]) -> tuple[int, float]:
    """How often another task got its turn while something ran, and its longest wait in seconds."""
    beats = [time.perf_counter()]

    async def heart() -> None:
        while True:
            beats.append(time.perf_counter())
            await asyncio.sleep(0)

    task = asyncio.create_task(heart())
    await asyncio.sleep(0)
    before = len(beats)
    await act()
    turns = len(beats) - before
    beats.append(time.perf_counter())
    task.cancel()
    return turns, max(after - at for at, after in pairwise(beats))


def threads(bench: Bench) -> str:
    """Queries of several threads at once give what they give one after another."""
    bench.add([bench.node(f"n{at}", 3.0 * (at + 1) / 100) for at in range(100)])
    angles = [3.0 * at / _ASKED for at in range(_ASKED)]

    def ask(angle: float) -> str:
        return bench.names(bench.store.query(bench.asked(angle=angle)))

    bench.doing = "query"
    expected = [ask(angle) for angle in angles]
    bench.doing = "query in a thread"
    with ThreadPoolExecutor(_THREADS) as pool:
        got = list(pool.map(ask, angles))
    other = sum(one != two for one, two in zip(got, expected, strict=True))
    if other:
        raise Unlike(f"{other} of {_ASKED} queries gave other results in {_THREADS} threads than one after another")
    return f"{_ASKED} queries in {_THREADS} threads"


TWINS: dict[str, Callable[[Bench], str]] = {
    "async add and query": async_add_query,
    "async after sync": async_mixed,
    "async delete a document": async_delete,
    "async delete_nodes by ids": async_delete_ids,
    "async get_nodes by ids": async_get,
    "async clear": async_clear,
    "event loop goes on": event_loop,
    "queries in threads": threads,
}
