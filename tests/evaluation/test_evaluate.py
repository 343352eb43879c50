"""Evaluation over a real index with encoders that need no weights."""

import asyncio
import json
import sys
import threading

import numpy as np
import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from rich.console import Console

from llama_index_mm.errors import MissingExtraError, QueryError
from llama_index_mm.evaluation import (
    Interval,
    ItemRetriever,
    Judged,
    aevaluate,
    bootstrap_interval,
    compare,
    evaluate,
    load_judgments,
    mixed,
    score_ranking,
)
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.retrieval import MediaQuery
from llama_index_mm.testing import tiny_preset

COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
TEXTS = {
    "bees.txt": "Bees dance to tell where flowers are.",
    "ships.txt": "The harbour master counts ninety ships a day.",
    "bread.txt": "Bread rises while the baker sleeps.",
}


@pytest.fixture(scope="module")
def home(make_once):
    pytest.importorskip("av")
    for name, colour in COLOURS.items():
        make_once.picture(f"files/{name}.png", colour)
    for name, text in TEXTS.items():
        make_once.text(f"files/{name}", text)
    make_once.tone("files/low.wav", 200, 40)
    make_once.tone("files/high.wav", 3000, 40)
    make_once.picture("asked.png", (250, 5, 5))
    make_once.text(
        "judgments.csv",
        "query,image,audio,modalities,relevant,language\n"
        "where do bees dance,,,text,bees.txt,en\n"
        "ships in the harbour,,,text,ships.txt,en\n"
        "lime,,,image,lime.png,\n"
        "crimson,,,image,red.png,\n"
        ",asked.png,,image,red.png,\n"
        ",,files/low.wav,audio,high.wav,\n",
    )
    return make_once.folder


@pytest.fixture(scope="module")
def index(home):
    with MultiModalIndex.open(home / "index", preset=tiny_preset(), create=True) as made:
        assert made.ingest(home / "files", num_workers=0).problems == []
        yield made


@pytest.fixture(scope="module")
def judged(home):
    told = load_judgments(home / "judgments.csv")
    assert told.problems == ()
    return told


@pytest.fixture(scope="module")
def report(index, judged):
    return evaluate(index.as_retriever(similarity_top_k=30), judged)


