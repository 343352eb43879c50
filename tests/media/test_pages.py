"""PDF files that are written here byte by byte, and by pypdf where it takes ciphers."""

import io
import os
import random
import sys
import tracemalloc
import zlib

import pytest

from llama_index_mm.errors import DecodeError, MissingExtraError
from llama_index_mm.media import MediaLimits
from llama_index_mm.media.pages import PAGE_BREAK, Page, read_pages

pypdf = pytest.importorskip("pypdf")

FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"


def stream(content: bytes, head: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), head, content)


def deflated(content: bytes, head: bytes = b"") -> bytes:
    return stream(zlib.compress(content, 9), b"/Filter /FlateDecode " + head)


def build(objects: dict[int, bytes], root: int = 1) -> bytes:
    """A PDF of numbered objects."""
    out, places = b"%PDF-1.7\n", {}
    for number, body in objects.items():
        places[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 1\n0000000000 65535 f \n"
    for number, place in places.items():
        out += b"%d 1\n%010d 00000 n \n" % (number, place)
    return out + b"trailer\n<< /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (max(objects) + 1, root, start)


def words(text: str) -> bytes:
    shown = b"".join(
        b"(%s) Tj 0 -20 Td\n" % line.encode("cp1252").replace(b"(", rb"\(").replace(b")", rb"\)") for line in text.split("\n")
    )
    return b"BT /F1 12 Tf 72 700 Td\n" + shown + b"ET" if text else b""


def pdf(*texts: str, catalog: bytes = b"") -> bytes:
    """A PDF with a page for each text."""
    kids = b" ".join(b"%d 0 R" % (10 + 2 * at) for at in range(len(texts)))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
        2: b"<< /Type /Pages /Kids [%s] /Count %d /MediaBox [0 0 595 842] >>" % (kids, len(texts)),
        3: FONT,
    }
    for at, text in enumerate(texts):
        objects[10 + 2 * at] = b"<< /Type /Page /Parent 2 0 R /Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>" % (
            11 + 2 * at
        )
        objects[11 + 2 * at] = stream(words(text))
    return build(objects)


def encrypted(data: bytes, user: str, algorithm: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(user, "owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def refusal(path, **options) -> str:
    with pytest.raises(DecodeError) as caught:
        read_pages(path, **options)
    return str(caught.value)


def test_pages(make):
    path = make.bytes("a.pdf", pdf("The harbour (old)\nfrom the pier", "", "Grüße"))
    assert read_pages(path) == [Page("1", "The harbour (old)\nfrom the pier"), Page("2", ""), Page("3", "Grüße")]
    assert read_pages(str(path)) == read_pages(path)


def test_labels(make):
    labels = b"/PageLabels << /Nums [0 << /S /r >> 2 << /S /D /St 1 >> 3 << /P (App-) /S /A >>] >>"
    path = make.bytes("a.pdf", pdf("one", "two", "three", "four", catalog=labels))
    assert [page.label for page in read_pages(path)] == ["i", "ii", "1", "App-A"]


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_encrypted_for_everybody_to_read(make, algorithm):
    assert read_pages(make.bytes("a.pdf", encrypted(pdf("no printing"), "", algorithm)))[0].text == "no printing"


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_a_password_is_wanted(make, algorithm):
    path = make.bytes("a.pdf", encrypted(pdf("secret"), "open sesame", algorithm))
    assert refusal(path) == "a.pdf wants a password. Save it without one."


def test_scans(make):
    assert refusal(make.bytes("a.pdf", pdf("", "   "))) == (
        "a.pdf has no text on its 2 pages. If they were scanned, run OCR over it first (ocrmypdf)."
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "a.pdf is empty (0 bytes)."),
        (b"%PDF-1.7\n%%EOF", "a.pdf can't be opened as a PDF: "),
        (b"\x89PNG\r\n\x1a\n" * 100, "a.pdf can't be opened as a PDF: "),
        (pdf(), "a.pdf has 0 pages; 1 to 20,000 are read."),
        (build({1: b"<< /Type /Catalog >>"}), "a.pdf can't be counted as a PDF: "),
    ],
)
def test_what_is_no_pdf(make, data, reason):
    assert refusal(make.bytes("a.pdf", data)).startswith(reason)


def test_cut_short(make):
    data = pdf(*["some words"] * 20)
    for share in (0.3, 0.6):
        message = refusal(make.bytes("a.pdf", data[: int(len(data) * share)]))
        assert message.startswith("a.pdf can't be ")
        assert message.endswith("Is it complete, and what its name says?")


def test_random_bytes_in_the_middle(make):
    """Whatever comes out, it is pages or a reason."""
    whole = pdf("first page", "second page")
    chance = random.Random(7)
    read = refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            read += all(isinstance(page.text, str) for page in read_pages(make.bytes("a.pdf", bytes(data))))
        except DecodeError:
            refused += 1
    assert read + refused == 150
    assert read > 20
    assert refused > 5


