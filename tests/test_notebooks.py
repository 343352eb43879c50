"""The notebooks run from top to bottom, show media, and are kept with outputs that people can look at."""

import html
import importlib.util
import os
import re
from pathlib import Path

import pytest

import llama_index_mm

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 900  # for one cell, on a machine that is busy with other things
MOST_BYTES = 1_500_000  # of a notebook
SHOWS = {
    "1_quickstart": {"photo", "player", "mesh", "answer"},
    "2_podcast_search": {"player", "answer"},
    "3_3d_catalogue": {"photo", "mesh", "picture"},
    "4_spaces_and_stores": {"photo", "plot", "map", "table"},
    "5_align_a_new_modality": {"photo", "player", "plot", "table"},
    "6_agents": {"photo", "player", "mesh", "answer"},
}
"""What each notebook shows at least."""

NEEDS = {"4_spaces_and_stores": ("matplotlib",), "5_align_a_new_modality": ("matplotlib",), "6_agents": ("mcp",)}
"""Packages that a notebook needs beside the extra ``demo``."""

SEEN = {
    "photo": r'<img src="data:image/jpeg;base64,[^"]{1000,}" alt="(Picture |Asked with: )',
    "player": r'<audio (?=[^>]*controls)[^>]*src="data:audio/|<source src="data:audio/wav;base64,[^"]{1000,}',
    "mesh": r'<div class="turn" data-mesh="[^"]{1000,}',
    "answer": r'<div class="answer">',
    "map": r"<circle ",
    "table": r"<th>R@1</th>",
}
"""How kinds of media look in HTML, within frames, too."""

PRIVATE = re.compile(r"(?<![\w.:/])/(?:tmp|home|root|work|Users|private|var|mnt)/[\w.]|[A-Z]:\\\\Users|file://")


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kind_of(output):
    """What an output is: a stream, or the richest form in which it is shown."""
    if output.output_type == "stream":
        return output.name
    if output.output_type == "error":
        return "error"
    best = next((one for one in ("text/html", "image/png", "image/jpeg") if one in output.data), "text/plain")
    return f"frame {best}" if "<iframe" in output.data.get("text/html", "") else best


def kinds(cell):
    """Kinds of the outputs of a cell; a stream that came in pieces counts once."""
    found = [kind_of(output) for output in cell.outputs]
    return [one for at, one in enumerate(found) if at == 0 or one != found[at - 1] or one not in ("stdout", "stderr")]


def shown(notebook):
    """Which kinds of media the outputs hold."""
    out = set()
    for output in (output for cell in code(notebook) for output in cell.outputs if "data" in output):
        markup = output.data.get("text/html", "")
        frames = [html.unescape(frame) for frame in re.findall(r'<iframe srcdoc="([^"]*)"', markup)]
        out |= {kind for kind, mark in SEEN.items() if any(re.search(mark, one) for one in (markup, *frames))}
        if len(output.data.get("image/png", "")) > 1000:
            out |= {"plot", "picture"}
    return out


def told(notebook):
    """All text of the outputs, without media."""
    pieces = []
    for output in (output for cell in code(notebook) for output in cell.outputs):
        pieces += [output.get("text", ""), *(text for mime, text in output.get("data", {}).items() if mime.startswith("text/"))]
    return re.sub(r'data:\w+/[\w.+-]+;base64,[\w+/=\s]+|data-mesh="[^"]*"', "", html.unescape(html.unescape("\n".join(pieces))))


def test_all_are_here():
    assert [path.stem for path in PATHS] == list(SHOWS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_is_kept(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert path.stat().st_size < MOST_BYTES
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert not any(cell.metadata for cell in notebook.cells)  # no times, no tags
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert not {"error", "stderr"} & {kind for cell in code(notebook) for kind in kinds(cell)}
    assert shown(notebook) >= SHOWS[path.stem]
    # A path gets in by the plain text of a result that ends a cell: take the text/plain out of that output.
    assert PRIVATE.findall(told(notebook)) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_its_sources_are_read_by_people(path):
    notebook = read(path)
    assert 10 <= len(notebook.cells) <= 26
    assert notebook.cells[0].cell_type == "markdown"
    assert max(len(line) for cell in notebook.cells for line in cell.source.splitlines()) <= 145
    assert "%load_ext llama_index_mm" in code(notebook)[0].source
    sources = "\n".join(cell.source for cell in notebook.cells)
    assert PRIVATE.findall(sources) == []
    root = FOLDER.parent
    assert [name for name in re.findall(r"`(docs/[\w.-]+)`", sources) if not (root / name).is_file()] == []
    assert [name for name in re.findall(r"\]\(([\w.-]+\.ipynb)\)", sources) if not (FOLDER / name).is_file()] == []


@pytest.mark.weights
@pytest.mark.skipif(importlib.util.find_spec("ipykernel") is None, reason="needs ipykernel")
@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs scikit-image")
# What Jupyter's own client says of its connection and its loops.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning:zmq")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    for package in NEEDS.get(path.stem, ()):
        pytest.importorskip(package)
    package = Path(llama_index_mm.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # nobody's own settings
    kept, ran = read(path), read(path)
    for cell in code(ran):
        cell.outputs, cell.execution_count = [], None
    work = tmp_path / "work"
    work.mkdir()
    client = nbclient.NotebookClient(
        ran, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(work)}}, record_timing=False
    )
    client.execute()  # an error in a cell is raised here, with its traceback
    said = [output.text for cell in code(ran) for output in cell.outputs if output.get("name") == "stderr"]
    assert said == []
    assert shown(ran) >= SHOWS[path.stem]
    assert [(cell.id, kinds(cell)) for cell in code(ran)] == [(cell.id, kinds(cell)) for cell in code(kept)]
    assert sorted(work.iterdir()) == []  # all that it wrote went with its temporary folder
