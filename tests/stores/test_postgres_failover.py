"""A PostgreSQL server is killed while it is written to, and its standby takes over: nothing that was acknowledged is lost."""

import asyncio
import itertools
import os
import random
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
from postgres_server import PostgresServer, free_port, postgres_server, wait_until
from stored import vectors_in

from llama_index_mm.errors import StoreError
from llama_index_mm.nodes import AudioMedia, ImageMedia
from llama_index_mm.retrieval import FusionRetriever
from llama_index_mm.stores import MediaStore, Record, Source
from llama_index_mm.stores.postgres import PostgresStore
from llama_index_mm.testing import tiny_preset

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
]
psycopg2 = pytest.importorskip("psycopg2")

SPACES = tiny_preset().spaces
WORDS = ("red", "boat", "oar", "tide", "rope", "sail", "gull", "pier")
ASKED = ("a red boat", "the gull on the pier", "rope and sail")
EACH = 8  # nodes of a batch
SEED = 3
PATIENCE = 120  # seconds; the test looks at the standby for some of them before it takes over
SETTINGS = {
    "dynamic_shared_memory_type": "mmap",  # in the data folder, which is removed
    "wal_retrieve_retry_interval": "200ms",
}
WAITING = (  # somebody has committed and is not told yet, and the walsender has sent all there is
    "SELECT count(*) FROM pg_stat_activity, pg_stat_replication "
    "WHERE wait_event = 'SyncRep' AND backend_type = 'client backend' AND sent_lsn {} pg_current_wal_flush_lsn()"
)
BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
SENT = "SELECT replay_lsn = pg_current_wal_flush_lsn() FROM pg_stat_replication"


# -- what is written ---------------------------------------------------------------------------------------------------


def record(name, text, doc, **metadata):
    """A text, a picture or a recording, in all spaces that can hold it."""
    random = np.random.default_rng([ord(one) for one in name + text])
    kind = int(name.rpartition("-")[2]) % 4
    source = RelatedNodeInfo(node_id=doc)
    vectors = {"text": SPACES[0].encoders["text"].encode([text])[0]}
    if kind < 2:
        node = TextNode(id_=name, text=text, metadata=metadata, relationships={NodeRelationship.SOURCE: source})
        return Record(node, vectors)
    made, ending, space = (ImageMedia, "png", "picture") if kind == 2 else (AudioMedia, "wav", "sound")
    node = made.create(f"/files/{name}.{ending}", digest="0" * 64, id_=name, text=text, source=source, metadata=metadata)
    return Record(node, {**vectors, space: random.normal(size=32).astype(np.float32)})


def text_of(batch, at):
    return f"{WORDS[(batch + at) % len(WORDS)]} {WORDS[(batch * at) % len(WORDS)]} of batch{batch} number{at}"


def batch(number):
    """What `add` is given: records, notes, and the documents that go.

    Every third batch replaces the document of the one before, of which half the nodes come again with other texts.
    """
    doc = f"d{number}"
    if not number:
        kept = [record(f"kept-{at}", f"{text_of(number, at)} red boat", doc, kind="kept", batch=0) for at in range(3 * EACH)]
        return kept, [Source("/files/kept", "0" * 64, "indexed", "", doc)], []
    records = [record(f"b{number}-{at}", text_of(number, at), doc, kind="new", batch=number) for at in range(EACH)]
    sources = [Source(f"/files/{doc}", f"{number:064x}", "indexed", "", doc)]
    if number % 5 == 0:
        sources.append(Source("/files/broken", "", "failed", f"seen by batch {number}"))
    if number % 3 != 2:
        return records, sources, []
    before = number - 1
    again = [record(f"b{before}-{at}", f"again {text_of(before, at)}", f"d{before}", kind="again") for at in range(0, EACH, 2)]
    return [*again, *records], [*sources, Source(f"/files/d{before}", "1" * 64, "indexed", "", f"d{before}")], [f"d{before}"]


def lasting(number):
    """The last batch up to one that no later one replaces."""
    return number - 1 if number % 3 == 1 else number


