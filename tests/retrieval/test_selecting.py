"""Quotas, documents, cutoffs, diversity and what is not wanted, in a store with more nodes than one search gives."""

import asyncio

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from PIL import Image

from llama_index_mm.errors import QueryError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.media import digest_file
from llama_index_mm.nodes import ImageMedia
from llama_index_mm.retrieval import FusionRetriever, MediaQuery, reasons_of
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import tiny_preset

SPACES = tiny_preset().spaces
LONG = 130  # spans of the long document; a search gives 50 at first


def text(name, words, document=None, **metadata):
    node = TextNode(id_=name, text=words, metadata=metadata)
    node.excluded_embed_metadata_keys = list(metadata)
    if document:
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=document)
    return node


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One long English document about goats; shorter ones, also in Chinese, that speak of them less and less; two pictures."""
    home = tmp_path_factory.mktemp("documents")
    nodes = [text(f"long {at}", f"goat goat {at}", "long", mm_language="en", even=at % 2) for at in range(LONG)]
    for at in range(4):
        words = "goat and " + " ".join(f"word{n}" for n in range(3 * at + 3))
        nodes += [text(f"short {at} {part}", f"{words} {'x ' * part}", f"short {at}", mm_language="zh") for part in range(3)]
    nodes.append(text("alone", "quite another thing"))
    for at, words in enumerate(["a goat", "a boat"]):
        path = home / f"{at}.png"
        Image.new("RGB", (8, 8), ("red", "blue")[at]).save(path)
        nodes.append(ImageMedia.create(path, digest=digest_file(path), text=words, id_=f"picture {at}"))
    with MediaStore(home / "index") as made:
        for space in SPACES:
            made.declare_space(space.name, space.dimension, space.fingerprint)
        made.add(encode_nodes(nodes, SPACES))
        yield made


def ask(store, query="goat", k=5, **options):
    """Both ways to retrieve, which must agree."""
    retriever = FusionRetriever(store, SPACES, similarity_top_k=k, **options)
    found = retriever.retrieve(query)
    assert asyncio.run(retriever.aretrieve(query)) == found
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    for one in found:
        assert sum(reason.contribution for reason in reasons_of(one.node)) == pytest.approx(one.score, abs=1e-12)
    return found


def names(found):
    return [one.node.node_id for one in found]


def documents(found):
    return [one.node.ref_doc_id or one.node.node_id for one in found]


def every(store, query="goat", **options):
    return ask(store, query, 500, **options)


def test_each_document_comes_once_as_its_best_node(store):
    whole = every(store, modalities=["text"])
    best = {}
    for one in whole:
        best.setdefault(one.node.ref_doc_id or one.node.node_id, one)
    for k in (1, 3, 6, 9):
        found = ask(store, k=k, modalities=["text"], collapse="document")
        assert found == list(best.values())[:k]
    assert set(documents(ask(store, k=9, modalities=["text"], collapse="document"))) == {
        "long",
        "alone",
        *(f"short {at}" for at in range(4)),
    }


def test_a_cutoff_that_some_kind_does_not_reach_hides_nothing_of_another(tmp_path):
    """The first search gives one long document, and a picture below the cutoff: there is more behind the long document."""
    path = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(path)
    nodes = [text(f"long {at}", f"goat goat {at}", "long") for at in range(LONG)]
    nodes += [text(f"short {at}", f"a goat, word{at}", f"short {at}") for at in range(3)]
    nodes += [text(f"other {at}", f"quite another{at} thing{at}") for at in range(400)]
    nodes.append(ImageMedia.create(path, digest=digest_file(path), text="nothing of that", id_="picture"))
    with MediaStore(tmp_path / "index") as store:
        for space in SPACES:
            store.declare_space(space.name, space.dimension, space.fingerprint)
        store.add(encode_nodes(nodes, SPACES))
        whole = {one.node.node_id: one.score for one in ask(store, k=999)}
        cutoff = min(whole[f"short {at}"] for at in range(3))
        assert whole["picture"] < cutoff
        found = ask(store, k=9, collapse="document", similarity_cutoff=cutoff)
        assert set(documents(found)) == {"long", "short 0", "short 1", "short 2"}


def test_each_document_gives_its_best_nodes(store):
    whole = every(store, modalities=["text"])
    found = ask(store, k=3, modalities=["text"], collapse="document", expand=2)
    first = documents(ask(store, k=3, modalities=["text"], collapse="document"))
    expected = []
    for one in whole:
        document = one.node.ref_doc_id or one.node.node_id
        if document in first and documents(expected).count(document) < 2:
            expected.append(one)
    assert names(found) == names(expected)
    assert len(found) == 6


def test_expanding_keeps_to_the_filters(store):
    filters = MetadataFilters(filters=[MetadataFilter(key="even", value=1)])
    found = ask(store, k=2, collapse="document", expand=LONG, filters=filters, modalities=["text"])
    assert set(names(found)) == {f"long {at}" for at in range(1, LONG, 2)}


def test_seats_of_a_language_that_one_search_does_not_reach(store):
    plain = ask(store, modalities=["text"])
    assert {one.node.metadata["mm_language"] for one in plain} == {"en"}
    found = ask(store, modalities=["text"], at_least={"language:zh": 2})
    assert [one.node.metadata["mm_language"] for one in found] == ["en"] * 3 + ["zh"] * 2
    best = [name for name in names(every(store, modalities=["text"])) if name.startswith("short")]
    assert names(found)[3:] == best[:2]
    assert names(found)[:3] == names(plain)[:3]
    assert ask(store, modalities=["text"], at_least={"language:ZH": 2}) == found


def test_a_language_that_has_its_seats_leaves_the_others(store):
    found = ask(store, k=20, modalities=["text"], at_most={"language:en": 3})
    assert len(found) == 3 + 12 + 1  # all that is Chinese, and what has no language
    assert [one.node.metadata.get("mm_language") for one in found].count("en") == 3


def test_seats_of_modalities(store):
    found = ask(store, at_least={"image": 2})
    assert {"picture 0", "picture 1"} < set(names(found))
    assert len(found) == 5
    assert len(ask(store, k=9, at_most={"text": 1, "image": 1})) == 2
    assert names(ask(store, k=9, at_most={"text": 0})) == ["picture 0", "picture 1"]


@pytest.mark.parametrize("fusion", ["convex", "reciprocal_rank", "distribution_based", "maximum"])
def test_nothing_below_the_cutoff(store, fusion):
    whole = every(store, fusion=fusion)
    cutoff = whole[7].score
    found = every(store, fusion=fusion, similarity_cutoff=cutoff)
    assert found == [one for one in whole if one.score >= cutoff]
    assert every(store, fusion=fusion, similarity_cutoff=0.0) == whole
    assert all(one.score == 1 for one in every(store, fusion=fusion, similarity_cutoff=1.0))


def test_what_is_like_something_better_gives_way(store):
    plain = ask(store, k=30, modalities=["text"])
    found = ask(store, k=30, modalities=["text"], diversity=0.5)
    assert len(set(documents(plain))) == 1 < len(set(documents(found)))
    assert names(found)[0] == names(plain)[0]
    scored = {one.node.node_id: one.score for one in every(store, modalities=["text"])}
    assert [one.score for one in found] == pytest.approx([scored[name] for name in names(found)], abs=1e-6)


def test_pictures_are_alike_in_the_space_that_weighs_most(tmp_path):
    """Three pictures with the same words; the second has the colour of the first."""
    nodes = []
    for at, colour in enumerate([(255, 0, 0), (250, 0, 0), (0, 0, 255), *((9 * at, 255, at) for at in range(9))]):
        path = tmp_path / f"{at}.png"
        Image.new("RGB", (8, 8), colour).save(path)
        words = "a goat" if at < 3 else f"thing {at}"
        nodes.append(ImageMedia.create(path, digest=digest_file(path), text=words, id_=str(at)))
    with MediaStore(tmp_path / "index") as own:
        for space in SPACES:
            own.declare_space(space.name, space.dimension, space.fingerprint)
        own.add(encode_nodes(nodes, SPACES))
        Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "query.png")
        query = MediaQuery("goat", image=tmp_path / "query.png", modalities=["image"], part_weights={"image": 0.1})
        # Words weigh most, by which all three are alike; then nothing else is wanted less than another goat.
        assert names(ask(own, query, 2)) == ["0", "1"]
        heavy = {"weights": {"picture": 20.0}}  # 2 against 1: colours weigh most
        assert names(ask(own, query, 2, **heavy)) == ["0", "1"]
        assert names(ask(own, query, 2, diversity=0.5, **heavy)) == ["0", "2"]


def test_what_is_not_wanted_is_taken_away(store):
    plain = {one.node.node_id: one for one in every(store, MediaQuery("goat", modalities=["image"]))}
    less = every(store, MediaQuery("goat", negative="boat", modalities=["image"]))
    assert names(less)[0] == "picture 0"
    for one in less:
        wanted, unwanted = reasons_of(one.node)
        assert (wanted.negative, unwanted.negative) == (False, True)
        before = plain[one.node.node_id].score
        assert wanted.contribution == before
        assert one.score == pytest.approx(before * (1 - unwanted.score), abs=1e-12)
        assert unwanted.contribution == pytest.approx(one.score - before, abs=1e-12)


def test_an_index_passes_its_options_on():
    texts = [text(f"{at} {part}", f"goat {at} {part}", f"document {at}") for at in range(3) for part in range(2)]
    other = SummaryIndex(nodes=[text("other", "goat")]).as_retriever()
    with MultiModalIndex.from_documents(texts, preset=tiny_preset()) as index:
        options = {"similarity_top_k": 2, "collapse": "document", "expand": 2, "at_most": {"text": 2}, "diversity": 0.1}
        options |= {"similarity_cutoff": 0.0, "at_least": {"text": 1}, "retrievers": {"other": other}, "on_error": "skip"}
        expected = FusionRetriever(index.store, index.preset.spaces, **options).retrieve("goat")
        assert index.as_retriever(**options).retrieve("goat") == expected
        assert "other" in names(expected)


def test_options_that_have_no_meaning(store):
    for options, message in (
        ({"at_least": {"image": 9}}, "keeps 9 seats, but similarity_top_k is 5"),
        ({"collapse": "file"}, "'file'"),
        ({"diversity": 2}, "got 2"),
    ):
        with pytest.raises(QueryError, match=message):
            ask(store, **options)
