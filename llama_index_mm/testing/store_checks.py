"""What a vector store gives and keeps: checks that take a bench with a fresh store and give a line of what they saw."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from llama_index.core.schema import BaseNode, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.nodes import AudioMedia, ImageMedia, MediaNode, MeshMedia
from llama_index_mm.testing.store_bench import CLOSE, Bench, Missing, Unlike, id_of, listed, numbers, same_nodes, told

__all__ = ["BEHAVIOUR", "CHANGES", "media_nodes"]

_BATCHES = (1, 2, 97, 100)


# -- results --------------------------------------------------------------------------------------------------------------


def order(bench: Bench) -> str:
    """The nearest come first, and a higher similarity is a better one."""
    bench.add(list(reversed(bench.row("a b c d e"))))
    result = bench.expect("a b c d e")
    given = result.similarities
    if given is None:
        raise Missing("results have no similarities")
    if len(given) != len(result.ids or []):
        raise Unlike(f"{len(given)} similarities for {len(result.ids or [])} results")
    if any(first <= second for first, second in pairwise(given)):
        raise Unlike(f"similarities do not fall from the nearest to the farthest: {numbers(given)}")
    return "5 of 5 in order, similarities fall"


def cosines(bench: Bench) -> str:
    """Similarities of unit vectors are their inner products."""
    bench.add(bench.row("a b c d e"))
    given = bench.query().similarities or []
    expected = [math.cos(0.2 + 0.4 * at) for at in range(5)]
    if len(given) != 5 or any(abs(one - other) > CLOSE for one, other in zip(sorted(given), sorted(expected), strict=True)):
        raise Unlike(f"similarities {numbers(given)}, inner products are {numbers(expected)}")
    return "similarities are inner products"


def depth(bench: Bench) -> str:
    """As many results as were asked for, or all."""
    bench.add(bench.row("a b c d e"))
    for k, names in ((1, "a"), (3, "a b c"), (5, "a b c d e"), (100, "a b c d e")):
        bench.expect(names, f"k={k}", k=k)
    return "k = 1, 3, 5, and 100 of 5"


def deep(bench: Bench) -> str:
    """As many results as there are nodes: some approximate indexes give no more than they look at."""
    count = sum(_BATCHES)
    bench.add([bench.node(f"n{at}", 3.0 * (at + 1) / count) for at in range(count)])
    bench.expect(" ".join(f"n{at}" for at in range(count)), f"k={count}", k=count)
    return f"{count} of {count} in order"


def nothing_there(bench: Bench) -> str:
    """A query of an empty store gives nothing, without an error."""
    bench.expect("")
    return "no results, no error"


def singly(bench: Bench) -> str:
    """Nodes added one by one."""
    for node in bench.row("c a b"):
        if bench.add([node]) != [node.node_id]:
            raise Unlike("add did not give the id of the node")
    bench.expect("c a b")
    return "3 nodes"


def in_batches(bench: Bench) -> str:
    """Nodes added in batches of several sizes."""
    count = sum(_BATCHES)
    nodes = [bench.node(f"n{at}", 3.0 * (at + 1) / count) for at in range(count)]
    done = 0
    for size in _BATCHES:
        batch = nodes[done : done + size]
        if bench.add(batch) != [node.node_id for node in batch]:
            raise Unlike(f"add of {size} nodes did not give their ids in order")
        done += size
    step = 3.0 / count
    for at in (2, 50, 99, 100, count - 3):  # a little beyond each of these
        names = " ".join(f"n{at + by}" for by in (0, 1, -1, 2, -2))
        bench.expect(names, f"a query near n{at}", k=5, angle=step * (at + 1.2))
    return f"{count} nodes in batches of {', '.join(map(str, _BATCHES))}"


def texts(bench: Bench) -> str:
    """Text nodes come back whole."""
    nodes: list[BaseNode] = [
        bench.node("plain", 0.2, document="book", text="The tide comes in."),
        bench.node("signs", 0.6, {"author": "Zoë 大"}, text='Größe 大 "quoted"\n\ttab \\ 100 %'),
    ]
    bench.add(nodes)
    same_nodes(bench.nodes(bench.query()), nodes)
    return "2 nodes, equal in every field"


def media_nodes() -> list[MediaNode]:
    """A picture, a span of a recording and a mesh, with all kinds of facts; there are no such files."""
    album = RelatedNodeInfo(node_id="album", metadata={"owner": "Ada"})
    return [
        ImageMedia.create(
            "/media/lake.jpg", digest="1f" * 32, id_=id_of("lake"), text="a lake at dawn", caption="Walensee", source=album,
            mimetype="image/jpeg", width=640, height=480, metadata={"place": "Weesen", "stars": 4},
        ),
        AudioMedia.create(
            "/media/talk.mp3", digest="2e" * 32, id_=id_of("talk"), text="welcome back", source=album, mimetype="audio/mpeg",
            start=1.5, end=12.0, seconds=90.25, language="en", speech=True,
        ),
        MeshMedia.create(
            "/media/chair.obj", digest="3d" * 32, id_=id_of("chair"), views="/media/chair.png", vertices=8, faces=12,
            closed=True, size_x=1.0, size_y=2.0, size_z=0.5,
        ),
    ]  # fmt: skip


def media(bench: Bench) -> str:
    """Media nodes of all modalities come back, and are equal once they are typed again."""
    nodes = _embedded(bench)
    bench.add(nodes)
    same_nodes(bench.nodes(bench.query()), nodes)
    return "picture, recording and mesh, equal in every field after retype"


def modality(bench: Bench) -> str:
    """One modality, by a filter on the metadata of media nodes."""
    nodes = _embedded(bench)
    bench.add([*nodes, bench.node("words", 0.1)])
    for node, name in zip(nodes, ("image", "audio", "mesh"), strict=True):
        wanted = _where("mm_modality", FilterOperator.EQ, name)
        bench.expect(str(node.metadata["file_name"]), f"mm_modality == {name}", filters=wanted)
    several = _where("mm_modality", FilterOperator.IN, ["image", "mesh"])
    bench.expect("lake.jpg chair.obj", "mm_modality in image, mesh", filters=several)
    return "each of three, and two of them"


def _embedded(bench: Bench) -> list[BaseNode]:
    nodes: list[BaseNode] = []
    for at, node in enumerate(media_nodes()):
        node.embedding = bench.at(0.3 + 0.5 * at)
        nodes.append(node)
    return nodes


def scalars(bench: Bench) -> str:
    """Metadata of texts and numbers keep their types."""
    return _metadata(bench, {"word": "3", "count": 3, "share": 2.0, "open": True, "shut": False, "far": -0.125})


def lists(bench: Bench) -> str:
    """Metadata that are lists come back as lists."""
    return _metadata(bench, {"tags": ["red", "blue"], "sizes": [1, 2]})


def _metadata(bench: Bench, metadata: dict[str, Any]) -> str:
    bench.add([bench.node("one", 0.2, metadata)])
    node = bench.nodes(bench.expect("one"))[0]
    for key, value in metadata.items():
        other = node.metadata.get(key)
        if type(other) is not type(value) or other != value:
            raise Unlike(f"{value!r} came back as {other!r}")
    return ", ".join(dict.fromkeys(type(value).__name__ for value in metadata.values()))


# -- changes --------------------------------------------------------------------------------------------------------------


def delete_document(bench: Bench) -> str:
    """The nodes of one document go, and no others."""
    bench.add([*bench.row("a b", "first"), bench.node("c", 1.2, document="second"), bench.node("d", 1.6)])
    bench.delete("first")
    bench.expect("c d", "a query after delete")
    return "2 of 4 nodes gone"


def delete_ids(bench: Bench) -> str:
    """Nodes go by their ids."""
    bench.add(bench.row("a b c d"))
    bench.delete_nodes("b d")
    bench.expect("a c", "a query after delete_nodes")
    return "2 of 4 nodes gone"


def delete_filtered(bench: Bench) -> str:
    """Nodes go by a filter."""
    bench.add(
        [bench.node(name, 0.2 + 0.4 * at, {"kind": kind}) for at, (name, kind) in enumerate(zip("abcd", "xyxy", strict=True))]
    )
    bench.delete_nodes(filters=_where("kind", FilterOperator.EQ, "x"))
    bench.expect("b d", "a query after delete_nodes")
    return "2 of 4 nodes gone"


def get_ids(bench: Bench) -> str:
    """Nodes by their ids, without a query."""
    nodes = bench.row("a b c", "book")
    bench.add(nodes)
    same_nodes(bench.get_nodes("a c"), [nodes[0], nodes[2]])
    return "2 of 3 nodes, equal in every field"


def get_filtered(bench: Bench) -> str:
    """Nodes by a filter, without a query."""
    bench.add(
        [bench.node(name, 0.2 + 0.4 * at, {"kind": kind}) for at, (name, kind) in enumerate(zip("abc", "xyx", strict=True))]
    )
    got = bench.get_nodes(filters=_where("kind", FilterOperator.EQ, "x"))
    bench.compare(" ".join(sorted(bench.names(listed(got)).split())), "a c", "get_nodes")
    return "2 of 3 nodes"


def add_again(bench: Bench) -> str:
    """A node whose id is there already takes the place of the old one."""
    bench.add(bench.row("a b c"))
    bench.add([bench.node("a", 3.0, text="New words.")])
    bench.know([bench.node("a", 0.0)])
    result = bench.expect("b c a", "a query after adding a again, now the farthest,")
    if bench.store.stores_text and bench.nodes(result)[-1].get_content() != "New words.":
        raise Unlike("the vector is new, the text is old")
    return "1 of 3 replaced, none twice"


def add_after_delete(bench: Bench) -> str:
    """What is added after a deletion gets in nobody's way."""
    bench.add(bench.row("a b c"))
    bench.delete_nodes("a")
    bench.add([bench.node("d", 0.1), bench.node("e", 2.0)])
    bench.expect("d b c e", "a query after a deletion and an addition")
    return "2 added after 1 of 3 was deleted"


