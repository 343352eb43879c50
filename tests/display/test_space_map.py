"""Maps of spaces, and pictures of calibrations."""

import json
import sys

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from PIL import Image
from test_html import HOSTILE, Page
from typer.testing import CliRunner

from llama_index_mm import MultiModalIndex, SpaceMap, space_map
from llama_index_mm.cli.app import app
from llama_index_mm.display.maps import METHODS
from llama_index_mm.errors import MissingExtraError, QueryError, SpaceError
from llama_index_mm.nodes import AudioMedia, ImageMedia
from llama_index_mm.retrieval.calibration_report import QUANTILES, CalibrationReport
from llama_index_mm.stores import MediaStore, Record
from llama_index_mm.testing import tiny_preset

DIGEST = "0" * 64


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Forty vectors: texts spread along the first dimension, recordings less along the second, all alike in the third."""
    rng = np.random.default_rng(0)
    records = []
    for at in range(25):
        vector = np.array([at - 12.0, 0.0, 1.0], np.float32)
        records.append(Record(TextNode(id_=f"t{at}", text=f"note {at}", metadata={"file_path": f"/n/{at}.txt"}), {"s": vector}))
    for at in range(15):
        node = AudioMedia.create(f"/a/{at}.wav", digest=DIGEST, start=65.0, end=80.0)
        node.id_ = f"a{at}"
        records.append(Record(node, {"s": np.array([0.0, rng.normal(), 1.0], np.float32)}))
    with MediaStore(tmp_path_factory.mktemp("store"), create=True) as store:
        store.declare_space("s", 3, "f", normalize=False)
        store.declare_space("empty", 3, "f")
        store.add(records)
        yield store


def test_principal_components_by_hand(store):
    made = space_map(store, "s")
    assert made.modalities == ("text",) * 25 + ("audio",) * 15
    assert made.node_ids == (*(f"t{at}" for at in range(25)), *(f"a{at}" for at in range(15)))
    assert made.labels[3] == "3.txt"
    assert made.labels[25] == "0.wav, 1:05-1:20"
    # texts lie on the first axis at their numbers, recordings at 0
    np.testing.assert_allclose(made.coordinates[:25, 0], np.arange(25) - 12.0, atol=1e-4)
    np.testing.assert_allclose(made.coordinates[25:, 0], 0.0, atol=1e-4)
    wide = 25 * (25**2 - 1) / 12  # sum of squares of -12..12
    tall = float(((made.coordinates[:, 1] - made.coordinates[:, 1].mean()) ** 2).sum())
    assert made.explained == (pytest.approx(wide / (wide + tall)), pytest.approx(tall / (wide + tall)))
    assert made.note == f"PCA of 40 vectors: the axes hold {made.explained[0]:.0%} and {made.explained[1]:.0%} of the variance"
    assert made.counts() == {"text": 25, "audio": 15}
    assert made.there == 40


def test_a_map_is_the_same_each_time_and_distances_shrink_at_most(store):
    first, second = space_map(store, "s"), space_map(store, "s")
    assert np.array_equal(first.coordinates, second.coordinates)
    gap = np.linalg.norm(first.coordinates[0] - first.coordinates[24])
    assert gap == pytest.approx(24.0, rel=1e-5)


def test_a_sample_is_drawn_by_its_seed(store):
    one, same, other = (space_map(store, "s", sample=10, seed=seed) for seed in (1, 1, 2))
    assert len(one.node_ids) == len(set(one.node_ids)) == 10
    assert one.node_ids == same.node_ids != other.node_ids
    assert "10 of 40 vectors, drawn at random" in one.note


def test_one_vector_and_equal_vectors(tmp_path):
    with MediaStore(tmp_path, create=True) as store:
        store.declare_space("s", 2, "f")
        store.add([Record(TextNode(id_="a", text="words without a file"), {"s": np.array([1, 0], np.float32)})])
        made = space_map(store, "s")
        assert (made.coordinates.tolist(), made.explained) == ([[0.0, 0.0]], (0.0, 0.0))
        assert made.labels == ("words without a file",)
        store.add([Record(TextNode(id_="b", text="b"), {"s": np.array([1, 0], np.float32)})])
        assert space_map(store, "s").coordinates.tolist() == [[0.0, 0.0]] * 2
        assert len(Page(space_map(store, "s")._repr_html_()).all("circle")) == 2


def test_what_can_not_be_mapped(store):
    for error, match, options in (
        (SpaceError, r"Space 'other' is not in this store; it has \['empty', 's'\]", {"space": "other"}),
        (SpaceError, "nothing in space 'empty' yet", {"space": "empty"}),
        (QueryError, "Unknown method 'umap'; maps are made by: pca, tsne", {"space": "s", "method": "umap"}),
        (QueryError, "at least one point, got a sample of 0", {"space": "s", "sample": 0}),
    ):
        with pytest.raises(error, match=match):
            space_map(store, **options)


def test_tsne_without_scikit_learn_says_what_to_install(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(MissingExtraError, match=r"pip install scikit-learn; or take method=\"pca\""):
        space_map(store, "s", method="tsne")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_tsne(store):
    pytest.importorskip("sklearn.manifold", reason="needs scikit-learn")
    made, again = (space_map(store, "s", method="tsne", seed=3) for _ in range(2))
    assert made.coordinates.shape == (40, 2)
    assert np.array_equal(made.coordinates, again.coordinates)
    assert made.explained is None
    assert made.note.startswith("t-SNE of 40 vectors: neighbours are kept")


def test_pictures(store, tmp_path):
    pytest.importorskip("matplotlib")
    made = space_map(store, "s")
    made.plot(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as drawn:
        colours = {colour[:3] for _, colour in drawn.convert("RGB").getcolors(1 << 20)}
    assert len(colours) > 50
    made.plot(tmp_path / "map.svg")
    drawn = (tmp_path / "map.svg").read_text(encoding="utf-8")
    for told in (made.note, "Space s", "text (25)", "audio (15)"):
        assert f"<!-- {told} -->" in drawn
    with pytest.raises(QueryError, match=r"must end in one of .*\.png"):
        made.plot(tmp_path / "map.txt")
    with pytest.raises(QueryError, match="there is no folder"):
        made.plot(tmp_path / "none" / "map.png")


def test_a_map_in_a_notebook(store):
    made = space_map(store, "s")
    page = Page(made._repr_html_())
    circles = page.all("circle")
    assert len(circles) == 40
    assert all(0 <= float(one["cx"]) <= 640 and 0 <= float(one["cy"]) <= 460 for one in circles)
    assert (circles[0]["text"], circles[25]["text"]) == ("0.txt (text)", "0.wav, 1:05-1:20 (audio)")
    assert float(circles[24]["cx"]) - float(circles[0]["cx"]) == pytest.approx(608, abs=0.2)
    assert page.one("small")["text"] == made.note


def test_hostile_names_stay_text():
    made = SpaceMap(HOSTILE, "pca", np.zeros((1, 2)), ("image",), (HOSTILE,), (HOSTILE,), 1, (1.0, 0.0))
    page = Page(made._repr_html_())
    assert {one["tag"] for one in page.elements} == {"div", "strong", "small", "span", "svg", "circle", "title", "br"}


def test_an_index_with_media(tmp_path, make):
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as index:
        names = {"red": "1", "blue": "2", "green": "3"}
        nodes = [ImageMedia.create(make.picture(f"{name}.png", name), digest=mark * 64) for name, mark in names.items()]
        index.insert_nodes(nodes)
        made = space_map(index, "picture")
    assert sorted(made.labels) == ["blue.png", "green.png", "red.png"]
    assert made.counts() == {"image": 3}
    assert sum(made.explained) == pytest.approx(1.0)  # three points lie in a plane


# -- on the command line, and calibrations ------------------------------------------------------------------------------------


def test_the_command(store, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "map.png"
    done = CliRunner().invoke(app, ["map", "s", "--store", str(store.folder), "--out", str(out), "--sample", "12", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["space"], told["method"], told["there"], len(told["points"])) == ("s", METHODS[0], 40, 12)
    made = space_map(store, "s", sample=12)
    assert [(one["node_id"], one["at"]) for one in told["points"]] == list(
        zip(made.node_ids, made.coordinates.tolist(), strict=True)
    )
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_command_refuses_before_it_reads(tmp_path):
    pytest.importorskip("matplotlib")
    done = CliRunner().invoke(app, ["map", "s", "--store", str(tmp_path / "none"), "--out", str(tmp_path / "map.txt")])
    assert isinstance(done.exception, QueryError)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """An index of texts, and the report of its calibration."""
    folder = tmp_path_factory.mktemp("calibrated")
    with MultiModalIndex.open(folder, preset=tiny_preset(), create=True) as index:
        index.insert_nodes([TextNode(id_=f"n{at}", text=f"note {at} of {at * 7 % 13} about item {at}") for at in range(80)])
        return folder, index.calibrate()


def test_the_similarities_that_a_calibration_tells(calibrated):
    _, report = calibrated
    (channel,) = report.channels
    assert len(channel.similarities) == len(QUANTILES)
    assert list(channel.similarities) == sorted(channel.similarities)
    assert channel.similarities[1] < channel.mean < channel.similarities[5]
    assert channel.half == channel.mean + channel.best * channel.deviation
    assert channel.half > channel.similarities[3]
    assert report.to_dict()["channels"][0]["similarities"] == channel.similarities


def test_the_picture_of_a_calibration(calibrated, tmp_path):
    pytest.importorskip("matplotlib")
    _, report = calibrated
    report.plot(tmp_path / "calibration.svg")
    drawn = (tmp_path / "calibration.svg").read_text(encoding="utf-8")
    for told in ("score 0.5", "half of all", "9 of 10", "share of nodes", "raw", "by score"):
        assert f"<!-- {told} -->" in drawn
    assert "in text  n=80" in drawn
    with pytest.raises(QueryError, match="too few nodes to calibrate"):
        CalibrationReport((), 0.0).plot(tmp_path / "none.png")
    with pytest.raises(QueryError, match="must end in one of"):
        report.plot(tmp_path / "calibration.txt")


def test_a_calibration_in_a_notebook(calibrated):
    _, report = calibrated
    page = Page(report._repr_html_())
    assert [one["text"] for one in page.all("td")] == [
        *("text", "text", "text", "80", "100%", "100%", "100%"),
        f"{report.channels[0].half:.2f}",
    ]
    assert CalibrationReport((), 0.0)._repr_html_() == "<p>Too few nodes to calibrate: scores stay as they are.</p>"


def test_calibrate_draws(calibrated, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("llama_index_mm.index.load_preset", lambda name: tiny_preset(name))
    done = CliRunner().invoke(app, ["calibrate", str(calibrated[0]), "--plot", str(tmp_path / "calibration.png")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
    refused = CliRunner().invoke(app, ["calibrate", str(calibrated[0]), "--plot", str(tmp_path / "none" / "c.png")])
    assert isinstance(refused.exception, QueryError)
