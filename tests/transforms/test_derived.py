import asyncio
import copy
from pathlib import Path

import pytest
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from PIL import Image

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import contact_sheet, digest_bytes, load_image, load_mesh, render_views
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.readers.media import document_of
from llama_index_mm.transforms.derive import derived
from llama_index_mm.transforms.images import LabelImages
from llama_index_mm.transforms.meshes import DescribeMeshes

DIGEST = "ab" * 32


@pytest.fixture
def document():
    return AudioMedia.create("/talk.wav", digest=DIGEST, id_="doc", text="all words", metadata={"author": "archive"})


class TestDerived:
    def test_part_of_a_document(self, document):
        before = document.model_dump()
        part = derived(document, part="2", text="some words", start=1.0, end=2.0)
        assert type(part) is AudioMedia
        assert (part.node_id, part.ref_doc_id, part.text) == ("doc:2", "doc", "some words")
        assert (part.start, part.end, part.path, part.digest) == (1.0, 2.0, Path("/talk.wav"), DIGEST)
        assert part.metadata["author"] == "archive"
        assert part.source_node.hash == document.hash
        assert document.model_dump() == before

    def test_same_every_time(self, document):
        parts = [derived(document, part="0", start=0.0) for _ in range(2)]
        assert parts[0].model_dump() == parts[1].model_dump()

    def test_of_a_part_is_the_part_with_more_known(self, document):
        part = derived(document, part="0", start=0.0)
        again = derived(part, part="9", language="de")
        assert (again.node_id, again.ref_doc_id, again.start, again.language) == ("doc:0", "doc", 0.0, "de")
        assert again.text == "all words"


class ByColour:
    """Names a picture by its first pixel."""

    def __init__(self):
        self.asked = []

    def labels(self, pictures, *, top=5):
        self.asked += [(picture.size, top) for picture in pictures]
        names = {(255, 0, 0): "rose", (0, 0, 255): "sea"}
        return [[(names[picture.getpixel((0, 0))], 0.875), ("thing", 0.1)][:top] for picture in pictures]


class TestLabelImages:
    def test_labels_become_the_text(self, make):
        labeler = ByColour()
        red, blue = (document_of(make.picture(f"my-{name}.png", name, (20, 10))) for name in ("red", "blue"))
        first, second = LabelImages(labeler)([red, blue])
        assert first.text == "Picture 'my red'. It may show: rose 88%, thing 10%."
        assert second.text == "Picture 'my blue'. It may show: sea 88%, thing 10%."
        assert (first.metadata["mm_width"], first.metadata["mm_height"]) == (20, 10)
        assert (first.node_id, first.ref_doc_id) == (f"{red.node_id}:0", red.node_id)
        assert red.text == "my red"
        assert labeler.asked == [((20, 10), 5)] * 2

    def test_top(self, make):
        (node,) = LabelImages(ByColour(), top=1)([document_of(make.picture("a.png"))])
        assert node.text == "Picture 'a'. It may show: rose 88%."

    def test_caption_stays(self, make):
        labeler = ByColour()
        captioned = document_of(make.picture("a.png")).with_facts(text="my caption")
        (node,) = LabelImages(labeler)([captioned])
        assert (node.text, labeler.asked) == ("my caption", [])

    def test_without_a_labeler(self, make):
        (node,) = LabelImages()([document_of(make.picture("a-b.png", size=(7, 9)))])
        assert (node.text, node.metadata["mm_width"], node.metadata["mm_height"]) == ("a b", 7, 9)

    def test_upright_size(self, make):
        exif = Image.Exif()
        exif[0x0112] = 6
        (node,) = LabelImages()([document_of(make.picture("a.jpg", size=(20, 10), exif=exif))])
        assert (node.metadata["mm_width"], node.metadata["mm_height"]) == (10, 20)

    def test_others_pass_through(self, document):
        others = [document, TextNode(text="a")]
        assert all(one is two for one, two in zip(LabelImages(ByColour())(others), others, strict=True))

    def test_broken_picture(self, make):
        with pytest.raises(DecodeError, match=r"a\.png"):
            LabelImages(ByColour())([document_of(make.text("a.png", "no picture"))])

    def test_in_a_pipeline(self, make):
        (node,) = IngestionPipeline(transformations=[LabelImages(ByColour())]).run(nodes=[document_of(make.picture("a.png"))])
        assert isinstance(node, ImageMedia)
        assert node.text.startswith("Picture 'a'")

    def test_async(self, make):
        nodes = [document_of(make.picture("a.png"))]
        transform = LabelImages(ByColour())
        assert [n.model_dump() for n in asyncio.run(transform.acall(nodes))] == [n.model_dump() for n in transform(nodes)]


class TestDescribeMeshes:
    @pytest.fixture
    def keep(self, tmp_path):
        def kept(data, suffix):
            path = tmp_path / "kept" / f"{digest_bytes(data)}{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            return path

        return kept

    def test_facts_and_views(self, make, keep):
        pytest.importorskip("open3d")
        document = document_of(make.obj("my-cube.obj"))
        before = copy.deepcopy(document)
        (node,) = DescribeMeshes(keep)([document])
        assert isinstance(node, MeshMedia)
        assert node.text == "my cube. 3D model, vertices: 8, faces: 12, size: 1 x 1 x 1 (file units), surface: closed."
        facts = {key: node.metadata[f"mm_{key}"] for key in ("vertices", "faces", "closed", "size_x", "size_y", "size_z")}
        assert facts == {"vertices": 8, "faces": 12, "closed": True, "size_x": 1.0, "size_y": 1.0, "size_z": 1.0}
        sheet = contact_sheet(render_views(load_mesh(document.path)))
        assert load_image(node.views).tobytes() == sheet.tobytes()
        assert node.image_resource.path == node.views
        assert node.views.is_absolute()
        assert (node.node_id, node.ref_doc_id) == (f"{document.node_id}:0", document.node_id)
        assert document.model_dump() == before.model_dump()

    def test_description_of_the_user_stays(self, make, keep):
        pytest.importorskip("open3d")
        (node,) = DescribeMeshes(keep)([document_of(make.obj("a.obj")).with_facts(text="a cube that I drew")])
        assert node.text == "a cube that I drew"
        assert node.views.is_file()

    def test_same_views_every_time(self, make, keep):
        pytest.importorskip("open3d")
        document = document_of(make.obj("a.obj"))
        assert DescribeMeshes(keep)([document])[0].model_dump() == DescribeMeshes(keep)([document])[0].model_dump()

    def test_others_pass_through(self, document, keep):
        assert DescribeMeshes(keep)([document])[0] is document

    def test_broken_mesh(self, make, keep):
        pytest.importorskip("open3d")
        with pytest.raises(DecodeError, match=r"a\.obj"):
            DescribeMeshes(keep)([document_of(make.text("a.obj", "# nothing"))])
