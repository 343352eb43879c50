"""What similarities mean: fits worked by hand, what is kept, and what changes in a retriever."""

import dataclasses
import logging
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.schema import TextNode

from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, unit
from llama_index_mm.errors import StoreLockedError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.nodes import MeshMedia
from llama_index_mm.presets import Preset
from llama_index_mm.retrieval import Calibration, MediaQuery
from llama_index_mm.retrieval.asked import PHRASES, asked_of, script_of, sentence_of
from llama_index_mm.retrieval.calibration import ChannelFit, calibrate, fit_channel, hubness, judging
from llama_index_mm.retrieval.calibration_report import report_of
from llama_index_mm.stores import MediaStore, Record


def logistic(value):
    return 1 / (1 + math.exp(-value))


class Offset(Encoder):
    """Texts as vectors around one direction, so that all are alike by about ``level``."""

    payload = "text"
    dimension = 24
    fingerprint = "offset"

    def __init__(self, level: float = 0.5) -> None:
        self.level = level
        self.fingerprint = f"offset {level}"

    def _encode(self, items, *, query):
        rows = []
        for item in items:
            noise = np.random.default_rng(sum(ord(sign) * 31**at for at, sign in enumerate(item[:60])) % 2**32)
            away = unit(noise.normal(size=(1, self.dimension - 1)))[0]
            rows.append([math.sqrt(self.level), *(away * math.sqrt(1 - self.level))])
        return np.array(rows)


def preset(level: float = 0.5) -> Preset:
    return Preset("offset", (EmbeddingSpace("words", {"text": Offset(level)}),))


def index_of(folder, count: int = 80, level: float = 0.5, **metadata) -> MultiModalIndex:
    index = MultiModalIndex.open(folder, preset=preset(level), create=True)
    index.insert_nodes([TextNode(id_=f"n{at}", text=f"note number {at} of many", metadata=metadata) for at in range(count)])
    return index


# -- the functions, by hand ---------------------------------------------------------------------------------------------


def test_hubness_is_the_mean_of_the_ten_greatest():
    column = np.arange(20) / 20
    table = np.stack([column, np.full(20, 0.25)], axis=1)
    np.testing.assert_allclose(hubness(table), [np.mean(column[10:]), 0.25])


def test_hubness_of_few_queries_and_of_pairs_that_do_not_count():
    table = np.array([[0.1, np.nan, np.nan], [0.5, 0.4, np.nan]])
    np.testing.assert_allclose(hubness(table), [0.3, 0.4, 0.0])


def test_a_fit_worked_by_hand():
    # 16 queries, 20 nodes: half of all pairs 0, half 1. Mean and deviation are 0.5, and the greatest of each query is 1.
    table = np.tile([0.0, 1.0], (16, 10))
    fit = fit_channel(table)
    assert fit == ChannelFit(mean=0.5, deviation=0.5, best=1.0, items=20, asked=16, share=0.0)
    # z = (s - 0.5) / 0.5 - 1, and the score 1 / (1 + exp(-z / 2))
    scores = fit.scores(np.array([1.0, 0.5, 2.0, np.nan]), np.zeros(4))
    np.testing.assert_allclose(scores[:3], [0.5, logistic(-0.5), logistic(1.0)], atol=1e-5)
    assert np.isnan(scores[3])


def test_half_of_the_hubness_is_taken_away_where_the_index_has_queries_of_its_own():
    rng = np.random.default_rng(0)
    table = rng.normal(0, 1, (64, 30))
    table[:, 0] += 5  # a node that is like everything
    fit = fit_channel(table)
    assert fit.share == 0.5
    adjusted = table - hubness(table) / 2
    assert fit.mean == pytest.approx(adjusted.mean())
    assert fit.deviation == pytest.approx(adjusted.std())
    assert fit.best == pytest.approx(np.quantile((adjusted.max(1) - fit.mean) / fit.deviation, 0.95))
    few = fit_channel(table, own=np.arange(64) < 63)
    assert few.share == 0.0
    hubs = np.array([10.0, 0.0])
    assert few.scores(np.array([1.0, 1.0]), hubs)[0] == few.scores(np.array([1.0, 1.0]), hubs)[1]
    assert fit.scores(np.array([1.0, 1.0]), hubs)[0] < fit.scores(np.array([1.0, 1.0]), hubs)[1]


def test_the_best_of_more_nodes_is_higher():
    table = np.random.default_rng(0).normal(0, 1, (20, 50))
    some, all_of_them = fit_channel(table), fit_channel(table, count=5000)
    expected = math.sqrt(2 * math.log(5000)) - math.sqrt(2 * math.log(50))
    assert all_of_them.best - some.best == pytest.approx(expected)
    assert (some.items, all_of_them.items) == (50, 5000)


