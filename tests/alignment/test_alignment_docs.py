"""The example of the docs, run as it stands there."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("safetensors") is None:
    pytest.skip("needs torch and safetensors", allow_module_level=True)

from llama_index_mm.alignment import AlignedEncoder
from llama_index_mm.testing import tiny_preset

DOCS = Path(__file__).parents[2] / "docs" / "alignment.md"
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S))
PITCHES = {"bell": 3000.0, "engine": 90.0, "whistle": 900.0}


@pytest.mark.parametrize("base", ["tiny", pytest.param("offline", marks=pytest.mark.weights)])
def test_words_find_the_sounds(make, monkeypatch, capsys, base):
    monkeypatch.chdir(make.folder)
    if base == "tiny":  # the same without weights
        monkeypatch.setattr("llama_index_mm.load_preset", lambda name: tiny_preset())
    rng = np.random.default_rng(0)
    rows = ["file,label"]
    for name, hertz in PITCHES.items():
        for at in range(10):
            make.tone(f"sounds/{at}-{name[0]}.wav", hertz * rng.uniform(0.97, 1.03), seconds=0.5)
            rows.append(f"{at}-{name[0]}.wav,{name}")
    make.text("labels.csv", "\n".join([*rows, ""]))
    names = {}
    exec(EXAMPLES["sounds"], names)
    try:
        assert [hit.node.path.name[1:] for hit in names["hits"]] == ["-b.wav"] * 3
        assert "asked from the space, after" in capsys.readouterr().out
        read = AlignedEncoder.load("sound-to-words", names["encoder"].source)
        assert read.fingerprint == names["encoder"].fingerprint
    finally:
        names["index"].close()


@pytest.mark.weights
def test_thermal_pictures_find_the_photos(tmp_path, monkeypatch):
    pytest.importorskip("skimage", reason="the pictures of the demo come with scikit-image")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(EXAMPLES["thermal"], names)
    try:
        assert names["hits"][0].node.path.name == "cat.png"
        assert names["encoder"].card.pairs == 64
    finally:
        names["index"].close()


def test_every_name_of_the_docs_is_there():
    import llama_index_mm.alignment as kit

    told = DOCS.read_text(encoding="utf-8")
    for name in ("labelled", "paired", "with_views", "beside", "with_encoder", "join", "gate", "digest_vectors", "zero_shot"):
        assert f"{name}(" in told
        assert name in kit.__all__
