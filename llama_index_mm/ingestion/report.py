"""What became of the files of one run."""

from dataclasses import dataclass, field

from llama_index_mm.readers import Problem

__all__ = ["IngestReport"]


@dataclass
class IngestReport:
    """What became of the files of one run.

    Attributes:
        added: files that were read and stored.
        unchanged: files whose content was stored already.
        duplicates: files with the content of another file; they share its nodes.
        removed: files that are gone from disk and were taken out of the index.
        problems: files that could not be taken, with reasons.
        nodes: how many nodes were stored.
        seconds: that the run took.
    """

    added: int = 0
    unchanged: int = 0
    duplicates: int = 0
    removed: int = 0
    problems: list[Problem] = field(default_factory=list)
    nodes: int = 0
    seconds: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        parts = [f"{self.added} added ({self.nodes} nodes)", f"{self.unchanged} unchanged"]
        parts += [f"{self.duplicates} duplicates"] if self.duplicates else []
        parts += [f"{self.removed} removed"] if self.removed else []
        return ", ".join([*parts, f"{len(self.problems)} not taken"])
