import json

import pytest
from llama_index.core.schema import TextNode
from typer.testing import CliRunner

from llama_index_mm.cli.app import app
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.testing import tiny_preset


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An index of texts that the command can open by the name of its preset."""
    with MultiModalIndex.open(tmp_path, preset=tiny_preset(), create=True) as index:
        index.insert_nodes([TextNode(id_=f"n{at}", text=f"note {at} of {at * 7 % 13} about item {at}") for at in range(60)])
    monkeypatch.setattr("llama_index_mm.index.load_preset", lambda name: tiny_preset(name))
    return tmp_path


def test_table_and_what_is_kept(store):
    result = CliRunner().invoke(app, ["calibrate", str(store)])
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert ["text", "text", "text", "60", "100%", "100%", "100%"] in rows
    with MultiModalIndex.open(store, preset=tiny_preset()) as index:
        assert index._calibration.fits["text", "text", "text"].items == 60


def test_json(store):
    result = CliRunner().invoke(app, ["calibrate", str(store), "--json", "--anew"])
    (channel,) = json.loads(result.stdout)["channels"]
    assert (channel["space"], channel["part"], channel["modality"], channel["items"]) == ("text", "text", "text", 60)
    assert channel["deviation"] > 0


def test_no_index(tmp_path):
    result = CliRunner().invoke(app, ["calibrate", str(tmp_path / "none")])
    assert result.exit_code != 0
