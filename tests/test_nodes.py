import copy
import io
import json
import pickle
import wave
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import StorageContext
from llama_index.core.base.llms.types import AudioBlock, ImageBlock, TextBlock
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import (
    Document,
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import contact_sheet, load_audio, load_image, load_mesh, render_views
from llama_index_mm.nodes import (
    PREFIX,
    TEXT_ONLY,
    AudioMedia,
    ImageMedia,
    MediaNode,
    MeshMedia,
    format_seconds,
    modality_of_node,
    node_from_json,
    node_to_json,
    retype,
    title_of,
)

DIGEST = "0123456789abcdef" * 4


def image(folder=Path("/pictures")):
    return ImageMedia.create(
        folder / "Sea-shore_2.png",
        digest=DIGEST,
        text="a boat",
        mimetype="image/png",
        width=24,
        source=RelatedNodeInfo(node_id="document"),
        metadata={"author": "archive", "year": 1999, "good": True, "mark": 0.5, "none": None},
    )


def audio(folder=Path("/sounds")):
    return AudioMedia.create(
        folder / "talk.wav",
        digest=DIGEST,
        text="hello there",
        id_="span-3",
        start=0.5,
        end=1.25,
        seconds=3.0,
        speech=True,
        language="de",
        mimetype="audio/wav",
        metadata={"author": "archive"},
    )


def mesh(folder=Path("/meshes")):
    return MeshMedia.create(folder / "chair.obj", digest=DIGEST, views=str(folder / "chair-views.png"), faces=12, closed=True)


def bare():
    return MeshMedia.create("chair.obj", digest=DIGEST)


NODES = {"image": image, "audio": audio, "mesh": mesh, "bare": bare}


@pytest.fixture(params=NODES)
def node(request):
    return NODES[request.param]()


def through_document_store(node, folder):
    store = SimpleDocumentStore()
    store.add_documents([node])
    store.persist(str(folder / "documents.json"))
    return SimpleDocumentStore.from_persist_path(str(folder / "documents.json")).get_document(node.node_id)


def through_storage_context(node, folder):
    context = StorageContext.from_defaults()
    context.docstore.add_documents([node])
    context.persist(str(folder))
    return StorageContext.from_defaults(persist_dir=str(folder)).docstore.get_document(node.node_id)


def through_pipeline_cache(node, folder):
    """The second run gives what the cache of the first one holds, read from disk."""
    cache = IngestionCache()
    first = IngestionPipeline(transformations=[], cache=cache).run(nodes=[node])
    cache.put("key", first)
    cache.persist(str(folder / "cache.json"))
    return IngestionCache.from_persist_path(str(folder / "cache.json")).get("key")[0]


WAYS = {
    "to_dict": lambda node, _: type(node).from_dict(node.to_dict()),
    "to_dict as a plain node": lambda node, _: Node.from_dict(node.to_dict()),
    "dict through JSON": lambda node, _: Node.from_dict(json.loads(json.dumps(node.to_dict()))),
    "to_json": lambda node, _: type(node).from_json(node.to_json()),
    "to_json as a plain node": lambda node, _: Node.from_json(node.to_json()),
    "node_to_json": lambda node, _: node_from_json(node_to_json(node), node.class_name()),
    "pickle": lambda node, _: pickle.loads(pickle.dumps(node)),
    "deepcopy": lambda node, _: copy.deepcopy(node),
    "model_copy": lambda node, _: node.model_copy(deep=True),
    "document store": through_document_store,
    "storage context": through_storage_context,
    "pipeline": lambda node, _: IngestionPipeline(transformations=[]).run(nodes=[node])[0],
    "pipeline cache": through_pipeline_cache,
    "vector store metadata": lambda node, _: metadata_dict_to_node(node_to_metadata_dict(node, flat_metadata=True)),
    "vector store metadata with text": lambda node, _: metadata_dict_to_node(
        node_to_metadata_dict(node, remove_text=True), text=node.text
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_survives(node, way, tmp_path):
    before = node.model_dump()
    back = retype(WAYS[way](node, tmp_path))
    assert type(back) is type(node)
    assert back.model_dump() == before
    assert (back.hash, back.path, back.digest, back.title, back.text) == (
        node.hash,
        node.path,
        node.digest,
        node.title,
        node.text,
    )
    assert node.model_dump() == before


def test_retype_gives_media_and_strangers_as_they_are(node):
    assert retype(node) is node
    for stranger in (Document(text="a"), TextNode(text="a"), Node(text_resource=MediaResource(text="a")), ImageNode(text="a")):
        assert retype(stranger) is stranger


def test_a_node_that_calls_itself_a_medium_and_has_no_file_stays_as_it_is():
    node = TextNode(text="x", metadata={"mm_modality": "image"})
    assert retype(node) is node
    odd = TextNode(text="x", metadata={"mm_modality": ["image"], "mm_path": 3})
    assert retype(odd) is odd


@pytest.mark.parametrize("make_node", [image, audio, bare])
def test_retype_after_a_store_that_knows_text_nodes_only(make_node):
    node = make_node()
    kept = TextNode(text=node.text, id_=node.node_id, metadata=node.metadata, relationships=node.relationships)
    kept.excluded_embed_metadata_keys = node.excluded_embed_metadata_keys
    kept.excluded_llm_metadata_keys = node.excluded_llm_metadata_keys
    assert retype(kept).model_dump() == node.model_dump()


def test_retyped_node_is_independent():
    plain = Node.from_dict(image().to_dict())
    fresh = retype(plain)
    fresh.metadata["author"] = "Bob"
    fresh.excluded_llm_metadata_keys.append("author")
    assert plain.metadata["author"] == "archive"
    assert "author" not in plain.excluded_llm_metadata_keys


def test_node_to_json_leaves_the_embedding_out():
    node = image()
    node.embedding = [0.5, 0.25]
    assert node_from_json(node_to_json(node), "Node").embedding is None
    assert node.embedding == [0.5, 0.25]


@pytest.mark.parametrize(
    "plain", [TextNode(text="a", metadata={"k": 1}), Document(text="b", id_="c"), ImageNode(image_path="d.png")]
)
def test_core_nodes_keep_their_class(plain):
    back = node_from_json(node_to_json(plain), plain.class_name())
    assert type(back) is type(plain)
    assert back.model_dump() == plain.model_dump()


def test_what_create_states():
    node = audio()
    assert (node.node_id, node.modality, node.digest) == ("span-3", "audio", DIGEST)
    assert (node.start, node.end, node.seconds, node.speech, node.language) == (0.5, 1.25, 3.0, True, "de")
    assert node.audio_resource.path == Path("/sounds/talk.wav")
    assert image().ref_doc_id == "document"
    assert image().node_id != image().node_id
    assert mesh().views == Path("/meshes/chair-views.png")
    assert mesh().image_resource.path == mesh().views
    assert (bare().views, bare().image_resource, bare().text) == (None, None, "chair")
    assert (AudioMedia.create("a.wav", digest=DIGEST).start, AudioMedia.create("a.wav", digest=DIGEST).speech) == (None, False)


def test_caption():
    node = ImageMedia.create("a.png", digest=DIGEST, caption="my boat")
    assert (node.caption, node.text) == ("my boat", "my boat")
    labelled = node.with_facts(text="Picture 'a'. It may show: boat 90%.")
    assert (labelled.caption, labelled.text) == ("my boat", "Picture 'a'. It may show: boat 90%.")
    assert ImageMedia.create("a.png", digest=DIGEST, text="a boat", caption="my boat").text == "a boat"
    assert image().caption is None
    assert "mm_caption" not in labelled.get_content(metadata_mode=MetadataMode.LLM)


def test_facts_of_the_package_win_over_the_users():
    node = ImageMedia.create("a.png", digest=DIGEST, metadata={"mm_digest": "forged", "file_name": "mine"})
    assert node.digest == DIGEST
    assert node.metadata["file_name"] == "mine"


def test_metadata_is_flat(node):
    assert all(isinstance(value, str | int | float | bool | None) for value in node.metadata.values())
    own = {"file_name", "file_path", "author", "year", "good", "mark", "none"}
    assert {key for key in node.metadata if not key.startswith(PREFIX)} <= own


@pytest.mark.parametrize("mode", [MetadataMode.EMBED, MetadataMode.LLM])
def test_texts_show_the_users_metadata_only(node, mode):
    content = node.get_content(metadata_mode=mode)
    assert "mm_" not in content
    assert DIGEST not in content
    assert "file_" not in content
    assert content.endswith(node.text)
    assert ("author: archive" in content) == ("author" in node.metadata)
    later = node.with_facts(added="x", **{"text": "other words"})
    assert "mm_" not in later.get_content(metadata_mode=mode)


def test_get_content(node):
    assert node.get_content() == node.text
    assert node.get_content(metadata_mode=MetadataMode.NONE) == node.text
    assert "mm_digest" in node.get_content(metadata_mode=MetadataMode.ALL)


def test_spans_of_one_file_differ_in_hash():
    spans = [AudioMedia.create("a.wav", digest=DIGEST, start=start, end=end) for start, end in ((0, 1), (1, 2), (0, 2))]
    assert len({span.hash for span in spans}) == 3
    assert spans[0].hash == AudioMedia.create("a.wav", digest=DIGEST, start=0, end=1).hash
    contents = [ImageMedia.create("a.png", digest=digest) for digest in (DIGEST, DIGEST[::-1])]
    assert contents[0].hash != contents[1].hash


def test_with_facts_leaves_the_original_alone(node):
    before = copy.deepcopy(node)
    fresh = node.with_facts(text="new words", views="/meshes/new.png", number=3, nothing=None)
    assert node.model_dump() == before.model_dump()
    assert (fresh.text, fresh.metadata["mm_number"]) == ("new words", 3)
    assert "mm_nothing" not in fresh.metadata
    for hidden in (fresh.excluded_embed_metadata_keys, fresh.excluded_llm_metadata_keys):
        assert hidden.count("mm_number") == 1
        assert len(set(hidden)) == len(hidden)
    assert fresh.node_id == node.node_id
    assert node.with_facts().model_dump() == before.model_dump()


def test_with_facts_moves_the_views():
    fresh = bare().with_facts(views="/new.png")
    assert (fresh.views, fresh.image_resource.path) == (Path("/new.png"), Path("/new.png"))


class TestBlocks:
    def test_image(self, make):
        node = image(make.picture("Sea-shore_2.png").parent)
        assert node.get_content_blocks() == [
            TextBlock(text="a boat"),
            ImageBlock(path=node.path, image_mimetype="image/png"),
        ]

    def test_metadata_comes_first(self, make):
        blocks = image(make.picture("Sea-shore_2.png").parent).get_content_blocks(MetadataMode.LLM)
        assert [type(block) for block in blocks] == [TextBlock, TextBlock, ImageBlock]
        assert "author: archive" in blocks[0].text
        assert "mm_" not in blocks[0].text

    @pytest.mark.parametrize(
        ("start", "end", "wanted"), [(0.5, 1.25, 0.75), (None, 1.0, 1.0), (2.0, None, 1.0), (None, None, 3.0)]
    )
    def test_audio_is_a_wav_of_the_span(self, make, start, end, wanted):
        pytest.importorskip("av")
        path = make.wav("talk.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 48_000))
        node = AudioMedia.create(path, digest=DIGEST, text="hello", start=start, end=end)
        text, block = node.get_content_blocks()
        assert text == TextBlock(text="hello")
        assert isinstance(block, AudioBlock)
        assert block.format == "wav"
        data = block.resolve_audio().read()
        with wave.open(io.BytesIO(data)) as file:
            assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (1, 16_000, wanted * 16_000)
        np.testing.assert_allclose(load_audio(data).samples, load_audio(path, start=start, end=end).samples, atol=2 / 32768)

    def test_mesh_is_its_sheet(self, make):
        node = mesh(make.picture("chair-views.png").parent)
        assert node.get_content_blocks()[1:] == [ImageBlock(path=node.views, image_mimetype="image/png")]
        assert bare().get_content_blocks() == [TextBlock(text="chair")]

    @pytest.mark.parametrize("make_node", [image, audio, mesh])
    def test_file_that_is_gone(self, make_node, tmp_path):
        if make_node is mesh:
            pytest.importorskip("open3d")
        with pytest.raises(DecodeError, match="is missing"):
            make_node(tmp_path).get_content_blocks()

    def test_facts_of_a_mesh_beside_a_text_of_the_users(self, make):
        facts = {"vertices": 8, "faces": 1200, "closed": False, "size_x": 0.5, "size_y": 1.0, "size_z": 2.25}
        line = "3D model, vertices: 8, faces: 1200, size: 0.5 x 1 x 2.25 (file units), surface: open"
        node = mesh(make.picture("chair-views.png").parent).with_facts(text="grandmother's chair", **facts)
        assert str(node.facts) == line
        sheet = ImageBlock(path=node.views, image_mimetype="image/png")
        assert node.get_content_blocks() == [TextBlock(text="grandmother's chair"), TextBlock(text=line), sheet]
        described = node.with_facts(text=f"chair. {line}.")  # as DescribeMeshes writes it
        assert described.get_content_blocks() == [TextBlock(text=f"chair. {line}."), sheet]
        assert mesh().facts is None

    def test_views_that_are_gone_are_rendered_anew(self, make):
        pytest.importorskip("open3d")
        node = mesh(make.obj("chair.obj").parent)
        text, block = node.get_content_blocks()
        assert text == TextBlock(text="chair")
        sheet = contact_sheet(render_views(load_mesh(node.path)))
        assert load_image(block.resolve_image().read()).tobytes() == sheet.tobytes()
        assert not node.views.exists()

    def test_views_that_are_broken(self, make):
        make.bytes("chair-views.png", b"")
        with pytest.raises(DecodeError, match="empty"):
            mesh(make.obj("chair.obj").parent).get_content_blocks()

    def test_text_only(self, node):
        copied = node.model_copy(deep=True)
        copied.metadata[TEXT_ONLY] = True
        assert copied.get_content_blocks() == [TextBlock(text=node.text)]  # no file is opened


def test_modality_of_node(node):
    assert modality_of_node(node) == node.modality
    assert modality_of_node(Node.from_dict(node.to_dict())) == node.modality


@pytest.mark.parametrize(
    "plain", [Document(text="a"), TextNode(text="a"), Document(text="a", metadata={"mm_modality": "smell"})]
)
def test_modality_of_other_nodes(plain):
    assert modality_of_node(plain) == "text"


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("Sea-shore_2.ogg", "Sea shore 2"),
        ("a/b/one.two.png", "one.two"),
        ("__x--y.wav", "x y"),
        ("plain.txt", "plain"),
        ("_-_.png", "_-_.png"),
    ],
)
def test_title(path, title):
    assert title_of(Path(path)) == title


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (5.6, "0:06"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (75.2, "1:15"),
        (600, "10:00"),
        (3599.7, "1:00:00"),
        (3600, "1:00:00"),
        (3661, "1:01:01"),
        (36_000, "10:00:00"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_source_relationship_survives(tmp_path):
    back = retype(through_document_store(image(), tmp_path))
    assert back.relationships == {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="document")}


def test_base_class_is_what_stores_know():
    assert {cls.class_name() for cls in (MediaNode, ImageMedia, AudioMedia, MeshMedia)} == {"Node"}