@pytest.mark.parametrize("shape", [(15, 100), (100, 19), (0, 0), (16, 0)])
def test_too_little_to_learn_from(shape):
    assert fit_channel(np.random.default_rng(0).normal(0, 1, shape)) is None


def test_nothing_is_learned_where_all_are_alike():
    assert fit_channel(np.full((20, 30), 0.7)) is None


def test_nothing_is_learned_of_one_document_that_only_asks_for_itself():
    assert fit_channel(np.full((40, 40), np.nan)) is None


def test_languages_worked_by_hand():
    # Nodes in two languages, 0.2 apart, and otherwise alike.
    rng = np.random.default_rng(0)
    one = rng.normal(0, 0.05, (40, 30))
    table = np.concatenate([one, one + 0.2], axis=1)
    spoken = ["en"] * 30 + ["zh"] * 30
    fit = fit_channel(table, spoken=spoken)
    assert {script: set(codes) for script, codes in fit.languages.items()} == {"": {"en", "zh"}}
    hubs = np.zeros(60)
    plain = fit.scores(table[0], hubs, spoken)
    whole = fit.scores(table[0], hubs, spoken, 1.0)
    half = fit.scores(table[0], hubs, spoken, 0.5)
    assert plain[30:].mean() > plain[:30].mean() + 0.1
    np.testing.assert_allclose(whole[30:], whole[:30], atol=1e-5)
    assert (plain[:30] < half[:30]).all()
    assert (half[:30] < whole[:30]).all()
    assert (plain[30:] > half[30:]).all()
    assert (half[30:] > whole[30:]).all()
    few = fit_channel(table[:, :35], spoken=spoken[:35])
    assert set(few.languages[""]) == {"en"}  # 5 nodes are no language


def test_each_script_is_judged_by_its_own_queries():
    # 64 queries in Latin letters are near the first node, 64 in Chinese near the second.
    table = np.random.default_rng(0).normal(0, 0.1, (128, 30))
    table[:64, 0] += 1
    table[64:, 1] += 1
    scripts = ["LATIN"] * 64 + ["CJK"] * 64
    own = np.ones(128, bool)
    written = np.array(scripts)
    assert judging(own, written, "CJK").tolist() == [False] * 64 + [True] * 64
    assert judging(own, written, "GREEK").all()
    assert judging(own, written, "").all()
    assert judging(own & (np.arange(128) > 0), written, "LATIN").sum() == 127  # 63 are too few
    assert hubness(table[judging(own, written, "LATIN")])[1] < 0.3 < 0.9 < hubness(table)[1]
    fit = fit_channel(table, scripts=scripts, spoken=["en"] * 30)
    adjusted = table.copy()
    for rows in (slice(0, 64), slice(64, 128)):
        adjusted[rows] -= hubness(table[rows]) / 2
    assert fit.mean == pytest.approx(adjusted.mean())
    assert fit.best == pytest.approx(np.quantile((adjusted.max(1) - fit.mean) / fit.deviation, 0.95))
    assert fit.languages["CJK"]["en"] == pytest.approx(adjusted[64:].mean())
    assert fit.languages["LATIN"]["en"] == pytest.approx(adjusted[:64].mean())


@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=20),
    st.floats(-0.5, 0.9),
    st.floats(0.01, 0.5),
    st.floats(0, 5),
)
@settings(deadline=None)
def test_scores_rise_with_the_similarity_and_stay_between_0_and_1(values, mean, deviation, best):
    fit = ChannelFit(mean, deviation, best, 100, 100)
    scores = fit.scores(np.array(sorted(values)), np.zeros(len(values)))
    assert (np.diff(scores) >= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(fit.scores(np.array(sorted(values))[::-1], np.zeros(len(values)))[::-1], scores)


# -- what an index is asked with ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes. The harbour was built in 1902. It rains.", "The harbour was built in 1902."),
        ("word " * 50, " ".join(["word"] * 20)),
        ("天" * 90, "天" * 40),
        ("", ""),
        ("\n\n", ""),
        ("你好。今天天气很好。", "今天天气很好。"),
    ],
)
def test_sentence_of_a_text(text, expected):
    assert sentence_of(text) == expected


@pytest.mark.parametrize(
    ("texts", "script"),
    [
        (["a boat"], "LATIN"),
        (["一只狗"], "CJK"),
        (["iPhone 的新闻和天气预报"], "CJK"),
        (["лодка", "море"], "CYRILLIC"),
        (["a boat", "船"], ""),
        (["42 !"], ""),
        ([], ""),
    ],
)
def test_script_of_words(texts, script):
    assert script_of(*texts) == script


