"""A new modality joins an index on disk, through real encoders and a real store."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("safetensors") is None:
    pytest.skip("needs torch and safetensors", allow_module_level=True)

from PIL import Image
from planted import Given, cloud, rotated

from llama_index_mm.alignment import Aligner, beside, check_adapter, digest_vectors, gate, join, labelled, paired, with_encoder
from llama_index_mm.alignment.pairs import digest_of
from llama_index_mm.errors import AlignmentError, SpaceError
from llama_index_mm.evaluation import Judged, evaluate, mixed
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.media import Waveform
from llama_index_mm.retrieval import MediaQuery
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import HashingEncoder, tiny_preset

COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
PITCHES = {"red": 150.0, "lime": 420.0, "blue": 1100.0, "white": 3000.0}


def tone(hertz, seconds=0.3):
    return Waveform((0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * 16_000)) / 16_000)).astype(np.float32), 16_000)


def picture(colour):
    return Image.new("RGB", (24, 16), colour)


def fitted(seed=0):
    """Recordings into the space of pictures: each colour has a pitch."""
    rng = np.random.default_rng(seed)
    sounds, pictures = [], []
    for name, colour in COLOURS.items():
        for _ in range(10):
            sounds.append(tone(PITCHES[name] * rng.uniform(0.97, 1.03)))
            pictures.append(picture(colour))
    space = next(space for space in tiny_preset().spaces if space.name == "picture")
    return Aligner(HashingEncoder("audio"), space, part="image").fit(paired(sounds, pictures), epochs=10)


@pytest.fixture(scope="module")
def encoder():
    return fitted()


def presets(encoder):
    old = tiny_preset()
    spaces = tuple(with_encoder(space, "audio", encoder) if space.name == "picture" else space for space in old.spaces)
    return old, replace(old, spaces=spaces)


@pytest.fixture
def home(make):
    for name, colour in COLOURS.items():
        make.picture(f"files/{name}.png", colour)
        make.tone(f"files/{name}.wav", PITCHES[name], seconds=0.3)
    make.obj("files/cube.obj")
    make.text("files/bees.txt", "Bees dance to tell where flowers are.")
    with MultiModalIndex.open(make.folder / "index", preset=tiny_preset(), create=True) as index:
        assert index.ingest(make.folder / "files", num_workers=0).problems == []
    return make.folder


def queries(home, sound=".wav"):
    """Each picture finds itself; among everything it may also find the recording that belongs with it."""
    asked = [
        Judged(MediaQuery(image=home / "files" / f"{name}.png", modalities=["image"]), {f"{name}.png", f"{name}{sound}"})
        for name in COLOURS
    ]
    return [*asked, *mixed(asked), Judged(MediaQuery("bees", modalities=["text"]), ["bees.txt"])]


def test_the_new_modality_finds_and_is_found(home, encoder):
    old, new = presets(encoder)
    report = join(home / "index", old, new, num_workers=0)
    assert report.problems == []
    assert report.encoded["picture"] == 4  # the recordings alone
    assert sorted(report.kept) == ["sound", "text"]
    with MultiModalIndex.open(home / "index", preset=new) as index:
        retriever = index.as_retriever(similarity_top_k=1)
        for name in COLOURS:
            (hit,) = retriever.retrieve(
                MediaQuery(audio=home / "files" / f"{name}.wav", spaces=["picture"], modalities=["image"])
            )
            assert hit.node.metadata["file_name"] == f"{name}.png"
            (hit,) = retriever.retrieve(
                MediaQuery(image=home / "files" / f"{name}.png", spaces=["picture"], modalities=["audio"])
            )
            assert hit.node.metadata["file_name"] == f"{name}.wav"


def test_old_vectors_stay_to_the_byte_and_nothing_old_is_encoded(home, encoder, monkeypatch):
    old, new = presets(encoder)
    before = digest_vectors(home / "index")
    assert set(before) >= {"picture/image", "picture/mesh", "text/text", "sound/audio"}
    monkeypatch.setattr(type(old.spaces[1].encoders["mesh"]), "_encode", None)  # raises if it is called
    join(home / "index", old, new, num_workers=0)
    after = digest_vectors(home / "index")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"picture/audio"}
    assert digest_vectors(home / "index", modalities=["image"], spaces=["picture"]) == {
        "picture/image": before["picture/image"]
    }


def test_a_join_that_broke_off_goes_on(home, encoder, monkeypatch):
    old, new = presets(encoder)
    before = digest_vectors(home / "index")
    monkeypatch.setattr("llama_index_mm.alignment.joining._BATCH", 2)
    add, calls = MediaStore.add, []

    def breaking(self, *args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return add(self, *args, **options)

    monkeypatch.setattr(MediaStore, "add", breaking)
    with pytest.raises(KeyboardInterrupt):
        join(home / "index", old, new, num_workers=0)
    with MultiModalIndex.open(home / "index", preset=old) as index:  # as before
        assert index.as_retriever().retrieve("bees")[0].node.metadata["file_name"] == "bees.txt"
    join(home / "index", old, new, num_workers=0)
    after = digest_vectors(home / "index")
    assert {name: after[name] for name in before} == before
    assert "picture/audio" in after
    again = join(home / "index", old, new, num_workers=0)
    assert (again.encoded, sorted(again.kept)) == ({}, ["picture", "sound", "text"])


def test_a_space_beside_leaves_everything_as_it_is(home, encoder):
    old = tiny_preset()
    picture_space = old.spaces[1]
    new = old.with_space(beside(picture_space, "audio", encoder, name="heard"))
    assert [space.fingerprint for space in new.spaces[:3]] == [space.fingerprint for space in old.spaces]
    before = digest_vectors(home / "index")
    report = MultiModalIndex.reembed(home / "index", preset=new, num_workers=0)
    assert report.encoded == {"heard": 4}
    after = digest_vectors(home / "index")
    assert {name: after[name] for name in before} == before
    with MultiModalIndex.open(home / "index", preset=new) as index:
        retriever = index.as_retriever(similarity_top_k=1)
        (hit,) = retriever.retrieve(MediaQuery(image=home / "files" / "blue.png", spaces=["heard"], modalities=["audio"]))
        assert hit.node.metadata["file_name"] == "blue.wav"


def test_an_index_of_another_preset_is_refused(home, encoder):
    old, new = presets(encoder)
    other = replace(
        old, spaces=(old.spaces[0], replace(old.spaces[1], name="picture", encoders={"image": Given(32)}), old.spaces[2])
    )
    with pytest.raises(SpaceError, match="Give the preset that the index was made with"):
        join(home / "index", other, new, num_workers=0)
    with MediaStore(home / "index", create=False) as store:
        assert "~picture" not in store.spaces()


def test_a_space_that_has_the_modality_is_not_joined(encoder):
    picture_space = tiny_preset().spaces[1]
    with pytest.raises(SpaceError, match="has an encoder for image already; put the new one beside it"):
        with_encoder(picture_space, "image", encoder)
    with pytest.raises(SpaceError, match="differ in dimension"):
        with_encoder(picture_space, "audio", Given(7))


def test_the_gate_lets_in_what_does_no_harm(home, encoder):
    old, new = presets(encoder)
    asked = queries(home)
    with MultiModalIndex.open(home / "index", preset=old) as index:
        before = evaluate(index.as_retriever(similarity_top_k=10), asked)
    vectors = digest_vectors(home / "index")
    join(home / "index", old, new, num_workers=0)
    with MultiModalIndex.open(home / "index", preset=new) as index:
        after = evaluate(index.as_retriever(similarity_top_k=10), asked)
    found = gate(before, after, vectors_before=vectors, vectors_after=digest_vectors(home / "index"), card=encoder.card)
    (targeted,) = (row for row in found.kinds if row.kind == "image -> image")
    assert {name: one.mean for name, one in targeted.differences.items()} == dict.fromkeys(targeted.differences, 0.0)


class Hub(Given):
    """Every recording is where one picture is: it takes the place of what is sought."""

    payload = "audio"

    def _encode(self, items, *, query):
        return np.repeat(HashingEncoder("image").encode([picture(COLOURS["red"])]), len(items), axis=0)


def test_the_gate_refuses_what_takes_the_places_of_others_with_the_figures(home):
    old, new = presets(Hub(32, "hub"))
    asked = queries(home, sound=".png")
    with MultiModalIndex.open(home / "index", preset=old) as index:
        before = evaluate(index.as_retriever(similarity_top_k=10, calibrated=False), asked)
    join(home / "index", old, new, num_workers=0)
    with MultiModalIndex.open(home / "index", preset=new) as index:
        after = evaluate(index.as_retriever(similarity_top_k=10, calibrated=False), asked)
    dropped = before.kinds[1].metrics["MRR"].mean - after.kinds[1].metrics["MRR"].mean
    assert dropped > 0.1
    with pytest.raises(AlignmentError, match=rf"image -> anything \(image\): MRR fell by {dropped:.3f} .*4 queries"):
        gate(before, after)
    assert gate(before, after, tolerance=0.9).kinds[0].queries == 4


def test_the_gate_refuses_changed_vectors_and_failing_queries(home):
    with MultiModalIndex.open(home / "index", preset=tiny_preset()) as index:
        report = evaluate(index.as_retriever(similarity_top_k=10), queries(home))
    vectors = digest_vectors(home / "index")
    gate(report, report, vectors_before=vectors, vectors_after=vectors)
    with pytest.raises(AlignmentError, match="not what they were: picture/image"):
        gate(report, report, vectors_before=vectors, vectors_after={**vectors, "picture/image": "0"})
    with pytest.raises(AlignmentError, match=r"not what they were: .*text/text"):
        gate(report, report, vectors_before=vectors, vectors_after=None)


def test_an_adapter_that_learned_nothing_or_collapsed_is_refused():
    made = Aligner(Given(8, "a"), Given(8, "b"))
    noise = made.fit(paired(list(cloud(100, 8)), list(cloud(100, 8, 1))), epochs=3).card
    with pytest.raises(AlignmentError, match="no better than chance"):
        check_adapter(noise)
    good = made.fit(paired(*(list(part) for part in rotated(100, 8))), epochs=0).card
    check_adapter(good)
    flat = replace(good, geometry=replace(good.geometry, rank=1.2))
    with pytest.raises(AlignmentError, match=r"collapsed: effective rank 1\.2, that of what it belongs with is"):
        check_adapter(flat)


def test_a_collapse_shows_in_the_card():
    """Features that hold one number can't fill a space of eight dimensions."""
    source, target = rotated(200, 8)
    line = np.abs(source) * np.eye(8)[0] + 1e-3 * np.ones(8)
    line[:, 1] = 1.0
    card = Aligner(Given(8, "a"), Given(8, "b")).fit(paired(list(line), list(target)), epochs=2).card
    assert card.geometry.rank < 1.5 < 0.25 * card.target_rank
    with pytest.raises(AlignmentError, match="collapsed"):
        check_adapter(card)


def test_what_is_the_same_has_the_same_digest(make):
    path = make.picture("red.png")
    assert digest_of(path) == digest_of(make.picture("copy.png"))
    assert digest_of("cat") != digest_of("dog")


def test_labels_fit_recordings_into_words_too():
    rng = np.random.default_rng(1)
    names = [name for name in COLOURS for _ in range(12)]
    sounds = [tone(PITCHES[name] * rng.uniform(0.97, 1.03)) for name in names]
    made = Aligner(HashingEncoder("audio"), HashingEncoder("text"), templates=["a {} tone"])
    card = made.fit(labelled(sounds, names), epochs=5).card
    assert card.after["space_to_new"]["R@1"].mean == 1.0
    assert card.templates == ("a {} tone",)
