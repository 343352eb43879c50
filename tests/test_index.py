import base64
import inspect
import io
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from llama_index.core import Settings, SimpleDirectoryReader
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CompletionResponseGen,
    ImageBlock,
    LLMMetadata,
    TextBlock,
)
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import CustomLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import Document, ImageDocument, ImageNode, MediaResource, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from PIL import Image

from llama_index_mm.answers import citations_of
from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.errors import DecodeError, MediaError, QueryError, SpaceError, StoreError, StoreLockedError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.media import digest_bytes
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.presets import Preset
from llama_index_mm.readers import MediaReader
from llama_index_mm.readers.media import document_of
from llama_index_mm.retrieval import FusionRetriever, MediaQuery, MediaRerank, RetrieverOptions, reasons_of
from llama_index_mm.testing import HashingEncoder, tiny_preset

pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")


def png(colour="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def nodes_of(index):
    return list(index.store.nodes(index.store.find().tolist()).values())


def results(index, query, **options):
    return [(hit.node.node_id, hit.score) for hit in index.as_retriever(**options).retrieve(query)]


@pytest.fixture
def files(make):
    make.text("files/tide.txt", "The tide comes in at noon.")
    make.text("files/boat.md", "A red boat lies on the shore.")
    make.picture("files/red-door.png", "red")
    make.picture("files/blue-door.png", "blue")
    make.tone("files/low.wav", 200)
    make.tone("files/high.wav", 3000)
    make.obj("files/stool.obj")
    return make.folder / "files"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def index(files, folder):
    with MultiModalIndex.open(folder, preset=tiny_preset(), create=True) as opened:
        opened.ingest(files)
        yield opened


class TestOpening:
    QUERIES = ("red boat", "stool", "the tide at noon")

    def test_nothing_there(self, folder):
        with pytest.raises(StoreError, match="There is no index"):
            MultiModalIndex.open(folder, preset=tiny_preset())
        assert not folder.exists()

    def test_reopened_index_gives_equal_results(self, files, folder, make):
        asked = [
            *self.QUERIES,
            MediaQuery(image=make.picture("asked.png", (250, 10, 10))),
            MediaQuery("low", audio=make.tone("asked.wav", 210)),
        ]
        with MultiModalIndex.open(folder, preset=tiny_preset(), create=True) as index:
            index.ingest(files)
            before = [results(index, query, similarity_top_k=7) for query in asked]
        with MultiModalIndex.open(folder, preset=tiny_preset()) as index:
            assert [results(index, query, similarity_top_k=7) for query in asked] == before
        assert all(len(one) > 1 for one in before)

    def test_another_process_gives_equal_results(self, index, folder):
        code = (
            "import json, sys; from llama_index_mm import MultiModalIndex; from llama_index_mm.testing import tiny_preset\n"
            "index = MultiModalIndex.open(sys.argv[1], preset=tiny_preset())\n"
            "hits = [index.as_retriever(similarity_top_k=7).retrieve(query) for query in sys.argv[2:]]\n"
            "print(json.dumps([[[hit.node.node_id, hit.score] for hit in found] for found in hits]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder), *self.QUERIES], check=True, capture_output=True, text=True
        )
        wanted = [[list(one) for one in results(index, query, similarity_top_k=7)] for query in self.QUERIES]
        assert json.loads(done.stdout) == wanted

    def test_two_at_once_see_each_others_changes(self, index, folder):
        with MultiModalIndex.open(folder, preset=tiny_preset()) as other:
            assert results(other, "anchor") == results(index, "anchor")
            index.insert(Document(text="an anchor", id_="anchor"))
            assert other.as_retriever(similarity_top_k=1).retrieve("anchor")[0].node.ref_doc_id == "anchor"
            index.delete_ref_doc("anchor")
            assert "anchor" not in {hit.node.ref_doc_id for hit in other.as_retriever(similarity_top_k=9).retrieve("anchor")}
            with pytest.raises(StoreLockedError):
                other.delete_ref_doc("boat")

    def test_preset_of_another_name(self, index, folder):
        with pytest.raises(SpaceError, match="made with preset 'tiny', not 'other'"):
            MultiModalIndex.open(folder, preset=tiny_preset("other"))

    def test_preset_with_other_encoders(self, index, folder):
        text = HashingEncoder("text", dimension=16)
        other = EmbeddingSpace("text", {"text": text, "audio": text, "image": text, "mesh": text})
        changed = Preset("tiny", (other, *tiny_preset().spaces[1:]))
        with pytest.raises(SpaceError, match="made with fingerprint"):
            MultiModalIndex.open(folder, preset=changed)

    def test_preset_that_lacks_a_space(self, index, folder):
        fewer = Preset("tiny", tiny_preset().spaces[:2])
        with pytest.raises(SpaceError, match="differ in the spaces sound"):
            MultiModalIndex.open(folder, preset=fewer)

    def test_preset_of_ones_own_must_be_given(self, index, folder):
        with pytest.raises(SpaceError, match="There is no preset 'tiny'"):
            MultiModalIndex.open(folder)

    def test_refused_opening_changes_nothing(self, index, folder):
        before = index.store.spaces()
        for preset in (tiny_preset("other"), Preset("tiny", (EmbeddingSpace("new", {"text": HashingEncoder("text")}),))):
            with pytest.raises(SpaceError):
                MultiModalIndex.open(folder, preset=preset)
        with MultiModalIndex.open(folder, preset=tiny_preset()) as again:
            assert again.store.spaces() == before


class TestDocuments:
    def test_documents_of_the_reader(self, files):
        with MultiModalIndex.from_documents(MediaReader().load_data(files), preset=tiny_preset()) as index:
            assert index.store.counts() == {"text": 2, "image": 2, "audio": 2, "mesh": 1}
            folder = index.store.folder
            assert folder.is_dir()
            hit = index.as_retriever(similarity_top_k=1).retrieve("red boat")[0]
            assert hit.node.metadata["file_name"] == "boat.md"
        assert not folder.exists()  # it was a temporary one

    def test_kept_in_a_folder(self, folder):
        with MultiModalIndex.from_documents([Document(text="a red boat")], folder=folder, preset=tiny_preset()):
            pass
        with MultiModalIndex.open(folder, preset=tiny_preset()) as index:
            assert len(index.store) == 1

    def test_reader_gives_equal_files_twice(self, make, folder):
        make.picture("files/a.png"), make.picture("files/b.png")
        documents = MediaReader().load_data(make.folder / "files")
        with MultiModalIndex.from_documents(documents, folder=folder, preset=tiny_preset()) as index:
            assert len(index.store) == 1

    def test_simple_directory_reader(self, files):
        reader = MediaReader()
        endings = (".png", ".wav", ".obj")
        documents = SimpleDirectoryReader(str(files), file_extractor=dict.fromkeys(endings, reader)).load_data()
        with MultiModalIndex.from_documents(documents, preset=tiny_preset()) as index:
            assert index.store.counts() == {"text": 2, "image": 2, "audio": 2, "mesh": 1}

    @pytest.mark.parametrize(
        "document",
        [
            Document(text="a red boat", id_="one", metadata={"author": "archive"}),
            TextNode(text="a red boat", id_="one", metadata={"author": "archive"}),
        ],
    )
    def test_text(self, document):
        with MultiModalIndex.from_documents([document], preset=tiny_preset()) as index:
            (hit,) = index.as_retriever().retrieve("boat")
            assert hit.node.get_content() == "a red boat"
            assert hit.node.metadata["author"] == "archive"
            assert hit.node.ref_doc_id == "one"

    def test_long_text_is_cut(self):
        with MultiModalIndex.from_documents([Document(text="a red boat. " * 400, id_="long")], preset=tiny_preset()) as index:
            assert len(index.store) > 3
            assert {node.ref_doc_id for node in nodes_of(index)} == {"long"}

    @pytest.mark.parametrize(
        "form",
        [
            "path",
            "file_path",
            "base64",
            "resource path",
            "resource data",
            "image node",
        ],
    )
    def test_image_documents(self, make, form):
        path = make.bytes("red-door.png", png())
        encoded = base64.b64encode(png()).decode()
        about: dict[str, Any] = {"id_": "door", "metadata": {"author": "archive"}}
        document = {
            "path": lambda: ImageDocument(image_path=str(path), **about),
            "file_path": lambda: ImageDocument(**{**about, "metadata": {"author": "archive", "file_path": str(path)}}),
            "base64": lambda: ImageDocument(image=encoded, **about),
            "resource path": lambda: Document(image_resource=MediaResource(path=path), **about),
            "resource data": lambda: Document(image_resource=MediaResource(data=png()), **about),
            "image node": lambda: ImageNode(image=encoded, **about),
        }[form]()
        with MultiModalIndex.from_documents([document], preset=tiny_preset()) as index:
            (hit,) = index.as_retriever().retrieve(MediaQuery(image=path))
            assert type(hit.node) is ImageMedia
            assert (hit.node.ref_doc_id, hit.node.metadata["author"]) == ("door", "archive")
            assert hit.node.path.read_bytes() == png()
            assert hit.node.digest == digest_bytes(png())
            assert reasons_of(hit.node)[0].raw == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("form", ["path", "data"])
    def test_audio_documents(self, make, form):
        path = make.tone("low.wav", 200)
        resource = MediaResource(path=path) if form == "path" else MediaResource(data=path.read_bytes())
        with MultiModalIndex.from_documents([Document(audio_resource=resource, id_="low")], preset=tiny_preset()) as index:
            (hit,) = index.as_retriever().retrieve(MediaQuery(audio=path))
            assert type(hit.node) is AudioMedia
            assert hit.node.ref_doc_id == "low"

    def test_caption_is_kept(self, make):
        document = ImageDocument(image_path=str(make.picture("a.png")), text="a boat in a storm")
        with MultiModalIndex.from_documents([document], preset=tiny_preset()) as index:
            assert index.as_retriever().retrieve("storm")[0].node.text == "a boat in a storm"

    def test_image_by_url_only(self, folder):
        document = Document(image_resource=MediaResource(url="https://example.org/a.png"))
        with pytest.raises(DecodeError, match="by URL only"):
            MultiModalIndex.from_documents([document], folder=folder, preset=tiny_preset())

    def test_failure_leaves_no_temporary_folder(self, make, tmp_path, monkeypatch):
        made = []

        def recorded(**options):
            made.append(TemporaryDirectory(dir=tmp_path, **options))
            return made[-1]

        document = document_of(make.text("broken.png", "no picture"))
        with monkeypatch.context() as patch:
            patch.setattr("tempfile.TemporaryDirectory", recorded)
            with pytest.raises(DecodeError):
                MultiModalIndex.from_documents([document], preset=tiny_preset())
        left = [folder.name for folder in made if Path(folder.name).exists()]
        for folder in made:
            folder.cleanup()
        assert (len(made), left) == (1, [])

    def test_media_nodes(self, make):
        documents = [document_of(make.picture("a.png")), document_of(make.tone("b.wav")), document_of(make.obj("c.obj"))]
        with MultiModalIndex.from_documents(documents, preset=tiny_preset()) as index:
            found = {node.ref_doc_id: type(node) for node in nodes_of(index)}
            assert found == dict(zip([one.node_id for one in documents], [ImageMedia, AudioMedia, MeshMedia], strict=True))

    def test_insert_replaces(self, index):
        before = len(index.store)
        index.insert(Document(text="an anchor " * 300, id_="mine"))
        assert len(index.store) > before + 1
        index.insert(Document(text="a sail", id_="mine"))
        assert len(index.store) == before + 1
        texts = {node.get_content() for node in nodes_of(index) if node.ref_doc_id == "mine"}
        assert texts == {"a sail"}

    def test_insert_replaces_media(self, index, make):
        before = len(index.store)
        for colour in ("lime", "black"):
            document = document_of(make.picture("mine.png", colour))
            document.id_ = "mine"
            index.insert(document)
        assert len(index.store) == before + 1
        assert [node.path.name for node in nodes_of(index) if node.ref_doc_id == "mine"] == ["mine.png"]

    def test_insert_that_fails_leaves_the_old_document(self, index, make):
        index.insert(Document(text="a sail", id_="mine"))
        broken = document_of(make.text("broken.png", "no picture"))
        broken.id_ = "mine"
        with pytest.raises(MediaError, match=r"broken\.png"):
            index.insert(broken)
        assert [node.get_content() for node in nodes_of(index) if node.ref_doc_id == "mine"] == ["a sail"]

    async def test_async_insert_and_delete(self, index):
        before = len(index.store)
        await index.ainsert(Document(text="a sail", id_="mine"))
        assert len(index.store) == before + 1
        assert await index.adelete_ref_doc("mine") == 1
        assert len(index.store) == before

    def test_delete_ref_doc(self, index):
        hit = index.as_retriever(similarity_top_k=1).retrieve("red boat")[0]
        assert index.delete_ref_doc(hit.node.ref_doc_id) == 1
        assert hit.node.node_id not in {node.node_id for node in nodes_of(index)}
        assert hit.node.node_id not in dict(results(index, "red boat", similarity_top_k=9))
        assert index.delete_ref_doc(hit.node.ref_doc_id) == 0
        assert index.delete_ref_doc("no such document") == 0


class TestRetrieval:
    def test_identical_items_come_first(self, index, files):
        for query, name in (
            (MediaQuery(image=files / "red-door.png", modalities=["image"]), "red-door.png"),
            (MediaQuery(image=files / "blue-door.png", modalities=["image"]), "blue-door.png"),
            (MediaQuery(audio=files / "low.wav"), "low.wav"),
            (MediaQuery(audio=files / "high.wav"), "high.wav"),
            (MediaQuery(mesh=files / "stool.obj", modalities=["mesh"]), "stool.obj"),
            (MediaQuery("The tide comes in at noon.", modalities=["text"]), "tide.txt"),
        ):
            assert index.as_retriever().retrieve(query)[0].node.metadata["file_name"] == name

    @pytest.mark.parametrize("k", [1, 3, 7])
    def test_as_many_as_asked_for(self, index, k):
        found = results(index, "door", similarity_top_k=k)
        assert len(found) == k
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
        assert found == results(index, "door", similarity_top_k=7)[:k]

    def test_modalities_and_filters(self, index):
        hits = index.as_retriever(similarity_top_k=9, modalities=["image", "mesh"]).retrieve("door")
        assert sorted(hit.node.metadata["file_name"] for hit in hits) == ["blue-door.png", "red-door.png", "stool.obj"]
        filters = MetadataFilters(filters=[MetadataFilter(key="file_name", value="tide.txt")])
        hits = index.as_retriever(filters=filters).retrieve("door")
        assert [hit.node.metadata["file_name"] for hit in hits] == ["tide.txt"]

    def test_results_are_copies(self, index):
        first = index.as_retriever().retrieve("door")[0].node
        first.metadata["file_name"] = "spoilt"
        assert index.as_retriever().retrieve("door")[0].node.metadata["file_name"] != "spoilt"


class Scripted(CustomLLM):
    """Says the same to everything, and keeps what it is asked."""

    _asked: list[list[ChatMessage]] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=8192, num_output=64, is_chat_model=True, model_name="scripted")

    def chat(self, messages, **_: Any) -> ChatResponse:
        self._asked.append(list(messages))
        return ChatResponse(message=ChatMessage(role="assistant", content="the answer"))

    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        pytest.fail("a prompt of text alone")

    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponseGen:
        pytest.fail("a prompt of text alone")

    def blocks(self, kind: type) -> list[Any]:
        return [
            block for messages in self._asked for message in messages for block in message.blocks if isinstance(block, kind)
        ]

    def text(self) -> str:
        return "\n".join(block.text for block in self.blocks(TextBlock))


