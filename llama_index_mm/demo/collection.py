"""The demo collection: photographs, speech and sounds, meshes and texts, written to a folder without any download."""

import tempfile
from importlib import resources
from pathlib import Path

from llama_index_mm._optional import require
from llama_index_mm.demo.shapes import SHAPES, write_obj
from llama_index_mm.errors import MissingExtraError

__all__ = ["write_collection"]

_PICTURES = {
    "astronaut.png": "astronaut.png",
    "brick-wall.png": "brick.png",
    "cat.png": "chelsea.png",
    "coffee.png": "coffee.png",
    "coins.png": "coins.png",
    "galaxies.jpg": "hubble_deep_field.jpg",
    "gravel.png": "gravel.png",
    "horse.png": "horse.png",
    "moon.png": "moon.png",
    "motorcycle.png": "motorcycle_left.png",
    "photographer.png": "camera.png",
    "rocket.jpg": "rocket.jpg",
}
"""Name in the collection: name among the data files that scikit-image installs."""


def write_collection(folder: Path) -> list[Path]:
    """Write the demo collection into ``folder``, which is made where it is missing.

    The pictures are copies of data files inside scikit-image; where each is from, and its terms, stand in the
    docstrings of ``skimage.data``. Sounds and texts are part of this package, and the meshes (metres, y is up) come
    from :mod:`llama_index_mm.demo.shapes`. A file that is there with the right content is not touched.

    Args:
        folder: it gets the folders ``pictures``, ``audio``, ``meshes`` and ``texts``.

    Returns:
        The path of every file of the collection, sorted.

    Raises:
        MissingExtraError: scikit-image is not installed, or has no longer one of the pictures.
    """
    contents = {
        **{f"pictures/{name}": content for name, content in _pictures().items()},
        **{f"audio/{name}": content for name, content in _packaged("audio").items()},
        **{f"meshes/{name}": content for name, content in _meshes().items()},
        **{f"texts/{name}": content for name, content in _packaged("texts").items()},
    }
    for name, content in contents.items():
        _write(folder / name, content)
    return sorted(folder / name for name in contents)


def _write(path: Path, content: bytes) -> None:
    """Make ``path`` hold ``content``, without a touch where it does already."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _pictures() -> dict[str, bytes]:
    """The content of each picture, by its name in the collection."""
    data = Path(require("skimage", extra="demo").__path__[0]) / "data"
    try:
        return {name: (data / source).read_bytes() for name, source in _PICTURES.items()}
    except FileNotFoundError as error:
        raise MissingExtraError(
            f"The installed scikit-image has no picture {Path(error.filename).name!r}. "
            "Version 0.26.0 has it: pip install 'scikit-image==0.26.0'"
        ) from error


def _packaged(kind: str) -> dict[str, bytes]:
    """The content of each data file of this package in the folder ``kind``, by its name."""
    folder = resources.files("llama_index_mm.demo") / "data" / kind
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith((".", "_"))}


def _meshes() -> dict[str, bytes]:
    """The content of a Wavefront OBJ file for each shape, by its name in the collection."""
    contents = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SHAPES.items():
            path = Path(folder) / f"{name}.obj"
            write_obj(path, *shape())
            contents[path.name] = path.read_bytes()
    return contents
