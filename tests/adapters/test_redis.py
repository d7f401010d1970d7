"""The redis actions against real Redis servers, thrown away afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
import redis as client
from msgspec import structs
from wheel_programs import free_ports

from k2run.actions.deadline import Deadline
from k2run.adapters import redis as actions
from k2run.adapters.redis import Redis
from k2run.errors import Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# program: redis-server redis-server
TESTED_ON = {"redis": "Debian's `redis-server`: single ones, and a master with a replica"}

PASSWORD = "a-secret-of-tests"


class Server:
    """A Redis server with a password, and a client of it."""

    def __init__(self, folder, **settings: object) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed (Debian: redis-server)")
        self.port = free_ports(1)[0]
        given = {"port": self.port, "bind": "127.0.0.1", "dir": folder, "requirepass": PASSWORD, "save": "", **settings}
        words = [word for name, value in given.items() for word in (f"--{name}", *str(value).split(" "))]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([program, *words], stdout=log, stderr=log)
        self.client = client.Redis(port=self.port, password=PASSWORD)
        self.redis = Redis(port=self.port, password=PASSWORD)
        end = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.02)

    def _answers(self) -> bool:
        with contextlib.suppress(client.RedisError):
            return bool(self.client.ping())
        return False

    def stop(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Server]]:
    running: list[Server] = []

    def begin(**settings: object) -> Server:
        folder = tmp_path / f"redis{len(running)}"
        folder.mkdir()
        running.append(Server(folder, **settings))
        return running[-1]

    yield begin
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("redis"))
    yield running
    running.stop()


def soon(seconds: float = 30) -> Deadline:
    return Deadline(seconds)


def test_a_server_that_lets_us_in_answers(server):
    found = actions.ping(server.redis, soon())
    assert found.elapsed_ms > 0
    assert found.source == f"redis 127.0.0.1:{server.port}/0"


def test_a_key_of_each_kind_and_a_missing_one_is_unknown(server):
    made = server.client
    made.set("text", "grüße", ex=100)
    made.hset("hash", mapping={"a": 1, "b": "x"})
    made.rpush("list", *range(150))
    made.sadd("set", "b", "a")
    made.zadd("zset", {"low": 1, "high": 2.5})
    made.xadd("stream", {"a": 1})
    text = actions.get(server.redis, soon(), "text")
    assert (text.kind, text.value, text.size, text.truncated, text.headline()) == ("string", "grüße", 5, False, "grüße")
    assert 90 < text.ttl_s <= 100
    assert actions.get(server.redis, soon(), "hash").value == {"a": "1", "b": "x"}
    many = actions.get(server.redis, soon(), "list", limit=10)
    assert (many.value, many.size, many.truncated) == ([str(n) for n in range(10)], 150, True)
    assert many.ttl_s is None
    assert actions.get(server.redis, soon(), "set").value == ["a", "b"]
    assert actions.get(server.redis, soon(), "zset").value == {"low": 1.0, "high": 2.5}
    assert (actions.get(server.redis, soon(), "stream").size, actions.get(server.redis, soon(), "stream").value) == (
        1,
        None,
    )
    wide = {f"{number:03}": "x" * 100 for number in range(100)}  # too long for the form in which a hash is one piece
    made.hset("wide", mapping=wide)
    made.sadd("wide set", *(f"{name}{value}" for name, value in wide.items()))
    assert actions.get(server.redis, soon(), "wide").value == wide
    assert len(actions.get(server.redis, soon(), "wide set").value) == 100
    part = actions.get(server.redis, soon(), "wide", limit=10)
    assert (part.truncated, part.size, 0 < len(part.value) <= 10) == (True, 100, True)
    with pytest.raises(Unknown, match="no key 'gone'"):
        actions.get(server.redis, soon(), "gone")
    assert not actions.get(server.redis, soon(), "gone", allow_missing=True).exists


def test_figures_tell_memory_hits_and_what_it_does_not_say_is_none(start):
    server = start(maxmemory="64mb", appendonly="yes")
    bare = actions.info(start().redis, soon())
    assert (bare.memory_limit_bytes, bare.memory_percent, bare.hit_percent, bare.append_only_ok) == (None,) * 4
    server.client.set("a", 1)
    for key in ("a", "a", "a", "gone"):
        server.client.get(key)
    found = actions.info(server.redis, soon())
    assert (found.role, found.keys, found.loading, found.evicted_keys) == ("master", 1, False, 0)
    assert (found.memory_limit_bytes, found.hit_percent, found.append_only_ok) == (64 * 2**20, 75.0, True)
    assert 0 < found.memory_percent < 100
    assert found.clients >= 1
    assert found.most_clients > 100
    assert found.version.split(".")[0].isdecimal()


def test_replication_is_seen_from_both_ends_and_a_broken_link_is_told(start):
    master = start()
    alone = actions.replication(master.redis, soon())
    assert (alone.role, alone.replicas, alone.most_behind_bytes, alone.link_up) == ("master", [], None, None)
    replica = start(replicaof=f"127.0.0.1 {master.port}", masterauth=PASSWORD)
    end = time.monotonic() + 20
    while actions.replication(master.redis, soon()).online == 0:
        assert time.monotonic() < end
        time.sleep(0.1)
    above, below = actions.replication(master.redis, soon()), actions.replication(replica.redis, soon())
    assert [one.address for one in above.replicas] == [f"127.0.0.1:{replica.port}"]
    assert above.most_behind_bytes < 1000
    assert (below.role, below.master, below.link_up) == ("slave", f"127.0.0.1:{master.port}", True)
    assert below.last_heard_s is not None
    master.process.kill()
    while actions.replication(replica.redis, soon()).link_up:
        assert time.monotonic() < end
        time.sleep(0.1)
    broken = actions.replication(replica.redis, soon())
    assert (broken.link_up, broken.last_heard_s, "link DOWN" in broken.headline()) == (False, None, True)


def test_latency_comes_with_its_samples_and_without_a_p99_of_too_few(server):
    found = actions.latency(server.redis, soon())
    assert found.samples == 100
    assert 0 < found.median_ms <= found.p95_ms <= found.p99_ms <= found.slowest_ms
    assert actions.latency(server.redis, soon(), samples=10).p99_ms is None


def test_what_keeps_us_out_is_told_with_what_to_check(server, speaker):
    for wrong in ({"password": "wrong-secret"}, {"password": ""}, {"user": "someone"}):
        with pytest.raises(Refused, match=rf"127\.0\.0\.1:{server.port}.*connections\.redis") as refused:
            actions.ping(structs.replace(server.redis, **wrong), soon())
        assert "wrong-secret" not in str(refused.value)
        assert PASSWORD not in str(refused.value)
    with pytest.raises(Refused, match=r"out of range.*connections\.redis"):
        actions.ping(structs.replace(server.redis, database=99), soon())
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1/0 does not answer.*connections\.redis"):
        actions.ping(structs.replace(server.redis, port=1), soon())
    port = int(speaker(lambda link: link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")).rpartition(":")[2])
    with pytest.raises((Refused, Unreachable), match=rf"127\.0\.0\.1:{port}.*connections\.redis"):
        actions.ping(structs.replace(server.redis, port=port), soon(3))


def test_a_frozen_server_does_not_hold_the_step(start):
    server = start()
    os.kill(server.process.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(TimedOut, match="has not answered within"):
        actions.ping(server.redis, soon(0.5))
    assert time.monotonic() - started < 3
