"""What holds for every command: options, streams, exit statuses, pipes, signals, locales, completion."""

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from llama_index_mm import __version__
from llama_index_mm.cli import app, options, output
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.ingestion import IngestReport, ReembedReport
from llama_index_mm.media import MODALITIES
from llama_index_mm.media.files import INDEX_FILE
from llama_index_mm.models import MODELS
from llama_index_mm.presets import PRESETS
from llama_index_mm.retrieval import Fusion
from llama_index_mm.testing import tiny_preset

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
COMMANDS = [
    "align",
    "ask",
    "calibrate",
    "check",
    "check-store",
    "compact",
    "copy",
    "demo",
    "evaluate",
    "info",
    "ingest",
    "map",
    "mcp",
    "merge",
    "models/list",
    "models/path",
    "models/pull",
    "optimize",
    "presets",
    "reembed",
    "repair",
    "search",
    "serve",
    "train-gcn",
]
STORED = {
    "ask",
    "calibrate",
    "check",
    "compact",
    "evaluate",
    "info",
    "ingest",
    "map",
    "mcp",
    "merge",
    "optimize",
    "reembed",
    "repair",
}
STORED |= {"search", "serve"}
WORDS = "größe 大"
runner = CliRunner()


def leaves(command, *names):
    if not hasattr(command, "commands"):
        return {"/".join(names): command}
    return {name: leaf for key, one in command.commands.items() for name, leaf in leaves(one, *names, key).items()}


LEAVES = leaves(typer.main.get_command(app))


def flags(command):
    return {flag for param in LEAVES[command].params for flag in getattr(param, "opts", ())}


def test_the_table_has_all_commands():
    assert sorted(LEAVES) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command(command):
    told = flags(command)
    assert told.issuperset({"--store", "-s"}) == (command in STORED)
    assert {"--json", "--quiet", "-q"} <= told
    for flag in ("--help", "-h"):
        shown = runner.invoke(app, [*command.split("/"), flag])
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert "Usage: " in shown.stdout
    wrong = runner.invoke(app, [*command.split("/"), "--no-such-option"])
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "--no-such-option" in wrong.stderr


def test_names_are_those_of_the_package():
    assert MODALITIES == options.MODALITY_NAMES
    assert sorted(get_args(options.FusionName)) == sorted(get_args(Fusion))
    assert tuple(PRESETS) == options.PRESET_NAMES
    assert INDEX_FILE == options.STORE_FILE


