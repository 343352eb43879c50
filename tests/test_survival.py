"""Every kind of node through everything that LlamaIndex does to nodes: what comes back is equal in every field."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.schema import (
    Document,
    ImageDocument,
    ImageNode,
    MediaResource,
    NodeRelationship,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
    TransformComponent,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from llama_index_mm.media import digest_file, image_bytes
from llama_index_mm.nodes import AudioMedia, ImageMedia, MediaNode, MeshMedia, node_from_json, node_to_json, retype
from llama_index_mm.stores import MediaStore, SpaceVectorStore

SOURCE = RelatedNodeInfo(
    node_id="document", node_type=ObjectType.MULTIMODAL, metadata={"mm_seconds": 3.0, "author": "archive"}, hash="ab" * 32
)
OWN = {"author": "Æsop", "year": 1999, "good": True, "bad": False, "mark": 0.1, "none": None, "empty": "", "zero": 0}


def image(make):
    path = make.picture("Sea-shore_2.png")
    return ImageMedia.create(path, digest=digest_file(path), mimetype="image/png", width=24, metadata=OWN, source=SOURCE)


def captioned(make):
    path = make.picture("b.jpg", "blue")
    address = "https://example.org/a b.jpg?x=1&y=%20"
    node = ImageMedia.create(
        path, digest=digest_file(path), caption='A "boat"\n\\ 🚤', url=address, mimetype="image/jpeg", id_="captioned"
    )
    node.excluded_llm_metadata_keys.append("mine")
    node.text_template = "{metadata_str}: {content}"
    return node


def recording(make):
    path = make.tone("talk.wav", seconds=3.0)
    return AudioMedia.create(path, digest=digest_file(path), seconds=3.0, mimetype="audio/x-wav", metadata=OWN)


def span(make):
    path = make.tone("talk.wav", seconds=3.0)
    node = AudioMedia.create(
        path,
        digest=digest_file(path),
        text="hört ihr das?",
        start=0.1,
        end=1.25,
        seconds=3.0,
        speech=True,
        language="de",
        language_probability=0.9876,
        id_="document:3",
        source=SOURCE,
    )
    node.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id="document:4")
    node.relationships[NodeRelationship.CHILD] = [RelatedNodeInfo(node_id="a"), RelatedNodeInfo(node_id="b")]
    return node


def mesh(make):
    path, views = make.obj("chair.obj"), make.picture("views/chair.png", size=(672, 448))
    sizes = {"size_x": 0.5, "size_y": 1.0, "size_z": 1e-06}
    return MeshMedia.create(
        path, digest=digest_file(path), text="my chair", views=str(views), vertices=8, faces=12, closed=True, **sizes
    )


def chunk(make):
    return TextNode(
        text="Third paragraph.",
        id_="document:7",
        start_char_idx=40,
        end_char_idx=56,
        metadata={"page_label": "3", "file_name": "report.pdf", "mm_modality": "text", "mm_digest": "ab" * 32, "mm_page": 3},
        excluded_embed_metadata_keys=["file_name", "mm_modality"],
        excluded_llm_metadata_keys=["mm_modality", "mm_digest", "mm_page"],
        relationships={NodeRelationship.SOURCE: SOURCE, NodeRelationship.PREVIOUS: RelatedNodeInfo(node_id="document:6")},
    )


def core_image(make):
    path = make.picture("c.png")
    return ImageNode(text="a cat", image_path=str(path), image=image_bytes_of(path), image_mimetype="image/png", metadata=OWN)


def image_bytes_of(path):
    from PIL import Image

    return image_bytes(Image.open(path).convert("RGB")).hex()


def core_image_document(make):
    return ImageDocument(image_path=str(make.picture("d.png")), text="a dog", metadata=OWN)


def core_text(make):
    return TextNode(text="words", metadata=OWN, relationships={NodeRelationship.SOURCE: SOURCE})


def core_document(make):
    return Document(text="pages", metadata=OWN, id_="mine")


MEDIA = [image, captioned, recording, span, mesh]
NODES = [*MEDIA, chunk, core_text, core_image]  # what goes into vector stores
ALL = [*NODES, core_document, core_image_document]


class Same(TransformComponent):
    """Leaves nodes as they are."""

    def __call__(self, nodes, **kwargs):
        return nodes


def state(node):
    """Everything that can be said of a node, but for its embedding."""
    told = node.model_dump(exclude={"embedding"})
    own = [getattr(node, name) for name in ("hash", "node_id", "ref_doc_id", "metadata")]
    types = {key: type(value) for key, value in node.metadata.items()}
    of_media = [cls for cls in type(node).__mro__ if issubclass(cls, MediaNode)]
    names = sorted({name for cls in of_media for name, one in vars(cls).items() if isinstance(one, property)})
    public = {name: getattr(node, name) for name in names}
    return type(node), told, own, types, public, node.get_content_blocks() if isinstance(node, MediaNode) else None


def check(before, back):
    assert state(retype(back)) == state(before)


def through_document_store(node, folder):
    store = SimpleDocumentStore()
    store.add_documents([node])
    return store.get_document(node.node_id)


def through_files_of_a_document_store(node, folder):
    store = SimpleDocumentStore()
    store.add_documents([node])
    store.persist(str(folder / "documents.json"))
    return SimpleDocumentStore.from_persist_path(str(folder / "documents.json")).docs[node.node_id]


def through_storage_context(node, folder):
    context = StorageContext.from_defaults()
    context.docstore.add_documents([node])
    context.persist(str(folder))
    return StorageContext.from_defaults(persist_dir=str(folder)).docstore.get_document(node.node_id)


def through_key_value_store(node, folder):
    values = SimpleKVStore()
    KVDocumentStore(values, namespace="mine").add_documents([node])
    values.persist(str(folder / "values.json"))
    return KVDocumentStore(SimpleKVStore.from_persist_path(str(folder / "values.json")), namespace="mine").get_document(
        node.node_id
    )


def through_ingestion_cache(node, folder):
    cache = IngestionCache()
    cache.put("key", [node])
    cache.persist(str(folder / "cache.json"))
    return IngestionCache.from_persist_path(str(folder / "cache.json")).get("key")[0]


def through_pipeline(node, folder):
    first = IngestionPipeline(transformations=[Same()])
    first.run(nodes=[node])
    first.persist(str(folder))
    again = IngestionPipeline(transformations=[Same()])
    again.load(str(folder))
    (back,) = again.run(nodes=[node])
    assert back is not node  # it came out of the cache
    return back


WAYS = {
    "document store": through_document_store,
    "document store, persisted": through_files_of_a_document_store,
    "storage context, persisted": through_storage_context,
    "key-value store, persisted": through_key_value_store,
    "ingestion cache, persisted": through_ingestion_cache,
    "pipeline run twice, persisted": through_pipeline,
    "doc_to_json": lambda node, _: json_to_doc(json.loads(json.dumps(doc_to_json(node)))),
    "to_json": lambda node, _: type(node).from_json(node.to_json()),
    "to_dict": lambda node, _: type(node).from_dict(json.loads(json.dumps(node.to_dict()))),
    "node_to_json": lambda node, _: node_from_json(node_to_json(node), node.class_name()),
    "pickle": lambda node, _: pickle.loads(pickle.dumps(node)),
    "copy": lambda node, _: copy.copy(node),
    "deepcopy": lambda node, _: copy.deepcopy(node),
    "model_copy": lambda node, _: node.model_copy(),
    "deep model_copy": lambda node, _: node.model_copy(deep=True),
    "model_validate": lambda node, _: type(node).model_validate(node.model_dump()),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make_node", ALL)
def test_survives(make, make_node, way, tmp_path):
    node = make_node(make)
    before = copy.deepcopy(node)
    check(before, WAYS[way](node, tmp_path))
    assert state(node) == state(before)


# -- vector stores ------------------------------------------------------------------------------------------------


def embedded(nodes):
    for at, node in enumerate(nodes):
        node.embedding = [1.0, 0.25 * at, 0.0, 0.5]
    return nodes


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("remove_text", [False, True])
@pytest.mark.parametrize("make_node", NODES)
def test_what_other_vector_stores_write(make, make_node, remove_text, flat):
    """The functions by which they turn nodes into rows and back: Chroma keeps the text apart, LanceDB in the row."""
    node = make_node(make)
    row = json.loads(json.dumps(node_to_metadata_dict(node, remove_text=remove_text, flat_metadata=flat)))
    check(node, metadata_dict_to_node(row, text=node.get_content() if remove_text else None))


@pytest.mark.parametrize("make_node", MEDIA)
def test_row_whose_node_is_lost(make, make_node):
    """A store that keeps nothing but id, text and metadata still gives the medium, and no fact as a text."""
    node = make_node(make)
    back = retype(TextNode(text=node.text, id_=node.node_id, metadata=node.metadata))
    assert type(back) is type(node)
    assert back.metadata == node.metadata
    assert back.get_content_blocks() == node.get_content_blocks()
    assert (back.image_resource, back.audio_resource) == (node.image_resource, node.audio_resource)
    assert set(node.excluded_embed_metadata_keys) <= set(back.excluded_embed_metadata_keys)


@pytest.mark.parametrize("make_node", ALL)
def test_own_store(make, make_node, tmp_path):
    (node,) = embedded([make_node(make)])
    query = VectorStoreQuery(query_embedding=node.embedding, similarity_top_k=1)
    for _ in range(2):  # as it was written, and opened again
        with MediaStore(tmp_path / "store") as media:
            store = SpaceVectorStore(media)
            if not len(media):
                store.add([node])
            found = store.query(query)
            assert found.ids == [node.node_id]
            for back in (*store.get_nodes([node.node_id]), *found.nodes):
                assert type(back) is type(node)  # without retype
                check(node, back)


def indexed(make, context, kinds=NODES):
    nodes = [make_node(make) for make_node in kinds]
    return nodes, VectorStoreIndex(nodes, storage_context=context, embed_model=MockEmbedding(embed_dim=4))


def check_retrieved(nodes, index):
    found = {one.node.node_id: one.node for one in index.as_retriever(similarity_top_k=len(nodes)).retrieve("boat")}
    assert sorted(found) == sorted(node.node_id for node in nodes)
    for node in nodes:
        check(node, found[node.node_id])


@pytest.mark.parametrize("kind", ["simple", "own"])
def test_vector_store_index(make, kind, tmp_path):
    """LlamaIndex's own index and retriever, over its own store and over ours."""
    store = SpaceVectorStore(tmp_path / "store") if kind == "own" else None
    # Beside an ImageNode LlamaIndex's index asks a store that keeps texts for its ImageNodes only.
    kinds = [*MEDIA, chunk, core_text] if kind == "own" else NODES
    nodes, index = indexed(make, StorageContext.from_defaults(vector_store=store), kinds)
    check_retrieved(nodes, index)
    index.storage_context.persist(str(tmp_path / "kept"))
    model = MockEmbedding(embed_dim=4)
    if kind == "simple":
        context = StorageContext.from_defaults(persist_dir=str(tmp_path / "kept"))
        check_retrieved(nodes, load_index_from_storage(context, embed_model=model))
    else:
        store.close()
        again = SpaceVectorStore(tmp_path / "store")
        check_retrieved(nodes, VectorStoreIndex.from_vector_store(again, embed_model=model))
        again.close()


