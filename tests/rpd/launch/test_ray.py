"""A real cluster of two nodes on this machine, and the loss of one of them."""

import signal
from pathlib import Path

import pytest

from rpd.envs.errors import ConfigError
from rpd.launch import ray_launcher
from rpd.launch.job import Job
from rpd.launch.ray_launcher import RayLauncher
from tests.rpd.launch.conftest import histories, same_results, underway, until

ray = pytest.importorskip("ray", reason="ray is not installed")
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture
def cluster(monkeypatch, driver, all_end):
    """A cluster of two nodes with a core each; its processes end with the test."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_enable_worker_prestart", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    started = Cluster()
    try:
        started.add_node(**NODE, include_dashboard=False)
        started.second = started.add_node(**NODE)
        yield started
        all_end()
    finally:
        started.shutdown()


def test_resources_that_no_node_has(monkeypatch, tmp_path):
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(RayLauncher, "__init__", lambda self: None)
    wanted = "--cpus-per-run 2 --gpus-per-run 0.5: no node of the Ray cluster has them: at most 4 CPUs, 0 GPUs per node"
    with pytest.raises(ConfigError, match=wanted):
        RayLauncher().check([Job("x", (), tmp_path / "x.log", cpus=2, gpus=0.5)], tmp_path)


def test_last_node_with_the_resources_is_lost(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
    monkeypatch.setattr(RayLauncher, "__init__", lambda self: None)
    monkeypatch.setattr(ray_launcher, "WATCH_S", -1)
    launcher = RayLauncher()
    launcher._watched_at, launcher._able = 0.0, True
    for cpus in (1, 2, 2):
        launcher._watch(Job("x", (), tmp_path / "x.log", cpus=cpus))
    assert caplog.messages == ["no node of the Ray cluster has the resources of a run any more: waiting for one"]


def test_lost_node_costs_what_ran_there(cluster, driver, evaluation, sweep):
    """Four shards of an evaluation equal the whole; a sweep of four runs is interrupted, continues and finishes."""
    on_ray = ["--launcher", "ray", "--launcher-address", cluster.address]
    shards, logs = driver(*evaluation(32), "--shards", "4", "--out", "merged", *on_ray), Path("merged/logs")
    until(lambda: len(underway(logs)) == 2 and list(Path("merged/episodes").glob("*.jsonl")), shards)
    cluster.remove_node(cluster.second)
    out = shards.output()
    assert shards.returncode == 0, out
    assert "4 of 4 ended" in out and "(attempt 2); " in out
    assert same_results(Path("merged"), Path("whole"))
    assert sorted(len(history.hosts) for history in histories(logs).values()) == [1, 1, 1, 2]

    second, logs = cluster.add_node(**NODE), Path("sweep/logs")
    runs = driver("sweep", file := sweep([0, 1], 1280), *on_ray)
    until(lambda: len(underway(logs)) == 2 and any(Path("sweep").glob("*/checkpoints/last")), runs)
    runs.send_signal(signal.SIGINT)
    out = runs.output()
    assert runs.returncode == 130 and f"to continue: rpd sweep {file}" in out
    assert {end.code for history in histories(logs).values() for end in history.ends} in ({130}, {0, 130})
    before = set(Path("sweep").glob("*/config.yaml"))

    runs = driver("sweep", file, *on_ray)
    until(lambda: len(underway(logs)) == 2 and set(Path("sweep").glob("*/config.yaml")) > before, runs)
    cluster.remove_node(second)
    out = runs.output()
    assert runs.returncode == 0, out
    assert len(list(Path("sweep").glob("*/result.json"))) == 4
    assert sorted(len(history.hosts) for history in histories(logs).values()) == [1, 1, 1, 2]