def test_own_texts_and_phrases(tmp_path):
    with index_of(tmp_path, 300) as index:
        ((space, part, asked, fresh),) = asked_of(index.store, index.preset.spaces, {}, {}, lambda one, other: one != other)
    assert (space.name, part, fresh) == ("words", "text", True)
    assert len(asked.vectors) == 256
    assert int(asked.own.sum()) == 256 - len(PHRASES)
    assert len(set(asked.documents)) == 256 - len(PHRASES) + 1


def test_phrases_differ():
    assert len(set(PHRASES)) == len(PHRASES) > 50
    assert all(phrase == phrase.strip() != "" for phrase in PHRASES)


# -- an index -----------------------------------------------------------------------------------------------------------


def test_a_document_does_not_count_for_its_own_nodes(tmp_path):
    with index_of(tmp_path, 100) as index:
        fit = calibrate(index.store, index.preset.spaces).fits["words", "text", "text"]
    # With the same texts as queries and as nodes, the best of each would be itself, at a similarity of 1.
    assert fit.mean + fit.best * fit.deviation < 0.6


def test_kept_with_the_index(tmp_path):
    with index_of(tmp_path, 100) as index:
        assert Calibration.load(index.store) is None
        assert index.as_retriever()._calibration is None
        report = index.calibrate()
        made = index._calibration
        assert [(one.space, one.part, one.modality, one.items) for one in report.channels] == [("words", "text", "text", 100)]
        assert (report.channels[0].before, report.channels[0].after, report.channels[0].fair) == (1.0, 1.0, 1.0)
        index.store.copy_to(tmp_path / "copy")
    for folder in (tmp_path, tmp_path / "copy"):
        with MultiModalIndex.open(folder, preset=preset()) as again:
            assert again._calibration.fits == made.fits
            assert again._calibration.prints == made.prints
            assert again._calibration.counts == made.counts
            for key, asked in made.asked.items():
                np.testing.assert_array_equal(again._calibration.asked[key].vectors, asked.vectors)
                assert again._calibration.asked[key].documents == asked.documents
            first, second = (one.as_retriever(similarity_top_k=5).retrieve("note number 7") for one in (again, again))
            assert [(node.node_id, node.score) for node in first] == [(node.node_id, node.score) for node in second]


def test_a_score_of_one_half_is_what_unrelated_things_seldom_get(tmp_path):
    with index_of(tmp_path, 400) as index:
        index.calibrate()
        retriever = index.as_retriever(similarity_top_k=1)
        best = [retriever.retrieve(f"something else {at}")[0].score for at in range(60)]
        assert 0.3 < np.mean(best) < 0.5
        assert 0 <= np.mean([score > 0.5 for score in best]) < 0.2
        assert retriever.retrieve("note number 7 of many")[0].score > 0.6
        assert retriever.retrieve("note number 7 of many")[0].node_id.startswith("n7")


@pytest.mark.parametrize("level", [0.1, 0.9])
def test_scores_do_not_depend_on_how_alike_all_is_in_a_space(tmp_path, level):
    with index_of(tmp_path, 200, level) as index:
        index.calibrate()
        found = index.as_retriever(similarity_top_k=1).retrieve("note number 7 of many")[0]
        assert found.node_id.startswith("n7")
        assert 0.6 < found.score < 0.9
        assert 0.25 < index.as_retriever(similarity_top_k=1).retrieve("nothing of that")[0].score < 0.6


def test_grows_with_the_index(tmp_path, monkeypatch):
    with index_of(tmp_path, 100) as index:
        index.calibrate()
        first = index._calibration
        assert not first.stale(index.store, index.preset.spaces)
        index.insert_nodes([TextNode(id_="one", text="one more")])
        assert not first.stale(index.store, index.preset.spaces)
        encoded = []
        monkeypatch.setattr(Offset, "_encode", lambda self, items, *, query: encoded.append(items))
        index.calibrate()  # a node more changes nothing, and nothing is encoded
        assert encoded == []
        assert index._calibration.fits == first.fits
        monkeypatch.undo()
        index.insert_nodes([TextNode(id_=f"m{at}", text=f"more {at}") for at in range(50)])
        assert first.stale(index.store, index.preset.spaces)
        index.calibrate()
        assert index._calibration.fits["words", "text", "text"].items == 151
        assert index.store.delete(ref_doc_ids=[f"n{at}" for at in range(60)]) == 60
        assert index._calibration.stale(index.store, index.preset.spaces)
        again = calibrate(index.store, index.preset.spaces, old=index._calibration)
        assert again.fits == calibrate(index.store, index.preset.spaces).fits


