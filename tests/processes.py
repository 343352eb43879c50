"""What tests that kill processes ask of them; on Linux."""

from pathlib import Path

__all__ = ["descendants", "is_alive"]


def descendants(pid):
    """Processes that a process started, and theirs."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, before = {pid}, set()
    while found != before:
        before = set(found)
        found |= {one for one, parent in parents.items() if parent in found}
    return found - {pid}


def is_alive(pid):
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
