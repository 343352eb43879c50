"""The commands that care for a store; no weights are needed."""

import json

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from typer.testing import CliRunner

from llama_index_mm.cli import app
from llama_index_mm.stores import MediaStore, SpaceVectorStore

runner = CliRunner()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 16))
    store = SpaceVectorStore(tmp_path / "store", "words")
    nodes = [
        TextNode(id_=str(at), text="t" * 500, embedding=(centres[at % 40] + 0.1 * rng.normal(size=16)).tolist())
        for at in range(1500)
    ]
    store.add(nodes)
    store.client.set_meta("preset", "none")
    store.close()
    return tmp_path / "store"


def call(*args, code=0):
    result = runner.invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def test_check_and_repair(folder):
    assert "sound: 1500 nodes, 1500 vectors, 1 files read" in call("check", "--store", folder)
    (file,) = (folder / "faiss").glob("*.vectors.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    told = json.loads(call("check", "--store", folder, "--json", code=1))
    assert not told["ok"]
    assert len(told["problems"]) == 1
    assert file.name in told["problems"][0]
    assert file.name in call("check", "--store", folder, code=1).replace("\n", "")
    assert json.loads(call("repair", "--store", folder, "--json")) == {
        "nodes": 1500,
        "vectors": 1500,
        "files": 1,
        "problems": [],
        "ok": True,
    }
    assert "sound" in call("check", "--store", folder)


def test_compact(folder):
    with MediaStore(folder) as store:
        store.delete(node_ids=[str(at) for at in range(1400)])
    told = json.loads(call("compact", "--store", folder, "--json"))
    assert told["bytes_after"] < told["bytes_before"] / 2
    assert call("compact", "--store", folder).endswith(" MB\n")


def test_optimize_and_info(folder):
    (told,) = json.loads(call("optimize", "words", "--store", folder, "--json"))
    assert (told["space"], told["modality"], told["count"], told["not_in_files"]) == ("words", "text", 1500, 0)
    facts = told["approximate"]
    assert (facts["vectors"], facts["queries"], facts["target"]) == (1500, 96, 0.99)
    assert json.loads(call("info", "--store", folder, "--json"))["vectors"] == [told]
    assert "exact" in call("info", "--store", folder)


def test_optimize_what_is_not_there(folder):
    result = runner.invoke(app, ["optimize", "looks", "--store", str(folder)])
    assert str(result.exception) == "Space 'looks' is not in this store; it has ['words']."


@pytest.mark.parametrize("command", [["check"], ["repair"], ["compact"], ["optimize", "words"]])
def test_no_store(tmp_path, command):
    result = runner.invoke(app, [*command, "--store", str(tmp_path / "none")])
    assert str(result.exception).startswith("There is no index in")
    assert not (tmp_path / "none").exists()
