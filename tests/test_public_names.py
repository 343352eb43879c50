import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import llama_index_mm
from llama_index_mm import errors
from llama_index_mm.errors import MissingExtraError

ROOT = Path(llama_index_mm.__file__).parent
NAMES = sorted(
    path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"
)
WITHOUT = {"llama_index_mm.embeddings", "llama_index_mm.transforms"}  # packages whose modules are imported by their names


def load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMES)
def test_all_is_there_and_sorted(name):
    module = load(name)
    if name in WITHOUT:
        assert not hasattr(module, "__all__")
        return
    assert len(set(module.__all__)) == len(module.__all__)
    assert [public for public in module.__all__ if not hasattr(module, public)] == []
    constants, classes, others = (
        [public for public in module.__all__ if public.isupper() and len(public) > 1],
        [public for public in module.__all__ if public[0].isupper() and not (public.isupper() and len(public) > 1)],
        [public for public in module.__all__ if not public[0].isupper()],
    )
    assert module.__all__ == sorted(constants) + sorted(classes) + sorted(others)


@pytest.mark.parametrize("name", NAMES)
def test_public_things_are_documented(name):
    module = load(name)
    assert module.__doc__
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, public


def test_top_level_names():
    assert set(llama_index_mm._HOME) == set(llama_index_mm.__all__)
    assert set(llama_index_mm.__all__) <= set(dir(llama_index_mm))
    for name, home in llama_index_mm._HOME.items():
        module = importlib.import_module(f"llama_index_mm.{home}")
        assert getattr(llama_index_mm, name) is getattr(module, name)
        assert name in module.__all__


def test_unknown_top_level_name():
    with pytest.raises(AttributeError, match=r"'llama_index_mm' has no attribute 'nope'"):
        _ = llama_index_mm.nope


def test_errors_are_of_one_family():
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.MultiModalError)
        assert name == "MultiModalError" or name in errors.__doc__
    assert issubclass(errors.MissingExtraError, ImportError)
    assert issubclass(errors.DecodeError, ValueError)


def test_missing_package_names_its_extra():
    from llama_index_mm._optional import require

    with pytest.raises(MissingExtraError, match=r"'no_such_package'.*pip install 'llama-index-mm\[mesh\]'"):
        require("no_such_package.part", extra="mesh")
    assert require("json", extra="mesh").loads("1") == 1


def test_star_import():
    subprocess.run([sys.executable, "-c", "from llama_index_mm import *; MultiModalIndex, retype"], check=True)
