"""A preset with a cache: the same index, and nothing encoded twice."""

import pytest

from llama_index_mm.embeddings.cache import EmbeddingCache
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.testing import HashingEncoder, tiny_preset

pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")


def test_a_second_index_encodes_nothing(make, tmp_path, monkeypatch):
    for at in range(5):
        make.picture(f"files/{at}.png", (at * 40, 0, 90)), make.text(f"files/{at}.txt", f"number {at}")
    make.tone("files/whistle.wav", 800), make.obj("files/stool.obj")
    preset = tiny_preset()
    with MultiModalIndex.open(tmp_path / "plain", preset=preset, create=True) as plain:
        plain.ingest(make.folder / "files")
        wanted = plain.store.partitions()
    with MultiModalIndex.open(tmp_path / "first", preset=preset.cached(tmp_path / "cache"), create=True) as first:
        first.ingest(make.folder / "files")
    monkeypatch.setattr(HashingEncoder, "_encode", lambda *_, **__: pytest.fail("encoded"))
    cache = EmbeddingCache(tmp_path / "cache")
    with MultiModalIndex.open(tmp_path / "second", preset=preset.cached(cache), create=True) as second:
        assert second.ingest(make.folder / "files").added == 12
        assert second.store.partitions() == wanted


def test_an_index_opens_with_and_without_it(make, tmp_path):
    preset = tiny_preset()
    with MultiModalIndex.open(tmp_path / "index", preset=preset.cached(tmp_path / "cache"), create=True) as index:
        index.ingest(make.text("a.txt", "the tide"))
    with MultiModalIndex.open(tmp_path / "index", preset=preset) as index:
        assert index.as_retriever().retrieve("tide")[0].node.get_content() == "the tide"