def test_ingest_and_from_documents_calibrate_by_themselves(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for at in range(40):
        (folder / f"{at}.txt").write_text(f"note number {at} of many")
    with MultiModalIndex.open(tmp_path / "index", preset=preset(), create=True) as index:
        index.ingest(folder, num_workers=0, calibrate=False)
        assert index._calibration is None
        index.ingest(folder, num_workers=0, dry_run=True)
        assert index._calibration is None
        index.ingest(folder, num_workers=0)
        assert index._calibration.fits["words", "text", "text"].items == 40
        made = index._calibration
        index.ingest(folder, num_workers=0)
        assert index._calibration is made
    documents = [TextNode(text=f"note number {at} of many") for at in range(40)]
    with MultiModalIndex.from_documents(documents, preset=preset(), num_workers=0) as index:
        assert index._calibration.fits["words", "text", "text"].items == 40


class Failing(Offset):
    """Takes what is stored, but no queries, as a service that is down by now."""

    def _encode(self, items, *, query):
        if query:
            raise ConnectionError("nobody answers")
        return super()._encode(items, query=query)


def test_what_is_stored_stays_though_calibrating_fails(tmp_path, caplog):
    made = Preset("failing", (EmbeddingSpace("words", {"text": Failing()}),))
    documents = [TextNode(text=f"note number {at} of many") for at in range(40)]
    with caplog.at_level(logging.WARNING):
        index = MultiModalIndex.from_documents(documents, folder=tmp_path / "one", preset=made, num_workers=0)
    with index:
        assert len(index.store) == 40
        assert "ConnectionError: nobody answers" in caplog.text
        (tmp_path / "more.txt").write_text("one more")
        assert index.ingest(tmp_path / "more.txt", num_workers=0).added == 1
        with pytest.raises(ConnectionError):
            index.calibrate()
        assert Calibration.load(index.store) is None


def test_an_index_that_somebody_else_writes_is_searched_but_not_calibrated(tmp_path, monkeypatch):
    with index_of(tmp_path, 40) as writing, MultiModalIndex.open(tmp_path, preset=preset()) as reading:
        assert reading.as_retriever().retrieve("note number 7 of many")[0].node.ref_doc_id == "n7"
        encoded = []
        monkeypatch.setattr(Offset, "_encode", lambda self, items, *, query: encoded.append(items))
        with pytest.raises(StoreLockedError):
            reading.calibrate()
        assert encoded == []  # it is told at once
        monkeypatch.undo()
        writing.calibrate()
        assert reading.as_retriever().retrieve("note number 7 of many")[0].node.ref_doc_id == "n7"


def test_reembedding_calibrates_again_what_was_calibrated(tmp_path):
    with index_of(tmp_path, 100) as index:
        index.calibrate()
        old = index._calibration
    MultiModalIndex.reembed(tmp_path, preset=preset(0.9), num_workers=0)
    with MultiModalIndex.open(tmp_path, preset=preset(0.9)) as index:
        assert not index._calibration.stale(index.store, index.preset.spaces)
        assert index._calibration.fits["words", "text", "text"].mean != old.fits["words", "text", "text"].mean
        # A space that was encoded anew though nothing tells that its encoder is another one.
        fits, asked = index._calibration.fits, index._calibration.asked
        key = ("words", "text", "text")
        wrong = Calibration({key: dataclasses.replace(fits[key], mean=7.0)}, asked, index._calibration.prints, {})
        wrong.save(index.store)
    MultiModalIndex.reembed(tmp_path, preset=preset(0.9), spaces=["words"], num_workers=0)
    with MultiModalIndex.open(tmp_path, preset=preset(0.9)) as index:
        assert index._calibration.fits == fits


def test_reembedding_does_not_calibrate_what_was_not(tmp_path):
    with index_of(tmp_path, 100):
        pass
    MultiModalIndex.reembed(tmp_path, preset=preset(0.9), num_workers=0)
    with MultiModalIndex.open(tmp_path, preset=preset(0.9)) as index:
        assert index._calibration is None


def test_scripts_that_are_judged_alike_share_what_is_known(tmp_path):
    with index_of(tmp_path, 100) as index:
        index.calibrate()
        retriever = index.as_retriever(similarity_top_k=3)
        for words in ("заметка", "笔记", "σημείωση", "17"):
            retriever.retrieve(words)
        assert [script for _, script in index._calibration._hubs] == [""]


def test_a_small_index_is_left_as_it_is_and_nothing_is_encoded_for_it(tmp_path, monkeypatch):
    with index_of(tmp_path, 10) as index:
        before = index.as_retriever().retrieve("note number 7")
        encoded = []
        monkeypatch.setattr(Offset, "_encode", lambda self, items, *, query: encoded.append(items))
        report = index.calibrate()
        monkeypatch.undo()
        assert encoded == []
        after = index.as_retriever().retrieve("note number 7")
    assert report.channels == ()
    assert "Too few" in str(report)
    assert [node.score for node in before] == [node.score for node in after]


def test_uncalibrated_on_request(tmp_path):
    with index_of(tmp_path, 100) as index:
        before = [node.score for node in index.as_retriever().retrieve("note number 7")]
        index.calibrate()
        assert [node.score for node in index.as_retriever(calibrated=False).retrieve("note number 7")] == before
        assert [node.score for node in index.as_retriever().retrieve("note number 7")] != before


def test_other_encoders_are_not_scored_by_it(tmp_path):
    with index_of(tmp_path, 100) as index:
        index.calibrate()
        made = index._calibration
        scores = made.scores(index.store, ("words", "text", "text"), "another", np.array([0.5]), [1])
        assert scores is None
        assert made.scores(index.store, ("words", "image", "text"), made.prints["words"], np.array([0.5]), [1]) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 4, "fits": 7}', "\x00"])
