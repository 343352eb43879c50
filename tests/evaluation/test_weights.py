"""Weights fitted over real stores, with encoders that need no weights."""

import dataclasses
import json

import numpy as np
import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, RelatedNodeInfo, TextNode

from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder
from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation import Interval, Judged, WeightFit, afit_weights, evaluate, fit_weights
from llama_index_mm.evaluation.intervals import paired_interval
from llama_index_mm.evaluation.weighing import Case, metric_of
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.media import digest_file
from llama_index_mm.nodes import AudioMedia, ImageMedia
from llama_index_mm.retrieval import FusionRetriever, MediaQuery
from llama_index_mm.retrieval.fusion import FUSIONS
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import tiny_preset

SUBJECTS = ["boat", "goat", "storm", "chair", "river", "bell", "bread"]
ITEMS = 60


class Noisy(Encoder):
    """Knows a text by its number, more or less: each text, and each query, errs in a way of its own."""

    payload = "text"
    dimension = 64

    def __init__(self, name, noise):
        self.name, self.noise = name, noise
        self.fingerprint = f"{name} {noise}"

    def _encode(self, items, *, query):
        own = [np.random.default_rng([int(item.split()[-1]), 1]).normal(size=64) for item in items]
        errors = [np.random.default_rng([int(item.split()[-1]), 2 + query, len(self.name)]).normal(size=64) for item in items]
        return np.stack(own) + self.noise * np.stack(errors)


def space(name, noise):
    return EmbeddingSpace(name, {"text": Noisy(name, noise)})


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Sixty texts in spaces that know them well, badly, and not at all; names of different length err differently."""
    spaces = [space("well", 1.4), space("badly", 2.0), space("nothing", 60.0), space("nonsense", 60.0)]
    with MediaStore(tmp_path_factory.mktemp("numbers")) as store:
        for one in spaces:
            store.declare_space(one.name, one.dimension, one.fingerprint)
        store.add(encode_nodes([TextNode(id_=f"n{at}", text=f"item {at}") for at in range(ITEMS)], spaces))
        yield store, {one.name: one for one in spaces}


def over(numbers, *names, **options):
    store, spaces = numbers
    return FusionRetriever(store, [spaces[name] for name in names], similarity_top_k=10, **options)


JUDGED = [Judged(f"which is {at}", [f"n{at}"], name=f"q{at}") for at in range(ITEMS)]


# -- what comes of it -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit(numbers):
    return fit_weights(over(numbers, "well", "nothing"), JUDGED, metric="MRR")


def test_noise_gets_no_weight_and_the_gain_is_real(numbers, fit):
    """The best weights are known: what knows nothing should have no say."""
    key = "text:{}:text".format
    assert fit.gained
    assert fit.weights == fit.proposed
    assert fit.proposed[key("nothing")] <= 0.2 * sum(fit.proposed.values())
    assert sum(fit.proposed.values()) == pytest.approx(2, abs=0.01)
    assert fit.defaults == {key("nothing"): 1.0, key("well"): 1.0}
    assert fit.gain.low > 0.1
    assert (fit.queries, fit.decided, len(fit.by_fold), fit.left_out) == (ITEMS, ITEMS, 5, ())
    alone = evaluate(over(numbers, "well"), JUDGED).overall.metrics["MRR"].mean
    assert fit.scores["fitted, held out"].mean > alone - 0.03


def test_figures_are_those_of_evaluate(numbers, fit):
    told = evaluate(over(numbers, "well", "nothing"), JUDGED)
    assert fit.scores["the retriever's own"].mean == pytest.approx(told.overall.metrics["MRR"].mean, abs=1e-12)
    assert fit.scores["equal weights"].mean == fit.scores["the retriever's own"].mean
    ranks = evaluate(over(numbers, "well", "nothing", fusion="reciprocal_rank"), JUDGED)
    assert fit.scores["reciprocal rank"].mean == pytest.approx(ranks.overall.metrics["MRR"].mean, abs=1e-12)


def test_held_out_figures_are_of_weights_fitted_without_the_query(numbers, fit):
    """Each query is scored by one of the folds' weights, and the gain is that of the same queries."""
    own = [one.scores["MRR"] for one in evaluate(over(numbers, "well", "nothing"), JUDGED).outcomes]
    by_fold = [
        [one.scores["MRR"] for one in evaluate(over(numbers, "well", "nothing", weights=weights), JUDGED).outcomes]
        for weights in fit.by_fold
    ]
    drawn = np.random.default_rng(fit.seed).permutation(ITEMS)
    fold_of = np.argsort(np.argsort(drawn)) % 5
    held_out = [by_fold[fold][at] for at, fold in enumerate(fold_of)]
    assert fit.gain == paired_interval(own, held_out, seed=fit.seed)


