import io

import pytest
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, MetadataMode, NodeRelationship

from llama_index_mm.media.pages import Page, read_pages
from llama_index_mm.readers import MediaReader
from llama_index_mm.readers.media import document_of
from llama_index_mm.transforms.pages import SplitPages

pypdf = pytest.importorskip("pypdf")


def add_page(writer, text: str) -> None:
    page = writer.add_blank_page(595, 842)
    font = pypdf.generic.DictionaryObject(
        {pypdf.generic.NameObject(key): pypdf.generic.NameObject(value) for key, value in FONT.items()}
    )
    fonts = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/F1"): font})
    page[pypdf.generic.NameObject("/Resources")] = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/Font"): fonts})
    content = pypdf.generic.DecodedStreamObject()
    content.set_data(f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode())
    page[pypdf.generic.NameObject("/Contents")] = writer._add_object(content)


FONT = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica", "/Encoding": "/WinAnsiEncoding"}


@pytest.fixture
def paper(make):
    """Four pages, of which the second is blank; the first two have Roman numerals."""
    writer = pypdf.PdfWriter()
    for text in ("Of harbours", "", "Boats lie in the harbour.", "Gulls sit on the boats."):
        add_page(writer, text)
    writer.set_page_label(0, 1, style="/r")
    writer.set_page_label(2, 3, style="/D", start=7)
    out = io.BytesIO()
    writer.write(out)
    return make.bytes("paper.pdf", out.getvalue())


def test_pages_of_a_document(paper):
    (whole,) = MediaReader().load_data(paper, extra_info={"owner": "me"})
    assert whole.text == "Of harbours\f\fBoats lie in the harbour.\fGulls sit on the boats."
    assert (whole.metadata["mm_pages"], whole.metadata["mm_page_labels"]) == (4, '["i", "ii", "7", "8"]')
    pages = SplitPages()([whole])
    assert [page.text for page in pages] == ["Of harbours", "Boats lie in the harbour.", "Gulls sit on the boats."]
    assert [page.metadata["page_label"] for page in pages] == ["i", "7", "8"]
    assert [page.metadata["mm_page"] for page in pages] == [1, 3, 4]
    assert [page.node_id for page in pages] == [f"{whole.node_id}:p{at}" for at in (1, 3, 4)]
    assert [page.source_node.node_id for page in pages] == [whole.node_id] * 3
    assert {page.metadata["owner"] for page in pages} == {"me"}
    assert {page.metadata["mm_digest"] for page in pages} == {whole.metadata["mm_digest"]}
    assert not any({"mm_pages", "mm_page_labels"} & set(page.metadata) for page in pages)
    assert pages[1].get_content(MetadataMode.LLM) == "owner: me\npage_label: 7\n\nBoats lie in the harbour."
    assert pages[1].get_content(MetadataMode.EMBED) == "owner: me\n\nBoats lie in the harbour."


def test_pages_that_have_been_read_already(paper):
    (whole,) = MediaReader().load_data(paper)
    assert document_of(paper, pages=read_pages(paper)) == whole
    assert document_of(paper, pages=[Page("A", "other")]).text == "other"


def test_pages_that_are_numbered_from_one(make):
    writer = pypdf.PdfWriter()
    add_page(writer, "one"), add_page(writer, "two")
    writer.write(make.folder / "a.pdf")
    (whole,) = MediaReader().load_data(make.folder / "a.pdf")
    assert "mm_page_labels" not in whole.metadata
    assert [page.metadata["page_label"] for page in SplitPages()([whole])] == ["1", "2"]


def test_other_documents_pass(make):
    given = [Document(text="one\ftwo"), *MediaReader().load_data([make.text("a.txt", "a\fb"), make.picture("b.png")])]
    assert SplitPages()(given) == given


def test_what_is_cut_from_pages_belongs_to_the_whole(paper):
    (whole,) = MediaReader().load_data(paper)
    splitter = SentenceSplitter(chunk_size=64, chunk_overlap=0)
    nodes = IngestionPipeline(transformations=[SplitPages(), splitter], disable_cache=True).run(documents=[whole])
    assert {node.relationships[NodeRelationship.SOURCE].node_id for node in nodes} == {whole.node_id}
    assert [(node.metadata["page_label"], node.get_content()) for node in nodes] == [
        ("i", "Of harbours"),
        ("7", "Boats lie in the harbour."),
        ("8", "Gulls sit on the boats."),
    ]


async def test_async(paper):
    documents = MediaReader().load_data(paper)
    assert await SplitPages().acall(documents) == SplitPages()(documents)
