"""What is not the same is never taken for the same: by hashes, ids, cache keys, stores and fusion."""

import copy
import pickle
import shutil
import threading

import numpy as np
import pytest
from llama_index.core import MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import Node, QueryBundle
from llama_index.core.storage.docstore import SimpleDocumentStore

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.errors import ModelError
from llama_index_mm.media import contact_sheet, digest_file, load_image, load_mesh, render_views
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia, retype
from llama_index_mm.readers import MediaReader
from llama_index_mm.readers.media import document_of
from llama_index_mm.retrieval.retriever import FusionRetriever
from llama_index_mm.stores import MediaStore, Record, SpaceVectorStore
from llama_index_mm.testing import HashingEncoder
from llama_index_mm.transforms.audio import SplitAudio
from llama_index_mm.transforms.images import LabelImages
from llama_index_mm.transforms.meshes import DescribeMeshes
from llama_index_mm.transforms.transcript import Segment, Transcript


class Told:
    """Hears one sentence in whatever it is given."""

    def __init__(self, words):
        self.words = words
        self.fingerprint = f"told {words}"
        self.asked = 0

    def transcribe(self, sound, *, language=None):
        self.asked += 1
        return Transcript((Segment(0.0, sound.seconds, self.words),), "en", 1.0)


class Named:
    """Sees one thing in every picture."""

    def __init__(self, name, fingerprint=None):
        self.name = name
        if fingerprint:
            self.fingerprint = fingerprint

    def labels(self, pictures, *, top=5):
        return [[(self.name, 1.0)]] * len(pictures)


def spans(make):
    path = make.tone("talk.wav", seconds=2.0)
    digest = digest_file(path)
    return [AudioMedia.create(path, digest=digest, text="words", start=at, end=at + 1.0) for at in (0.0, 1.0)]


def crops(make):
    path = make.picture("a.png")
    digest = digest_file(path)
    return [ImageMedia.create(path, digest=digest, text="words", left=left, top=0, right=24, bottom=16) for left in (0, 8)]


def same_text(make):
    return [document_of(make.picture(f"{name}.png", name)).with_facts(text="words") for name in ("red", "blue")]


def same_name(make):
    return [document_of(make.picture(f"{name}/words.png", name)) for name in ("red", "blue")]


def captions(make):
    path = make.picture("a.png")
    digest = digest_file(path)
    return [ImageMedia.create(path, digest=digest, text="words", caption=caption) for caption in ("one", "two")]


def before_and_after(make):
    before = document_of(make.picture("words.png", "red"))
    return [before, document_of(make.picture("words.png", "blue"))]


PAIRS = [spans, crops, same_text, same_name, captions, before_and_after]


@pytest.mark.parametrize("make_pair", PAIRS)
def test_told_apart(make, make_pair, tmp_path):
    one, two = make_pair(make)
    transform = LabelImages()
    assert one.hash != two.hash
    assert one.node_id != two.node_id
    assert get_transformation_hash([one], transform) != get_transformation_hash([two], transform)
    documents = SimpleDocumentStore()
    documents.add_documents([one, two])
    assert {key: retype(node) for key, node in documents.docs.items()} == {one.node_id: one, two.node_id: two}
    cache = IngestionCache()
    made = [IngestionPipeline(transformations=[transform], cache=cache).run(nodes=[node])[0] for node in (one, two)]
    assert made[0].metadata != made[1].metadata
    assert made[0].node_id != made[1].node_id
    both = IngestionPipeline(transformations=[], docstore=SimpleDocumentStore(), docstore_strategy="duplicates_only")
    assert both.run(nodes=[one, two]) == [one, two]


@pytest.mark.parametrize("make_pair", PAIRS)
def test_told_apart_by_store_and_fusion(make, make_pair, tmp_path):
    pair = make_pair(make)
    encoder = HashingEncoder("text")
    space = EmbeddingSpace("text", {"text": encoder, "image": encoder, "audio": encoder})
    (vector,) = encoder.encode(["words"])
    with MediaStore(tmp_path / "store") as store:
        store.declare_space("text", encoder.dimension, space.fingerprint)
        store.add([Record(node, {"text": vector}) for node in pair])
        found = FusionRetriever(store, [space], similarity_top_k=5).retrieve(QueryBundle("words"))
        back = SpaceVectorStore(store, "text").get_nodes([node.node_id for node in pair])
    assert sorted(one.node.node_id for one in found) == sorted(node.node_id for node in pair)
    assert back == pair


