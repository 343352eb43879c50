import hashlib
from pathlib import Path

import pytest

from llama_index_mm.errors import DecodeError, UnsupportedMediaError
from llama_index_mm.media import MODALITIES, digest_bytes, digest_file, modality_of, suffixes
from llama_index_mm.media.files import check_readable


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("a.txt", "text"),
        ("A.MD", "text"),
        ("a.jpg", "image"),
        ("a.b.JPEG", "image"),
        ("a.tiff", "image"),
        ("a.wav", "audio"),
        ("a.Mp3", "audio"),
        ("a.webm", "audio"),
        ("a.MOV", "audio"),
        ("a.HEIC", "image"),
        ("a.obj", "mesh"),
        ("folder.png/a.ply", "mesh"),
    ],
)
def test_modality_of(name, modality):
    assert modality_of(Path(name)) == modality


@pytest.mark.parametrize(
    ("name", "named"), [("a.xyz", r"'\.xyz' \(a\.xyz\)"), ("README", "without an ending"), (".png", "without")]
)
def test_unknown_ending_lists_the_known_ones(name, named):
    with pytest.raises(UnsupportedMediaError, match=named) as caught:
        modality_of(Path(name))
    assert all(f" {suffix}" in str(caught.value) for suffix in suffixes())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("logo.SVG", r"^logo\.SVG is a drawing made of lines and shapes, not of pixels\. Export it as PNG\.$"),
        ("list.m3u8", r"^list\.m3u8 is a list of recordings, and lists are not followed\."),
        ("DSC1.nef", r"^DSC1\.nef is what a camera's sensor saw, .* Export it as JPEG or TIFF\.$"),
    ],
)
def test_what_people_have_is_told_what_to_do(name, told):
    with pytest.raises(UnsupportedMediaError, match=told):
        modality_of(Path(name))


def test_suffixes_are_divided_among_the_modalities():
    parts = [suffixes(modality) for modality in MODALITIES]
    assert all(parts)
    assert sorted(suffixes()) == sorted(suffix for part in parts for suffix in part)
    assert all(modality_of(Path(f"a{suffix}")) == modality for modality in MODALITIES for suffix in suffixes(modality))


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_digest(make, size):
    data = b"x" * size
    wanted = hashlib.sha256(data).hexdigest()
    assert digest_bytes(data) == wanted
    assert digest_file(make.bytes("file", data)) == wanted


def test_check_readable(make, tmp_path):
    check_readable(make.text("a.txt", "x"))
    for path, reason in (
        (make.bytes("empty.txt", b""), r"empty\.txt is empty"),
        (tmp_path / "gone", "is missing"),
        (tmp_path, "is no regular file"),
    ):
        with pytest.raises(DecodeError, match=reason):
            check_readable(path)