def seen(store):
    """All there is, without the numbers of the nodes, which differ."""
    nodes = store.nodes(store.find().tolist())
    return {
        "nodes": [(one.node_id, type(one), one.to_dict()) for one in nodes.values()],  # in the order of adding
        "vectors": vectors_in(store),
        "counts": (len(store), store.counts(), store.partitions(), store.spaces()),
        "sources": store.sources(),
    }


def declare(store):
    for space in SPACES:
        store.declare_space(space.name, space.dimension, space.fingerprint)


class Twin:
    """A store in a folder that is given the same batches: what must be there."""

    def __init__(self, folder):
        self.store = MediaStore(folder)
        declare(self.store)
        self._next = 0

    def seen(self, number):
        """All there is once a batch is in."""
        assert self._next <= number + 1
        for one in range(self._next, number + 1):
            self.store.add(*batch(one))
        self._next = number + 1
        return seen(self.store)


def write(address, log):
    """Add batches until the input ends; note each once `add` has returned, and when that was."""
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with PostgresStore(address, patience=PATIENCE) as store:
        for number in itertools.count(1):
            if select.select([sys.stdin], [], [], 0.01)[0]:
                return
            store.add(*batch(number))
            os.write(out, f"{number} {time.monotonic()}\n".encode())
            os.fsync(out)


