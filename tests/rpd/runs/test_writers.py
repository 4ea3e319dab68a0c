"""Weights & Biases and MLflow, in their offline modes, read back by their own libraries."""

import importlib.util
import struct

import pytest

from rpd.cli import main
from rpd.config.schema import PPOConfig, RunConfig
from rpd.runs.tracker import Tracker, read_metrics

TINY = (
    "train tabletop/Reach --algorithm ppo --name x --total-timesteps 64 --env.num-envs 4 --ppo.num-steps 8 --eval-freq 32 "
    "--eval-episodes 2 --final-eval-episodes 2 --num-threads 1 --track"
)
CONFIG = RunConfig(task="tabletop/Reach", ppo=PPOConfig(gamma=0.5))


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_missing_package_is_one_line_before_anything_starts(tmp_path, monkeypatch, capsys, name, package):
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked, *rest: None if asked == name else found(asked, *rest))
    assert main.main([*TINY.split(), name]) == 2
    error = capsys.readouterr().err
    assert f"--track {name} needs {package}, which is not installed" in error
    assert f"[{name}]" in error and error.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


def wandb_records(run_dir):
    """The records of all offline files of a run: LevelDB's log format, chunks of records in blocks of 32 KiB."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its process may still be writing
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        content, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(content):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
            _, length, kind = struct.unpack("<IHB", content[at : at + 7])
            whole += content[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record = wandb_internal_pb2.Record()
                record.ParseFromString(whole)
                yield record
                whole = b""


def wandb_history(run_dir):
    for record in wandb_records(run_dir):
        if record.WhichOneof("record_type") == "history":
            yield {item.nested_key[0] if item.nested_key else item.key: float(item.value_json) for item in record.history.item}


@pytest.mark.slow
def test_run_is_tracked_with_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    assert main.main([*TINY.split(), "wandb"]) == 0
    run = tmp_path / "runs" / "x"
    recorded = [{k: v for k, v in line.items() if not k.startswith("_")} for line in wandb_history(run)]
    assert recorded == [pytest.approx(line) for line in read_metrics(run)] and "eval/success_once" in recorded[-1]
    (about,) = [record.run for record in wandb_records(run) if record.WhichOneof("record_type") == "run"]
    options = {item.key: item.value_json for item in about.config.update}
    assert about.display_name == "x" and options["task"] == '"tabletop/Reach"' and options["env.num_envs"] == "4"


def test_resumed_run_keeps_its_identity_with_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Tracker(tmp_path, 100, track=("wandb",), config=CONFIG) as tracker:
        tracker.log(50, {"a/b": 1.0})
    with Tracker(tmp_path, 100, 50, ("wandb",), CONFIG) as tracker:
        tracker.log(100, {"a/b": 2.0})
    about = [record.run for record in wandb_records(tmp_path) if record.WhichOneof("record_type") == "run"]
    assert len(about) == 2 and len({run.run_id for run in about}) == 1
    assert sorted((line["step"], line["a/b"]) for line in wandb_history(tmp_path)) == [(50, 1.0), (100, 2.0)]


@pytest.mark.slow
def test_run_is_tracked_with_mlflow_in_a_local_database(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    assert main.main([*TINY.split(), "mlflow"]) == 0
    with Tracker(tmp_path / "runs" / "x", 96, 64, ("mlflow",), CONFIG) as tracker:  # resumed
        tracker.log(96, {"eval/success_once": 0.75})
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("rpd").experiment_id])
    assert run.info.run_name == "x" and run.info.status == "FINISHED" and run.data.params["env.num_envs"] == "4"
    logged = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "eval/success_once")]
    lines = read_metrics(tmp_path / "runs" / "x")
    assert logged == [(line["step"], line["eval/success_once"]) for line in lines if "eval/success_once" in line]


@pytest.mark.slow
def test_failed_run_is_marked_with_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(ZeroDivisionError), Tracker(tmp_path, 96, None, ("mlflow",), CONFIG) as tracker:
        tracker.log(1 // 0, {})
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("rpd").experiment_id])
    assert run.info.status == "FAILED"