def test_fitted_weights_fit_a_retriever(numbers, fit):
    better = evaluate(over(numbers, "well", "nothing", weights=fit.weights), JUDGED).overall.metrics["MRR"].mean
    assert better - fit.scores["the retriever's own"].mean > 0.1


def test_nothing_to_gain(numbers):
    """Two spaces that know nothing: every difference is luck, and is not taken for more."""
    for seed in range(4):
        fit = fit_weights(over(numbers, "nothing", "nonsense"), JUDGED, seed=seed)
        assert not fit.gained
        assert 0 in fit.gain
        assert fit.weights == fit.defaults == {"text:nonsense:text": 1.0, "text:nothing:text": 1.0}
        assert fit.notes[0].startswith("No gain in nDCG@10 beyond the noise")


def test_good_weights_stay(numbers):
    weights = {"well": 1.0, "nothing": 0.001}
    fit = fit_weights(over(numbers, "well", "nothing", weights=weights), JUDGED)
    assert not fit.gained
    assert fit.weights == {"text:nothing:text": 0.001, "text:well:text": 1.0}


def test_three_channels_in_the_order_of_what_they_know(numbers):
    fit = fit_weights(over(numbers, "well", "badly", "nothing"), JUDGED)
    nothing, badly, well = (fit.proposed[f"text:{name}:text"] for name in ("nothing", "badly", "well"))
    assert nothing < badly < well
    assert fit.gained


def test_a_weight_of_zero_is_not_tried(numbers):
    fit = fit_weights(over(numbers, "well", "badly", "nothing", weights={"nothing": 0}), JUDGED)
    assert set(fit.proposed) == {"text:badly:text", "text:well:text"}


def test_the_same_every_time_and_async(numbers, fit):
    assert fit_weights(over(numbers, "well", "nothing"), JUDGED, metric="MRR") == fit


@pytest.mark.parametrize("workers", [1, 4, 99])
async def test_async_gives_the_same(numbers, fit, workers):
    assert await afit_weights(over(numbers, "well", "nothing"), JUDGED, metric="MRR", workers=workers) == fit


# -- queries that fail, or are too few ------------------------------------------------------------------------------------


def test_queries_that_fail_are_named_and_left_out(numbers):
    broken = Judged(MediaQuery("which is 1", spaces=["smell"]), ["n1"], name="broken")
    fit = fit_weights(over(numbers, "well", "nothing"), [broken, *JUDGED[:20]])
    ((name, error),) = fit.left_out
    assert (fit.queries, name) == (20, "broken")
    assert error.startswith("QueryError: Unknown spaces ['smell']")
    assert fit.to_dict()["left_out"] == [{"name": "broken", "error": error}]
    assert fit.notes[-1] == "1 queries failed and are left out."


