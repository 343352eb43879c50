"""Fitting, on data where the right adapter is known."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("safetensors") is None:
    pytest.skip("needs torch and safetensors", allow_module_level=True)

from planted import Given, cloud, kinked, rotated

from llama_index_mm.alignment import WAYS, AlignedEncoder, Aligner, AlignmentCard, Pair, labelled, paired
from llama_index_mm.alignment import training as training_module
from llama_index_mm.alignment.checkpoint import read_checkpoint
from llama_index_mm.alignment.pairs import split_groups
from llama_index_mm.alignment.scoring import ranks_of
from llama_index_mm.embeddings.base import EmbeddingSpace, unit
from llama_index_mm.errors import AlignmentError, ModelError, SpaceError
from llama_index_mm.testing import HashingEncoder

LOSSES = ["info_nce", "margin", "sigmoid"]


def aligner(d=16, **options):
    return Aligner(Given(d, "new"), Given(d, "space"), **options)


def pairs_of(source, target):
    return paired(list(source), list(target))


def same(one, two):
    return {name: tensor.tobytes() for name, tensor in one.adapter.tensors.items()} == {
        name: tensor.tobytes() for name, tensor in two.adapter.tensors.items()
    }


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("start", ["random", "procrustes", "ridge"])
def test_a_rotation_is_recovered(loss, start):
    source, target = rotated()
    encoder = aligner(loss=loss, start=start, rate=1e-2, batch=32).fit(pairs_of(source, target), epochs=60)
    fresh_source, fresh_target = (part[200:] for part in rotated(n=400))
    np.testing.assert_array_equal(rotated(n=400)[1][:200], target)
    found = encoder.encode(list(fresh_source)) @ fresh_target.T
    assert (found.argmax(1) == np.arange(200)).mean() >= (0.9 if start == "random" else 0.99)
    assert encoder.card.after["space_to_new"]["R@1"].mean >= 0.97
    if start != "random":
        assert encoder.card.before["space_to_new"]["R@1"].mean == 1.0


@pytest.mark.parametrize("adapter", ["mlp", "residual"])
def test_what_is_not_linear_takes_a_hidden_layer(adapter):
    source, target = kinked()
    plain = aligner(8).fit(pairs_of(source, target), epochs=40)
    bent = aligner(8, adapter=adapter, rate=5e-3, batch=64).fit(pairs_of(source, target), epochs=60)
    assert plain.card.after["new_to_space"]["MRR"].high < 0.2
    assert bent.card.after["new_to_space"]["MRR"].low > 0.5


@pytest.mark.parametrize("loss", LOSSES)
def test_training_improves_on_what_it_starts_from(loss):
    source, target = rotated(noise=0.15)
    card = aligner(loss=loss, start="random", rate=1e-2).fit(pairs_of(source, target), epochs=40).card
    assert card.after["space_to_new"]["MRR"].low > card.before["space_to_new"]["MRR"].high
    assert card.history[card.best].score == max(one.score for one in card.history)
    assert card.history[5].loss < card.history[1].loss


def test_the_same_fit_gives_the_same_to_the_byte():
    source, target = rotated(noise=0.2)
    one, two, other = (
        aligner(adapter="residual", seed=seed).fit(pairs_of(source, target), epochs=5, patience=9) for seed in (3, 3, 4)
    )
    assert same(one, two)
    assert one.card == two.card
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_it_stops_when_nothing_improves():
    source, target = cloud(60, 8), cloud(60, 8, 1)  # nothing to be learned
    card = aligner(8).fit(pairs_of(source, target), epochs=500, patience=7).card
    assert card.stopped == "patience"
    assert card.history[-1].epoch == card.best + 7


def test_it_stops_in_time_and_at_the_last_epoch():
    source, target = rotated(noise=0.3)
    assert aligner().fit(pairs_of(source, target), seconds=0).card.stopped == "seconds"
    card = aligner().fit(pairs_of(source, target), epochs=3).card
    assert (card.stopped, len(card.history)) == ("epochs", 4)
    closed = aligner().fit(pairs_of(source, target), epochs=0).card
    assert (closed.best, closed.before, closed.history[0].loss) == (0, closed.after, None)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_that_broke_off_goes_on_to_the_same_result(loss, tmp_path, monkeypatch):
    source, target = rotated(noise=0.3)
    make = lambda: aligner(adapter="residual", loss=loss, rate=5e-3)  # noqa: E731
    whole = make().fit(pairs_of(source, target), epochs=12, patience=50)
    passes = training_module._State.pass_over

    def breaking(self, data, epoch):
        if epoch == 7:
            raise Interrupted
        return passes(self, data, epoch)

    monkeypatch.setattr(training_module._State, "pass_over", breaking)
    with pytest.raises(Interrupted):
        make().fit(pairs_of(source, target), epochs=12, patience=50, folder=tmp_path, checkpoint_seconds=0)
    monkeypatch.undo()
    again = make()
    on = again.fit(pairs_of(source, target), epochs=12, patience=50, folder=tmp_path)
    assert same(on, whole)
    assert on.card == whole.card
    assert (again.source.calls, again.target.calls) == (0, 0)  # vectors were kept
    more = make().fit(pairs_of(source, target), epochs=14, patience=50, folder=tmp_path)
    assert [one.epoch for one in more.card.history] == list(range(15))
    assert more.card.history[:13] == whole.card.history


def test_a_run_that_was_killed_goes_on(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_aligner import aligner, pairs_of, rotated\n"
        "aligner(start='random').fit(pairs_of(*rotated(noise=0.3)), epochs=10**6, patience=10**6, folder=sys.argv[2],"
        " checkpoint_seconds=0)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)])
    try:
        until = time.monotonic() + 90
        while not (tmp_path / "checkpoint.safetensors").exists() and time.monotonic() < until:
            assert child.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "card.json").exists()
    told, _ = read_checkpoint(tmp_path / "checkpoint.safetensors", _run_in(tmp_path))
    done = len(told["history"]) - 1
    assert done >= 1
    source, target = rotated(noise=0.3)
    on = aligner(start="random").fit(pairs_of(source, target), epochs=done + 2, patience=10**6, folder=tmp_path)
    whole = aligner(start="random").fit(pairs_of(source, target), epochs=done + 2, patience=10**6)
    assert same(on, whole)


def _run_in(folder):
    from safetensors import safe_open

    with safe_open(folder / "checkpoint.safetensors", framework="np") as opened:
        return json.loads(opened.metadata()["state"])["run"]


def test_a_folder_of_another_run_is_refused(tmp_path):
    source, target = rotated(n=40)
    aligner().fit(pairs_of(source, target), epochs=1, folder=tmp_path)
    with pytest.raises(AlignmentError, match="run on other data"):
        aligner().fit(pairs_of(source[1:], target[1:]), epochs=1, folder=tmp_path)
    with pytest.raises(AlignmentError, match="with other options"):
        aligner(seed=1).fit(pairs_of(source, target), epochs=1, folder=tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"broken")
    with pytest.raises(AlignmentError, match="Delete it to begin anew"):
        aligner().fit(pairs_of(source, target), epochs=1, folder=tmp_path)


def test_what_was_saved_encodes_the_same(tmp_path):
    source, target = rotated(n=80, noise=0.2)
    made = aligner(adapter="mlp", hidden=20).fit(pairs_of(source, target), epochs=3, folder=tmp_path)
    read = AlignedEncoder.load(tmp_path, Given(16, "new"))
    np.testing.assert_array_equal(read.encode(list(source)), made.encode(list(source)))
    assert read.card == made.card
    assert (read.fingerprint, read.payload, read.dimension) == (made.fingerprint, "image", 16)
    assert read.fingerprint != Given(16, "new").fingerprint
    with pytest.raises(SpaceError, match="fitted on an encoder with fingerprint"):
        AlignedEncoder.load(tmp_path, Given(16, "other"))
    with pytest.raises(SpaceError, match="takes vectors of 16 dimensions, and Given gives 3"):
        AlignedEncoder.load(tmp_path, Given(3, "new"))


def test_damaged_folders_are_refused(tmp_path):
    source, target = rotated(n=40)
    made = aligner().fit(pairs_of(source, target), epochs=0)
    with pytest.raises(ModelError, match=r"card\.json can't be read as the card of an adapter"):
        AlignedEncoder.load(tmp_path, Given(16, "new"))
    made.save(tmp_path)
    weights = (tmp_path / "adapter.safetensors").read_bytes()
    (tmp_path / "adapter.safetensors").write_bytes(weights[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match="is not the adapter that"):
        AlignedEncoder.load(tmp_path, Given(16, "new"))
    (tmp_path / "adapter.safetensors").write_bytes(b"?")
    with pytest.raises(ModelError, match="can't be read"):
        AlignedEncoder.load(tmp_path, Given(16, "new"))
    card = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(card | {"version": 99}))
    with pytest.raises(ModelError, match="of version 99, expected 1"):
        AlignmentCard.load(tmp_path / "card.json")


def test_the_split_holds_out_groups_and_the_same_share_of_each_label():
    labels = [f"class {at % 5}" for at in range(100)]
    data = aligner(4).encode(
        [Pair(item, np.eye(4)[0] + 0, key=label) for item, label in zip(cloud(100, 4), labels, strict=True)]
    )
    held = split_groups(data, 0.2, seed=7)
    assert held.sum() == 20
    assert [sum(one for one, label in zip(held, labels, strict=True) if label == f"class {at}") for at in range(5)] == [4] * 5
    assert (split_groups(data, 0.2, seed=7) == held).all()
    assert (split_groups(data, 0.2, seed=8) != held).any()


def test_captions_of_one_item_stay_together_and_are_no_negatives_of_one_another():
    items, targets = cloud(10, 4), cloud(30, 4, 1)
    data = aligner(4).encode([Pair(items[at // 3], targets[at]) for at in range(30)])
    held = split_groups(data, 0.3)
    assert set(np.flatnonzero(held) // 3) & set(np.flatnonzero(~held) // 3) == set()
    assert len(data.features) == 10
    together = data.together(np.arange(10), np.arange(30))
    np.testing.assert_array_equal(together, np.repeat(np.eye(10, dtype=bool), 3, axis=1))


def test_labels_join_all_items_of_a_class():
    words = HashingEncoder("text", 16)
    made = Aligner(Given(16), words).encode(labelled(list(cloud(6, 16)), ["cat", "dog", "cat", "cat", "dog", "cow"]))
    assert (made.features.shape, made.targets.shape) == ((6, 16), (3, 16))
    assert made.together(np.arange(6), np.arange(3)).argmax(1).tolist() == [0, 1, 0, 0, 1, 2]
    np.testing.assert_allclose(made.targets, words.encode(["cat", "dog", "cow"]))
    unseen = Aligner(Given(16), words).encode(labelled(list(cloud(6, 16)), ["a", "b", "a", "a", "b", "c"], unseen=True))
    assert unseen.groups.tolist() == [0, 1, 0, 0, 1, 2]


def test_templates_are_averaged():
    words = HashingEncoder("text", 16)
    made = Aligner(Given(16), words, templates=["a {} here", "one {}"]).encode(labelled(list(cloud(2, 16)), ["cat", "dog"]))
    np.testing.assert_allclose(made.targets[0], unit(words.encode(["a cat here", "one cat"]).mean(0)[None])[0], atol=1e-6)


def test_each_item_and_target_is_encoded_once():
    make = aligner(4)
    items = cloud(3, 4)
    make.encode([Pair(items[0], items[1]), Pair(items[0], items[2]), Pair(items[2], items[1])])
    assert (make.source.calls, make.target.calls) == (2, 2)


def test_what_is_as_similar_counts_as_before():
    source, target = rotated(n=30)
    data = aligner().encode(pairs_of(source, target))
    collapsed = ranks_of(np.repeat(target[:1], 30, axis=0), data)
    assert collapsed.space_to_new.tolist() == [30] * 30
    assert ranks_of(target, data).space_to_new.tolist() == [1] * 30
    assert collapsed.chance == {"space_to_new": pytest.approx(1 / 30), "new_to_space": pytest.approx(1 / 30)}


def test_recall_rises_with_pairs_and_the_space_stays_full():
    source, target = rotated(n=600, d=32, noise=0.12)
    fresh_source, fresh_target = source[400:], target[400:]
    found = []
    for count in (20, 80, 400):
        encoder = aligner(32, start="ridge").fit(pairs_of(source[:count], target[:count]), epochs=30)
        vectors = encoder.encode(list(fresh_source))
        found.append(((vectors @ fresh_target.T).argmax(1) == np.arange(200)).mean())
    assert found[0] < found[1] < found[2]
    assert found[2] > 0.8
    assert encoder.card.geometry.rank > 0.8 * encoder.card.target_rank


def test_a_space_is_fitted_by_the_encoder_that_it_is_asked_with():
    space = EmbeddingSpace("text", {"text": HashingEncoder("text", 16), "image": HashingEncoder("image", 16)})
    made = Aligner(Given(16), space)
    assert (made.target_name, made.as_query, made.target.payload) == ("text:text", True, "text")
    assert Aligner(Given(16), space, part="image").as_query is False
    with pytest.raises(SpaceError, match="no encoder for queries of kind audio"):
        Aligner(Given(16), space, part="audio")


def test_files_are_read_as_the_encoder_takes_them(make):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 250, 0)]
    paths = [make.picture(f"{at}.png", colour) for at, colour in enumerate(colours)]
    words = HashingEncoder("text", 16)
    fitted = Aligner(HashingEncoder("image", 16), words, held_out=0.5)
    from PIL import Image

    by_path = fitted.encode(labelled(paths, ["red", "green", "blue", "yellow"]))
    in_memory = fitted.encode(labelled([Image.open(path).convert("RGB") for path in paths], ["red", "green", "blue", "yellow"]))
    np.testing.assert_array_equal(by_path.features, in_memory.features)


def test_what_does_not_fit_is_refused():
    source, target = rotated(n=20)
    with pytest.raises(AlignmentError, match="got none"):
        aligner().fit([])
    with pytest.raises(AlignmentError, match="at least two groups of pairs, got 1"):
        aligner().fit([replace(pair, group="one") for pair in pairs_of(source, target)])
    with pytest.raises(AlignmentError, match=r"share in \(0, 1\)"):
        aligner(held_out=1.0).fit(pairs_of(source, target))
    with pytest.raises(AlignmentError, match="loss of info_nce, margin, sigmoid, got 'l2'"):
        aligner(loss="l2")
    with pytest.raises(AlignmentError, match="batch of at least 2, got 1"):
        aligner(batch=1)
    with pytest.raises(AlignmentError, match="got 2 items and 1"):
        paired([1, 2], [1])
    with pytest.raises(AlignmentError, match="epochs of at least 0"):
        aligner().fit(pairs_of(source, target), epochs=-1)


def test_the_card_is_told_and_drawn(tmp_path):
    source, target = rotated(n=80, noise=0.3)
    card = aligner().fit(pairs_of(source, target), epochs=4).card
    told = str(card)
    assert "asked from the space, before" in told
    assert "by chance" in told
    assert "Effective rank" in told
    assert json.loads(json.dumps(card.to_dict()))["pairs"] == 80
    pytest.importorskip("matplotlib")
    card.plot(tmp_path / "fit.svg")
    assert "held-out pairs, in %" in (tmp_path / "fit.svg").read_text(encoding="utf-8")
    with pytest.raises(AlignmentError, match="must end in one of"):
        card.plot(tmp_path / "fit.doc")


def test_the_best_of_several_ways_is_what_finds_held_out_pairs_best(tmp_path):
    source, target = rotated()
    turned = aligner().fit_best(pairs_of(source, target), folder=tmp_path / "turned", epochs=5)
    assert turned.card.options.start == "ridge"  # identity can't turn back in so few passes
    assert same(turned, aligner().fit(pairs_of(source, target), epochs=5))
    assert same(turned, AlignedEncoder.load(tmp_path / "turned", Given(16, "new")))
    rng = np.random.default_rng(0)
    near = unit(target + 0.02 * rng.normal(size=target.shape))  # is in the space, and 12 pairs are too few to learn that
    kept = aligner(held_out=0.5).fit_best(pairs_of(near[:12], target[:12]), epochs=3)
    assert kept.card.options.start == "identity"
    assert kept.card.score == 1.0
    ways = [aligner(held_out=0.5, **way).fit(pairs_of(near[:12], target[:12]), epochs=3) for way in WAYS]
    assert kept.card.score == max(one.card.score for one in ways) > ways[0].card.score


def test_identity_is_left_out_where_lengths_differ():
    source, target = rotated()
    made = Aligner(Given(16, "new"), Given(8, "space")).fit_best(pairs_of(source, unit(target[:, :8])), epochs=1)
    assert made.card.options.start == "ridge"
    with pytest.raises(AlignmentError, match="different lengths"):
        Aligner(Given(16, "new"), Given(8, "space")).fit_best(pairs_of(source, target[:, :8]), [{"start": "identity"}])
