"""A real cluster of two nodes on this machine, and the loss of one of them."""

import signal
from pathlib import Path

import pytest

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


def test_lost_node_costs_what_ran_there(cluster, driver, evaluation, sweep):
    """Four shards of an evaluation equal the whole; a sweep of four runs is interrupted, continues and finishes."""
    on_ray = ["--launcher", "ray", "--launcher-address", cluster.address]
    refused = driver("sweep", file := sweep([0, 1], 1280), *on_ray, "--cpus-per-run", "64")
    shards, logs = driver(*evaluation(40), "--shards", "4", "--out", "merged", *on_ray), Path("merged/logs")
    until(lambda: len(underway(logs)) == 2 and list(Path("merged/episodes").glob("*.jsonl")), shards)
    cluster.remove_node(cluster.second)
    out = shards.communicate(timeout=300)[0]
    assert shards.returncode == 0, out
    assert "4 of 4 ended" in out and "(attempt 2); " in out
    assert same_results(Path("merged"), Path("whole"))
    assert sorted(len(history.hosts) for history in histories(logs).values()) == [1, 1, 1, 2]

    wanted = "--cpus-per-run 64 --gpus-per-run 0: no node of the Ray cluster has them: at most 1 CPUs, 0 GPUs per node"
    assert refused.communicate(timeout=300)[0] == f"rpd sweep: {wanted}\n" and refused.returncode == 2
    assert not Path("sweep").exists()

    second, logs = cluster.add_node(**NODE), Path("sweep/logs")
    runs = driver("sweep", file, *on_ray)
    until(lambda: len(underway(logs)) == 2 and any(Path("sweep").glob("*/checkpoints/last")), runs)
    runs.send_signal(signal.SIGINT)
    out = runs.communicate(timeout=300)[0]
    assert runs.returncode == 130 and f"to continue: rpd sweep {file}" in out
    assert {end.code for history in histories(logs).values() for end in history.ends} in ({130}, {0, 130})
    before = set(Path("sweep").glob("*/config.yaml"))

    runs = driver("sweep", file, *on_ray)
    until(lambda: len(underway(logs)) == 2 and set(Path("sweep").glob("*/config.yaml")) > before, runs)
    cluster.remove_node(second)
    out = runs.communicate(timeout=300)[0]
    assert runs.returncode == 0, out
    assert len(list(Path("sweep").glob("*/result.json"))) == 4
    assert sorted(len(history.hosts) for history in histories(logs).values()) == [1, 1, 1, 2]