class Writer:
    """A process of its own that adds batches."""

    def __init__(self, address, log):
        self._log = log
        here = Path(__file__)
        paths = os.pathsep.join([str(here.parent), str(here.parent.parent), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys, {here.stem} as it; it.write(*sys.argv[1:])", address, str(log)],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def noted(self):
        """What was acknowledged, and when."""
        whole, _, _ = self._log.read_bytes().rpartition(b"\n") if self._log.exists() else (b"", b"", b"")
        return [(int(number), float(when)) for number, when in (line.split() for line in whole.splitlines())]

    def acknowledged(self):
        """The last batch of which `add` has returned."""
        noted = self.noted()
        return noted[-1][0] if noted else 0

    def wait_for(self, more):
        """Wait until so many more batches are in."""
        goal = self.acknowledged() + more
        wait_until(lambda: self.acknowledged() >= goal or self._process.poll() is not None)
        assert self._process.poll() is None

    def stop(self):
        self._process.stdin.close()
        return self._process.wait(60)

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()


# -- who reads meanwhile -----------------------------------------------------------------------------------------------


def ranking(found):
    return [(one.node.node_id, one.score) for one in found]


def kept(**options):
    return {"filters": MetadataFilters(filters=[MetadataFilter(key="kind", value="kept")]), **options}


@dataclass
class Reader:
    """Asks a retriever again and again, and keeps what it was told.

    Attributes:
        wrong: answers that were not right.
        failed: when a question was asked, when it failed, and how.
        answered: when answers came.
    """

    store: PostgresStore
    writer: Writer
    wrong: list = field(default_factory=list)
    failed: list = field(default_factory=list)
    answered: list = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        # Ranks among what is kept do not change when more comes, so neither do the scores.
        self.retriever = FusionRetriever(self.store, SPACES, similarity_top_k=6, fusion="reciprocal_rank", **kept())
        self.vectors = self.store.vector_store("text")
        self.expected = {asked: ranking(self.retriever.retrieve(asked)) for asked in ASKED}
        self.nearest = {asked: self.told(self.vectors.query(self.query(asked))) for asked in ASKED}
        assert all(len(found) == 6 for found in self.expected.values())

    @staticmethod
    def query(asked, **filters):
        wanted = [MetadataFilter(key=key, value=value) for key, value in (filters or {"kind": "kept"}).items()]
        vector = SPACES[0].encoders["text"].encode([asked])[0]
        return VectorStoreQuery(vector.tolist(), similarity_top_k=6, filters=MetadataFilters(filters=wanted))

    @staticmethod
    def told(result):
        return list(zip(result.ids, result.similarities, strict=True))

    def newest(self):
        """The text of something that was acknowledged, who holds it, and a retriever among its batch."""
        number = lasting(self.writer.acknowledged())
        among = MetadataFilters(filters=[MetadataFilter(key="batch", value=number)])
        one = FusionRetriever(self.store, SPACES, similarity_top_k=1, modalities=["text"], filters=among)
        return text_of(number, 1), f"b{number}-1", number, one

    def check(self, what, told, expected):
        if told != expected:
            self.wrong.append((what, told, expected))

    def ask(self, asked):
        self.check(asked, ranking(self.retriever.retrieve(asked)), self.expected[asked])
        text, name, number, retriever = self.newest()
        if number:
            self.check(text, [one.node.node_id for one in retriever.retrieve(text)], [name])

    async def aask(self, asked):
        self.check(asked, ranking(await self.retriever.aretrieve(asked)), self.expected[asked])
        self.check(asked, self.told(await self.vectors.aquery(self.query(asked))), self.nearest[asked])
        text, name, number, retriever = self.newest()
        if number:
            self.check(text, [one.node.node_id for one in await retriever.aretrieve(text)], [name])
            self.check(text, (await self.vectors.aquery(self.query(text, batch=number))).ids[0], name)

    def run(self):
        """Ask until it is enough."""
        for asked in itertools.cycle(ASKED):
            with self.timed():
                self.ask(asked)
            if self.stopped.wait(0.03):
                return

    def run_async(self):
        """Ask until it is enough, in an event loop."""

        async def work():
            for asked in itertools.cycle(ASKED):
                with self.timed():
                    await self.aask(asked)
                await asyncio.sleep(0.03)
                if self.stopped.is_set():
                    return

        asyncio.run(work())

    @contextmanager
    def timed(self):
        start = time.monotonic()
        try:
            yield
            self.answered.append(time.monotonic())
        except Exception as error:
            self.failed.append((start, time.monotonic(), error))


def longest(times):
    return max(after - before for before, after in itertools.pairwise(times))


# -- two servers -------------------------------------------------------------------------------------------------------


@contextmanager
def pair(**options):
    """A server and its standby, and the address of both. The options are of the first."""
    with ExitStack() as stack:
        first = stack.enter_context(postgres_server(settings=SETTINGS, **options))
        folder = Path(tempfile.mkdtemp(prefix="mm-pg-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        second = PostgresServer(folder, port=free_port(), settings=SETTINGS)
        stack.callback(second.stop, "immediate")
        second.follow(first)
        hosts = f"{first.host}:{first.port},{second.host}:{second.port}"
        yield first, second, f"postgresql://postgres:{first.password}@{hosts}/postgres?target_session_attrs=read-write"


def wait_for_standby(server):
    """Let the server acknowledge nothing from now on that its standby does not have."""
    server.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
    server.ask("SELECT pg_reload_conf()")
    wait_until(lambda: server.ask("SELECT state, sync_state FROM pg_stat_replication") == ["streaming|sync"])


def take_over(standby):
    """What an operator, or a program such as Patroni, does once the server is surely gone."""
    standby.ask("ALTER SYSTEM RESET synchronous_standby_names")  # nobody follows it yet
    standby.ask("SELECT pg_reload_conf()")
    standby.promote()


def has_replayed(standby):
    """Whether it has applied all that it was sent by a server that is gone, and waits for more."""
    # The last position that it received says nothing: it may be in the middle of a record.
    sql = "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'"
    return standby.ask(sql) == ["RecoveryRetrieveRetryInterval"]


def lose(server):
    """Kill a server; gives when."""
    now = time.monotonic()
    server.kill()
    return now


def kill_sometime(primary, standby, chance):
    """At no moment in particular; mostly inside a transaction."""
    time.sleep(chance.uniform(0, 0.4))
    return lose(primary)


def kill_before_it_is_sent(primary, standby, chance):
    """When a commit is on the disk of the primary, and on its way nowhere."""
    (walsender,) = map(int, primary.ask("SELECT pid FROM pg_stat_replication"))
    os.kill(walsender, signal.SIGSTOP)
    wait_until(lambda: primary.ask(WAITING.format("<")) == ["1"])
    return lose(primary)


def kill_before_it_is_told(primary, standby, chance):
    """When a commit has been sent to the standby, and whoever made it has not been told."""
    (receiver,) = map(int, standby.ask("SELECT pid FROM pg_stat_wal_receiver"))
    os.kill(receiver, signal.SIGSTOP)
    wait_until(lambda: primary.ask(WAITING.format("=")) == ["1"])
    killed = lose(primary)
    os.kill(receiver, signal.SIGCONT)
    return killed


MOMENTS = [  # and how many batches more than the acknowledged ones may be there
    (kill_sometime, {0, 1}),
    (kill_before_it_is_sent, {0}),
    (kill_before_it_is_told, {1}),
    (kill_sometime, {0, 1}),
]


def test_nothing_acknowledged_is_lost(tmp_path, record_property):
    chance = random.Random(SEED)
    with ExitStack() as stack:
        primary, standby, address = stack.enter_context(pair())
        wait_for_standby(primary)
        twin = Twin(tmp_path / "twin")
        stack.callback(twin.store.close)
        stores = [stack.enter_context(PostgresStore(address, patience=patience)) for patience in (PATIENCE, PATIENCE, 0.1)]
        declare(stores[0])
        stores[0].add(*batch(0))
        writer = Writer(address, tmp_path / "log")
        stack.callback(writer.kill)
        sync, steady, impatient = readers = [Reader(one, writer) for one in stores]
        threads = [threading.Thread(target=run, daemon=True) for run in (sync.run, steady.run_async, impatient.run)]
        stack.callback(lambda: [one.join(5) for one in threads])
        for one in readers:
            stack.callback(one.stopped.set)
        for one in threads:
            one.start()
        gone = []
        for kill, more in MOMENTS:
            writer.wait_for(5)
            killed = kill(primary, standby, chance)
            wait_until(lambda standby=standby: has_replayed(standby))
            acknowledged = writer.acknowledged()
            with PostgresStore(standby.url, create=False, patience=0.1) as left:
                found = seen(left)
                with pytest.raises(StoreError, match=r"can't be written: .* Only a standby answers, which can be read\."):
                    left.add(*batch(acknowledged + 1))
            assert writer.acknowledged() == acknowledged
            take_over(standby)
            gone.append((killed, time.monotonic(), acknowledged))
            beyond = 0 if found == twin.seen(acknowledged) else 1
            assert beyond in more
            assert found == (twin.seen(acknowledged + 1) if beyond else found)
            assert stores[0].check().problems == ()
            writer.wait_for(3)
            primary.follow(standby)
            wait_for_standby(standby)
            primary, standby = standby, primary
        writer.wait_for(5)
        assert writer.stop() == 0
        time.sleep(0.2)  # some answers more
        for one in readers:
            one.stopped.set()
        for one in threads:
            one.join(60)

        noted = writer.noted()
        assert [number for number, _ in noted] == list(range(1, len(noted) + 1))
        assert seen(stores[0]) == twin.seen(len(noted))
        assert stores[0].check().problems == ()
        tables = stores[0].plans.tables
        for table in (tables.nodes, *(tables.space(number + 1) for number in range(len(SPACES)))):
            assert primary.ask(f"SELECT node_id FROM {table} GROUP BY node_id HAVING count(*) > 1") == []
        for asked in (*ASKED, text_of(5, 1), text_of(len(noted), 0)):
            ours, theirs = (FusionRetriever(one, SPACES, similarity_top_k=9) for one in (stores[0], twin.store))
            assert ranking(ours.retrieve(asked)) == ranking(theirs.retrieve(asked))

        assert [one.wrong for one in readers] == [[], [], []]
        assert [one.failed for one in readers[:2]] == [[], []]
        for start, end, error in impatient.failed:  # of those with no patience, who asked while there was nobody
            assert isinstance(error, StoreError), error
            assert any(start < back and end > killed for killed, back, _ in gone), error
        assert impatient.failed
        when = [moment for _, moment in noted]
        figures = {
            "batches": len(noted),
            "answers": [len(one.answered) for one in readers],
            "seconds without a server": [round(back - killed, 2) for killed, back, _ in gone],
            "seconds until a write after that": [round(max(0.0, when[last] - back), 2) for _, back, last in gone],
            "longest pause of the writer": round(longest(when), 2),
            "longest pause of a reader": [round(longest(one.answered), 2) for one in readers[:2]],
        }
        for name, value in figures.items():
            record_property(name, value)
            sys.stdout.write(f"{name}: {value}\n")  # shown by pytest -s


def test_what_is_lost_where_nobody_waits_for_the_standby(tmp_path):
    """Why the setting is needed: without it, what `add` returned from may be on one disk only."""
    with pair() as (primary, standby, address), PostgresStore(address, media_cache=tmp_path) as store:
        declare(store)
        store.add(*batch(0))
        before = seen(store)
        wait_until(lambda: primary.ask(SENT) == ["t"])
        (walsender,) = map(int, primary.ask("SELECT pid FROM pg_stat_replication"))
        os.kill(walsender, signal.SIGSTOP)
        store.add(*batch(1))
        assert len(store) == len(batch(0)[0]) + EACH
        primary.kill()
        take_over(standby)
        assert seen(store) == before
        assert store.check().problems == ()


# -- servers that do not answer ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server():
    with postgres_server(settings=SETTINGS) as one:
        yield one


def questions(store):
    """Two doors to ask a store that is filled anew, and what they give."""
    declare(store)
    store.add(*batch(0))
    vectors, asked = store.vector_store("text"), Reader.query(ASKED[0])

    async def ask():
        return (await vectors.aquery(asked)).ids

    doors = (lambda: vectors.query(asked).ids, lambda: asyncio.run(ask()))
    (expected, same) = (door() for door in doors)
    assert expected == same
    return (*doors, expected)


def test_a_server_that_never_comes_back(server, tmp_path, caplog):
    caplog.set_level("WARNING")
    address = f"{server.url.replace('@', f'@127.0.0.1:{free_port()},')}?target_session_attrs=read-write"
    with ExitStack() as stack:
        store = stack.enter_context(PostgresStore(address, patience=1, media_cache=tmp_path))
        ask, aask, _ = questions(store)
        server.kill()
        stack.callback(server.start)
        for work in (
            lambda: store.add(*batch(1)),
            ask,
            aask,
            lambda: FusionRetriever(store, SPACES).retrieve(ASKED[0]),
            lambda: PostgresStore(address, patience=1),
        ):
            start = time.monotonic()
            with pytest.raises(StoreError, match=r"can't be reached: .*It was tried for 1 s\. See that the server") as caught:
                work()
            assert 0.3 < time.monotonic() - start < 4
            assert server.password not in "".join(traceback.format_exception(caught.value))
        assert server.password not in caplog.text


def test_a_host_that_says_nothing(server, tmp_path):
    """The one named first takes connections and is silent, as one that hangs: the other is asked."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = server.url.replace("@", f"@127.0.0.1:{silent.getsockname()[1]},")
        with PostgresStore(address, schema="silent", media_cache=tmp_path, patience=1) as store:
            _, aask, expected = questions(store)
            start = time.monotonic()
            assert aask() == expected  # by a new connection, to the one that has answered
            assert time.monotonic() - start < 3


class Cuttable:
    """Stands before a server, speaks TLS with its clients, and can cut them off."""

    def __init__(self, server, certificate):
        self._server = server
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open = []
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with suppress(OSError):
            client.recv(8)  # the wish for TLS
            client.sendall(b"S")
            with (
                self._context.wrap_socket(client, server_side=True) as secret,
                socket.create_connection((self._server.host, self._server.port)) as plain,
            ):
                self._open += [secret, plain]
                while True:
                    if not secret.pending():
                        select.select([secret, plain], [], [])
                    for one, other in ((secret, plain), (plain, secret)):
                        if (one is secret and secret.pending()) or select.select([one], [], [], 0)[0]:
                            data = one.recv(2**16)
                            if not data:
                                return
                            other.sendall(data)

    def cut(self):
        """Cut off all who are connected."""
        while self._open:
            with suppress(OSError):
                socket.socket.shutdown(self._open.pop(), socket.SHUT_RDWR)

    def close(self):
        self.cut()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make a certificate")
def test_a_secret_connection_that_is_cut(server, tmp_path, caplog):
    caplog.set_level("WARNING")
    certificate = tmp_path / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
         "-keyout", certificate, "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate.write_text(certificate.read_text() + (tmp_path / "cert.pem").read_text())
    with ExitStack() as stack:
        between = Cuttable(server, certificate)
        stack.callback(between.close)
        address = f"{server.url.replace(f':{server.port}/', f':{between.port}/')}?sslmode=require"
        store = stack.enter_context(PostgresStore(address, schema="secret", media_cache=tmp_path))
        *doors, expected = questions(store)
        for ask in doors:
            with psycopg2.connect(server.url) as other, other.cursor() as cursor, ThreadPoolExecutor(1) as pool:
                cursor.execute(f"LOCK TABLE {store.plans.tables.space(1)}")
                waiting = pool.submit(ask)
                wait_until(lambda: server.ask(BLOCKED) == ["1"])
                between.cut()
                other.rollback()
                assert waiting.result(30) == expected
            other.close()
        assert caplog.text.count("Trying for 30 s") == 2


def ip(*command):
    return subprocess.run(["ip", *command], check=True, capture_output=True, text=True).stdout


@contextmanager
def another_machine():
    """A network namespace: its name, its address, and the name of its link."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("needs root and ip, for a network namespace")
    name = f"mm-{os.getpid()}-f"
    ours, theirs, net = f"mmf{os.getpid()}a", f"mmf{os.getpid()}b", f"10.{os.getpid() % 200 + 20}.77"
    with ExitStack() as stack:
        try:
            ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr}")
        stack.callback(ip, "netns", "del", name)  # the link goes with it
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        ip("addr", "add", f"{net}.1/24", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", name, "addr", "add", f"{net}.2/24", "dev", theirs)
        ip("-n", name, "link", "set", theirs, "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield name, f"{net}.2", theirs


def test_a_machine_that_loses_its_power(tmp_path):
    """Nobody closes its connections, neither those that are idle nor those on which somebody waits for an answer."""
    with ExitStack() as stack:
        name, host, link = stack.enter_context(another_machine())
        primary, standby, address = stack.enter_context(pair(host=host, prefix=["ip", "netns", "exec", name]))
        wait_for_standby(primary)
        store = stack.enter_context(PostgresStore(address, media_cache=tmp_path))
        ask, _, expected = questions(store)
        vectors = store.vector_store("text")
        nodes = [TextNode(id_=f"later-{at}", text="later", embedding=[1.0] * SPACES[0].dimension) for at in range(EACH)]
        other = psycopg2.connect(primary.url)
        stack.callback(other.close)
        with other.cursor() as cursor, ThreadPoolExecutor(2) as pool:
            cursor.execute(f"LOCK TABLE {store.plans.tables.space(1)} IN SHARE MODE")
            added = [
                pool.submit(store.add, *batch(1)),
                pool.submit(lambda: asyncio.run(vectors.async_add(nodes))),
            ]
            wait_until(lambda: primary.ask(BLOCKED) == ["2"])
            ip("-n", name, "link", "set", link, "down")
            start = time.monotonic()
            take_over(standby)
            assert ask() == expected
            assert [one.result(40) for one in added] == [None, [node.node_id for node in nodes]]
            assert 10 < time.monotonic() - start < 30
        assert len(store) == len(batch(0)[0]) + 2 * EACH
        assert store.check().problems == ()
