"""``llama-index-mm search`` over a real store, with encoders that need no weights."""

import json
import math

import pytest
import typer
from llama_index.core.schema import TextNode
from typer.testing import CliRunner

from llama_index_mm.cli import app
from llama_index_mm.cli.search import seats_of, span_of
from llama_index_mm.errors import QueryError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.media import digest_file
from llama_index_mm.nodes import AudioMedia
from llama_index_mm.retrieval import MediaQuery
from llama_index_mm.testing import tiny_preset

runner = CliRunner()


@pytest.fixture(scope="module")
def home(make_once):
    for name, colour in {"red": (255, 0, 0), "lime": (0, 255, 0), "navy": (0, 0, 128)}.items():
        make_once.picture(f"files/{name} boat.png", colour)
    make_once.text("files/boat.txt", "A boat in a storm.")
    make_once.text("files/goat.txt", "A goat on a boat.")
    tone = make_once.tone("tone.wav", 300)
    spans = [
        AudioMedia.create(
            tone,
            digest=digest_file(tone),
            text=f"boat {at}",
            id_=f"span {at}",
            start=10.0 * at,
            end=10.0 * at + 10,
            language=code,
        )
        for at, code in enumerate(["de", "zh", "de"])
    ]
    with MultiModalIndex.open(make_once.folder / "index", preset=tiny_preset(), create=True) as index:
        assert index.ingest(make_once.folder / "files", num_workers=0).problems == []
        index.store.add(encode_nodes([*spans, TextNode(id_="plain", text="a boat")], tiny_preset().spaces))
    return make_once.folder


@pytest.fixture(autouse=True)
def preset(monkeypatch):
    """The command takes the preset from its name in the index; this one is not among those that are known by name."""
    monkeypatch.setattr("llama_index_mm.index.load_preset", tiny_preset)


def call(home, *args, code=0):
    given = ["search", *(str(arg) for arg in args), "--store", str(home / "index")]
    result = runner.invoke(app, given, catch_exceptions=False, env={"COLUMNS": "140"})
    assert result.exit_code == code, result.output
    return result


def found(home, *args):
    return json.loads(call(home, *args, "-k", 9, "--json").stdout)


def ids(rows):
    return [row["node_id"] for row in rows]


@pytest.mark.parametrize(
    ("args", "query", "options"),
    [
        (["boat"], {}, {}),
        (["boat", "--not", "goat"], {"negative": ["goat"]}, {}),
        (["boat", "--not", "goat", "--not", "storm"], {"negative": ["goat", "storm"]}, {}),
        (["boat", "--language", "de"], {"language": "de"}, {}),
        (["boat", "--language", "de", "--language", "zh"], {"language": ["de", "zh"]}, {}),
        (["boat", "--between", "12-25"], {"between": (12, 25)}, {}),
        (["boat", "--at-most", "image=1", "--at-most", "language:de=1"], {}, {"at_most": {"image": 1, "language:de": 1}}),
        (["boat", "--at-least", "audio=2"], {}, {"at_least": {"audio": 2}}),
        (["boat", "--cutoff", "0.5"], {}, {"similarity_cutoff": 0.5}),
        (["boat", "--collapse"], {}, {"collapse": "document"}),
        (["boat", "--diversity", "0.7"], {}, {"diversity": 0.7}),
        (
            ["boat", "--fusion", "maximum", "-m", "audio", "-m", "text"],
            {"modalities": ["audio", "text"]},
            {"fusion": "maximum"},
        ),
    ],
)
def test_as_the_retriever_gives_it(home, args, query, options):
    rows = found(home, *args)
    with MultiModalIndex.open(home / "index", preset=tiny_preset()) as index:
        expected = index.as_retriever(similarity_top_k=9, **options).retrieve(MediaQuery("boat", **query))
    assert [(row["node_id"], row["score"]) for row in rows] == [(one.node.node_id, one.score) for one in expected]


def test_constraints_hold(home):
    assert {row["language"] for row in found(home, "boat", "-m", "audio", "--language", "zh")} == {"zh"}
    assert sorted(ids(found(home, "boat", "--between", "0:12-0:20"))) == ["span 1"]
    assert sorted(ids(found(home, "boat", "--between", "12-"))) == ["span 1", "span 2"]
    rows = found(home, "boat", "--at-most", "image=1", "--at-most", "audio=0")
    assert [row["modality"] for row in rows if row["modality"] != "text"] == ["image"]
    every = found(home, "boat")
    cutoff = every[3]["score"]
    assert ids(found(home, "boat", "--cutoff", cutoff)) == [row["node_id"] for row in every if row["score"] >= cutoff]


def test_what_is_not_wanted_is_told(home):
    out = call(home, "boat", "--not", "goat", "-m", "text", "-k", 9).stdout
    assert "text in text" in out
    assert "not text in text" in out
    reasons = [reason for row in found(home, "boat", "--not", "goat") for reason in row["reasons"] if reason["negative"]]
    assert reasons
    assert all(reason["contribution"] <= 0 for reason in reasons)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--between", "20-10"], "Expected first and last second"),
        (["--between", "soon"], "got 'soon'"),
        (["--at-most", "image"], "such as image=2"),
        (["--at-least", "image=-1"], "got 'image=-1'"),
        (["--at-most", "image=1", "--at-most", "image=2"], "once"),
        (["--cutoff", "2"], "Invalid value for"),
        (["--diversity", "-0.1"], "Invalid value for"),
    ],
)
def test_wrong_calls(home, args, message):
    assert message in " ".join(call(home, "boat", *args, code=2).stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--at-most", "video=1"], "got 'video'"),
        (["--language", "german"], "got 'german'"),
        (["--at-least", "image=6"], "at_least keeps 6 seats"),
    ],
)
def test_values_that_mean_nothing(home, args, message):
    with pytest.raises(QueryError, match=message):
        call(home, "boat", *args)


@pytest.mark.parametrize(
    ("given", "span"),
    [
        ("10-20", (10.0, 20.0)),
        (" 1:05 - 1:20.5 ", (65.0, 80.5)),
        ("1:00:00-", (3600.0, math.inf)),
        ("-30", (0.0, 30.0)),
        (None, None),
    ],
)
def test_spans(given, span):
    assert span_of(given) == span


@pytest.mark.parametrize("given", ["", "10", "10-10", "-0", "a-b", "1-2-3", "-1-5", "1e3-2e3", "nan-inf"])
def test_spans_that_are_refused(given):
    with pytest.raises(typer.BadParameter, match="Expected first and last second"):
        span_of(given)


def test_seats():
    assert seats_of("--at-most", None) == {}
    assert seats_of("--at-most", ["image=2", "language:zh=0"]) == {"image": 2, "language:zh": 0}


def test_each_reason_has_a_line_of_its_own(home):
    told = call(home, "boat", "--not", "goat", "-k", "3").stdout
    assert "\\n" not in told
    assert len([line for line in told.splitlines() if " in " in line and "." in line]) > 3
