"""Tables for people and dictionaries for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_index.core.schema import NodeWithScore
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llama_index_mm.answers import Citation
from llama_index_mm.ingestion import IngestReport, ReembedReport
from llama_index_mm.nodes import PREFIX, AudioMedia, format_seconds, modality_of_node
from llama_index_mm.retrieval.reasons import reasons_of
from llama_index_mm.stores import CheckReport, MediaStore

__all__ = ["answer", "as_dict", "checked", "error", "facts", "heading", "models", "note", "report", "results", "store_facts"]

_TEXT = 160  # characters of a source's text
_out = Console(highlight=False, soft_wrap=False)
_err = Console(stderr=True, highlight=False)


def error(message: str) -> None:
    """Say what went wrong, on standard error."""
    _err.print(f"[red]error:[/red] {escape(message)}")


def note(message: str) -> None:
    """Say something on the side, on standard error."""
    _err.print(f"[dim]{escape(message)}[/dim]")


def heading(message: str) -> None:
    """Head a part of longer output."""
    _out.print(f"\n[bold]{escape(message)}[/bold]")


def as_dict(found: NodeWithScore, rank: int) -> dict[str, Any]:
    """A result as plain data: rank, score, where it is from, its text and the reasons."""
    node = found.node
    span = (node.start, node.end) if isinstance(node, AudioMedia) else (None, None)
    return {
        "rank": rank,
        "score": found.score,
        "modality": modality_of_node(node),
        "file": node.metadata.get(PREFIX + "path") or node.metadata.get("file_path"),
        "start": span[0],
        "end": span[1],
        "language": node.metadata.get(PREFIX + "language"),
        "text": node.get_content(),
        "node_id": node.node_id,
        "document_id": node.ref_doc_id,
        "reasons": [asdict(reason) for reason in reasons_of(node)],
    }


def results(found: Sequence[NodeWithScore]) -> None:
    """Show results as a table."""
    if not found:
        _out.print("Nothing found.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, options in (
        ("#", {"justify": "right"}),
        ("score", {"justify": "right"}),
        ("kind", {}),
        ("file", {"overflow": "fold"}),
        ("span", {"no_wrap": True}),
        ("text", {"ratio": 2}),
        ("reason", {"ratio": 1, "style": "dim"}),
    ):
        table.add_column(name, **options)
    for rank, one in enumerate(found, 1):
        told = as_dict(one, rank)
        span = "" if told["start"] is None else f"{format_seconds(told['start'])}-{format_seconds(told['end'])}"
        because = "\n".join(
            f"{'not ' * reason.negative}{reason.part} in {reason.space} {reason.contribution:.2f}"
            for reason in reasons_of(one.node)
        )
        name = Path(told["file"]).name if told["file"] else told["node_id"]
        cells = (
            str(rank),
            f"{told['score']:.3f}",
            told["modality"],
            name,
            span,
            _short(told["text"], max(48, _out.width - 60)),
            because,
        )
        table.add_row(*(escape(cell) for cell in cells))
    _out.print(table)


def _short(text: str, most: int = _TEXT) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def answer(question: str, text: str, sources: Sequence[Citation]) -> None:
    """Show an answer and its numbered sources."""
    _out.print(f"[bold]{escape(question)}[/bold]")
    _out.print(escape(text.strip()))
    for source in sources:
        _out.print(f"  [cyan]{escape(str(source))}[/cyan]  [dim]{escape(_short(source.text))}[/dim]")


def _visible(text: str) -> str:
    """A text from outside, fit for a terminal: no markup, and control characters as escapes."""
    return escape("".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text))


def report(told: IngestReport) -> None:
    """Show what became of files."""
    _out.print(str(told))
    for problem in told.problems:
        _out.print(f"  [yellow]not taken[/yellow] {_visible(problem.name)}: {_visible(problem.reason)}")


def reembedded(told: ReembedReport) -> None:
    """Show what was done to each space."""
    _out.print(escape(str(told)))
    for problem in told.problems:
        _out.print(f"  [yellow]no vector[/yellow] {_visible(problem.name)}: {_visible(problem.reason)}")


def store_facts(store: MediaStore) -> dict[str, Any]:
    """What can be said of an index."""
    return {
        "folder": str(store.folder),
        "preset": store.meta("preset"),
        "nodes": store.counts(),
        "files": len(store.sources(status="indexed")),
        "spaces": {name: one._asdict() for name, one in store.spaces().items()},
        "vectors": [
            {
                "space": one.space,
                "modality": one.modality,
                "count": one.vectors,
                "index": str(one),
                "not_in_files": one.pending,
                "file_bytes": one.file_bytes,
                "approximate": asdict(one.approximate) if one.approximate else None,
            }
            for one in store.statistics()
        ],
        "not_taken": [{"path": one.path, "reason": one.reason} for one in store.sources(status="failed")],
    }


def facts(told: dict[str, Any]) -> None:
    """Show what can be said of an index."""
    _out.print(f"[bold]{escape(told['folder'])}[/bold]  preset {escape(str(told['preset']))}, {told['files']} files")
    _out.print("nodes    " + (", ".join(f"{count} {name}" for name, count in told["nodes"].items()) or "none"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("space", "modality", "vectors", "dimension", "fingerprint", "index"):
        table.add_column(name, justify="right" if name in ("vectors", "dimension") else "left")
    for one in told["vectors"]:
        space = told["spaces"][one["space"]]
        row = (one["space"], one["modality"], one["count"], space["dimension"], space["fingerprint"], one["index"])
        table.add_row(*(escape(str(cell)) for cell in row))
    _out.print(table)
    for one in told["not_taken"]:
        _out.print(f"[yellow]not taken[/yellow] {escape(one['path'])}: {escape(one['reason'])}")


def checked(report: CheckReport) -> None:
    """Show whether a store is sound."""
    for problem in report.problems:
        _out.print(f"[red]problem[/red] {escape(problem)}")
    verdict = "[green]sound[/green]" if report.ok else f"[red]{len(report.problems)} problems[/red]"
    _out.print(f"{verdict}: {report.nodes} nodes, {report.vectors} vectors, {report.files} files read")


def models(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Show the weights that there are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "download", "licence", "state", "does"):
        table.add_column(name, justify="right" if name == "download" else "left")
    for row in rows:
        state = "[green]here[/green]" if row["present"] else "not needed" if row["optional"] else "missing"
        table.add_row(row["name"], f"{row['download_bytes'] / 1e6:.0f} MB", row["licence"], state, escape(row["does"]))
    _out.print(table)
    _out.print(f"[dim]in {escape(str(folder))}[/dim]")
