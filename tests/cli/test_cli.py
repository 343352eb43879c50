"""The command line as a person uses it, with the weights of the offline preset."""

import json
import subprocess
import sys
import wave

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from llama_index_mm.cli import app
from llama_index_mm.models import MODELS

runner = CliRunner()


def call(*args):
    result = runner.invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def process(*args):
    command = [sys.executable, "-c", "from llama_index_mm.cli import main; main()", *(str(arg) for arg in args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "bees.txt").write_text("Bees dance to tell one another where flowers are.", encoding="utf-8")
    (folder / "ships.md").write_text("The harbour master counts ninety ships a day.", encoding="utf-8")
    Image.new("RGB", (64, 48), "red").save(folder / "red square.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.sin(np.arange(16000) * 0.2) * 9000).astype("<i2").tobytes())
    where = tmp_path_factory.mktemp("index") / "store"
    told = json.loads(call("ingest", folder, "--store", where, "--json"))
    assert (told["added"], told["unchanged"]) == (4, 0)
    assert [problem["path"].rsplit("/", 1)[1] for problem in told["problems"]] == ["broken.jpg"]
    return where, folder


@pytest.mark.weights
def test_words_find_text_and_say_why(store):
    found = json.loads(call("search", "what do bees do", "--store", store[0], "--modality", "text", "--json"))
    assert [one["file"].rsplit("/", 1)[1] for one in found] == ["bees.txt", "ships.md"]
    assert found[0]["reasons"][0]["space"] == "text"
    assert sum(reason["contribution"] for reason in found[0]["reasons"]) == pytest.approx(found[0]["score"])


@pytest.mark.weights
def test_a_recording_finds_itself(store):
    found = json.loads(call("search", "--audio", store[1] / "tone.wav", "--store", store[0], "--json"))
    assert [(one["modality"], one["start"], one["end"]) for one in found] == [("audio", 0.0, 1.0)]


@pytest.mark.weights
def test_tables_and_page_are_written(store, tmp_path):
    out = call("search", "a red square", "--store", store[0], "-k", 2, "--html", tmp_path / "page.html")
    assert "red square.png" in out
    assert "data:image/jpeg;base64," in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.weights
def test_a_question_is_answered_with_numbered_sources(store):
    told = json.loads(call("ask", "How many ships does the harbour master count a day?", "--store", store[0], "--json"))
    assert "ninety" in told["answer"].lower() or "90" in told["answer"]
    assert told["sources"][0]["label"] == "ships.md"
    assert told["sources"][0]["number"] == 1


@pytest.mark.weights
def test_what_is_there_is_not_read_again_and_info_lists_what_was_not_taken(store):
    assert json.loads(call("ingest", store[1], "--store", store[0], "--json"))["unchanged"] == 4
    told = json.loads(call("info", "--store", store[0], "--json"))
    assert told["nodes"] == {"text": 2, "image": 1, "audio": 1}
    assert told["preset"] == "offline"
    assert [one["path"].rsplit("/", 1)[1] for one in told["not_taken"]] == ["broken.jpg"]
    assert "broken.jpg" in call("info", "--store", store[0])


def test_a_missing_index_is_an_error_in_one_line(tmp_path):
    done = process("search", "x", "--store", tmp_path / "none")
    assert done.returncode == 1
    assert "There is no index in" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_wrong_call_is_exit_status_2():
    assert process("search", "--no-such-option").returncode == 2


def test_models_are_listed():
    rows = json.loads(call("models", "list", "--json"))
    assert [row["name"] for row in rows] == list(MODELS)
    assert all(row["packages"] for row in rows)


def test_the_path_of_an_unknown_model_is_an_error():
    done = process("models", "path", "nothing")
    assert done.returncode == 1
    assert "whisper-base" in done.stderr
