"""The example of the docs, run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llama_index_mm import Preset
from llama_index_mm.testing import tiny_preset

DOCS = Path(__file__).parents[2] / "docs" / "encoders.md"
EXAMPLE = re.search(r"<!-- example: thermal -->\n```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)[1]


def thermal(path, mean, spread, seed):
    """Brightness is temperature: where it is differs from picture to picture, how much of it there is does not."""
    heat = np.random.default_rng(seed).normal(mean, spread, (48, 64)).clip(0, 255)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(heat.astype(np.uint8)).save(path)


def test_the_encoder_has_less_than_twenty_lines():
    encoder = EXAMPLE[EXAMPLE.index("class ") : EXAMPLE.index("preset =")].strip().splitlines()
    assert len(encoder) < 10
    assert len(EXAMPLE.strip().splitlines()) < 20


@pytest.mark.parametrize("base", ["tiny", pytest.param("offline", marks=pytest.mark.weights)])
def test_the_example_finds_the_picture_of_like_temperatures(tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    if base == "tiny":  # the same without weights
        monkeypatch.setattr("llama_index_mm.load_preset", lambda name: tiny_preset())
    for at, (name, mean, spread) in enumerate([("cold", 40, 6), ("warm", 120, 25), ("hot", 220, 6)]):
        thermal(Path("thermal", f"{name}.png"), mean, spread, at)
    thermal(Path("bearing.png"), 218, 7, 9)
    names = {}
    exec(EXAMPLE, names)
    index, hits = names["index"], names["hits"]
    try:
        assert [hit.node.path.name for hit in hits] == ["hot.png"]
        assert isinstance(index.preset, Preset)
        assert "thermal" in [space.name for space in index.preset.spaces]
        encoder = names["ThermalEncoder"]()
        pictures = [Image.open(path) for path in sorted(Path("thermal").iterdir())]
        np.testing.assert_allclose(np.linalg.norm(encoder.encode(pictures), axis=1), 1, atol=1e-6)
    finally:
        index.close()