class Seeing(Scripted):
    @property
    def accepts_media(self) -> tuple[str, ...]:
        return ("image", "audio")

    @property
    def suggested_sources(self) -> int:
        return 2


class Judging(Scripted):
    """Rates what it is shown: the later, the better."""

    def chat(self, messages, **_: Any) -> ChatResponse:
        self._asked.append(list(messages))
        count = sum(block.text.startswith("Item ") for block in messages[-1].blocks if isinstance(block, TextBlock))
        ratings = [{"number": number, "relevance": number} for number in range(1, count + 1)]
        return ChatResponse(message=ChatMessage(role="assistant", content=json.dumps({"items": ratings})))


class TestAnswers:
    def test_an_image_arrives_as_an_image(self, index, files):
        llm = Scripted()
        answer = index.as_query_engine(llm, modalities=["image"], similarity_top_k=1).query("a red door")
        assert str(answer) == "the answer"
        (block,) = llm.blocks(ImageBlock)
        assert block.resolve_image().read() == (files / "red-door.png").read_bytes()
        assert "[1] red-door.png:" in llm.text()
        assert "a red door" in llm.text()
        assert [str(one) for one in citations_of(answer.source_nodes)] == ["[1] red-door.png"]

    def test_without_media_it_is_text(self, index):
        llm = Scripted()
        index.as_query_engine(llm, llm_media=(), modalities=["image", "mesh"]).query("a red door")
        assert llm.blocks(ImageBlock) == []
        assert llm.blocks(AudioBlock) == []
        for number in (1, 2, 3):
            assert f"[{number}] " in llm.text()
        assert "3D model, vertices: 8" in llm.text()

    def test_nothing_internal_is_told(self, index):
        for media in ((), ("image", "audio")):
            llm = Scripted()
            index.as_query_engine(llm, llm_media=media, similarity_top_k=7).query("a red door")
            assert "mm_" not in llm.text()
            assert "file_path" not in llm.text()

    def test_mesh_is_an_image_and_sound_is_text_by_default(self, index):
        llm = Scripted()
        answer = index.as_query_engine(llm, modalities=["mesh", "audio"], similarity_top_k=3).query("stool low high")
        assert len(llm.blocks(ImageBlock)) == 1
        assert llm.blocks(AudioBlock) == []
        labels = [one.label for one in citations_of(answer.source_nodes)]
        assert sorted(labels) == ["high.wav, 0:00-0:01", "low.wav, 0:00-0:01", "stool.obj"]
        for number, label in enumerate(labels, 1):
            assert f"[{number}] {label}:" in llm.text()

    def test_what_the_llm_says_of_itself(self, index):
        llm = Seeing()
        answer = index.as_query_engine(llm, modalities=["audio"]).query("low high")
        assert len(answer.source_nodes) == 2
        assert [block.format for block in llm.blocks(AudioBlock)] == ["wav", "wav"]

    def test_sources_in_order_of_their_scores(self, index):
        answer = index.as_query_engine(Scripted(), modalities=["text"]).query("a red boat")
        cited = citations_of(answer.source_nodes)
        assert [one.number for one in cited] == [1, 2]
        assert [one.score for one in cited] == sorted((one.score for one in cited), reverse=True)
        assert cited[0].label == "boat.md"
        assert cited[0].text == "A red boat lies on the shore."

    def test_sources_are_numbered_after_reranking(self, index):
        llm, judge = Scripted(), Judging()
        found = index.as_retriever(similarity_top_k=4, modalities=["text", "image"]).retrieve("a red boat")
        engine = index.as_query_engine(
            llm,
            similarity_top_k=4,
            modalities=["text", "image"],
            node_postprocessors=[MediaRerank(llm=judge, top_n=3)],
        )
        answer = engine.query("a red boat")
        files = [one.node.metadata["file_name"] for one in reversed(found)][:3]
        assert [str(one) for one in citations_of(answer.source_nodes)] == [f"[{at}] {file}" for at, file in enumerate(files, 1)]
        told = [llm.text().index(f"[{at}] {file}") for at, file in enumerate(files, 1)]
        assert told == sorted(told)
        assert "[4]" not in llm.text()
        assert "[1]" not in judge.text()

    @pytest.mark.parametrize(
        "options",
        [
            {"at_most": {"image": 1}},
            {"similarity_cutoff": 0.3, "fusion": "maximum"},
            {"collapse": "document", "diversity": 0.5},
            {"weights": {"text": 0.1}, "calibrated": False},
        ],
    )
    def test_options_reach_the_retriever(self, index, options):
        answer = index.as_query_engine(Scripted(), similarity_top_k=6, **options).query("a red door")
        found = index.as_retriever(similarity_top_k=6, **options).retrieve("a red door")
        told = [(one.node.node_id, one.score) for one in answer.source_nodes]
        assert told == [(one.node.node_id, one.score) for one in found]

    def test_options_of_the_engine_and_of_nobody(self, index):
        template = PromptTemplate("Say {query_str} of {context_str}")
        with pytest.raises(
            QueryError, match=r"^Expected options of retrievers \(calibrated, modalities, .*got similarity_topk\.$"
        ):
            index.as_query_engine(Scripted(), text_qa_template=template, similarity_topk=3)
        engine = index.as_query_engine(Scripted(), streaming=True, similarity_top_k=1)
        assert engine._response_synthesizer._streaming

    def test_every_option_is_one_of_the_retriever(self):
        taken = inspect.signature(FusionRetriever.__init__).parameters
        given = {"self", "store", "spaces", "similarity_top_k", "hear", "calibration", "callback_manager"}
        assert set(RetrieverOptions.__annotations__) == set(taken) - given

    def test_settings_are_used(self, index, monkeypatch):
        llm = Scripted()
        monkeypatch.setattr(Settings, "_llm", llm)
        assert str(index.as_query_engine().query("boat")) == "the answer"
        assert llm.text()

    async def test_async(self, index):
        llm = Scripted()
        answer = await index.as_query_engine(llm, modalities=["image"], similarity_top_k=1).aquery("a red door")
        assert str(answer) == "the answer"
        assert len(llm.blocks(ImageBlock)) == 1
