"""What a contract test of a vector store found, and tables of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Level", "Status", "StoreCheck", "StoreReport", "compare_reports"]

Status = Literal["holds", "lacks", "wrong", "fails"]
Level = Literal["needed", "wanted", "told"]


@dataclass(frozen=True)
class StoreCheck:
    """One check, and how a store did.

    Attributes:
        name: of the check.
        status: ``holds``; ``lacks``: refused in clear words, `NotImplementedError`, or a promise that is not made; ``wrong``:
            another result than it should be, without a word; ``fails``: any other error.
        seen: a line of what was seen.
        level: ``needed`` for media search; ``wanted``: some queries need it; ``told``: for your information.
    """

    name: str
    status: Status
    seen: str
    level: Level


@dataclass(frozen=True)
class StoreReport:
    """How a vector store did in all checks.

    Attributes:
        store: class of the store.
        dimension: length of the vectors that were used.
        checks: in the order in which they were made.
    """

    store: str
    dimension: int
    checks: tuple[StoreCheck, ...]

    @property
    def against(self) -> tuple[StoreCheck, ...]:
        """Checks that stand against the store: a needed one does not hold, or a wanted one is wrong without a word."""
        return tuple(
            one
            for one in self.checks
            if (one.level == "needed" and one.status != "holds") or (one.level == "wanted" and one.status == "wrong")
        )

    @property
    def sound(self) -> bool:
        """Whether media of all modalities can be kept in it, found, filtered, replaced and deleted, and nothing is wrong."""
        return not self.against

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON knows it: ``store``, ``dimension``, ``sound``, and ``checks`` as dictionaries."""
        checks = [asdict(one) for one in self.checks]
        return {"store": self.store, "dimension": self.dimension, "sound": self.sound, "checks": checks}

    def markdown(self) -> str:
        """A table in Markdown, with a line of what it comes to above it."""
        rows = [(one.name, _mark(one), one.level, one.seen) for one in self.checks]
        return f"{self._sum()}\n\n{_table(('check', 'status', 'level', 'seen'), rows)}"

    def __str__(self) -> str:
        rows = [(one.name, one.status, one.level, one.seen) for one in self.checks]
        widths = [max(len(row[at]) for row in rows) if rows else 0 for at in range(3)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]
        return "\n".join([*lines, self._sum()])

    def _sum(self) -> str:
        holds = sum(one.status == "holds" for one in self.checks)
        verdict = "sound" if self.sound else f"not sound: {', '.join(one.name for one in self.against)}"
        return f"{self.store}: {holds} of {len(self.checks)} checks hold; {verdict}."


def compare_reports(reports: Mapping[str, StoreReport]) -> str:
    """A table in Markdown of several reports: a row for each check, a column for each store.

    Args:
        reports: by the name that heads the column.
    """
    by_check: dict[str, dict[str, StoreCheck]] = {}
    for name, report in reports.items():
        for one in report.checks:
            by_check.setdefault(one.name, {})[name] = one
    rows = []
    for check, told in by_check.items():
        level = next(iter(told.values())).level
        rows.append((check, level, *(_mark(told[name]) if name in told else "" for name in reports)))
    sums = ["yes" if report.sound else "no" for report in reports.values()]
    return _table(("check", "level", *reports), [*rows, ("**sound**", "", *sums)])


def _mark(check: StoreCheck) -> str:
    return check.status if check.status in ("holds", "lacks") else f"**{check.status}**"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