def test_limits(make):
    path = make.bytes("a.pdf", pdf("ten letter", "ten letter"))
    assert len(read_pages(path, limits=MediaLimits(characters=20))) == 2
    told = "a.pdf has more than 19 characters, which is the limit (MediaLimits.characters)."
    assert refusal(path, limits=MediaLimits(characters=19)) == told
    assert "at most 100 are read" in refusal(path, limits=MediaLimits(file_bytes=100))


def test_a_tree_of_pages_that_goes_round(make):
    objects = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>"}
    direct = build({**objects, 4: b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>"})
    around = build({**objects, 4: b"<< /Type /Pages /Kids [5 0 R] /Count 1 >>", 5: b"<< /Type /Pages /Kids [2 0 R] >>"})
    for data in (direct, around):
        assert "cyclic" in refusal(make.bytes("a.pdf", data))


def test_a_tree_of_pages_that_is_too_deep_or_too_wide(make):
    deep = {1: b"<< /Type /Catalog /Pages 2 0 R >>"}
    deep |= {at: b"<< /Type /Pages /Kids [%d 0 R] >>" % (at + 1) for at in range(2, 3000)}
    assert "depth" in refusal(make.bytes("a.pdf", build(deep)))
    leaf = b"<< /Type /Page /MediaBox [0 0 9 9] >>"
    wide = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 3: leaf, 2: b"<< /Type /Pages /Kids [%s] >>" % (b"3 0 R " * 20_001)}
    assert refusal(make.bytes("a.pdf", build(wide))) == "a.pdf has 20,001 pages; 1 to 20,000 are read."


def test_arrays_in_arrays(make):
    nested = build({1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"[" * 50_000 + b"]" * 50_000})
    assert refusal(make.bytes("a.pdf", nested)).startswith("a.pdf can't be counted as a PDF: ")


def one_page(content: bytes, **more: bytes) -> bytes:
    resources = b"/Resources << /Font << /F1 3 0 R >> /XObject << /X 5 0 R >> >>"
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [4 0 R] /Count 1 /MediaBox [0 0 595 842] >>",
        3: FONT,
        4: b"<< /Type /Page /Parent 2 0 R %s /Contents 6 0 R >>" % resources,
        5: more.get("form", stream(b"")),
        6: content,
    }
    return build(objects)


def test_a_stream_that_swells(make):
    """100 kB that would be 100 MB."""
    path = make.bytes("a.pdf", one_page(deflated(words("x") + b" " * 100_000_000)))
    assert path.stat().st_size < 110_000
    assert refusal(path).startswith("a.pdf can't be read at page 1 as a PDF: ")


def test_a_form_that_is_shown_again_and_again(make):
    """3 kB that would be 50 million characters: the counting stops it within the page."""
    head = b"/Type /XObject /Subtype /Form /BBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >>"
    form = deflated(words("y" * 10_000), head)
    path = make.bytes("a.pdf", one_page(deflated(b"/X Do\n" * 5000), form=form))
    assert path.stat().st_size < 3_000
    tracemalloc.start()
    try:
        message = refusal(path, limits=MediaLimits(characters=100_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message == "a.pdf has more than 100,000 characters, which is the limit (MediaLimits.characters)."
    assert peak < 15_000_000


def test_what_no_text_should_have(make):
    """NUL, a page break and half a surrogate, by a font's own table of characters."""
    table = b"""1 begincodespacerange <00> <ff> endcodespacerange
4 beginbfchar
<41> <0000>
<42> <000c>
<43> <d83d>
<44> <0061>
endbfchar"""
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [4 0 R] /Count 1 /MediaBox [0 0 595 842] >>",
        3: FONT.replace(b"/Encoding", b"/ToUnicode 5 0 R /Encoding"),
        4: b"<< /Type /Page /Parent 2 0 R /Resources << /Font << /F1 3 0 R >> >> /Contents 6 0 R >>",
        5: stream(table),
        6: stream(words("DABCD")),
    }
    (page,) = read_pages(make.bytes("a.pdf", build(objects)))
    assert "\0" not in page.text
    assert PAGE_BREAK not in page.text
    assert page.text.encode().decode() == page.text
    assert (page.text[0], page.text[-1]) == ("a", "a")


def test_no_file(tmp_path):
    assert "missing" in refusal(tmp_path / "gone.pdf")
    os.mkfifo(tmp_path / "pipe.pdf")
    assert "no regular file" in refusal(tmp_path / "pipe.pdf")


def test_pypdf_is_an_extra(make, monkeypatch):
    path = make.bytes("a.pdf", pdf("words"))
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llama-index-mm\[pdf\]'"):
        read_pages(path)