@pytest.mark.filterwarnings("ignore")  # of other people's packages
def test_chroma(make, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    stores = pytest.importorskip("llama_index.vector_stores.chroma")
    client = chromadb.PersistentClient(str(tmp_path))
    store = stores.ChromaVectorStore(chroma_collection=client.get_or_create_collection("mine"))
    nodes, index = indexed(make, StorageContext.from_defaults(vector_store=store))
    check_retrieved(nodes, index)
    for back in store.get_nodes(node_ids=[node.node_id for node in nodes]):
        check(next(node for node in nodes if node.node_id == back.node_id), back)


@pytest.mark.filterwarnings("ignore")
def test_lancedb(make, tmp_path):
    pytest.importorskip("lancedb")
    stores = pytest.importorskip("llama_index.vector_stores.lancedb")
    store = stores.LanceDBVectorStore(uri=str(tmp_path / "lance"), mode="overwrite")
    nodes, index = indexed(make, StorageContext.from_defaults(vector_store=store))
    check_retrieved(nodes, index)


@pytest.mark.filterwarnings("ignore")
def test_llama_index_faiss(make, tmp_path):
    faiss = pytest.importorskip("faiss")
    stores = pytest.importorskip("llama_index.vector_stores.faiss")
    store = stores.FaissVectorStore(faiss_index=faiss.IndexFlatIP(4))
    nodes, index = indexed(make, StorageContext.from_defaults(vector_store=store))
    check_retrieved(nodes, index)
    index.storage_context.persist(str(tmp_path))
    context = StorageContext.from_defaults(
        vector_store=stores.FaissVectorStore.from_persist_dir(str(tmp_path)), persist_dir=str(tmp_path)
    )
    check_retrieved(nodes, load_index_from_storage(context, embed_model=MockEmbedding(embed_dim=4)))


# -- pipelines ----------------------------------------------------------------------------------------------------


def pipeline(strategy, folder=None):
    model = MockEmbedding(embed_dim=4)
    made = IngestionPipeline(
        transformations=[Same(), model],
        docstore=SimpleDocumentStore(),
        docstore_strategy=strategy,
        vector_store=SpaceVectorStore(folder / "store"),
    )
    if (folder / "kept").exists():
        made.load(str(folder / "kept"))
    return made


async def run(made, nodes, how):
    return await made.arun(nodes=nodes) if how == "async" else made.run(nodes=nodes)


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("strategy", DocstoreStrategy)
async def test_pipeline_with_documents(make, strategy, how, tmp_path):
    """Nothing is done twice; the document store, the vector store and the cache hold every document as it was."""
    documents = [make_node(make) for make_node in (image, captioned, recording, mesh, core_document, core_text)]
    for document in documents:
        document.relationships.clear()  # documents have no source
    before = copy.deepcopy(documents)
    first = pipeline(strategy, tmp_path)
    assert len(await run(first, documents, how)) == len(documents)
    first.persist(str(tmp_path / "kept"))
    first.vector_store.close()

    second = pipeline(strategy, tmp_path)
    assert await run(second, copy.deepcopy(before), how) == []
    for node in before:
        check(node, second.docstore.get_document(node.node_id))
    for back in second.vector_store.get_nodes([node.node_id for node in before if isinstance(node, MediaNode)]):
        check(next(node for node in before if node.node_id == back.node_id), back)
    second.docstore = SimpleDocumentStore()  # all is new again, but for the cache
    cached = await run(second, copy.deepcopy(before), how)
    assert [node.embedding for node in cached] == [[0.5] * 4] * len(before)
    for node, back in zip(before, cached, strict=True):
        check(node, back)
    second.vector_store.close()


def test_pipeline_with_workers(make, tmp_path):
    nodes = [make_node(make) for make_node in (image, captioned, span, mesh, core_image)]
    made = IngestionPipeline(transformations=[Same()])
    for _ in range(2):  # the second time the workers find it in the cache
        for node, back in zip(nodes, made.run(nodes=copy.deepcopy(nodes), num_workers=2), strict=True):
            check(node, back)


def test_media_resources_keep_no_bytes():
    """Why media nodes hold paths: LlamaIndex writes no bytes of a resource down."""
    assert "data" not in MediaResource(data=b"abc").model_dump()
    assert all(isinstance(node.path, Path) for node in [AudioMedia.create("a.wav", digest="0" * 64)])


def test_vectors_survive(make, tmp_path):
    """The embedding, too, comes back where LlamaIndex writes it down."""
    (node,) = embedded([span(make)])
    for way in ("document store, persisted", "ingestion cache, persisted", "pickle", "to_json"):
        folder = tmp_path / way.replace(", ", "-")
        folder.mkdir()
        np.testing.assert_array_equal(retype(WAYS[way](node, folder)).embedding, node.embedding)