def test_same_file_twice_is_the_same(make):
    """The id is that of the content; the path still counts for the hash, as a document that moved is to be written anew."""
    one, two = (document_of(make.picture(f"{folder}/a.png")) for folder in ("x", "y"))
    assert one.node_id == two.node_id
    assert one.hash != two.hash


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_changed_file_is_read_again(make, how, tmp_path):
    """Under an id of the user's own, such as the path, a new content replaces the old one."""

    def read(colour):
        node = document_of(make.picture("a.png", colour))
        node.id_ = "a.png"
        return node

    store = SpaceVectorStore(tmp_path / "store")
    made = IngestionPipeline(
        transformations=[LabelImages(), MockEmbedding(embed_dim=4)],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
        vector_store=store,
    )
    counts = []
    for colour in ("red", "red", "blue"):
        node = read(colour)
        counts.append(len(await made.arun(nodes=[node]) if how == "async" else made.run(nodes=[node])))
        (kept,) = store.get_nodes()
        assert (kept.ref_doc_id, kept.digest) == ("a.png", node.digest)
    assert counts == [1, 0, 1]
    assert made.docstore.get_document_hash("a.png") == read("blue").hash
    store.close()


def test_keys_know_the_configuration(make, tmp_path):
    keys = [
        get_transformation_hash([document_of(make.picture("a.png"))], transform)
        for transform in (
            SplitAudio(),
            SplitAudio(Told("a")),
            SplitAudio(Told("b")),
            SplitAudio(Told("a"), language="de"),
            SplitAudio(Told("a"), span_seconds=10),
            SplitAudio(Told("a"), overlap_seconds=1),
            LabelImages(),
            LabelImages(Named("a", "first")),
            LabelImages(Named("a", "second")),
            LabelImages(Named("a", "first"), top=2),
            LabelImages(Named("a"), fingerprint="told"),
            LabelImages(Named("a")),
            LabelImages(Named("a")),  # nothing tells two labelers of no fingerprint apart, so they share nothing
            DescribeMeshes(MediaStore(tmp_path / "one").media_path),
            DescribeMeshes(MediaStore(tmp_path / "two").media_path),
            DescribeMeshes(lambda data, suffix: tmp_path / "views.png"),
            DescribeMeshes(lambda data, suffix: tmp_path / "views.png"),
        )
    ]
    assert len(set(keys)) == len(keys)


def test_keys_are_the_same_where_nothing_changed(make, tmp_path):
    nodes = [document_of(make.picture("a.png"))]
    for made in (
        lambda: SplitAudio(Told("a")),
        lambda: LabelImages(Named("a", "first")),
        lambda: LabelImages(Named("a"), fingerprint="told"),
        lambda: DescribeMeshes(MediaStore(tmp_path / "store").media_path),
    ):
        assert get_transformation_hash(nodes, made()) == get_transformation_hash(nodes, made())
        assert made().to_dict() == made().to_dict()


def test_two_transcribers_share_nothing(make):
    pytest.importorskip("av")
    nodes = [document_of(make.tone("talk.wav"))]
    cache = IngestionCache()
    first, again, second = Told("first"), Told("first"), Told("second")
    for told in (first, again, second):
        (node,) = IngestionPipeline(transformations=[SplitAudio(told)], cache=cache).run(nodes=copy.deepcopy(nodes))
        assert retype(node).text == told.words
    assert (first.asked, again.asked, second.asked) == (1, 0, 1)


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_media_out_of_the_cache_is_worked_on(make, how, tmp_path):
    """What a cache gives back are plain nodes; the transform after it must not let them pass."""
    pytest.importorskip("av")
    pytest.importorskip("open3d")
    make.picture("in/a.png")
    make.tone("in/b.wav")
    make.obj("in/c.obj")
    make.text("in/d.txt", "words")
    cache = IngestionCache()
    with MediaStore(tmp_path / "store") as store:
        for words in ("first", "first", "second"):
            made = IngestionPipeline(
                transformations=[
                    LabelImages(Named("cat", "cats")),
                    DescribeMeshes(store.media_path),
                    SplitAudio(Told(words)),
                ],
                cache=cache,
            )
            documents = MediaReader().load_data(tmp_path / "in")
            out = await made.arun(documents=documents) if how == "async" else made.run(documents=documents)
            picture, sound, mesh, text = [retype(node) for node in out]
            assert [type(node) for node in (picture, sound, mesh)] == [ImageMedia, AudioMedia, MeshMedia]
            assert picture.text == "Picture 'a'. It may show: cat 100%."
            assert (sound.text, sound.start, sound.end, sound.language) == (words, 0.0, 1.0, "en")
            assert mesh.text.startswith("c. 3D model, vertices: 8")
            assert load_image(mesh.views).size == (672, 448)
            assert text.get_content() == "words"
            assert [node.ref_doc_id for node in (picture, sound, mesh)] == [document.node_id for document in documents[:3]]
    assert len(cache.cache.get_all(cache.collection)) == 4


