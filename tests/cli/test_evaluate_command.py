"""``llama-index-mm evaluate`` over a real store, with encoders that need no weights."""

import json

import pytest
from typer.testing import CliRunner

from llama_index_mm.cli import app
from llama_index_mm.errors import DecodeError, QueryError, StoreError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.testing import tiny_preset

runner = CliRunner()
QUERIES = "query,image,modalities,relevant\nbees dance,,text,bees.txt\nlime,,image,lime.png\n,asked.png,image,red.png\n"


@pytest.fixture(scope="module")
def home(make_once):
    for name, colour in {"red": (255, 0, 0), "lime": (0, 255, 0)}.items():
        make_once.picture(f"files/{name}.png", colour)
    make_once.text("files/bees.txt", "Bees dance to tell where flowers are.")
    make_once.text("files/ships.txt", "The harbour master counts ninety ships a day.")
    make_once.picture("asked.png", (250, 5, 5))
    make_once.text("good.csv", QUERIES)
    make_once.text("bad.csv", f"{QUERIES}what,none.png,image,red.png\n")
    make_once.text("failing.csv", QUERIES.replace("asked.png,image", "asked.png,text") + "only,,mesh,chair.off\n")
    make_once.text("other.csv", "query,relevent\nbees,bees.txt\n")
    make_once.text("note.csv", "query,relevant,note\nbees,bees.txt,mine\n")
    make_once.text("none.csv", "query,relevant\n")
    with MultiModalIndex.open(make_once.folder / "index", preset=tiny_preset(), create=True) as index:
        assert index.ingest(make_once.folder / "files", num_workers=0).problems == []
    return make_once.folder


@pytest.fixture(autouse=True)
def preset(monkeypatch):
    """The command takes the preset from its name in the index; this one is not among those that are known by name."""
    monkeypatch.setattr("llama_index_mm.index.load_preset", tiny_preset)


def call(home, judgments, *args, code=0):
    given = ["evaluate", str(home / "index"), str(home / judgments), *(str(arg) for arg in args)]
    result = runner.invoke(app, given, catch_exceptions=False, env={"COLUMNS": "140"})
    assert result.exit_code == code, result.output
    return result


def test_json(home):
    told = json.loads(call(home, "good.csv", "--json").stdout)
    assert [(row["kind"], row["queries"], row["metrics"]["R@1"]["mean"]) for row in told["kinds"]] == [
        ("text -> text", 1, 1.0),
        ("text -> image", 1, 1.0),
        ("image -> image", 1, 1.0),
    ]
    assert (told["k"], told["by"], told["not_taken"], told["overall"]["failed"]) == ([1, 5, 10], "file_name", [], 0)
    assert sorted(told["queries"][1]["ranking"]) == ["lime.png", "red.png"]


def test_table_and_notes(home):
    done = call(home, "good.csv", "--k", "1,2")
    lines = [line.replace(" ±", "±").split() for line in done.stdout.splitlines()]
    assert lines[0][:7] == ["kind", "queries", "R@1", "R@2", "nDCG@2", "MRR", "mAP"]
    assert [line[:5] for line in lines[1:]] == [
        ["text", "->", "text", "1", "100.0±0.0"],
        ["text", "->", "image", "1", "100.0±0.0"],
        ["image", "->", "image", "1", "100.0±0.0"],
        ["all", "3", "100.0±0.0", "100.0±0.0", "100.0±0.0"],
    ]
    assert (
        done.stderr
        == "Intervals of fewer than 10 queries are too narrow: text -> text (1), text -> image (1), image -> image (1).\n"
    )
    assert "3 of 3 queries got fewer than 3 items" in call(home, "good.csv", "--k", "3").stderr


def test_everything_is_searched_if_asked(home):
    told = json.loads(call(home, "good.csv", "--mixed", "--json").stdout)
    assert [row["kind"] for row in told["kinds"]][:2] == ["text -> anything (text)", "text -> anything (image)"]
    assert len(told["queries"][0]["ranking"]) == 4
    assert json.loads(call(home, "good.csv", "--targeted", "--json").stdout)["kinds"][0]["kind"] == "text -> text"


def test_plot(home, tmp_path):
    pytest.importorskip("matplotlib")
    done = call(home, "good.csv", "--plot", tmp_path / "figures.svg", "--json")
    assert "text -&gt; image" in (tmp_path / "figures.svg").read_text(encoding="utf-8")
    assert "Wrote" in done.stderr
    assert json.loads(done.stdout)["overall"]["queries"] == 3


