import sys

import numpy as np
import pytest
from PIL import Image

from llama_index_mm.demo import write_collection
from llama_index_mm.demo.shapes import SHAPES
from llama_index_mm.errors import MissingExtraError

SECONDS = {
    "church-bell.ogg": (4.5, 6.5),
    "clock-ticking.ogg": (4.5, 6.5),
    "memo-garden.ogg": (9, 16),
    "ocean-waves.ogg": (4.5, 6.5),
    "podcast-bread-baking.ogg": (45, 70),
    "podcast-lighthouse-keepers.ogg": (45, 70),
    "rain.ogg": (4.5, 6.5),
    "siren.ogg": (4.5, 6.5),
    "telephone-ringing.ogg": (4.5, 6.5),
}
PICTURES = [
    "astronaut.png",
    "brick-wall.png",
    "cat.png",
    "coffee.png",
    "coins.png",
    "galaxies.jpg",
    "gravel.png",
    "horse.png",
    "moon.png",
    "motorcycle.png",
    "photographer.png",
    "rocket.jpg",
]
TEXTS = [
    "caring-for-a-wooden-chair.md",
    "harbour-museum-visit.txt",
    "keeping-lighthouses-lit.md",
    "sourdough-baking-times.md",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("skimage")
    folder = tmp_path_factory.mktemp("collection") / "not" / "yet"
    write_collection(folder)
    return folder


def decoded(path):
    """Sample rate and mono samples of a sound file."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.layout.name == "mono"
        return stream.rate, np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])


def test_returns_every_file_sorted_and_nothing_else_is_written(folder):
    paths = write_collection(folder)
    assert paths == sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    assert names == sorted(
        [f"audio/{name}" for name in SECONDS]
        + [f"meshes/{name}.obj" for name in SHAPES]
        + [f"pictures/{name}" for name in PICTURES]
        + [f"texts/{name}" for name in TEXTS]
    )


def test_two_folders_get_the_same_bytes(folder, tmp_path):
    for path in write_collection(tmp_path):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes()


def test_right_files_are_left_alone_and_wrong_ones_mended(folder, tmp_path):
    paths = write_collection(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in paths}
    text, sound, mesh = (next(p for p in paths if p.suffix == end) for end in (".txt", ".ogg", ".obj"))
    text.write_text("something else")
    sound.unlink()
    mesh.write_bytes(mesh.read_bytes()[:-1])
    assert write_collection(tmp_path) == paths
    changed = {path for path in paths if path.stat().st_mtime_ns != before[path]}
    assert changed == {text, sound, mesh}
    for path in changed:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes()


def test_other_files_in_the_folder_stay_and_are_not_listed(tmp_path):
    pytest.importorskip("skimage")
    mine = tmp_path / "texts" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("my own")
    assert mine not in write_collection(tmp_path)
    assert mine.read_text() == "my own"


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_decode_to_something_with_contrast(folder, name):
    with Image.open(folder / "pictures" / name) as picture:
        assert min(picture.size) >= 300
        assert np.asarray(picture.convert("L"), float).std() > 9
        assert picture.format == {"png": "PNG", "jpg": "JPEG"}[name[-3:]]


@pytest.mark.parametrize("name", SECONDS)
def test_sounds_decode_at_their_length_without_clipping(folder, name):
    rate, sound = decoded(folder / "audio" / name)
    low, high = SECONDS[name]
    assert low <= len(sound) / rate <= high
    assert 0.4 < np.abs(sound).max() < 1.0
    assert abs(sound.mean()) < 0.01


@pytest.mark.parametrize(("name", "pauses"), [("podcast-bread-baking.ogg", 7), ("podcast-lighthouse-keepers.ogg", 7)])
def test_podcasts_pause_between_their_parts(folder, name, pauses):
    rate, sound = decoded(folder / "audio" / name)
    window = rate // 20
    blocks = sound[: len(sound) // window * window].reshape(-1, window)
    quiet = "".join("q" if loudness < 0.004 else "s" for loudness in np.sqrt((blocks**2).mean(1)))
    long_ones = [run for run in quiet.strip("q").split("s") if len(run) >= 17]  # 0.85 s and more
    assert len(long_ones) == pauses


def test_sounds_differ_in_where_their_energy_lies(folder):
    def middle(name):
        rate, sound = decoded(folder / "audio" / name)
        power = np.abs(np.fft.rfft(sound)) ** 2
        return np.fft.rfftfreq(len(sound), 1 / rate) @ power / power.sum()

    assert middle("ocean-waves.ogg") < middle("siren.ogg") < middle("rain.ogg")


def test_clock_ticks_twice_a_second(folder):
    rate, sound = decoded(folder / "audio" / "clock-ticking.ogg")
    step = rate // 10
    blocks = np.abs(sound[: len(sound) // step * step]).reshape(-1, step).max(1)
    beats = np.flatnonzero(blocks > 0.4)
    assert len(beats) == 10
    assert np.diff(beats).tolist() == [5] * 9


def test_shipped_sounds_are_small(folder):
    assert sum(path.stat().st_size for path in (folder / "audio").iterdir()) < 1_500_000


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_short_and_start_with_a_title(folder, name):
    text = (folder / "texts" / name).read_text("utf-8")
    assert 120 <= len(text.split()) <= 250
    assert text.endswith("\n")
    assert text.partition("\n")[0].startswith("# ") or text.partition("\n")[0].isupper()


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("caring-for-a-wooden-chair.md", "40 to 60 percent"),
        ("harbour-museum-visit.txt", "closed on Mondays"),
        ("keeping-lighthouses-lit.md", "16 sea miles"),
        ("sourdough-baking-times.md", "96 °C"),
    ],
)
def test_texts_hold_the_facts_the_demo_asks_for(folder, name, fact):
    assert fact in (folder / "texts" / name).read_text("utf-8")


@pytest.mark.parametrize("name", SHAPES)
def test_meshes_parse(folder, name):
    lines = [line.split() for line in (folder / "meshes" / f"{name}.obj").read_text("ascii").splitlines()]
    vertices = np.array([line[1:] for line in lines if line[0] == "v"], float)
    faces = np.array([line[1:] for line in lines if line[0] == "f"], int)
    assert faces.min() == 1
    assert faces.max() == len(vertices)


def test_missing_scikit_image_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtraError, match=r"llama-index-mm\[demo\]"):
        write_collection(tmp_path)
    assert not any(tmp_path.iterdir())


def test_scikit_image_without_a_picture_is_named(tmp_path, monkeypatch):
    skimage = pytest.importorskip("skimage")
    monkeypatch.setattr(skimage, "__path__", [str(tmp_path)])
    with pytest.raises(MissingExtraError, match=r"astronaut\.png"):
        write_collection(tmp_path)
