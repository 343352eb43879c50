"""What is taken in besides plain files: archives, pages, links; and transforms of the user's own."""

import zipfile

import pytest
from llama_index.core.schema import NodeRelationship

from llama_index_mm.index import MultiModalIndex
from llama_index_mm.nodes import ImageMedia
from llama_index_mm.testing import tiny_preset
from llama_index_mm.transforms.captions import CaptionImages

pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")


@pytest.fixture
def index(tmp_path):
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as opened:
        yield opened


def nodes_of(index):
    return list(index.store.nodes(index.store.find().tolist()).values())


def names(index):
    return sorted(node.metadata["file_name"] for node in nodes_of(index))


def write_zip(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def png(make, colour):
    return make.picture("scratch.png", colour).read_bytes()


class TestArchives:
    def test_one_in_a_folder_is_taken_like_a_folder(self, index, make):
        make.text("files/plain.txt", "not in an archive")
        write_zip(
            make.folder / "files" / "holiday.zip",
            {"beach/red.png": png(make, "red"), "letter.txt": "a red boat", "bad.png": "no picture", "inner.zip": b"PK"},
        )
        report = index.ingest(make.folder / "files")
        assert (report.added, names(index)) == (3, ["letter.txt", "plain.txt", "red.png"])
        archive = make.folder / "files" / "holiday.zip"
        assert sorted(problem.name for problem in report.problems) == [
            f"zip://bad.png::{archive}",
            f"zip://inner.zip::{archive}",
        ]
        (picture,) = [node for node in nodes_of(index) if isinstance(node, ImageMedia)]
        assert picture.url == f"zip://beach/red.png::{archive}"
        assert picture.path.is_relative_to(index.store.folder)
        assert index.ingest(make.folder / "files").unchanged == 3

    def test_one_that_is_given(self, index, make):
        archive = write_zip(make.folder / "holiday.ZIP", {"a.txt": "one", "b.txt": "two"})
        assert index.ingest(archive).added == 2

    def test_members_and_archives_that_are_gone_are_pruned(self, index, make):
        one = write_zip(make.folder / "files" / "one.zip", {"a.txt": "one", "b.txt": "two"})
        two = write_zip(make.folder / "files" / "two.zip", {"c.txt": "three"})
        assert index.ingest(make.folder / "files", prune=True).added == 3
        write_zip(one, {"b.txt": "two"})
        two.unlink()
        assert index.ingest(make.folder / "files").removed == 0
        assert index.ingest(make.folder / "files", prune=True).removed == 2
        assert names(index) == ["b.txt"]

    def test_other_archives_are_left_alone_by_prune(self, index, make):
        write_zip(make.folder / "files" / "one.zip", {"a.txt": "one"})
        write_zip(make.folder / "others" / "two.zip", {"b.txt": "two"})
        index.ingest([make.folder / "files", make.folder / "others"])
        (make.folder / "others" / "two.zip").unlink()
        assert index.ingest(make.folder / "files", prune=True).removed == 0

    def test_broken_one_is_told(self, index, make):
        path = make.text("files/torn.zip", "PK no archive")
        make.text("files/good.txt", "good")
        report = index.ingest(make.folder / "files")
        assert report.added == 1
        ((name, reason),) = [(problem.path, problem.reason) for problem in report.problems]
        assert name == path
        assert "zip archive" in reason


def write_pdf(path, pages):
    """A PDF with a line of text on each page, as the simplest writers make them."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for text in pages:
        stream = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET"
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects) + 2} 0 R "
            "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(data)
    data += f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n".encode()
    data += b"".join(f"{place:010} 00000 n \n".encode() for place in places)
    data += f"trailer << /Size {len(places) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


class TestPages:
    def test_nodes_tell_their_page(self, index, make):
        pytest.importorskip("pypdf")
        path = write_pdf(make.folder / "files" / "log.pdf", ["The lamp was lit.", "", "A storm came."])
        report = index.ingest(make.folder / "files")
        assert (report.added, report.nodes, report.problems) == (1, 2, [])
        found = {node.metadata["page_label"]: node for node in nodes_of(index)}
        assert {label: node.get_content() for label, node in found.items()} == {"1": "The lamp was lit.", "3": "A storm came."}
        (source,) = index.store.sources()
        assert {node.relationships[NodeRelationship.SOURCE].node_id for node in found.values()} == {source.document_id}
        assert found["3"].metadata["file_path"] == str(path)
        assert index.as_retriever(similarity_top_k=1).retrieve("a storm came")[0].node.metadata["page_label"] == "3"
        assert index.delete_ref_doc(source.document_id) == 2

    def test_pages_are_decoded_elsewhere(self, index, make, monkeypatch):
        pytest.importorskip("pypdf")
        monkeypatch.setattr("llama_index_mm.readers.media.read_pages", lambda *_, **__: pytest.fail("read here"))
        write_pdf(make.folder / "files" / "log.pdf", ["The lamp was lit."])
        assert index.ingest(make.folder / "files").added == 1

    def test_same_nodes_whether_inserted_or_ingested(self, index, make, tmp_path):
        pytest.importorskip("pypdf")
        from llama_index_mm.readers import MediaReader

        path = write_pdf(make.folder / "files" / "log.pdf", ["The lamp was lit.", "A storm came."])
        index.ingest(path)
        with MultiModalIndex.from_documents(
            MediaReader().load_data(path), folder=tmp_path / "other", preset=tiny_preset()
        ) as other:
            assert [node.to_dict() for node in nodes_of(other)] == [node.to_dict() for node in nodes_of(index)]


def test_links_that_lead_out(index, make):
    outside = make.text("outside/secret.txt", "a secret")
    make.text("files/good.txt", "good")
    (make.folder / "files" / "link.txt").symlink_to(outside)
    report = index.ingest(make.folder / "files")
    assert (report.added, [problem.path.name for problem in report.problems]) == (1, ["link.txt"])
    assert index.ingest(make.folder / "files", follow_links=True).added == 1


def shade(picture):
    """A caption computed from the pixels."""
    red, _, blue = picture.getpixel((0, 0))
    return "something red" if red > blue else "something blue"


def test_transformations_of_the_users_own(make, tmp_path):
    make.picture("files/1.png", "red"), make.picture("files/2.png", "blue"), make.text("files/3.txt", "words")
    captions = CaptionImages(shade, fingerprint="shade")
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True, transformations=[captions]) as index:
        index.ingest(make.folder / "files")
        pictures = {node.metadata["file_name"]: node for node in nodes_of(index) if isinstance(node, ImageMedia)}
        assert {name: node.caption for name, node in pictures.items()} == {"1.png": "something red", "2.png": "something blue"}
        found = index.as_retriever(similarity_top_k=1, modalities=["image"]).retrieve("something blue")
        assert found[0].node.metadata["file_name"] == "2.png"


def test_animation_says_that_one_frame_was_seen(index, make):
    from PIL import Image

    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(make.path("files/wave.gif"), save_all=True, append_images=frames[1:])
    index.ingest(make.folder / "files")
    (node,) = nodes_of(index)
    assert node.text == "Picture 'wave' (the first of 3 frames)."
    assert node.metadata["mm_frames"] == 3
