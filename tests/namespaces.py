"""Several hosts on one machine: network namespaces, joined by a bridge in one more. Its own network stays as it is."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["Host", "Network", "why_not"]

_SECONDS = 20


@cache
def why_not():
    """Why there can be no namespaces here; empty if there can."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "needs Linux and the program ip (iproute2)"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    name = f"mm-try-{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=_SECONDS)
    if tried.returncode:
        return f"network namespaces can't be made: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


def _ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=_SECONDS).stdout


@dataclass
class Host:
    """One namespace.

    Attributes:
        name: of the namespace.
        address: its IPv4 address.
        folder: in place of /tmp/ray, for what runs there.
    """

    name: str
    address: str
    folder: Path
    _started: list = field(default_factory=list)

    def start(self, *command, **options):
        """Start a program there."""
        script = 'mkdir -p /tmp/ray && mount --bind "$0" /tmp/ray && exec "$@"'  # in a mount namespace of its own
        line = ["ip", "netns", "exec", self.name, "sh", "-c", script, self.folder, *command]
        process = subprocess.Popen(list(map(str, line)), start_new_session=True, **options)
        self._started.append(process)
        return process

    def pids(self):
        """Processes that run there."""
        return [int(one) for one in _ip("netns", "pids", self.name).split()]

    def kill(self):
        """Kill everything that runs there, as a power failure does."""
        deadline = time.monotonic() + _SECONDS
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
        for process in self._started:
            process.wait(_SECONDS)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


class Network:
    """Hosts that reach one another, and nothing else.

    Args:
        folder: for what the hosts keep apart.

    Example:
        >>> with Network(tmp_path) as network:
        ...     network.host("head").start("hostname", "-I")
    """

    def __init__(self, folder):
        self._folder = Path(folder)
        self._key = secrets.token_hex(3)
        self._switch = f"mm-{self._key}-switch"
        self.hosts = {}

    def __enter__(self):
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        return self

    def host(self, name):
        """Add a host."""
        number = len(self.hosts) + 1
        folder = self._folder / name
        folder.mkdir(parents=True)
        made = Host(f"mm-{self._key}-{name}", f"10.88.0.{number}", folder)
        _ip("netns", "add", made.name)
        self.hosts[name] = made
        port = f"port{number}"
        _ip("-n", made.name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", made.name, "addr", "add", f"{made.address}/24", "dev", "eth0")
        _ip("-n", made.name, "link", "set", "eth0", "up")
        _ip("-n", made.name, "link", "set", "lo", "up")
        return made

    def __exit__(self, *_):
        for host in self.hosts.values():
            host.kill()
            _ip("netns", "del", host.name)
        _ip("netns", "del", self._switch)
