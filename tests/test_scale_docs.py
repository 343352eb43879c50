"""The commands and examples of docs/scale.md name what there is."""

import ast
import re
import shlex
from dataclasses import fields
from pathlib import Path

import typer

import llama_index_mm
from llama_index_mm.cli import app
from llama_index_mm.ingestion.ray_options import RayOptions
from llama_index_mm.stores.milvus import milvus_stores

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_commands():
    commands = typer.main.get_command(app).commands
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("llama-index-mm")]
    assert len(lines) >= 4
    for line in lines:
        _, name, *rest = shlex.split(line, comments=True)
        known = {flag for param in commands[name].params for flag in param.opts}
        assert {one for one in rest if one.startswith("--")} <= known, line


def test_examples():
    trees = [ast.parse(block) for block in blocks("python")]
    assert len(trees) >= 3
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    options = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "RayOptions"]
    assert options
    for call in options:
        assert {one.arg for one in call.keywords} <= {one.name for one in fields(RayOptions)}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "llama_index_mm":
                assert {one.name for one in node.names} <= set(llama_index_mm.__all__)
    assert callable(milvus_stores)


def test_links():
    docs = Path(__file__).parents[1] / "docs"
    for target, anchor in re.findall(r"\]\((\w[\w.-]*\.md)?(?:#([\w-]+))?\)", PAGE):
        page = (docs / target).read_text(encoding="utf-8") if target else PAGE
        titles = [
            re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in page.splitlines() if line[:1] == "#"
        ]
        assert not anchor or anchor in titles, (target, anchor)