def bad_vector(bench: Bench) -> str:
    """A vector of another length is refused, or its id left out of those that were added."""
    given, error = _add_bad(bench)
    if error is not None:
        return f"refused: {told(error)}"
    if id_of("bad") in given:
        raise Unlike("a vector that is one number longer was taken without a word")
    return "left out of the ids that add gives"


def whole_batches(bench: Bench) -> str:
    """Of a batch that was refused nothing stays."""
    _, error = _add_bad(bench)
    if error is None:
        raise Missing("a batch with a vector of another length is not refused")
    names = bench.names(bench.query())
    if names != "a":
        raise Missing(f"of a batch that was refused {' '.join(one for one in names.split() if one != 'a')} stayed")
    return "nothing of the batch stayed"


def _add_bad(bench: Bench) -> tuple[list[str], Exception | None]:
    bench.add(bench.row("a"))
    bad = TextNode(id_=id_of("bad"), text="About bad.", embedding=[*bench.at(0.5), 0.5])
    try:
        return bench.add([bench.node("b", 0.4), bad, bench.node("c", 0.6)]), None
    except Exception as error:
        return [], error


def clear(bench: Bench) -> str:
    """Nothing is left, and adding goes on."""
    bench.add(bench.row("a b c"))
    bench.clear()
    bench.add(bench.row("d e"))
    bench.expect("d e", "a query after clear and an addition")
    return "3 of 3 nodes gone, 2 added after"


def _where(key: str, operator: FilterOperator, value: Any) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, operator=operator, value=value)])


_Check = Callable[[Bench], str]
BEHAVIOUR: dict[str, _Check] = {
    "nearest first": order,
    "similarity is the inner product": cosines,
    "k results": depth,
    "200 results": deep,
    "empty store": nothing_there,
    "add one by one": singly,
    "add in batches": in_batches,
    "text nodes": texts,
    "media nodes": media,
    "metadata of texts and numbers": scalars,
    "metadata of lists": lists,
    "filter by modality": modality,
}
CHANGES: dict[str, _Check] = {
    "delete a document": delete_document,
    "delete_nodes by ids": delete_ids,
    "delete_nodes by filters": delete_filtered,
    "get_nodes by ids": get_ids,
    "get_nodes by filters": get_filtered,
    "add an id again": add_again,
    "add after a deletion": add_after_delete,
    "bad vector is told": bad_vector,
    "bad batch leaves nothing": whole_batches,
    "clear": clear,
}
