"""Damaged texts, PDF files and archives: each is read, or refused with a reason, and nothing else.

A few examples always run. ``LLAMA_INDEX_MM_FUZZ_SECONDS=90`` runs each entry for that many seconds, in a child process.
"""

import io
import json
import os
import sys
import tempfile
import zipfile
from functools import cache, partial
from pathlib import Path

import pytest
from fuzzing import damage, fuzz, run_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import MediaLimits
from llama_index_mm.media.pages import read_pages
from llama_index_mm.readers import FetchLimits, list_archive
from llama_index_mm.readers.remote import read_remote
from llama_index_mm.readers.texts import read_text

pypdf = pytest.importorskip("pypdf")

FUZZ_SECONDS = float(os.environ.get("LLAMA_INDEX_MM_FUZZ_SECONDS", "0"))
HANG = 30.0  # seconds for one damaged file of some kilobytes, on a busy machine
LIMITS = MediaLimits(characters=100_000, members=200)
FOLDER = Path(tempfile.mkdtemp(prefix="damaged-"))


@cache
def texts():
    words = "The tide comes in at six. Grüße, 你好, \U0001f6a2.\n" * 5
    return (words.encode(), words.encode("utf-8-sig"), words.encode("utf-16"), words.encode("utf-32"))


@cache
def papers():
    seeds = []
    for compressed in (False, True):
        writer = pypdf.PdfWriter()
        for words in ("Of harbours", "", "Boats lie here"):
            page = writer.add_blank_page(300, 300)
            font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
            name, dictionary = pypdf.generic.NameObject, pypdf.generic.DictionaryObject
            fonts = dictionary({name("/F1"): dictionary({name(key): name(value) for key, value in font.items()})})
            page[name("/Resources")] = dictionary({name("/Font"): fonts})
            content = pypdf.generic.DecodedStreamObject()
            content.set_data(f"BT /F1 12 Tf 72 200 Td ({words}) Tj ET".encode())
            page[name("/Contents")] = writer._add_object(content.flate_encode() if compressed else content)
        writer.set_page_label(0, 1, style="/r")
        out = io.BytesIO()
        writer.write(out)
        seeds.append(out.getvalue())
    return tuple(seeds)


@cache
def archives():
    seeds = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for at in range(4):
                archive.writestr(f"folder {at % 2}/Grüße {at}.txt", f"number {at} " * 30)
        seeds.append(out.getvalue())
    return tuple(seeds)


def check_text(data):
    path = FOLDER / "text.txt"
    path.write_bytes(data)
    text = read_text(path, limits=LIMITS)
    assert 0 < len(text) <= LIMITS.characters
    assert "\0" not in text
    return "read"


def check_pages(data):
    path = FOLDER / "paper.pdf"
    path.write_bytes(data)
    pages = read_pages(path, limits=LIMITS)
    assert any(page.text.strip() for page in pages)
    assert all("\f" not in page.text and "\0" not in page.text for page in pages)
    "".join(page.label + page.text for page in pages).encode()
    return "read"


def check_archive(data):
    path = FOLDER / "archive.zip"
    path.write_bytes(data)
    refused = 0
    for address in list_archive(path, limits=LIMITS):
        try:
            assert 0 < len(read_remote(address, FetchLimits(max_bytes=10_000), media=LIMITS).data) <= 10_000
        except DecodeError:
            refused += 1
    return "read in part" if refused else "read"


SEEDS = {"archives": archives, "pages": papers, "texts": texts}
CHECK = {"archives": check_archive, "pages": check_pages, "texts": check_text}


def check(entry, data):
    """Read; give what came of it."""
    try:
        return CHECK[entry](data)
    except DecodeError:
        return "refused"


@pytest.mark.parametrize("entry", sorted(SEEDS))
def test_whole_files_are_read(entry):
    assert [check(entry, data) for data in SEEDS[entry]()] == ["read"] * len(SEEDS[entry]())


@pytest.mark.parametrize("entry", sorted(SEEDS))
@pytest.mark.filterwarnings("ignore")  # what pypdf and zipfile have to say of damaged files
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files(entry, data):
    seed = data.draw(st.sampled_from(SEEDS[entry]()))
    check(entry, damage(seed, lambda below: data.draw(st.integers(0, below - 1))))


@pytest.mark.skipif(not FUZZ_SECONDS, reason="set LLAMA_INDEX_MM_FUZZ_SECONDS to run for that many seconds")
@pytest.mark.parametrize("entry", sorted(SEEDS))
def test_fuzz(entry, capsys):
    told = run_child(__file__, entry, FUZZ_SECONDS, HANG, capsys)
    assert set(told) <= {"read", "read in part", "refused", "slowest"}
    assert told["slowest"] < HANG


if __name__ == "__main__":
    sys.stdout.write(json.dumps(fuzz(partial(check, sys.argv[1]), SEEDS[sys.argv[1]](), float(sys.argv[2]), sys.argv[3])))
