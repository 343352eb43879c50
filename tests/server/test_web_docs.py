"""The commands, the examples and the figures of docs/serve.md."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
    pytest.skip("needs fastapi and uvicorn", allow_module_level=True)

from test_web import Scripted, png, serving

from llama_index_mm import MultiModalIndex
from llama_index_mm.cli import app as cli
from llama_index_mm.server.web import make_app
from llama_index_mm.server.web_limits import WebLimits
from llama_index_mm.testing import tiny_preset

DOCS = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```\w+\n(.*?)```", DOCS, re.S))


@pytest.fixture(scope="module")
def files(make_once):
    make_once.picture("in/boat.png", "red")
    make_once.text("in/tide.txt", "High tide is at noon.")
    make_once.bytes("sketch.png", png(30, 20))
    with MultiModalIndex.open(make_once.folder / "my-index", preset=tiny_preset(), create=True) as made:
        made.ingest(make_once.folder / "in", num_workers=0)
    return make_once.folder


@pytest.fixture(scope="module")
def index(files):
    with MultiModalIndex.open(files / "my-index", preset=tiny_preset()) as opened:
        yield opened


def test_the_calls_of_the_api_work(files, index):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    with serving(index, llm=Scripted()) as web:

        def run(name):
            done = subprocess.run(
                ["bash", "-c", EXAMPLES[name]], env={"SERVER": str(web.base_url), "PATH": "/usr/bin:/bin"}, cwd=files,
                capture_output=True, text=True, timeout=60, check=True,
            )  # fmt: skip
            return [json.loads(line) for line in done.stdout.splitlines()]

        assert [one["name"] for one in run("search")[0]["results"]] == ["boat.png"]
        assert run("upload")[0]["facts"] == "30 × 20 pixels"
        told = [one["event"] for one in run("ask")]
        assert list(dict.fromkeys(told)) == ["waiting", "sources", "words", "answered"]


def test_the_python_runs(files, monkeypatch):
    started = []
    monkeypatch.chdir(files)
    monkeypatch.setattr("llama_index_mm.index.load_preset", lambda name: tiny_preset(name))  # the same without weights
    monkeypatch.setattr("uvicorn.run", lambda app, **options: started.append((app.title, options)))
    names = {"llm": Scripted()}
    try:
        exec(EXAMPLES["python"], names)
    finally:
        names["index"].close()
    assert started == [("llama-index-mm", {"host": "127.0.0.1", "port": 8080})]


def test_the_table_of_the_api_is_the_api(index):
    listed = re.findall(r"^\| `(GET|POST)`?(?:, `(DELETE))? (/api/[^`?]+)", DOCS, re.M)
    told = {(method, re.sub("[A-Z]+", "{}", path)) for first, second, path in listed for method in (first, second) if method}
    schema = make_app(index).openapi()
    there = {
        (method.upper(), re.sub(r"\{[^}]+\}", "{}", path)) for path, methods in schema["paths"].items() for method in methods
    }
    assert told == there
    for methods in schema["paths"].values():
        for one in methods.values():
            assert one["description"] or one["summary"]
    asked = schema["components"]["schemas"]["Asked"]["properties"]
    assert set(re.findall(r"`(\w+)`", re.search(r"take the same: (.*?);", DOCS)[1])) == set(asked)


def test_the_options_are_those_of_the_command():
    listed = set(re.findall(r"`(--[\w-]+)`", DOCS[DOCS.index("| option |") : DOCS.index("## Who")]))
    said = CliRunner().invoke(cli, ["serve", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert set(re.findall(r"--[a-z][\w-]+", said)) - {"--help"} == listed


def test_figures_are_those_of_the_code():
    limits = WebLimits()
    uploads = limits.uploads
    assert f"arrives ({uploads.file_bytes >> 20} MB)" in DOCS
    assert f"{uploads.decode_seconds:.0f} seconds and {uploads.memory_bytes >> 30} GB" in DOCS
    words = " ".join(DOCS.split())
    assert (
        f"{uploads.pixels // 1_000_000} megapixels, sounds of {uploads.seconds / 60:.0f} minutes, meshes of {uploads.faces:,}"
        in words
    )
    assert f"the last {limits.kept_uploads} are kept" in words
    assert f"at most {limits.side} pixels" in words
    assert f"span ({limits.sound_seconds / 60:.0f} minutes at most)" in words
    assert f"Two searches run at a time, and {limits.waiting_searches} may wait" in words
    assert limits.searches == 2
    assert f"others four, and {limits.waiting_answers} may wait" in words


def test_the_picture_is_there_and_small():
    picture = Path(__file__).parents[2] / "docs" / "web.png"
    assert 10_000 < picture.stat().st_size < 300_000