def test_few_queries_are_told(numbers, caplog):
    fit = fit_weights(over(numbers, "well", "nothing"), JUDGED[:10])
    told = "Weights decide only 10 of the queries; with fewer than 50 a gain is easily missed, or luck."
    assert told in fit.notes
    assert caplog.messages == [f"fit_weights: {told}"]
    caplog.clear()
    assert len(fit_weights(over(numbers, "well", "nothing"), JUDGED[:50]).notes) == 1
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("judged", "names", "got"),
    [
        ([], ["well", "nothing"], "got 0 of 0"),
        (JUDGED[:9], ["well", "nothing"], "got 9 of 9"),
        (JUDGED, ["well"], "got 0 of 60"),  # nothing to weigh
        ([Judged(f"which is {at}", ["elsewhere"]) for at in range(30)], ["well", "nothing"], "got 0 of 30"),
        ([Judged(MediaQuery("a 1", spaces=["smell"]), ["n1"])] * 30, ["well", "nothing"], r"got 0 of 30 \(30 failed\)"),
    ],
)
async def test_too_few_queries_are_refused(numbers, judged, names, got):
    with pytest.raises(QueryError, match=f"at least 10 judged queries that weights can decide, {got}"):
        fit_weights(over(numbers, *names), judged)
    if judged:
        with pytest.raises(QueryError, match=got):
            await afit_weights(over(numbers, *names), judged)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "F1"}, "Unknown metric 'F1'"),
        ({"folds": 1}, "2 to 10 folds, got 1"),
        ({"folds": 11}, "2 to 10 folds, got 11"),
        ({"pull": -0.1}, r"pull in \[0, 1\], got -0.1"),
        ({"pull": float("nan")}, r"pull in \[0, 1\], got nan"),
        ({"by": "name"}, "Unknown identity 'name'"),
    ],
)
async def test_options_that_are_refused(numbers, options, message):
    with pytest.raises(QueryError, match=message):
        fit_weights(over(numbers, "well", "nothing"), JUDGED, **options)
    with pytest.raises(QueryError, match=message):
        await afit_weights(over(numbers, "well", "nothing"), JUDGED, **options)
    with pytest.raises(QueryError, match="at least one worker, got 0"):
        await afit_weights(over(numbers, "well", "nothing"), JUDGED, workers=0)


# -- what is shown --------------------------------------------------------------------------------------------------------


def test_json(fit):
    told = fit.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["gained"] is True
    assert told["gains"]["the retriever's own"] == dataclasses.asdict(fit.gain)
    assert set(told) == {field.name for field in dataclasses.fields(WeightFit)} | {"notes"}


def test_text_and_page(fit):
    lines = [line.replace(" ±", "±").split("  ") for line in str(fit).splitlines()]
    named = {line[0].strip(): " ".join(line[1:]).split() for line in lines if line[0].strip()}
    assert named["weights"] == ["MRR", "gain"]
    own = fit.scores["the retriever's own"]
    gain = f"{100 * fit.gain.mean:+.1f}±{50 * (fit.gain.high - fit.gain.low):.1f}*"
    assert named["the retriever's own"] == [f"{100 * own.mean:.1f}±{50 * (own.high - own.low):.1f}", gain]
    assert len(named["fitted, held out"]) == 1
    assert named["text:well:text"][:2] == ["1", f"{fit.proposed['text:well:text']:.3g}"]
    assert fit.notes[0] in str(fit)
    assert "<td>text:well:text</td><td>1</td>" in fit._repr_html_()
    assert "±" in fit._repr_html_()


def test_a_loss_is_called_a_loss(fit):
    for gain, said in (
        (Interval(-0.03, -0.05, -0.01, 60), "Fitted weights lose MRR on queries that they were not fitted to: -3.0 points"),
        (Interval(-0.03, -0.05, 0.01, 60), "No gain in MRR beyond the noise (-3.0 points"),
    ):
        assert (
            dataclasses.replace(fit, gained=False, gains={**fit.gains, "the retriever's own": gain}).notes[0].startswith(said)
        )


def test_progress_goes_to_standard_error_if_asked(numbers, capfd):
    fit_weights(over(numbers, "well", "nothing"), JUDGED[:12])
    assert capfd.readouterr().out == ""
    fit_weights(over(numbers, "well", "nothing"), JUDGED[:12], show_progress=True)
    out, err = capfd.readouterr()
    assert (out, "fit weights: 100%" in err) == ("", True)


