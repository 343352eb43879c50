"""What a check of a vector store works with: a fresh store, nodes with known neighbours, and ways to say what is amiss."""

import asyncio
import inspect
import math
import re
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import takewhile
from typing import Any, TypeVar

from llama_index.core.schema import BaseNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)

from llama_index_mm.nodes import retype
from llama_index_mm.testing.store_report import Status

__all__ = [
    "ALL",
    "CLOSE",
    "Bench",
    "Missing",
    "Unlike",
    "id_of",
    "listed",
    "numbers",
    "run",
    "same_nodes",
    "status_of",
    "text_node",
    "told",
    "vector",
]

ALL = 10  # results asked for where all nodes should come
CLOSE = 1e-4  # by which similarities may differ: some stores keep fewer digits
_LISTED = 20  # names that a message lists
_LENGTH = 160  # characters of an error that are told
_NAMES = uuid.NAMESPACE_URL
_T = TypeVar("_T")

# What stores say that know what they can't do.
_REFUSAL = re.compile(
    r"not (yet |currently )?(been )?(implement|support|allow|available)|un(supported|implemented)"
    r"|(doesn't|don't|cannot|can't|can not|does not|do not) (support|store|filter|accept|handle)"
    r"|only (support|accept|allow)|supports only|must be one of|(invalid|unknown) (filter )?operator",
    re.IGNORECASE,
)


class Unlike(Exception):  # noqa: N818 - told, never raised to a caller
    """A result that is not what it should be."""


class Missing(Exception):  # noqa: N818
    """Something that the store says it hasn't got."""


def status_of(error: BaseException) -> Status:
    """What an error of a store, or of a check, comes to."""
    if isinstance(error, Unlike):
        return "wrong"
    if isinstance(error, Missing | NotImplementedError) or _REFUSAL.search(str(error)):
        return "lacks"
    return "fails"


def id_of(name: str) -> str:
    """Id of a node: a UUID, as some stores take nothing else."""
    return str(uuid.uuid5(_NAMES, name))


def vector(angle: float, dimension: int) -> list[float]:
    """Unit vector at an angle in radians from the question's, in [0, pi]: the greater, the less alike."""
    return [math.cos(angle), math.sin(angle), *[0.0] * (dimension - 2)]


def text_node(
    name: str,
    embedding: list[float],
    metadata: Mapping[str, Any] | None = None,
    *,
    document: str | None = None,
    text: str | None = None,
) -> TextNode:
    """A node of a document, with the id that belongs to its name."""
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)} if document else {}
    return TextNode(
        id_=id_of(name),
        text=text or f"About {name}.",
        metadata=dict(metadata or {}),
        embedding=embedding,
        relationships=source,
    )


