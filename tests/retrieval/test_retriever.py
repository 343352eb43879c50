import asyncio
import copy
import shutil
import threading
import wave
from collections import defaultdict

import numpy as np
import pytest
from llama_index.core.schema import QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters
from PIL import Image

from llama_index_mm.embeddings.payloads import file_payload
from llama_index_mm.errors import QueryError
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.media import contact_sheet, digest_file
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia, modality_of_node, node_to_json
from llama_index_mm.retrieval import FusionRetriever, MediaQuery, reasons_of
from llama_index_mm.retrieval.fusion import normalise
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import tiny_preset

SPACES = tiny_preset().spaces
CLASSES = {"text": TextNode, "image": ImageMedia, "audio": AudioMedia, "mesh": MeshMedia}
COUNTS = {"text": 70, "image": 60, "audio": 6, "mesh": 3}
SUBJECTS = ["boat", "goat", "storm", "chair", "river", "bell", "bread"]


def paint(path, colour):
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def play(path, hertz):
    samples = 20_000 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16_000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def media(cls, path, at, **facts):
    """A media node whose text is two of the subjects."""
    words = f"{SUBJECTS[at % 7]} {SUBJECTS[at // 2 % 7]}"
    source = RelatedNodeInfo(node_id=f"{cls.modality} document {at}")
    own = {"n": at, "kind": cls.modality}
    name = f"{cls.modality} {at}"
    return cls.create(path, digest=digest_file(path), text=words, id_=name, source=source, metadata=own, **facts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store with more nodes than one channel gives candidates, and the files of its nodes."""
    home = tmp_path_factory.mktemp("collection")
    rng = np.random.default_rng(0)
    nodes = []
    for at in range(COUNTS["text"]):
        text = f"{SUBJECTS[at % 7]} and {SUBJECTS[at // 7 % 7]} and number {at}"
        nodes.append(TextNode(id_=f"text {at}", text=text, metadata={"n": at, "kind": "text"}))
        nodes[-1].excluded_embed_metadata_keys = ["n", "kind"]
    colours = rng.integers(0, 256, (COUNTS["image"], 3)).tolist()
    for at, colour in enumerate(colours):
        nodes.append(media(ImageMedia, paint(home / f"{at}.png", tuple(colour)), at))
    for at in range(COUNTS["audio"]):
        nodes.append(media(AudioMedia, play(home / f"{at}.wav", 100 * 2**at), at, start=0.1, end=0.4))
    for at in range(COUNTS["mesh"]):
        views = home / f"views {at}.png"
        contact_sheet([Image.new("RGB", (4, 4), (80 * at, 90, 200))] * 6).save(views)
        model = home / f"{at}.obj"
        model.write_text(f"# model {at}")
        nodes.append(media(MeshMedia, model, at, views=str(views)))
    paint(home / "query.png", (200, 30, 30))
    play(home / "query.wav", 410)
    with MediaStore(home / "index") as store:
        for space in SPACES:
            store.declare_space(space.name, space.dimension, space.fingerprint)
        store.add(encode_nodes(nodes, SPACES))
    return home


@pytest.fixture(scope="module")
def store(folder):
    """Not to be changed."""
    with MediaStore(folder / "index", create=False) as made:
        yield made


@pytest.fixture
def own_store(folder, tmp_path):
    """One to be changed."""
    shutil.copytree(folder / "index", tmp_path / "index")
    with MediaStore(tmp_path / "index", create=False) as made:
        yield made


def retriever(store, k=5, **options):
    return FusionRetriever(store, SPACES, similarity_top_k=k, **options)


def names(results):
    return [result.node.node_id for result in results]


def below(n, *more):
    return MetadataFilters(filters=[MetadataFilter(key="n", value=n, operator=FilterOperator.LT), *more])


@pytest.fixture(params=["words", "picture", "sound", "both"])
def query(request, folder):
    """Queries of every kind that these spaces can be asked, with the modalities that they can find."""
    picture, sound = folder / "query.png", folder / "query.wav"
    return {
        "words": MediaQuery("a goat in a storm", modalities=["text", "image", "audio", "mesh"]),
        "picture": MediaQuery(image=picture, modalities=["image", "mesh"]),
        "sound": MediaQuery(audio=sound, modalities=["audio"]),
        "both": MediaQuery("a goat in a storm", image=picture, modalities=["image", "mesh", "text"]),
    }[request.param]


# -- how many, how good, of what kind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["convex", "reciprocal_rank", "distribution_based", "maximum"])
@pytest.mark.parametrize("k", [1, 5, 65, 200])
def test_as_many_as_there_are_sorted_and_explained(store, query, k, fusion):
    results = retriever(store, k, fusion=fusion).retrieve(query)
    assert len(results) == min(k, sum(COUNTS[modality] for modality in query.modalities))
    assert len(set(names(results))) == len(results)
    scores = [result.score for result in results]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= min(scores) <= max(scores) <= 1
    for result in results:
        reasons = reasons_of(result.node)
        assert sum(reason.contribution for reason in reasons) == pytest.approx(result.score, abs=1e-12)
        shares = [reason.contribution for reason in reasons]
        assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("modality", COUNTS)
@pytest.mark.parametrize("k", [1, 6, 65, 200])
def test_one_modality(store, modality, k):
    for results in (
        retriever(store, k).retrieve(MediaQuery("a goat in a storm", modalities=[modality])),
        retriever(store, k, modalities=[modality]).retrieve("a goat in a storm"),
    ):
        assert len(results) == min(k, COUNTS[modality])
        assert {type(result.node) for result in results} == {CLASSES[modality]}


def test_the_modalities_of_a_query_replace_those_of_the_retriever(store):
    results = retriever(store, 3, modalities=["text"]).retrieve(MediaQuery("goat", modalities=["mesh"]))
    assert [type(result.node) for result in results] == [MeshMedia] * 3


@pytest.mark.parametrize("k", [1, 4, 100])
@pytest.mark.parametrize("n", [0, 1, 3, 68])
def test_metadata_filters_come_before_the_search(store, k, n):
    kind = MetadataFilter(key="kind", value="text")
    filters = below(n, kind)
    for results in (
        retriever(store, k, filters=filters).retrieve("boat"),
        retriever(store, k).retrieve(MediaQuery("boat", filters=filters)),
        retriever(store, k, filters=below(n)).retrieve(MediaQuery("boat", modalities=["text"])),
        retriever(store, k, filters=below(n)).retrieve(MediaQuery("boat", filters=MetadataFilters(filters=[kind]))),
    ):
        assert len(results) == min(k, n)
        assert all(result.node.metadata["n"] < n and type(result.node) is TextNode for result in results)


def test_filters_that_leave_only_what_is_far_away(store):
    """The nodes left are beyond the candidates of every channel without the filter."""
    everything = names(retriever(store, 200, modalities=["text"]).retrieve("boat and storm"))
    last = everything[-3:]
    numbers = [int(name.split()[1]) for name in last]
    filters = MetadataFilters(filters=[MetadataFilter(key="n", value=numbers, operator=FilterOperator.IN)])
    assert names(retriever(store, 1, modalities=["text"], filters=filters).retrieve("boat and storm")) == last[:1]
    assert names(retriever(store, 9, modalities=["text"], filters=filters).retrieve("boat and storm")) == last


@pytest.mark.parametrize("k", [3, 300])
def test_scores_are_those_of_the_formula(store, folder, k):
    """Everything is scored by hand in both channels; only what stands in the middle of a tie could come out otherwise."""
    text, picture, _ = SPACES
    weights = {"text": 3.0, "picture:image": 0.5}
    asked = {
        text.name: text.encoders["text"].encode(["storm"])[0],
        picture.name: picture.encoders["image"].encode([file_payload(folder / "query.png", "image")])[0],
    }
    expected = defaultdict(float)
    for space, weight in ((text, 3.0), (picture, 0.5)):
        seqs = store.find(modalities=["image"]).tolist()
        raw = store.similarities(space.name, "image", asked[space.name], seqs)
        for seq, value in zip(seqs, raw, strict=True):
            expected[store.nodes([seq])[seq].node_id] += weight / 3.5 * normalise(float(value), raw)
    best = sorted(expected.values(), reverse=True)[:k]
    query = MediaQuery("storm", image=folder / "query.png", modalities=["image"])
    results = retriever(store, k, weights=weights).retrieve(query)
    assert [result.score for result in results] == pytest.approx(best, abs=1e-5)
    assert [expected[name] for name in names(results)] == pytest.approx(best, abs=1e-5)


def test_what_is_asked_for_is_found_first(store, folder):
    assert names(retriever(store, 1).retrieve("chair and bell and number 38")) == ["text 38"]
    assert names(retriever(store, 1).retrieve(MediaQuery(image=folder / "7.png", modalities=["image"]))) == ["image 7"]
    assert names(retriever(store, 1).retrieve(MediaQuery(audio=folder / "2.wav", modalities=["audio"]))) == ["audio 2"]
    views = MediaQuery(image=folder / "views 1.png", modalities=["mesh"])
    assert names(retriever(store, 1).retrieve(views)) == ["mesh 1"]


def test_nodes_come_back_with_everything_and_the_reasons(store, query):
    results = retriever(store, 20).retrieve(query)
    for result in results:
        (seq,) = store.find(node_ids=[result.node.node_id]).tolist()
        stored = store.nodes([seq])[seq]
        found = result.node.model_copy(deep=True)
        del found.metadata["mm_reasons"]
        for hidden in (found.excluded_embed_metadata_keys, found.excluded_llm_metadata_keys):
            hidden.remove("mm_reasons")
        assert type(found) is type(stored) is CLASSES[modality_of_node(stored)]
        assert found.to_dict() == stored.to_dict()


# -- ways to ask ----------------------------------------------------------------------------------------------------------


def test_every_form_of_query(store, folder):
    ask = retriever(store, 9, modalities=["image"]).retrieve
    expected = ask("goat")
    assert ask(QueryBundle("goat")) == ask(MediaQuery("goat")) == ask(MediaQuery("  goat\n")) == expected
    picture = str(folder / "query.png")
    both = ask(QueryBundle("goat", image_path=picture))
    assert both == ask(MediaQuery("goat", image=folder / "query.png")) == ask(MediaQuery("goat", image_path=picture))
    assert both != expected
    assert {reason.part for reason in reasons_of(both[0].node)} == {"text", "image"}
    alone = ask(QueryBundle("", image_path=picture))
    assert alone == ask(MediaQuery(image=picture))
    assert {reason.part for reason in reasons_of(alone[0].node)} == {"image"}


def test_only_some_spaces(store, folder):
    query = MediaQuery("goat", image=folder / "query.png", modalities=["image"], spaces=["picture"])
    results = retriever(store).retrieve(query)
    assert {reason.space for result in results for reason in reasons_of(result.node)} == {"picture"}


async def test_async_gives_the_same(store, query):
    assert await retriever(store, 30).aretrieve(query) == retriever(store, 30).retrieve(query)


async def test_many_at_once(store, query):
    made = retriever(store, 30)
    expected = made.retrieve(query)
    assert await asyncio.gather(*[made.aretrieve(query) for _ in range(6)]) == [expected] * 6


async def test_the_event_loop_is_never_blocked(store, monkeypatch):
    """The store takes its time; the loop must go on, and is the one that lets the store go."""
    started, release = threading.Event(), threading.Event()
    whole = store.search

    def slow(*args, **kwargs):
        started.set()
        assert release.wait(30)
        return whole(*args, **kwargs)

    monkeypatch.setattr(store, "search", slow)
    waiting = asyncio.create_task(retriever(store).aretrieve("goat"))
    while not started.is_set():
        await asyncio.sleep(0.001)
    assert not waiting.done()
    release.set()
    assert len(await waiting) == 5


# -- weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, {("text", "text"): 1.0, ("image", "picture"): 1.0}),
        ({"text": 2}, {("text", "text"): 2.0, ("image", "picture"): 1.0}),
        ({"text": 2, "text:image": 3}, {("text", "text"): 3.0, ("image", "picture"): 1.0}),
        ({"text": 2, "text:image": 3, "text:text:image": 4}, {("text", "text"): 4.0, ("image", "picture"): 1.0}),
        ({"text:text:image": 4, "text": 2}, {("text", "text"): 4.0, ("image", "picture"): 1.0}),
        ({"text:mesh": 3, "image:text:image": 4, "sound": 5}, {("text", "text"): 1.0, ("image", "picture"): 1.0}),
        ({"text": 0}, {("image", "picture"): 1.0}),
        ({"text": 0, "text:text:image": 0.25}, {("text", "text"): 0.25, ("image", "picture"): 1.0}),
        ({"picture": 7, "image:picture:image": 0}, {("text", "text"): 1.0}),
    ],
)
def test_the_most_exact_weight_counts(store, folder, weights, expected):
    query = MediaQuery("goat", image=folder / "query.png", modalities=["image"])
    for result in retriever(store, 60, weights=weights).retrieve(query):
        assert {(reason.part, reason.space): reason.weight for reason in reasons_of(result.node)} == expected


def test_a_space_of_weight_zero_is_as_if_it_were_not_there(store, folder):
    query = MediaQuery("goat", image=folder / "query.png", modalities=["image"])
    muted = retriever(store, 20, weights={"text": 0.0}).retrieve(query)
    assert muted == retriever(store, 20).retrieve(MediaQuery(image=folder / "query.png", modalities=["image"]))


def test_weights_decide(store, folder):
    query = MediaQuery("chair", image=folder / "7.png", modalities=["image"])
    assert names(retriever(store, 1, weights={"text": 0.01}).retrieve(query)) == ["image 7"]
    (result,) = retriever(store, 1, weights={"picture": 0.01}).retrieve(query)
    assert "chair" in result.node.text


# -- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", " \n", QueryBundle(""), MediaQuery(), MediaQuery(modalities=["image"])])
def test_an_empty_query(store, query):
    with pytest.raises(QueryError, match=r"^The query is empty"):
        retriever(store).retrieve(query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ["video"]}, "'video'"),
        ({"fusion": "best"}, "'best'"),
        ({"k": 0}, "got 0"),
    ],
)
def test_options_that_are_refused(store, options, message):
    with pytest.raises(QueryError, match=message):
        retriever(store, **options)


def test_unknown_modalities_and_spaces_in_a_query(store):
    with pytest.raises(QueryError, match="'video'"):
        MediaQuery("a", modalities=["video"])
    with pytest.raises(QueryError, match=r"\['smell'\].*picture, sound, text"):
        retriever(store).retrieve(MediaQuery("a", spaces=["text", "smell"]))


def test_what_no_space_can_be_asked(store, folder):
    for query in (
        MediaQuery(image=folder / "query.png", modalities=["text"]),
        MediaQuery(audio=folder / "query.wav", modalities=["image"]),
        MediaQuery("goat", modalities=["image"], spaces=["picture"]),
    ):
        with pytest.raises(QueryError, match="can't find"):
            retriever(store).retrieve(query)
    with pytest.raises(QueryError, match="can't find"):
        retriever(store, weights={"text": 0}).retrieve("goat")


# -- nothing is changed ---------------------------------------------------------------------------------------------------


def test_nothing_is_changed_by_asking(store, query):
    def everything():
        return {seq: node_to_json(node) for seq, node in store.nodes(store.find().tolist()).items()}

    stored, asked = everything(), copy.deepcopy(query)
    first = retriever(store, 10).retrieve(query)
    kept = copy.deepcopy(first)
    for result in retriever(store, 10).retrieve(query):
        result.node.metadata.clear()
        result.score = -1.0
    assert everything() == stored
    assert query == asked
    assert first == kept == retriever(store, 10).retrieve(query)


def test_deleted_nodes_never_come_back(own_store):
    made = retriever(own_store, 2, modalities=["image"])
    seen = set()
    while results := made.retrieve("goat storm"):
        assert not seen & set(names(results))
        seen |= set(names(results))
        own_store.delete(node_ids=names(results))
    assert len(seen) == COUNTS["image"]
    own_store.delete(ref_doc_ids=["audio document 3"])
    assert "audio 3" not in names(retriever(own_store, 200).retrieve("goat"))


def test_what_is_added_is_found(own_store):
    made = retriever(own_store, 1)
    assert made.retrieve("zebra")[0].node.node_id != "zebra"
    own_store.add(encode_nodes([TextNode(id_="zebra", text="zebra")], SPACES))
    (result,) = made.retrieve("zebra")
    assert result.node.node_id == "zebra"
    assert reasons_of(result.node)[0].raw == pytest.approx(1)


def test_an_empty_store(tmp_path):
    with MediaStore(tmp_path) as empty:
        for space in SPACES:
            empty.declare_space(space.name, space.dimension, space.fingerprint)
        assert retriever(empty).retrieve("goat") == []


def test_a_mesh_as_query(store, folder):
    pytest.importorskip("open3d")
    points = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"
    (folder / "query.obj").write_text(points)
    results = retriever(store, 2, modalities=["mesh"]).retrieve(MediaQuery(mesh=folder / "query.obj"))
    assert [type(result.node) for result in results] == [MeshMedia] * 2
    assert {reason.part for result in results for reason in reasons_of(result.node)} == {"mesh"}