class Fixed(BaseRetriever):
    """Gives the items that are named in the query's words; the word ``fail`` raises."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if "fail" in query_bundle.query_str:
            raise OSError("the disk is gone")
        return [NodeWithScore(node=TextNode(id_=name, text=name)) for name in query_bundle.query_str.split()]


def test_score_of_one_ranking_by_hand():
    one = Judged("q", {"a": 2, "b": 1, "x": 0})
    told = score_ranking(["x", "b", "x", "c", "a"], one, k=(1, 3))
    assert told == {
        "R@1": 0.0,
        "R@3": 1.0,
        "recall@1": 0.0,
        "recall@3": 1 / 2,
        "P@1": 0.0,
        "P@3": 1 / 3,
        "nDCG@1": 0.0,
        "nDCG@3": pytest.approx((1 / np.log2(3)) / (2 + 1 / np.log2(3))),
        "MRR": 1 / 2,
        "mAP": 1 / 4,  # "a" would be the fourth, but 3 is the largest k
    }


def test_kinds_and_outcomes(report, judged):
    assert [(row.kind, row.queries, row.failed) for row in report.kinds] == [
        ("text -> text (en)", 2, 0),
        ("text -> image", 2, 0),
        ("image -> image", 1, 0),
        ("audio -> audio", 1, 0),
    ]
    best = {one.name: one.ranking[0] for one in report.outcomes}
    assert best["where do bees dance"] == "bees.txt"
    assert best["ships in the harbour"] == "ships.txt"
    assert best["lime"] == "lime.png"
    assert best["asked.png"] == "red.png"
    assert report.outcomes[5].ranking == ("high.wav",)  # low.wav is asked with, and its spans are left out
    assert [set(one.ranking) for one in report.outcomes[2:5]] == [{f"{name}.png" for name in COLOURS}] * 3
    assert (report.overall.queries, report.k, report.by) == (6, (1, 5, 10), "file_name")


def test_figures_are_the_means_of_the_queries(report):
    for row in (*report.kinds, report.overall):
        of_kind = [one for one in report.outcomes if row is report.overall or one.kind == row.kind]
        assert row.p50_ms == 1000 * np.median([one.seconds for one in of_kind])
        assert list(row.metrics) == list(of_kind[0].scores)
        for name, told in row.metrics.items():
            alone = bootstrap_interval([one.scores[name] for one in of_kind])
            assert (told.mean, told.low, told.high) == pytest.approx((alone.mean, alone.low, alone.high), abs=1e-12)
            assert told.count == len(of_kind)
    assert report.kinds[0].metrics["R@1"] == Interval(1.0, 1.0, 1.0, 2)


def test_spans_of_a_recording_are_one_item(index, report):
    spans = index.as_retriever(similarity_top_k=99, modalities=["audio"]).retrieve("low")
    assert len(spans) > len({node.node.metadata["file_name"] for node in spans}) == 2
    one = Judged(MediaQuery("low", modalities=["audio"]), ["low.wav"])
    (by_file,) = evaluate(index.as_retriever(similarity_top_k=99), [one]).outcomes
    assert sorted(by_file.ranking) == ["high.wav", "low.wav"]
    ids = [node.node.node_id for node in spans]
    (by_node,) = evaluate(index.as_retriever(similarity_top_k=99), [Judged(one.query, ids)], by="node_id").outcomes
    assert (by_node.ranking, by_node.scores["recall@10"]) == (tuple(ids), 1.0)


def test_mixed_queries_look_at_everything(index, judged):
    told = evaluate(index.as_retriever(similarity_top_k=99), mixed(judged.queries))
    assert told.kinds[1].kind == "text -> anything (image)"
    assert {name.rpartition(".")[2] for name in told.outcomes[2].ranking} == {"png", "txt", "wav"}


async def test_async_gives_the_same(index, judged, report):
    for workers in (1, 3, 50):
        told = await aevaluate(index.as_retriever(similarity_top_k=30), judged, workers=workers)
        assert [(one.name, one.ranking, one.scores) for one in told.outcomes] == [
            (one.name, one.ranking, one.scores) for one in report.outcomes
        ]
        assert [(row.kind, row.metrics) for row in told.rows] == [(row.kind, row.metrics) for row in report.rows]
        assert (told.k, told.by) == (report.k, report.by)


async def test_so_many_workers_at_once_and_no_more():
    class Slow(Fixed):
        now, most, threads = 0, 0, set()

        async def _aretrieve(self, query_bundle):
            Slow.now += 1
            Slow.most = max(Slow.most, Slow.now)
            Slow.threads.add(threading.get_ident())
            await asyncio.sleep(0.01)
            Slow.now -= 1
            return self._retrieve(query_bundle)

    told = await aevaluate(Slow(), [Judged(f"a{at} b", [f"a{at}"]) for at in range(12)], workers=4)
    assert (Slow.most, Slow.threads) == (4, {threading.get_ident()})
    assert [one.ranking[0] for one in told.outcomes] == [f"a{at}" for at in range(12)]


def fixed(*words, kind="k"):
    return [Judged(word, ["a"], kind=kind) for word in words]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_failing_queries_are_named_and_the_rest_goes_on(way):
    judged = [*fixed("a b", "fail here", "b a"), *fixed("fail", kind="broken")]
    told = evaluate(Fixed(), judged) if way == "sync" else asyncio.run(aevaluate(Fixed(), judged))
    assert [(one.name, one.error) for one in told.failures] == [
        ("fail here", "OSError: the disk is gone"),
        ("fail", "OSError: the disk is gone"),
    ]
    first, broken = told.kinds
    assert (first.queries, first.failed, first.metrics["MRR"].mean) == (2, 1, 0.75)
    assert (broken.queries, broken.failed, broken.p50_ms, broken.metrics) == (0, 1, None, {})
    assert (told.overall.queries, told.overall.failed) == (2, 2)
    assert told.notes[0] == "2 of 4 queries failed and are left out."
    assert "2 (1 failed)" in str(told)


def test_short_rankings_are_told():
    told = evaluate(Fixed(), fixed("a b", "b c a"), k=(3, 1))
    assert (told.k, told.overall.short) == ((1, 3), 1)
    assert told.notes[1:] == (
        "1 of 2 queries got fewer than 3 items: if the index holds more, raise the retriever's similarity_top_k.",
    )
    assert evaluate(Fixed(), fixed("a b", "b c a") * 5, k=(2,)).notes == ()


def test_kinds_of_a_few_queries_are_told():
    many, few = fixed(*(["a"] * 10), kind="many"), fixed(*(["a"] * 9), kind="few")
    told = evaluate(Fixed(), [*many, *few, *fixed("fail", kind="none")], k=(1,))
    assert told.notes[1:] == ("Intervals of fewer than 10 queries are too narrow: few (9).",)


def test_excluded_items_make_room():
    told = evaluate(Fixed(), [Judged("x y a", ["a"], excluded=["x", "y"])], k=(1,))
    assert (told.outcomes[0].ranking, told.outcomes[0].scores["R@1"]) == (("a",), 1.0)


@pytest.mark.parametrize(
    ("judged", "options", "message"),
    [
        ([], {}, "at least one judged query"),
        (fixed("a"), {"k": ()}, r"at least 1, got \[\]"),
        (fixed("a"), {"k": (0, 5)}, r"at least 1, got \[0, 5\]"),
        (fixed("a"), {"by": "name"}, "Unknown identity 'name'"),
    ],
)
async def test_what_can_not_be_evaluated_is_refused(judged, options, message):
    with pytest.raises(QueryError, match=message):
        evaluate(Fixed(), judged, **options)
    with pytest.raises(QueryError, match=message):
        await aevaluate(Fixed(), judged, **options)
    with pytest.raises(QueryError, match="at least one worker, got 0"):
        await aevaluate(Fixed(), fixed("a"), workers=0)


def test_progress_goes_to_standard_error_if_asked(capfd):
    evaluate(Fixed(), fixed("a"))
    assert capfd.readouterr() == ("", "")
    evaluate(Fixed(), fixed("a"), show_progress=True)
    out, err = capfd.readouterr()
    assert (out, "evaluate: 100%" in err) == ("", True)


# -- the report -----------------------------------------------------------------------------------------------------------


def test_table():
    told = evaluate(Fixed(), [*fixed("a b", "b a", kind="[red]x"), *fixed("b", kind="y")], k=(1, 2))
    lines = str(told).replace(" ±", "±").splitlines()
    assert lines[0].split() == ["kind", "queries", "R@1", "R@2", "nDCG@2", "MRR", "mAP", "p50", "ms"]
    assert lines[1].split()[:7] == ["[red]x", "2", "50.0±50.0", "100.0±0.0", "81.5±18.5", "75.0±25.0", "75.0±25.0"]
    assert lines[2].split()[:5] == ["y", "1", "0.0±0.0", "0.0±0.0", "0.0±0.0"]
    assert lines[3].split()[:3] == ["all", "3", "33.3±50.0"]
    assert len(str(evaluate(Fixed(), fixed(*(["a"] * 10)), k=(1,))).splitlines()) == 2  # one kind needs no row for all


def test_a_narrow_terminal_shows_everything():
    told = evaluate(Fixed(), [*fixed("a b", "b a", kind="text -> image (en)"), *fixed("b", kind="y")])
    console = Console(width=80)
    with console.capture() as captured:
        console.print(told.table(narrow=True))
    shown = captured.get().split()
    assert "…" not in captured.get()
    assert sorted(shown) == sorted(" ".join(str(told).splitlines()[: -len(told.notes)]).split())


def test_page_for_notebooks():
    told = evaluate(Fixed(), fixed("a", kind="<b>"))._repr_html_()
    assert told.startswith("<table><thead><tr><th>kind</th><th>queries</th><th>R@1</th>")
    assert "<td>&lt;b&gt;</td><td>1</td><td>100.0 ±0.0</td>" in told
    assert "<p>Intervals of fewer than 10 queries are too narrow: &lt;b&gt; (1).</p>" in told
    assert "<p>1 of 1 queries got fewer than 10 items" in told


def test_json(report):
    told = report.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["k"] == [1, 5, 10]
    assert told["kinds"][0]["metrics"]["R@1"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 2}
    assert told["queries"][5]["ranking"] == ["high.wav"]


def test_plot(report, tmp_path):
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "figures.png")
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")
    odd = evaluate(Fixed(), [*fixed("a", kind="costs $5 -> $6"), *fixed("fail", kind="broken")])
    odd.plot(tmp_path / "figures.svg")
    drawn = (tmp_path / "figures.svg").read_text(encoding="utf-8")
    assert "costs $5 -&gt; $6  n=1" in drawn
    assert "broken" not in drawn


def test_what_can_not_be_drawn(report, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(QueryError, match=r"must end in one of .*\.png"):
        report.plot(tmp_path / "figures.txt")
    with pytest.raises(QueryError, match=r"there is no folder .*nowhere"):
        report.plot(tmp_path / "nowhere" / "figures.png")
    with pytest.raises(QueryError, match="every query failed"):
        evaluate(Fixed(), fixed("fail")).plot(tmp_path / "figures.png")
    assert list(tmp_path.iterdir()) == []


def test_a_plot_without_matplotlib(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"llama-index-mm\[plots\]"):
        report.plot(tmp_path / "figures.png")


# -- two systems ----------------------------------------------------------------------------------------------------------


class Reversed(Fixed):
    def _retrieve(self, query_bundle):
        if "drop" in query_bundle.query_str:
            raise ValueError("no")
        return super()._retrieve(query_bundle)[::-1]


def test_a_better_system():
    judged = [*fixed(*(f"x{at} a" for at in range(20))), *fixed("y a", "a y", kind="odd")]
    told = compare(evaluate(Fixed(), judged), evaluate(Reversed(), judged))
    first, odd = told.kinds
    assert first.differences["R@1"] == Interval(1.0, 1.0, 1.0, 20)
    assert first.differences["MRR"] == Interval(0.5, 0.5, 0.5, 20)
    assert first.verdict("R@1") == "second is better"
    assert (odd.differences["R@1"].mean, odd.verdict("R@1")) == (0.0, "no difference beyond the noise")
    assert told.overall.differences["R@1"].mean == (20 + 1 - 1) / 22
    assert told.notes[0].startswith("Overall, R@1: second is better; nDCG@10: second is better")
    back = compare(evaluate(Reversed(), judged), evaluate(Fixed(), judged))
    assert back.overall.verdict("R@1") == "first is better"
    lines = str(told).replace(" ±", "±").splitlines()
    assert lines[1].split()[:5] == ["k", "20", "+100.0±0.0*", "+0.0±0.0", "+0.0±0.0"]
    assert lines[2].split()[:3] == ["odd", "2", "+0.0±100.0"]
    assert "<td>+100.0 ±0.0*</td>" in told._repr_html_()
    as_dict = told.to_dict()
    assert json.loads(json.dumps(as_dict)) == as_dict
    assert as_dict["kinds"][0]["differences"]["R@1"]["verdict"] == "second is better"


def test_the_same_system_twice(index, judged, report):
    told = compare(report, evaluate(index.as_retriever(similarity_top_k=30), judged))
    assert {one.verdict(name) for one in told.rows for name in one.differences} == {"no difference beyond the noise"}
    assert told.notes == ("Overall, no difference beyond the noise.",)


def test_five_queries_of_the_same_sign_may_be_luck():
    for count, verdict in (
        (1, "no difference beyond the noise"),
        (5, "no difference beyond the noise"),
        (6, "second is better"),
    ):
        judged = [*fixed(*(f"x{at} a" for at in range(count))), *fixed(*(["y"] * 100), kind="same")]
        told = compare(evaluate(Fixed(), judged), evaluate(Reversed(), judged))
        assert told.overall.differences["R@1"].mean == count / (count + 100)
        assert [row.verdict("R@1") for row in (told.kinds[0], told.overall)] == [verdict] * 2
        assert ("*" in str(told)) == (count == 6)


def test_only_queries_that_both_answered_count():
    judged = [*fixed("a b", "drop a", "fail"), *fixed("fail", kind="broken")]
    told = compare(evaluate(Fixed(), judged), evaluate(Reversed(), judged))
    assert [(one.kind, one.queries) for one in told.rows] == [("k", 1), ("broken", 0), ("all", 1)]
    assert told.left_out == 3
    assert told.notes[1] == "3 queries are left out, because one of the two did not answer them."
    with pytest.raises(QueryError, match=r"Unknown metric 'R@1'; there are: \(none\)"):
        told.kinds[1].verdict("R@1")


def test_mixed_compares_with_targeted(index, judged, report):
    told = compare(report, evaluate(index.as_retriever(similarity_top_k=99), mixed(judged.queries)))
    assert [one.kind for one in told.kinds] == [one.kind for one in report.kinds]


def test_other_queries_are_refused():
    one = evaluate(Fixed(), fixed("a", "b"))
    for other in (fixed("a"), fixed("b", "a"), [*fixed("a"), Judged("b", ["c"], kind="k")]):
        with pytest.raises(QueryError, match="same queries in the same order"):
            compare(one, evaluate(Fixed(), other))
    with pytest.raises(QueryError, match="same k and names"):
        compare(one, evaluate(Fixed(), fixed("a", "b"), k=(1,)))


# -- LlamaIndex's own evaluator -------------------------------------------------------------------------------------------


async def test_llama_index_evaluates_our_retriever_and_agrees(index, judged, report):
    retriever = ItemRetriever(index.as_retriever(similarity_top_k=30, modalities=["image"]))
    names = ["mrr", "hit_rate", "ap", "recall"]
    evaluator = RetrieverEvaluator.from_metric_names(names, retriever=retriever)
    for at in (2, 3):
        query, own = judged.queries[at], report.outcomes[at]
        told = await evaluator.aevaluate(query=query.name, expected_ids=list(query.grades))
        assert tuple(told.retrieved_ids) == own.ranking
        assert told.metric_vals_dict == {
            "mrr": own.scores["MRR"],
            "hit_rate": own.scores["R@10"],
            "ap": own.scores["mAP"],
            "recall": own.scores["recall@10"],
        }


async def test_llama_index_evaluates_texts_without_help_and_pictures_only_with(index):
    ask = index.as_retriever
    texts = RetrieverEvaluator.from_metric_names(["hit_rate"], retriever=ask(modalities=["text"], similarity_top_k=1))
    (found,) = ask(modalities=["text"], similarity_top_k=1).retrieve("bees dance")
    told = await texts.aevaluate(query="bees dance", expected_ids=[found.node.node_id])
    assert told.metric_vals_dict == {"hit_rate": 1.0}
    pictures = RetrieverEvaluator.from_metric_names(["hit_rate"], retriever=ask(modalities=["image"]))
    with pytest.raises(ValueError, match="must be a TextNode"):
        await pictures.aevaluate(query="lime", expected_ids=["lime.png"])


async def test_items_keep_order_score_and_text(index):
    under = index.as_retriever(similarity_top_k=99)
    made = ItemRetriever(under)
    found = made.retrieve("low")
    assert [one.node.node_id for one in found] == list(
        dict.fromkeys(one.node.metadata["file_name"] for one in under.retrieve("low"))
    )
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert {type(one.node) for one in found} == {TextNode}
    assert {one.node.node_id: one.text for one in found}["bees.txt"] == TEXTS["bees.txt"]
    again = await made.aretrieve("low")
    assert [(one.node.node_id, one.score, one.text) for one in again] == [
        (one.node.node_id, one.score, one.text) for one in found
    ]
