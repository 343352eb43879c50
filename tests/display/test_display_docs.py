"""The examples of the docs, run as they stand there."""

import re
from pathlib import Path

import pytest

from llama_index_mm.testing import tiny_preset

DOCS = (Path(__file__).parents[2] / "docs" / "display.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", DOCS, re.S))


def test_the_examples_run(make, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(make.folder)
    monkeypatch.setattr("llama_index_mm.index.load_preset", lambda name: tiny_preset(name))  # the same without weights
    for colour in ("red", "blue", "green"):
        make.picture(f"holiday/{colour}-boat.png", colour)
    names = {}
    try:
        for example in EXAMPLES.values():
            exec(example, names)
        assert names["found"][0].node.path.name == "red-boat.png"
        assert names["page"]._repr_html_().count("data:image/jpeg;base64,") == 3
        assert make.path("boat.html").read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 3
        assert re.fullmatch(r"PCA of 3 vectors: the axes hold \d+% and \d+% of the variance\n", capsys.readouterr().out)
        assert make.path("picture.png").read_bytes().startswith(b"\x89PNG")
    finally:
        names["index"].close()


def test_the_magic_of_the_docs_is_there():
    import llama_index_mm

    assert "%load_ext llama_index_mm" in DOCS
    assert callable(llama_index_mm.load_ipython_extension)
    assert callable(llama_index_mm.unload_ipython_extension)


def test_figures_of_the_docs_are_those_of_the_code():
    from llama_index_mm.display.embed import _TURNED
    from llama_index_mm.display.notebook import NOTEBOOK_BYTES
    from llama_index_mm.display.solid import MAX_FACES

    assert f"{MAX_FACES:,} faces at most" in DOCS
    assert f"bounded to {NOTEBOOK_BYTES // 1_000_000} MB an output" in DOCS
    assert (_TURNED.file_bytes >> 20, _TURNED.faces) == (100, 2_000_000)
