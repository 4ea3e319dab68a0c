"""`rpd bench replicas`: rates with one and two servers, and their ratio by round."""

import asyncio
import contextlib
import json
import os
import threading

import pytest

from rpd.bench import replicas
from rpd.bench.replicas import Rates
from rpd.cli.main import main
from rpd.envs.config import EnvConfig
from rpd.envs.errors import RunFault
from rpd.envs.registry import make
from rpd.serve.peer import Limits
from rpd.serve.server import PolicyServer
from rpd.serve.service import PolicyService
from rpd.serve.status import Status
from rpd.teachers import registry

TEACHER, TASK = "scripted:bias=0.02", "tabletop/Reach"


@contextlib.contextmanager
def serving(name, task, num_threads):
    """Two servers in a thread each, in place of processes."""
    env = make(task, EnvConfig(num_envs=1), num_threads=num_threads)
    with contextlib.ExitStack() as running:
        urls = [running.enter_context(server(registry.make(name, env.spec), env.spec)) for _ in range(2)]
        env.close()
        yield "remote:" + ",".join(urls), [os.getpid()]


@contextlib.contextmanager
def server(teacher, spec):
    ready, loop, stop, ports = threading.Event(), asyncio.new_event_loop(), asyncio.Event(), []
    service = PolicyService(teacher, spec, teacher.name)
    one = PolicyServer(service, "127.0.0.1", 0, None, Limits(rate=1e6), Status(every_s=float("inf")))
    run = one.run(stop, lambda port: (ports.append(port), ready.set()))
    thread = threading.Thread(target=loop.run_until_complete, args=(run,))
    thread.start()
    assert ready.wait(60)
    try:
        yield f"ws://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()


def test_replicas(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(replicas, "_serving", serving)
    monkeypatch.setattr(replicas, "BATCHES", (4, 40))
    args = ["--task", TASK, "--teacher", TEACHER, "--rounds", "2", "--out", str(tmp_path / "out")]
    assert main(["bench", "replicas", *args]) == 0
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [row[:2] for row in found["rows"]] == [["1", 4], ["2", 4], ["1", 40], ["2", 40]]
    assert all(0 < low <= median <= high for _, _, low, median, high, _ in found["rows"])
    assert found["notes"][0].startswith("load average") and "mean distance of their actions: 0" in found["notes"][1]
    assert "times as many labels per second" in capsys.readouterr().out


def test_ratio_is_by_round():
    assert Rates(16, [100.0, 50.0], [150.0, 100.0]).ratios == [1.5, 2.0]


def test_servers_that_do_not_start(capfd):
    with pytest.raises(RunFault, match="rpd serve scriptd does not start"), replicas._serving("scriptd", TASK, 1):
        pass
    assert "unknown policy 'scriptd'" in capfd.readouterr().err
