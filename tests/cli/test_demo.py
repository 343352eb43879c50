"""The demo from end to end, as its command runs it."""

import pytest

from llama_index_mm.cli.demo import run_demo


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
    run_demo(tmp_path / "demo", tmp_path / "again.html")
    assert "34 unchanged" in capsys.readouterr().out