def test_nothing_heavy_is_imported_with_a_command():
    """So that help and completion come at once; what a command needs, it imports when it runs."""
    for path in Path(options.__file__).parent.glob("*.py"):
        tops = [
            node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {one.module if isinstance(one, ast.ImportFrom) else one.names[0].name for one in tops}
        own = {name for name in names if name.startswith("llama_index") and not name.startswith("llama_index_mm.cli")}
        assert path.name == "show.py" or own <= {"llama_index_mm", "llama_index_mm.errors"}


# -- documentation --------------------------------------------------------------------------------------------------------


def documented(title):
    """Names in code in a part of the page."""
    page = DOCS.read_text(encoding="utf-8")
    part = page[page.index(f"### {title}\n") :].split("\n###")[0]
    return set(re.findall(r"`([a-z_]+)`", part))


def test_every_command_is_documented():
    rows = re.findall(r"^\| `([a-z -]+?)(?: \[?[A-Z\]].*)?` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(row.strip().replace(" ", "/") for row in rows) == COMMANDS


def test_exit_statuses_are_documented():
    page = DOCS.read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \|", page, re.MULTILINE) == ["0", "1", "2", "130", str(output.PIPE_CLOSED)]


# -- in this process ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(make_once):
    make_once.text("files/große.txt", f"A boat of {WORDS}.")
    make_once.text("files/evil\x1b[31m[bold].txt", "A boat \x1b]0;owned\x07 here.")
    make_once.picture("files/red.png", "red")
    with MultiModalIndex.open(make_once.folder / "index", preset=tiny_preset(), create=True) as index:
        assert index.ingest(make_once.folder / "files", num_workers=0).problems == []
    return make_once.folder


@pytest.fixture
def tiny(monkeypatch):
    """The command takes the preset from its name in the index; this one is not among those that are known by name."""
    monkeypatch.setattr("llama_index_mm.index.load_preset", tiny_preset)


def call(*args, code=0, **options):
    result = runner.invoke(app, [str(arg) for arg in args], catch_exceptions=False, **options)
    assert result.exit_code == code, result.output
    return result


def test_documented_fields(home, tiny, tmp_path):
    store = home / "index"
    (one,) = json.loads(call("search", "boat", "-k", 1, "-s", store, "--json").stdout)
    assert {*one, *one["reasons"][0]} == documented("search")
    told = json.loads(call("info", "-s", store, "--json").stdout)
    assert {*told, *told["vectors"][0], "path", "reason"} == documented("info")
    assert set(json.loads(call("check", "-s", store, "--json").stdout)) == documented("check")
    assert {*json.loads(call("compact", "-s", store, "--json").stdout)} == {"bytes_before", "bytes_after"}
    model = next(iter(MODELS))
    listed = json.loads(call("models", "list", "--json").stdout)
    path = json.loads(runner.invoke(app, ["models", "path", model, "--json"]).stdout)
    assert {*listed[0], *path, "list", "path"} == documented("models")
    assert {one.name for one in fields(IngestReport)} | {"path", "reason"} == documented("ingest")
    assert {one.name for one in fields(ReembedReport)} | {"ingest"} == documented("reembed")
    calibrated = json.loads(call("calibrate", store, "--json").stdout)
    assert "channels" in calibrated
    copied = json.loads(call("copy", store, tmp_path / "copy", "--json").stdout)
    assert {*copied, *copied["target"]} == documented("copy")
    assert (copied["ok"], copied["source"]) == (True, copied["target"])
    again = call("copy", store, tmp_path / "copy", "-q").stdout.splitlines()
    assert again[0].startswith("3 nodes, 3 files, vectors: ")
    assert again[1].startswith("0 copied, 0 removed, ")
    assert again[2] == f"the same in both, digest {copied['target']['digest']}"


def test_only_a_folder_is_repaired(tmp_path):
    for command in ("repair", "compact"):
        refused = runner.invoke(app, [command, "-s", "postgresql://nowhere/db"])
        assert refused.exit_code == 2
        assert "Expected a folder" in refused.stderr


def test_a_map(home, tiny, tmp_path):
    pytest.importorskip("matplotlib")
    done = call("map", "text", "-s", home / "index", "--out", tmp_path / "map.svg", "--json", "--quiet")
    told = json.loads(done.stdout)
    assert {*told, *told["points"][0]} == documented("map")
    assert (told["picture"], done.stderr) == (str(tmp_path / "map.svg"), "")


def test_nothing_found_is_done(home, tiny):
    nothing = ["search", "boat", "-m", "mesh", "-s", home / "index"]
    assert json.loads(call(*nothing, "--json").stdout) == []
    assert call(*nothing).stdout == "Nothing found.\n"


def test_words_from_standard_input(home, tiny):
    given = ["search", "-", "-s", home / "index", "--json"]
    assert call(*given, input=f" {WORDS}\n").stdout == call("search", WORDS, *given[2:]).stdout
    assert "Expected words on standard input, got none." in call(*given, input=" \n", code=2).stderr


def test_control_characters_are_not_given_to_the_terminal(home, tiny):
    shown = call("search", "boat", "-m", "text", "-s", home / "index", env={"COLUMNS": "200"}).stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert r"evil\x1b[31m[bold].txt" in shown
    assert r"\x1b]0;owned\x07" in shown


def test_the_index_by_argument_and_by_option(home, tiny, tmp_path, monkeypatch):
    store = home / "index"
    (tmp_path / "judged.csv").write_text("query,relevant\nboat,red.png\n", encoding="utf-8")
    judged = tmp_path / "judged.csv"
    for before, after in (([store], []), ([], ["--store", store]), ([store], ["-s", store])):
        assert "channels" in json.loads(call("calibrate", *before, *after, "--json").stdout)
        assert json.loads(call("evaluate", *before, judged, *after, "--json").stdout)["overall"]["queries"] == 1
    monkeypatch.setenv("LLAMA_INDEX_MM_STORE", str(tmp_path / "none"))
    assert json.loads(call("evaluate", store, judged, "--json").stdout)["overall"]["queries"] == 1
    assert "Expected one index, got" in call("calibrate", store, "-s", tmp_path, code=2).stderr
    assert "Expected one index, got" in call("evaluate", store, judged, "-s", tmp_path, code=2).stderr
    call("evaluate", store, judged, judged, code=2)


def test_damage_is_exit_status_1(home, tmp_path):
    shutil.copytree(home / "index", tmp_path / "index")
    for file in (tmp_path / "index" / "faiss").glob("*.vectors.npy"):
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    done = call("check", "-s", tmp_path / "index", "--json", code=1)
    assert json.loads(done.stdout)["ok"] is False
    assert json.loads(call("repair", "-s", tmp_path / "index", "--json").stdout)["ok"] is True


@pytest.mark.parametrize(
    "args", [["search", "x", "-m", "video"], ["ask", "x", "-m", "video"], ["optimize", "x", "-m", "video"]]
)
def test_unknown_modalities_are_a_wrong_call(args):
    assert "video" in call(*args, code=2).stderr


def test_unknown_fusions_are_a_wrong_call():
    assert "convex" in call("search", "x", "--fusion", "sum", code=2).stderr


def test_mcp_has_no_address_on_stdio():
    assert "On stdio there is no address" in " ".join(call("mcp", "--json", code=2).stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": float("nan"), "b": [float("inf"), (1.5, Path("x"))]}, {"a": None, "b": [None, [1.5, "x"]]}),
        ([True, None, "é", {1: {"z"}}], [True, None, "é", {"1": ["z"]}]),
    ],
)
def test_json_is_plain(value, expected, capsys):
    output.print_json(value)
    assert json.loads(capsys.readouterr().out) == expected


# -- real processes -------------------------------------------------------------------------------------------------------

MAIN = "from llama_index_mm.cli import main; main()"
TINY = (
    "import llama_index_mm.index as index; from llama_index_mm.testing import tiny_preset; index.load_preset = tiny_preset\n"
    + MAIN
)
HEAVY = (
    "import atexit, sys\n"
    "atexit.register(lambda: sys.stderr.write(repr(sorted({'numpy', 'torch', 'llama_index', 'PIL'} & {*sys.modules}))))\n"
)
NEUTRAL = {
    key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS")
}


def process(*args, code=MAIN, **more):
    env = {**NEUTRAL, **more.pop("env", {})}
    command = [sys.executable, "-c", code, *(str(arg) for arg in args)]
    return subprocess.run(command, check=False, env=env, timeout=120, **({"capture_output": True} | more))


def test_version():
    done = process("--version", code=HEAVY + MAIN)
    assert (done.returncode, done.stdout.decode()) == (0, f"llama-index-mm {__version__}\n")
    assert done.stderr == b"[]"


@pytest.mark.parametrize("args", [["--help"], ["search", "--help"]])
def test_help_imports_nothing_heavy(args):
    done = process(*args, code=HEAVY + MAIN)
    assert (done.returncode, done.stderr) == (0, b"[]")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cali", ["calibrate"]),
        ("search --fusion ", ["convex", "distribution_based", "maximum", "reciprocal_rank"]),
        ("search --modality m", ["mesh"]),
        ("ingest --preset offline", ["offline", "offline-en"]),
        ("ask --invented s", ["strip"]),
        ("optimize --store {store} ", ["picture", "sound", "text"]),
        ("reembed --store {store} --space s", ["sound"]),
        ("optimize --store {store}/none ", []),
    ],
)
def test_completion(home, line, expected):
    words = f"llama-index-mm {line.format(store=home / 'index')}"
    env = {"_LLAMA_INDEX_MM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = process(code=HEAVY + MAIN, env=env)
    assert (done.stdout.decode().split(), done.stderr) == (expected, b"[]")


def test_completion_can_be_installed():
    done = process("--show-completion", "bash", env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert done.returncode == 0
    assert b"_LLAMA_INDEX_MM_COMPLETE=complete_bash" in done.stdout


@posix
@pytest.mark.parametrize("args", [["models", "list", "--json"], ["models", "list"], ["--version"]])
def test_nobody_reads_on(args):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = process(*args, stdout=writing, capture_output=False, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (output.PIPE_CLOSED, b"")


@posix
def test_through_head():
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{MAIN}" models list --json | head -1'],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (b"[\n", b"")


@posix
def test_ctrl_c():
    # What a shell runs in the background ignores SIGINT, and so do its children.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; import sys; from llama_index_mm.cli import main; sys.stderr.write('ready\\n'); sys.stderr.flush(); main()"
    command = [sys.executable, "-c", code, "search", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stderr.readline() == b"ready\n"
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, b"", b"")


def test_errors_are_one_line():
    name = "long " * 40 + "\x1b[31m\nname"
    done = process("models", "path", name)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: ")
    assert (done.stderr.count(b"\n"), done.stderr.count(b"long"), done.stderr.count(b"\x1b")) == (1, 40, 0)


def test_names_that_are_no_utf8():
    code = "from llama_index_mm.cli import output; output.setup(); output.print_json({'é': chr(0xDCFF)}, lines=True)"
    done = process(code=code)
    assert done.stdout == b'{"\xc3\xa9": "\\udcff"}\n'
    assert json.loads(done.stdout) == {"é": "\udcff"}


def test_a_locale_without_letters(home):
    env = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = process("search", WORDS, "-m", "text", "-k", 1, "-s", home / "index", "--json", code=TINY, env=env)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout.decode("utf-8"))
    assert (found["text"], Path(found["file"]).name) == (f"A boat of {WORDS}.", "große.txt")
    assert WORDS.encode() in done.stdout  # as itself, not as escapes


@posix
@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal(env, coloured):
    import pty

    ours, theirs = pty.openpty()
    try:
        done = process("models", "path", "none", stderr=theirs, capture_output=False, env={"TERM": "xterm", **env})
        shown = os.read(ours, 65536)
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 1
    assert (b"\x1b[31m" in shown) == coloured
    assert b"error:" in shown


def test_no_colours_in_pipes():
    for args in (["models", "path", "none"], ["models", "list"]):
        done = process(*args, env={"TERM": "xterm-256color"})
        assert b"\x1b" not in done.stdout + done.stderr


@posix
def test_mcp_prints_its_address_as_json(home):
    pytest.importorskip("mcp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ["mcp", "--transport", "http", "--port", str(port), "--json", "-s", str(home / "index")]
    command = [sys.executable, "-c", TINY, *given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        line = child.stdout.readline()
        child.terminate()
    assert json.loads(line) == {"address": f"http://127.0.0.1:{port}/mcp", "token": None}
    assert documented("mcp") == {"address", "token"}