def test_a_damaged_one_is_told_and_left_out(tmp_path, caplog, text):
    with index_of(tmp_path, 30) as index:
        index.store.set_meta("calibration", text)
    with caplog.at_level(logging.WARNING), MultiModalIndex.open(tmp_path, preset=preset()) as index:
        assert index._calibration is None
        assert "llama-index-mm calibrate" in caplog.text
        assert index.as_retriever().retrieve("note")
        index.calibrate()
        assert index._calibration.fits


def test_one_of_another_version_is_left_out(tmp_path, caplog):
    with index_of(tmp_path, 30) as index:
        index.store.set_meta("calibration", '{"version": 0}')
        assert Calibration.load(index.store) is None
    assert not caplog.text


def test_balance_between_languages(tmp_path):
    with index_of(tmp_path, 1) as index:
        index.insert_nodes(
            [
                TextNode(id_=f"{code}{at}", text=f"note {at} {code}", metadata={"language": code})
                for code in ("en", "zh")
                for at in range(60)
            ]
        )
        index.calibrate()
        assert set(index._calibration.fits["words", "text", "text"].languages["LATIN"]) == {"en", "zh"}
        plain = index.as_retriever(similarity_top_k=10).retrieve("a question")
        balanced = index.as_retriever(similarity_top_k=10, language_balance=1.0).retrieve("a question")
        assert {node.node_id for node in plain} != set()
        assert [node.score for node in plain] != [node.score for node in balanced]


def test_many_threads(tmp_path):
    with index_of(tmp_path, 200) as index:
        index.calibrate()
        asked = [MediaQuery(f"note number {at}") for at in range(24)]
        wanted = [[node.score for node in index.as_retriever().retrieve(query)] for query in asked]
        index._calibration._hubs.clear()
        retriever = index.as_retriever()
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda query: [node.score for node in retriever.retrieve(query)], asked))
        assert got == wanted


def test_two_modalities_share_the_first_places(tmp_path):
    """Nodes of one modality are alike by 0.9 and more, those of the other by 0.1: raw, the first would take every place."""
    space = EmbeddingSpace("both", {"text": Offset(), "image": Offset(), "mesh": Offset()})
    rng = np.random.default_rng(0)
    with MediaStore(tmp_path) as store:
        store.declare_space("both", space.dimension, space.fingerprint)
        records = []
        for at in range(200):
            near = unit(np.r_[np.sqrt(0.9), 0.3 * rng.normal(size=23) / np.sqrt(23)][None])[0]
            far = unit(np.r_[0.0, rng.normal(size=23)][None])[0]
            records.append(Record(TextNode(id_=f"t{at}", text=f"text {at}", metadata={}), {"both": near}))
            mesh = MeshMedia.create(tmp_path / f"{at}.obj", digest=f"{at:064x}", text="a mesh")
            records.append(Record(mesh, {"both": far}))
        store.add(records)
        made = calibrate(store, [space])
        report = report_of(store, [space], made, 0.0)
    shares = {(one.part, one.modality): (one.before, one.after) for one in report.channels}
    assert shares["text", "text"][0] == 1.0
    assert 0.2 < shares["text", "mesh"][1] < 0.8
    assert report.to_dict()["channels"][0]["space"] == "both"
