"""The demo from end to end, as its command runs it."""

import json

import pytest

from llama_index_mm.cli.demo import run_demo
from llama_index_mm.cli.output import plain


@pytest.mark.weights
def test_the_demo_finds_answers_and_writes_its_page(tmp_path, capsys):
    run_demo(tmp_path / "demo", tmp_path / "results.html")
    out = capsys.readouterr().out
    assert "34 added" in out
    assert "0 not taken" in out
    assert "[1] podcast-bread-baking.ogg" in out
    page = (tmp_path / "results.html").read_text(encoding="utf-8")
    assert page.count("<audio") >= 4
    assert page.count("data:image/") >= 4
    told = run_demo(tmp_path / "demo", tmp_path / "again.html", silent=True)
    assert capsys.readouterr().out == ""
    assert told["ingested"]["unchanged"] == 34
    assert [len(one["results"]) for one in told["searches"]] == [3] * 5
    assert told["questions"][0]["sources"][0]["label"].startswith("podcast-bread-baking.ogg")
    assert json.loads(json.dumps(plain(told), allow_nan=False))["html"] == str(tmp_path / "again.html")
