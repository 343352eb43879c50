"""Tables for people and dictionaries for programs."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_index.core.schema import NodeWithScore
from rich.markup import escape
from rich.table import Table

from llama_index_mm.answers import Citation
from llama_index_mm.cli import output
from llama_index_mm.ingestion import IngestReport, ReembedReport
from llama_index_mm.nodes import PREFIX, AudioMedia, format_seconds, modality_of_node
from llama_index_mm.retrieval.reasons import reasons_of
from llama_index_mm.stores import CheckReport, NodeStore

__all__ = [
    "as_dict",
    "asked",
    "checked",
    "facts",
    "flow",
    "heading",
    "page",
    "reembedded",
    "report",
    "results",
    "sources",
    "store_facts",
    "text",
]

_TEXT = 160  # characters of a source's text


def _visible(text: str) -> str:
    """A text from outside, fit for a terminal: no markup, and control characters as escapes."""
    return escape(output.visible(text))


def _line(text: str) -> str:
    return escape(output.visible(text, ""))


def heading(message: str) -> None:
    """Head a part of longer output."""
    output.results().print(f"\n[bold]{_line(message)}[/bold]")


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
        output.results().print("Nothing found.")
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
            _short(told["text"], max(48, output.results().width - 60)),
        )
        table.add_row(*(_line(cell) for cell in cells), _visible(because))
    output.results().print(table)


def _short(text: str, most: int = _TEXT) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def asked(question: str) -> None:
    """Show a question, above its answer."""
    output.results().print(f"[bold]{_visible(question)}[/bold]")


def text(answer: str) -> None:
    """Show an answer as a whole."""
    output.results().print(_visible(answer.strip()))


def flow(pieces: Iterable[str]) -> str:
    """Show an answer as it comes; gives all of it."""
    made = ""
    for piece in pieces:
        output.write(output.visible(piece if made else piece.lstrip()))
        made += piece if made else piece.lstrip()
    output.write("\n")
    return made


def sources(cited: Sequence[Citation]) -> None:
    """Show the numbered sources of an answer."""
    for source in cited:
        output.results().print(f"  [cyan]{_line(str(source))}[/cyan]  [dim]{_line(_short(source.text))}[/dim]")


def page(
    path: Path, title: str, nodes: Sequence[NodeWithScore], *, asked_with: Path | None = None, answer: str | None = None
) -> None:
    """Write one page of results, with photos, players, and meshes to turn."""
    from llama_index_mm.display import Section, write_page

    write_page(path, [Section(title, nodes, asked_with, answer)], title=title)
    output.note(f"Wrote {path}")


def report(told: IngestReport) -> None:
    """Show what became of files."""
    output.results().print(str(told))
    for problem in told.problems:
        output.results().print(f"  [yellow]not taken[/yellow] {_line(problem.name)}: {_line(problem.reason)}")


def reembedded(told: ReembedReport) -> None:
    """Show what was done to each space."""
    output.results().print(_line(str(told)))
    for problem in told.problems:
        output.results().print(f"  [yellow]no vector[/yellow] {_line(problem.name)}: {_line(problem.reason)}")


def store_facts(store: NodeStore) -> dict[str, Any]:
    """What can be said of an index."""
    return {
        "folder": store.name,
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
    output.results().print(f"[bold]{_line(told['folder'])}[/bold]  preset {_line(str(told['preset']))}, {told['files']} files")
    output.results().print("nodes    " + (", ".join(f"{count} {name}" for name, count in told["nodes"].items()) or "none"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("space", "modality", "vectors", "dimension", "fingerprint", "index"):
        table.add_column(name, justify="right" if name in ("vectors", "dimension") else "left")
    for one in told["vectors"]:
        space = told["spaces"][one["space"]]
        row = (one["space"], one["modality"], one["count"], space["dimension"], space["fingerprint"], one["index"])
        table.add_row(*(_line(str(cell)) for cell in row))
    output.results().print(table)
    for one in told["not_taken"]:
        output.results().print(f"[yellow]not taken[/yellow] {_line(one['path'])}: {_line(one['reason'])}")


def checked(report: CheckReport) -> None:
    """Show whether a store is sound."""
    for problem in report.problems:
        output.results().print(f"[red]problem[/red] {_line(problem)}")
    verdict = "[green]sound[/green]" if report.ok else f"[red]{len(report.problems)} problems[/red]"
    output.results().print(f"{verdict}: {report.nodes} nodes, {report.vectors} vectors, {report.files} files read")