def test_retyped_before_each_transform(make, tmp_path):
    pytest.importorskip("av")
    sound = Node.from_dict(document_of(make.tone("b.wav")).to_dict())
    assert type(LabelImages()([sound])[0]) is AudioMedia
    assert SplitAudio(Told("a"))([sound])[0].text == "a"


class TestViews:
    """A cached mesh points to a file of views, which a cache can't keep."""

    @pytest.fixture(autouse=True)
    def open3d(self):
        pytest.importorskip("open3d")

    @staticmethod
    def described(document, folder, cache):
        with MediaStore(folder) as store:
            made = IngestionPipeline(transformations=[DescribeMeshes(store.media_path)], cache=cache)
            (node,) = made.run(nodes=[copy.deepcopy(document)])
        return retype(node)

    def test_each_store_gets_its_own(self, make, tmp_path):
        document, cache = document_of(make.obj("a.obj")), IngestionCache()
        for name in ("one", "two", "one"):
            node = self.described(document, tmp_path / name, cache)
            assert node.views.is_relative_to(tmp_path / name)
            assert node.views.is_file()
        assert len(cache.cache.get_all(cache.collection)) == 2

    def test_a_store_made_anew_or_moved_gets_them_again(self, make, tmp_path):
        document, cache = document_of(make.obj("a.obj")), IngestionCache()
        self.described(document, tmp_path / "store", cache)
        shutil.rmtree(tmp_path / "store")
        assert self.described(document, tmp_path / "store", cache).views.is_file()
        (tmp_path / "store").rename(tmp_path / "moved")
        assert self.described(document, tmp_path / "moved", cache).views.is_relative_to(tmp_path / "moved")

    def test_views_that_are_gone_are_rendered_anew(self, make, tmp_path):
        document, cache = document_of(make.obj("a.obj")), IngestionCache()
        wanted = contact_sheet(render_views(load_mesh(document.path)))
        self.described(document, tmp_path / "store", cache).views.unlink()
        node = self.described(document, tmp_path / "store", cache)
        assert not node.views.exists()
        _, block = node.get_content_blocks()
        assert load_image(block.resolve_image().read()).tobytes() == wanted.tobytes()


class TestPickling:
    """Workers get the transform by pickle."""

    def test_tool_and_fields_come_along(self):
        back = pickle.loads(pickle.dumps(SplitAudio(Told("a"), span_seconds=7, language="de")))
        assert back.to_dict() == SplitAudio(Told("a"), span_seconds=7, language="de").to_dict()
        assert back._tool.words == "a"
        assert pickle.loads(pickle.dumps(LabelImages()))._tool is None

    def test_what_cannot_come_along_is_no_silent_loss(self):
        told = Told("a")
        told.lock = threading.Lock()
        with pytest.raises(TypeError, match="lock"):
            pickle.dumps(SplitAudio(told))

    def test_workers(self, make):
        pytest.importorskip("av")
        nodes = [document_of(make.tone(f"{hertz}.wav", hertz)) for hertz in (300, 500)]
        made = IngestionPipeline(transformations=[LabelImages(), SplitAudio(Told("heard"))])
        for _ in range(2):
            out = [retype(node) for node in made.run(nodes=copy.deepcopy(nodes), num_workers=2)]
            assert [(node.text, node.ref_doc_id) for node in out] == [("heard", node.node_id) for node in nodes]


class TestFingerprints:
    def test_of_the_tool(self):
        assert SplitAudio(Told("a")).fingerprint == "told a"
        assert SplitAudio().fingerprint == ""
        assert LabelImages(Named("a"), fingerprint="mine").fingerprint == "mine"
        assert SplitAudio.from_dict(SplitAudio(Told("a")).to_dict(), transcriber=Told("a"))._tool.words == "a"

    def test_without_its_tool(self):
        with pytest.raises(ModelError, match="made with 'told a'"):
            SplitAudio.from_dict(SplitAudio(Told("a")).to_dict())

    def test_of_another_tool(self):
        with pytest.raises(ModelError, match="Expected a tool of fingerprint 'told a' for SplitAudio, got 'told b'"):
            SplitAudio(Told("b"), fingerprint="told a")


def test_parts_of_a_part_have_ids_of_their_own(make):
    """A recording that belongs to something else, and is split, gives nodes of different ids."""
    pytest.importorskip("av")
    node = document_of(make.wav("a.wav", np.zeros(25 * 16_000))).with_facts(part=1)
    node.relationships = AudioMedia.create("b.wav", digest="0" * 64, source=node.as_related_node_info()).relationships
    parts = SplitAudio(span_seconds=10)([node])
    assert [part.node_id for part in parts] == [f"{node.node_id}:{at}" for at in range(3)]
    assert {part.ref_doc_id for part in parts} == {node.ref_doc_id}