def test_what_can_not_be_drawn_is_told_before_anything_is_asked(home):
    pytest.importorskip("matplotlib")
    for name, message in (("figures.txt", "must end in one of"), ("nowhere/figures.svg", "there is no folder")):
        given = ["evaluate", str(home / "no index"), str(home / "good.csv"), "--plot", str(home / name)]
        result = runner.invoke(app, given)
        assert (result.exit_code, result.stdout, type(result.exception)) == (1, "", QueryError)
        assert message in str(result.exception)


def test_items_that_are_not_in_the_index_are_told(home):
    (home / "absent.csv").write_text(QUERIES.replace("bees.txt", "bee.txt"), encoding="utf-8")
    done = call(home, "absent.csv", "--json")
    told = json.loads(done.stdout)
    assert (told["not_in_index"], told["shared_names"]) == (["bee.txt"], [])
    assert "1 of 3 items that should be found are not in the index, and count as not found: bee.txt." in done.stderr
    assert json.loads(call(home, "good.csv", "--json").stdout)["not_in_index"] == []


def test_of_very_many_bad_rows_the_first_are_told(home):
    (home / "many-bad.csv").write_text(QUERIES + "what,none.png,image,red.png\n" * 25, encoding="utf-8")
    done = call(home, "many-bad.csv", "--json", code=1)
    assert done.stderr.count("not taken") == 20
    assert "... and 5 more; --json tells all." in done.stderr
    assert len(json.loads(done.stdout)["not_taken"]) == 25


def test_rows_that_can_not_be_taken(home):
    done = call(home, "bad.csv", "--json", code=1)
    told = json.loads(done.stdout)
    assert told["not_taken"] == [{"row": 5, "column": "image", "reason": f"There is no file {home / 'none.png'}."}]
    assert told["overall"]["queries"] == 3
    assert "not taken row 5, column image: There is no file" in done.stderr


def test_queries_that_fail(home):
    done = call(home, "failing.csv", "--json", code=1)
    told = json.loads(done.stdout)
    assert (told["overall"]["queries"], told["overall"]["failed"]) == (3, 1)
    assert "failed asked.png (image -> text): QueryError" in done.stderr
    assert "2 (1 failed)" not in call(home, "failing.csv", code=1).stdout


def test_unknown_columns_are_told(home):
    assert "Columns that are not known: note." in call(home, "note.csv").stderr


@pytest.mark.parametrize("given", ["", "0", "1,x", "1;5", "-1,5"])
def test_wrong_places_are_a_wrong_call(home, given):
    done = call(home, "good.csv", f"--k={given}", code=2)
    assert "Expected numbers of at least 1" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["index", "other.csv"], DecodeError, "Expected the column 'relevant'"),
        (["index", "none.csv"], QueryError, "at least one judged query"),
        (["index", "good.csv", "--by", "name"], QueryError, "Unknown identity 'name'"),
        (["index", "missing.csv"], FileNotFoundError, "missing.csv"),
        (["nothing", "good.csv"], StoreError, "There is no index in"),
    ],
)
def test_errors(home, args, error, message):
    store, judgments, *more = args
    result = runner.invoke(app, ["evaluate", str(home / store), str(home / judgments), *more])
    assert result.exit_code == 1
    assert type(result.exception) is error
    assert message in str(result.exception)


def many(home):
    """A dozen queries of words and a picture: each is for the picture, of which the words tell nothing."""
    rows = [f"number {at},asked.png,image,red.png" for at in range(12)]
    (home / "many.csv").write_text("query,image,modalities,relevant\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return "many.csv"


def test_weights_are_fitted_if_asked(home):
    assert "weights" not in json.loads(call(home, many(home), "--json").stdout)
    told = json.loads(call(home, many(home), "--json", "--fit-weights", "--k", "1,2").stdout)
    fit = told["weights"]
    assert (fit["metric"], fit["queries"], fit["decided"]) == ("nDCG@2", 12, 12)
    assert set(fit["weights"]) == {"text:text:image", "image:picture:image"}
    assert fit["scores"]["the retriever's own"]["mean"] == told["overall"]["metrics"]["nDCG@2"]["mean"]
    done = call(home, many(home), "--fit-weights")
    words = done.stdout.split()
    assert {"fitted,", "held", "out", "text:text:image", "image:picture:image", "folds"} <= set(words)
    assert "Weights decide only 12 of the queries" in " ".join(done.stderr.split())


def test_too_few_queries_to_fit_weights_to(home):
    done = call(home, "good.csv", "--json", "--fit-weights", code=1)
    told = json.loads(done.stdout)
    assert told["weights"]["error"].startswith("Expected at least 10 judged queries that weights can decide, got 0 of 3")
    assert told["overall"]["queries"] == 3
    assert "no weights Expected at least 10 judged queries" in " ".join(done.stderr.split())
    assert "text -> image" in call(home, "good.csv", "--fit-weights", code=1).stdout