# -- the ranking is the retriever's ---------------------------------------------------------------------------------------


class Containing(BaseRetriever):
    """Texts that hold the first word of the query, and one from elsewhere."""

    def __init__(self, nodes):
        super().__init__()
        self.nodes = nodes

    def _retrieve(self, query_bundle):
        word = query_bundle.query_str.split()[0]
        hits = [node for node in self.nodes if word in node.text]
        elsewhere = TextNode(id_="elsewhere", text=word)
        return [NodeWithScore(node=node, score=1 / (at + 1)) for at, node in enumerate([elsewhere, *hits])]


@pytest.fixture(scope="module")
def mixed_store(tmp_path_factory, make_once):
    """Texts, pictures and recordings, with spans of one file and equal ones among them."""
    spaces = tiny_preset().spaces
    rng = np.random.default_rng(0)
    nodes = [TextNode(id_=f"t{at}", text=f"{SUBJECTS[at % 7]} {SUBJECTS[at // 2 % 7]}") for at in range(30)]
    for at, colour in enumerate(rng.integers(0, 256, (25, 3)).tolist()):
        path = make_once.picture(f"pictures/{at}.png", tuple(colour))
        words, source = f"{SUBJECTS[at % 7]} {SUBJECTS[at % 3]}", RelatedNodeInfo(node_id=f"picture {at // 2}")
        nodes.append(ImageMedia.create(path, digest=digest_file(path), text=words, id_=f"p{at}", source=source))
    for at in range(12):
        path = make_once.tone(f"sounds/{at}.wav", 100 + 150 * at, 1)
        source = RelatedNodeInfo(node_id=f"sound {at // 3}")
        nodes.append(AudioMedia.create(path, digest=digest_file(path), text=SUBJECTS[at % 7], id_=f"s{at}", source=source))
    with MediaStore(make_once.folder / "mixed") as store:
        for one in spaces:
            store.declare_space(one.name, one.dimension, one.fingerprint)
        store.add(encode_nodes(nodes, spaces))
        yield store, spaces, make_once.folder, nodes


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", ["text and picture", "two pictures", "sound", "unwanted", "another retriever"])
def test_rankings_are_those_of_the_retriever(mixed_store, fusion, kind):
    pytest.importorskip("av")
    store, spaces, folder, nodes = mixed_store
    pictures, sound = [folder / f"pictures/{at}.png" for at in (3, 8)], folder / "sounds/4.wav"
    anything = ["text", "image", "audio"]
    query = {
        "text and picture": MediaQuery("goat bell", image=pictures[0], modalities=anything),
        "two pictures": MediaQuery("goat", image=pictures, modalities=["image"], part_weights={"image": 3.0}),
        "sound": MediaQuery("river", audio=sound, modalities=anything, part_weights={"text": 0.4}),
        "unwanted": MediaQuery(
            "boat", image=pictures[1], negative=["storm", MediaQuery(image=pictures[0])], modalities=anything
        ),
        "another retriever": MediaQuery("storm bell", image=pictures[0], modalities=anything),
    }[kind]
    foreign = {"words": Containing(nodes[:30])} if kind == "another retriever" else {}
    one = Judged(query, ["p3"], excluded=["picture 2"])
    rng = np.random.default_rng(1)

    def ask(weights):
        return FusionRetriever(store, spaces, similarity_top_k=99, fusion=fusion, weights=weights, retrievers=foreign)

    for by in ("node_id", "ref_doc_id"):
        made = Case(one, ask({}).candidates(query), by, metric_of("R@40"))
        own = {told.key: told.weight for told in made.lists}
        assert set(own.values()) == {1.0}
        for _ in range(4):
            weights = {key: float(rng.uniform(0.05, 2)) for key in own}
            (told,) = evaluate(ask(weights), [one], k=(40,), by=by).outcomes
            assert made.ranking(weights) == list(told.ranking)
