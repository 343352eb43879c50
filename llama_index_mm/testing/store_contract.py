"""A contract test for vector stores: what a LlamaIndex vector store holds, lacks, or gets wrong without a word.

The classes of LlamaIndex say what a store has, not what it does: some keep two nodes of one id, give distances for
similarities, or pass over a filter. Each check here makes one promise concrete, on a fresh store of its own.
"""

from collections.abc import Callable
from contextlib import suppress

from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llama_index_mm.errors import StoreError
from llama_index_mm.testing.store_bench import Bench, Missing, Unlike, status_of, told
from llama_index_mm.testing.store_checks import BEHAVIOUR, CHANGES
from llama_index_mm.testing.store_filters import FILTERS
from llama_index_mm.testing.store_report import Level, StoreCheck, StoreReport
from llama_index_mm.testing.store_twins import TWINS

__all__ = ["CHECKS", "check_vector_store"]

CHECKS: dict[str, Callable[[Bench], str]] = {**BEHAVIOUR, **FILTERS, **CHANGES, **TWINS}
_WANTED = {
    "200 results",
    "empty store",
    "metadata of lists",
    *(name for name in FILTERS if name not in ("filter EQ", "filter IN", "filters by AND", "filter that few pass")),
    "delete_nodes by filters",
    "get_nodes by filters",
    "bad batch leaves nothing",
    "clear",
    "async delete_nodes by ids",
    "async get_nodes by ids",
    "async clear",
}
_TOLD = {"similarity is the inner product", "event loop goes on", "queries in threads"}


def check_vector_store(make: Callable[[], BasePydanticVectorStore], *, dimension: int = 8) -> StoreReport:
    """Run all checks on a kind of vector store. None of them raises, and none knows of another.

    Example:
        >>> report = check_vector_store(SimpleVectorStore)
        >>> report.sound
        False
        >>> print(report)

    Args:
        make: gives a fresh, empty store at each call; some 55 of them, each for a few hundred nodes at most. A store that has a
            ``close`` is closed after use.
        dimension: length of the vectors, 2 or more, where the store wants a certain one.

    Returns:
        A line of what was seen for each check, and whether the store would do for media search.

    Raises:
        StoreError: ``make`` raises, gives no vector store, or gives stores that are not empty or share their nodes; the
            dimension is too small.
    """
    if dimension < 2:
        raise StoreError(f"Expected a dimension of 2 or more, got {dimension}.")
    name = _try_out(make, dimension)
    return StoreReport(name, dimension, tuple(_run(check, make, dimension) for check in CHECKS))


def _try_out(make: Callable[[], BasePydanticVectorStore], dimension: int) -> str:
    """Name of the store's class. Two stores are made: the second must not know what was added to the first."""
    try:
        first = Bench(make, dimension)
    except Exception as error:
        raise StoreError(f"Expected a fresh vector store, but making one raised {told(error)}") from error
    if not isinstance(first.store, BasePydanticVectorStore):
        raise StoreError(
            f"Expected a LlamaIndex vector store, got {type(first.store).__name__}. Give a function that makes one."
        )
    name = type(first.store).__name__
    try:
        if _holds_any(first):
            raise StoreError(
                f"Expected a fresh, empty store, but this {name} has nodes in it. Make each anew, under a name of its own."
            )
        with suppress(Exception):  # which is for the checks to tell
            first.add(first.row("a"))
        second = Bench(make, dimension)
        try:
            if _holds_any(second):
                raise StoreError(
                    f"Expected a fresh, empty store at each call, but two of {name} share their nodes. "
                    "Make each in a folder, table or collection of its own."
                )
        finally:
            second.close()
    finally:
        first.close()
    return name


def _holds_any(bench: Bench) -> bool:
    with suppress(Exception):
        return bool(bench.query().ids)
    return False


def _run(name: str, make: Callable[[], BasePydanticVectorStore], dimension: int) -> StoreCheck:
    level: Level = "told" if name in _TOLD else "wanted" if name in _WANTED else "needed"
    bench = None
    try:
        bench = Bench(make, dimension)
        return StoreCheck(name, "holds", CHECKS[name](bench), level)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # panics of native code are no Exception
        seen = told(error)
        if not isinstance(error, Unlike | Missing):
            seen = f"{bench.doing if bench else 'make'}: {seen}"
        return StoreCheck(name, status_of(error), seen, level)
    finally:
        if bench is not None:
            bench.close()
