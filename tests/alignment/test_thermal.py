"""Simulated thermal pictures: what the simulation keeps and loses, and how they join an index of photos."""

import asyncio
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from planted import Given

from llama_index_mm.demo.thermal import (
    ThermalCamera,
    ThermalEncoder,
    ThermalOrPhotoEncoder,
    made_up_temperatures,
    simulate_thermal,
)
from llama_index_mm.errors import EncodeError, MediaError, SpaceError
from llama_index_mm.media import load_image
from llama_index_mm.presets import load_preset
from llama_index_mm.testing import HashingEncoder

CLEAN = ThermalCamera(blur=0, netd=0, pattern=0)
GRID = 4  # tiles of a photo in each direction


def halves(left, right, size=(64, 48)):
    picture = Image.new("RGB", size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def scene(seed=0, size=(96, 72)):
    """Something with edges and colours."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def test_the_same_photo_gives_the_same_pixels_and_each_camera_its_own():
    photo = scene()
    first = simulate_thermal(photo)
    assert (first.dtype, first.shape) == (np.uint8, (120, 160))
    np.testing.assert_array_equal(first, simulate_thermal(photo.copy()))
    assert (first != simulate_thermal(photo, ThermalCamera(seed=1))).mean() > 0.5


@pytest.mark.parametrize(
    ("size", "side", "shape"), [((320, 240), 160, (120, 160)), ((30, 90), 80, (80, 27)), ((500, 1), 160, (1, 160))]
)
def test_one_channel_of_the_size_of_the_sensor(size, side, shape):
    thermal = simulate_thermal(scene(size=size), ThermalCamera(side=side, bits=16))
    assert (thermal.dtype, thermal.shape) == (np.uint16, shape)
    assert (thermal.min(), thermal.max()) == (0, 65535)  # what lies beyond the percentiles is cut


def test_lighter_is_warmer_here_and_colder_there():
    ramp = np.linspace(0, 1, 256)[:, None, None] * np.ones((1, 4, 3))
    steps = np.sign(np.diff(made_up_temperatures(ramp)[:, 0]))
    assert np.count_nonzero(np.diff(steps)) == 3  # up, down, up, down


def test_temperatures_have_the_bounds_that_are_told():
    corners = np.stack(np.meshgrid(*[np.linspace(0, 1, 25)] * 3), -1).reshape(-1, 1, 3)
    found = np.concatenate([made_up_temperatures(flat[None]) for flat in corners])
    assert 269 < found.min() < 291 < found.max() < 306.1


def test_two_hues_can_have_the_same_temperature_and_then_nothing_tells_them_apart():
    """Grey (u = 0) and a red with u = 0.36 lie on either side of the bump at 0.18; both have luminance 0.5."""
    less = 0.5 - 0.299 * 0.36
    red, grey = (less + 0.36, less, less), (0.5, 0.5, 0.5)
    both = np.array([[red, grey]])
    kelvin = made_up_temperatures(both)
    assert kelvin[0, 0] == pytest.approx(kelvin[0, 1], abs=1e-9)
    photo = halves(*(tuple(round(255 * value) for value in colour) for colour in (red, grey)))
    assert np.ptp(np.asarray(photo, int), axis=(0, 1)).tolist() == [64, 28, 28]
    assert np.ptp(simulate_thermal(photo, CLEAN).astype(int)) <= 8


def test_hues_of_the_same_luminance_can_differ():
    leaf, soil = (0.3, 0.6, 0.2), (0.55, 0.4727, 0.2)
    assert np.dot(leaf, (0.299, 0.587, 0.114)) == pytest.approx(np.dot(soil, (0.299, 0.587, 0.114)), abs=1e-3)
    kelvin = made_up_temperatures(np.array([[leaf, soil]]))
    assert kelvin[0, 1] - kelvin[0, 0] > 4


def test_noise_has_the_deviation_that_is_told():
    """A flat scene spreads 2 K over 16 bits, so 50 mK are 1,638 counts."""
    flat = Image.new("RGB", (160, 120), (90, 120, 60))
    thermal = simulate_thermal(flat, ThermalCamera(blur=0, pattern=0, bits=16))
    assert thermal.std() == pytest.approx(0.05 / 2 * 65535, rel=0.03)
    np.testing.assert_array_equal(np.unique(simulate_thermal(flat, CLEAN)), [128])


def test_the_fixed_pattern_is_that_of_the_camera_and_the_noise_that_of_the_picture():
    greys = [Image.new("RGB", (160, 120), (grey,) * 3) for grey in (40, 200)]
    one, other = (simulate_thermal(flat, ThermalCamera(netd=0)).astype(int) for flat in greys)
    assert np.abs(one - other).max() <= 1
    columns = one.mean(0).std()
    assert columns > 5 * one.mean(1).std()  # offsets of columns stay when a column is averaged
    one, other = (simulate_thermal(flat, ThermalCamera(pattern=0)).ravel() for flat in greys)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_optics_blur_an_edge():
    photo = halves((0, 0, 0), (60, 60, 60), size=(160, 120))
    sharp, soft = (np.abs(np.diff(simulate_thermal(photo, replace(CLEAN, blur=blur)).astype(int)[60])) for blur in (0, 2))
    assert sharp.max() > 2 * soft.max()
    assert soft.argmax() == 79


@pytest.mark.parametrize(
    "wrong", [{"bits": 12}, {"side": 4}, {"netd": -1}, {"pattern": float("nan")}, {"least_span": 0}, {"seed": -1}]
)
def test_a_camera_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(MediaError, match="Expected"):
        ThermalCamera(**wrong)


def test_what_has_no_colour_goes_to_the_thermal_encoder():
    thermal, photo = HashingEncoder("image", dimension=16), Given(16)
    with pytest.raises(SpaceError, match=r"image \(1280\) and image \(16\)"):
        ThermalOrPhotoEncoder(ThermalEncoder(), photo)
    with pytest.raises(SpaceError, match="two encoders of pictures"):
        ThermalOrPhotoEncoder(HashingEncoder("text", dimension=16), photo)
    other = HashingEncoder("image", dimension=16)
    other.fingerprint = "other"
    both = ThermalOrPhotoEncoder(thermal, other)
    assert both.fingerprint != ThermalOrPhotoEncoder(other, thermal).fingerprint
    items = [scene(), Image.fromarray(simulate_thermal(scene())), Image.new("RGB", (9, 9), (7, 7, 7)), scene(1)]
    np.testing.assert_array_equal(both.encode(items), thermal.encode(items))
    assert both._encode([items[1]], query=False).tobytes() == thermal.encode([items[1]]).tobytes()


@pytest.fixture(scope="module")
def encoder():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    return ThermalEncoder()


@pytest.mark.weights("efficientnet-lite0")
def test_one_channel_in_all_its_forms_gives_the_same_vector(encoder, tmp_path):
    grey = Image.fromarray(simulate_thermal(scene()))
    grey.save(tmp_path / "it.png")
    vectors = encoder.encode([grey, grey.convert("RGB"), load_image(tmp_path / "it.png")])
    assert vectors.shape == (3, 1280)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[0], vectors[2])
    wide = Image.fromarray(simulate_thermal(scene(), ThermalCamera(bits=16)))
    assert wide.mode == "I;16"
    assert float(encoder.encode([wide])[0] @ vectors[0]) > 0.999
    flat = Image.fromarray((np.asarray(grey) // 2 + 40).astype(np.uint8))  # another gain and offset
    assert float(encoder.encode([flat])[0] @ vectors[0]) > 0.99
    assert float(encoder.encode([Image.fromarray(simulate_thermal(scene(1)))])[0] @ vectors[0]) < 0.9
    encoder.release()
    np.testing.assert_array_equal(asyncio.run(encoder.aencode([grey])), vectors[:1])


@pytest.mark.weights("efficientnet-lite0")
def test_false_colours_are_refused(encoder):
    with pytest.raises(EncodeError, match="one channel, got one with colours"):
        encoder.encode([scene()])


@pytest.fixture(scope="module")
def tiles(make_once):
    """Parts of six photos that do not overlap, as files, with simulated twins: 72 to fit on and 24 to measure."""
    pytest.importorskip("skimage")
    from llama_index_mm.demo import write_collection

    write_collection(make_once.folder / "demo")
    fitted, measured = [], []
    for name in ("astronaut.png", "cat.png", "coffee.png", "galaxies.jpg", "motorcycle.png", "rocket.jpg"):
        photo = load_image(make_once.folder / "demo" / "pictures" / name, longest=768)
        width, height = photo.width // GRID, photo.height // GRID
        for at in range(GRID * GRID):
            left, top = at % GRID * width, at // GRID * height
            tile = photo.crop((left, top, left + width, top + height))
            held = at % GRID == (at // GRID + 1) % GRID  # one in each row and column
            kept = make_once.path(f"{'measured' if held else 'fitted'}/{name.partition('.')[0]}-{at:02}.png")
            tile.save(kept)
            twin = kept.with_suffix(".thermal.png")
            Image.fromarray(simulate_thermal(tile)).save(twin)
            (measured if held else fitted).append((twin, kept))
    return fitted, measured


@pytest.fixture(scope="module")
def joined(tiles, make_once):
    """An index of photos and thermal pictures, with the space of both beside the old ones."""
    for needed in ("torch", "safetensors"):
        pytest.importorskip(needed)
    from llama_index_mm import MultiModalIndex
    from llama_index_mm.alignment import Aligner, beside, check_adapter, digest_vectors, paired

    fitted, _ = tiles
    make_once.text("measured/bees.txt", "Bees dance to tell where flowers are.")
    folder, old = make_once.folder / "index", load_preset("offline").cached(make_once.folder / "vectors")
    with MultiModalIndex.open(folder, preset=old, create=True) as index:
        assert index.ingest(make_once.folder / "measured", num_workers=0, calibrate=False).problems == []
    picture = next(space for space in old.spaces if space.name == "picture")
    aligner = Aligner(ThermalEncoder(), picture, part="image", held_out=0.1)
    made = aligner.fit(paired(*(list(part) for part in zip(*fitted, strict=True))), epochs=20)
    check_adapter(made.card)
    both = ThermalOrPhotoEncoder(made, picture.encoders["image"])
    new = old.with_space(beside(picture, "image", both, name="thermal"))
    before = digest_vectors(folder)
    report = MultiModalIndex.reembed(folder, preset=new, num_workers=0)
    assert report.problems == []
    with MultiModalIndex.open(folder, preset=new) as index:
        yield index, picture, made, report, before, digest_vectors(folder)


@pytest.mark.weights
def test_held_out_twins_find_one_another(tiles, joined):
    """Among 24 by chance 1 is found first; without a fit the vectors do not even compare."""
    _, measured = tiles
    _, picture, made, *_ = joined
    thermal = made.encode([load_image(twin) for twin, _ in measured])
    photos = picture.encoders["image"].encode([load_image(photo) for _, photo in measured])
    similar = thermal @ photos.T
    for scores in (similar, similar.T):
        ranks = (scores >= np.diag(scores)[:, None]).sum(1)
        assert (ranks <= 5).sum() >= 20  # by chance 5
        assert (1 / ranks).mean() > 0.6  # by chance 0.16


@pytest.mark.weights
def test_old_vectors_stay_to_the_byte(tiles, joined):
    *_, report, before, after = joined
    assert set(before) == {"picture/image", "picture/text", "text/image", "text/text"}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"thermal/image"}
    assert report.encoded == {"thermal": 48}
    assert sorted(report.kept) == ["picture", "shape", "sound", "speaker", "text"]


@pytest.mark.weights
def test_photos_have_the_very_vectors_that_they_had(joined):
    index, *_ = joined
    seqs = index.store.find(space="thermal", modalities=["image"]).tolist()
    nodes = index.store.nodes(seqs)
    photos = [seq for seq in seqs if not nodes[seq].metadata["file_name"].endswith(".thermal.png")]
    assert len(photos) == 24
    old, new = (index.store.vectors(space, "image", photos) for space in ("picture", "thermal"))
    assert old.tobytes() == new.tobytes()


@pytest.mark.weights
def test_the_retriever_crosses_between_the_two(tiles, joined):
    from llama_index_mm import MediaQuery

    _, measured = tiles
    index, *_ = joined
    retriever = index.as_retriever(similarity_top_k=48)
    for asking, sought in ((0, 1), (1, 0)):
        found = 0
        for pair in measured:
            hits = retriever.retrieve(MediaQuery(image=pair[asking], modalities=["image"], spaces=["thermal"]))
            names = [hit.node.metadata["file_name"] for hit in hits]
            assert names[0] == pair[asking].name
            other = [name for name in names if name.endswith(".thermal.png") == (sought == 0)]
            found += pair[sought].name in other[:5]
        assert found >= 20  # of 24; by chance 5
