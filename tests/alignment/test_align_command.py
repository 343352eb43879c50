"""``llama-index-mm align`` with encoders that need no weights."""

import importlib.util
import json

import numpy as np
import pytest
from typer.testing import CliRunner

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("safetensors") is None:
    pytest.skip("needs torch and safetensors", allow_module_level=True)

from llama_index_mm.alignment import AlignedEncoder, load_pairs
from llama_index_mm.cli import app
from llama_index_mm.errors import AlignmentError, SpaceError
from llama_index_mm.media import load_audio
from llama_index_mm.testing import HashingEncoder, tiny_preset

PITCHES = {"low": 150.0, "middle": 700.0, "high": 3000.0}


@pytest.fixture(scope="module")
def home(make_once):
    rng = np.random.default_rng(0)
    rows, pairs, noise = [], [], []
    for name, hertz in PITCHES.items():
        make_once.picture(f"items/{name}.png", {"low": "red", "middle": "lime", "high": "blue"}[name])
        for at in range(8):
            make_once.tone(f"items/{name}{at}.wav", hertz * rng.uniform(0.97, 1.03), seconds=0.2)
            rows.append(f"{name}{at}.wav,{name}")
            pairs.append(f"{name}{at}.wav,{name}.png")
            noise.append(f"{name}{at}.wav,word{rng.integers(10**6)}")
    make_once.text("labels.csv", "\n".join(["file,label", *rows, ""]))
    make_once.text("pairs.csv", "\n".join(["file,pair", *pairs, ""]))
    make_once.text("noise.csv", "\n".join(["file,caption", *noise, ""]))
    return make_once.folder


@pytest.fixture(autouse=True)
def preset(monkeypatch):
    """The command takes the preset from its name; this one is not among those that are known by name."""
    monkeypatch.setattr("llama_index_mm.presets.load_preset", lambda name: tiny_preset())


def call(home, table, out, *args, code=0):
    given = ["align", str(home / "items"), str(home / table), str(out), *(str(arg) for arg in args)]
    result = CliRunner().invoke(app, given, catch_exceptions=False, env={"COLUMNS": "140"})
    assert result.exit_code == code, result.output
    return result


def test_labels_to_an_adapter(home, tmp_path):
    card = json.loads(call(home, "labels.csv", tmp_path, "--template", "a {} tone", "--epochs", 5, "--json").stdout)
    assert (card["pairs"], card["target"], card["templates"]) == (24, "text:text", ["a {} tone"])
    assert card["after"]["space_to_new"]["R@1"]["mean"] == 1.0
    encoder = AlignedEncoder.load(tmp_path, HashingEncoder("audio"))
    assert json.loads(json.dumps(encoder.card.to_dict())) == card
    words = HashingEncoder("text").encode([f"a {name} tone" for name in PITCHES], query=True)
    sounds = encoder.encode([load_audio(home / "items" / f"{name}0.wav") for name in PITCHES])
    assert (sounds @ words.T).argmax(1).tolist() == [0, 1, 2]


def test_pairs_a_table_and_a_plot(home, tmp_path):
    pytest.importorskip("matplotlib")
    done = call(home, "pairs.csv", tmp_path, "--target", "picture", "--epochs", 3, "--plot", tmp_path / "fit.png")
    assert "asked from the space, after" in done.stdout
    assert "24 pairs of 24 items and 3 targets" in done.stderr
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_an_adapter_that_learned_nothing_is_told(home, tmp_path):
    done = call(home, "noise.csv", tmp_path, "--epochs", 1, code=1)
    assert "no better than chance" in " ".join(done.stderr.split())
    assert (tmp_path / "card.json").exists()


def test_encoders_that_are_not_there(home, tmp_path):
    with pytest.raises(SpaceError, match="no space 'nope'; it has text, picture, sound"):
        call(home, "labels.csv", tmp_path, "--target", "nope")
    with pytest.raises(SpaceError, match="such as sound:audio or gcn:FOLDER, got 'sound:mesh'"):
        call(home, "labels.csv", tmp_path, "--source", "sound:mesh")


def test_tables_that_can_not_be_taken(home, make):
    items = home / "items"
    make.text("a.csv", "file,label,caption\nlow0.wav,x,a thing\n")
    with pytest.raises(AlignmentError, match="to be told which one of them; it has file, label, caption"):
        load_pairs(make.folder / "a.csv", items)
    assert load_pairs(make.folder / "a.csv", items, by="caption")[0].target == "a thing"
    assert load_pairs(make.folder / "a.csv", items, by="label", unseen=True)[0].group == "x"
    itself = load_pairs(make.folder / "a.csv", items, by="file")[0]
    assert itself.item == itself.target == items / "low0.wav"
    make.text("b.csv", "file,label,group\nlow0.wav,x,g\nlow1.wav,,g\n")
    with pytest.raises(AlignmentError, match="row 3: expected something under file and under label"):
        load_pairs(make.folder / "b.csv", items)
    make.text("c.csv", "file,label\nnone.wav,x\n")
    with pytest.raises(AlignmentError, match=r"row 2: there is no file .*none\.wav"):
        load_pairs(make.folder / "c.csv", items)
    make.text("d.csv", "file,label\n")
    with pytest.raises(AlignmentError, match="has no rows"):
        load_pairs(make.folder / "d.csv", items)
    with pytest.raises(AlignmentError, match="can't be read as CSV"):
        load_pairs(make.folder / "none.csv", items)