class Bench:
    """A fresh store of one check, with its calls; an error tells which of them raised it.

    Args:
        make: gives the store.
        dimension: length of a vector, 2 or more.
    """

    def __init__(self, make: Callable[[], BasePydanticVectorStore], dimension: int) -> None:
        self.dimension = dimension
        self.doing = "make"
        self._names: dict[str, str] = {}
        self._open = True
        self.store = make()

    # -- nodes ------------------------------------------------------------------------------------------------------

    def node(self, name: str, angle: float, metadata: Mapping[str, Any] | None = None, **more: Any) -> TextNode:
        """A node at an angle from the question."""
        return text_node(name, self.at(angle), metadata, **more)

    def at(self, angle: float) -> list[float]:
        """The unit vector at an angle from the question."""
        return vector(angle, self.dimension)

    def row(self, names: str, document: str | None = None) -> list[BaseNode]:
        """Nodes of which each is a little further from the question than the one before."""
        return [self.node(name, 0.2 + 0.4 * at, document=document) for at, name in enumerate(names.split())]

    # -- calls ------------------------------------------------------------------------------------------------------

    def know(self, nodes: Sequence[BaseNode], names: Sequence[str] | None = None) -> None:
        """Remember what nodes are called in messages."""
        called = names or [_name_of(node) for node in nodes]
        self._names |= dict(zip([node.node_id for node in nodes], called, strict=True))

    def add(self, nodes: Sequence[BaseNode]) -> list[str]:
        """Add nodes, as copies: what a store does to them is its own affair."""
        self.know(nodes)
        self.doing = "add"
        return self.store.add([node.model_copy(deep=True) for node in nodes])

    def asked(self, k: int = ALL, angle: float = 0.0, **given: Any) -> VectorStoreQuery:
        """A query with the vector at an angle."""
        return VectorStoreQuery(query_embedding=self.at(angle), similarity_top_k=k, **given)

    def query(self, k: int = ALL, **given: Any) -> VectorStoreQueryResult:
        """Ask, with the question's vector if none is given."""
        asked = self.asked(k, **given)
        self.doing = "query"
        return self.store.query(asked)

    def delete(self, document: str) -> None:
        """Delete a document."""
        self.doing = "delete"
        self.store.delete(document)

    def delete_nodes(self, names: str | None = None, filters: MetadataFilters | None = None) -> None:
        """Delete nodes by their names or by filters."""
        self.doing = "delete_nodes"
        ids = [id_of(name) for name in names.split()] if names else None
        self.store.delete_nodes(ids, filters) if filters else self.store.delete_nodes(ids)

    def get_nodes(self, names: str | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Get nodes by their names or by filters."""
        self.doing = "get_nodes"
        return self.store.get_nodes([id_of(name) for name in names.split()] if names else None, filters)

    def clear(self) -> None:
        """Delete all."""
        self.doing = "clear"
        self.store.clear()

    # -- results ----------------------------------------------------------------------------------------------------

    def names(self, result: VectorStoreQueryResult) -> str:
        """Names of the nodes of a result, in its order."""
        ids = result.ids if result.ids is not None else [node.node_id for node in result.nodes or []]
        return " ".join(self._names.get(str(one), f"?{one}") for one in ids)

    def expect(self, expected: str, what: str = "query", **given: Any) -> VectorStoreQueryResult:
        """Ask, and compare the names of what comes, in order.

        Raises:
            Unlike: they are others.
        """
        result = self.query(**given)
        self.compare(self.names(result), expected, what)
        return result

    def compare(self, got: str, expected: str, what: str) -> None:
        """Compare names.

        Raises:
            Unlike: they are others.
        """
        first, second = got.split(), expected.split()
        if len(first) > _LISTED or len(second) > _LISTED:
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
            if got != expected:
                raise Unlike(f"{what} gave {len(first)} nodes, expected {len(second)}; the first {same} are right")
        elif got != expected:
            raise Unlike(f"{what} gave {_cut(got) or 'nothing'}, expected {_cut(expected) or 'nothing'}")

    def nodes(self, result: VectorStoreQueryResult) -> list[BaseNode]:
        """Nodes of a result, typed again, without their vectors.

        Raises:
            Missing: the store keeps none, and says so.
            Unlike: it keeps none, and does not say so.
        """
        if not result.nodes:
            if self.store.stores_text:
                raise Unlike("results have no nodes although stores_text is True")
            raise Missing("stores_text is False: results have ids only")
        return [retype(node).model_copy(update={"embedding": None}) for node in result.nodes]

    def close(self) -> None:
        """Close the store if it can be closed."""
        closing = getattr(self.store, "close", None)
        if self._open and callable(closing):
            self._open = False
            with suppress(Exception):
                if inspect.isawaitable(closed := closing()):
                    run(lambda: _awaited(closed))

    def run(self, act: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run asynchronous code, and close the store on the same event loop if it closes asynchronously."""

        async def whole() -> _T:
            try:
                return await act()
            finally:
                closing = getattr(self.store, "close", None)
                if inspect.iscoroutinefunction(closing):
                    self._open = False
                    with suppress(Exception):
                        await closing()

        return run(whole)


async def _awaited(one: Any) -> Any:
    return await one


def run(act: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run asynchronous code to its end, also where an event loop runs already, as in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(act())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(act())).result()


def listed(nodes: Sequence[BaseNode]) -> VectorStoreQueryResult:
    """Nodes as a result of which only ids count."""
    return VectorStoreQueryResult(ids=[node.node_id for node in nodes])


def numbers(values: Sequence[float]) -> str:
    """Similarities as messages tell them."""
    return ", ".join(f"{float(one):.3g}" for one in values)


def same_nodes(got: Sequence[BaseNode], expected: Sequence[BaseNode]) -> None:
    """Compare nodes field by field, but for their vectors.

    Raises:
        Unlike: a node is missing, of another class, or differs in a field.
    """
    by_id = {node.node_id: node for node in got}
    for node in expected:
        other = by_id.get(node.node_id)
        if other is None:
            raise Unlike(f"{_name_of(node)} did not come back")
        if type(other) is not type(node):
            raise Unlike(f"{_name_of(node)} came back as {type(other).__name__}, expected {type(node).__name__}")
        differ = [
            name for name in type(node).model_fields if name != "embedding" and getattr(node, name) != getattr(other, name)
        ]
        if differ:
            raise Unlike(f"{_name_of(node)} came back with another {', '.join(differ)}")
    if len(got) != len(expected):
        raise Unlike(f"{len(got)} nodes came, expected {len(expected)}")


def told(error: BaseException) -> str:
    """An error in one line."""
    words = " ".join(str(error).split())
    return _cut(words if isinstance(error, Unlike | Missing) else f"{type(error).__name__}: {words}".rstrip(": "))


def _name_of(node: BaseNode) -> str:
    return str(node.metadata.get("file_name") or node.get_content().removeprefix("About ").removesuffix(".")).replace(" ", "-")


def _cut(text: str) -> str:
    return text if len(text) <= _LENGTH else text[: _LENGTH - 3] + "..."
