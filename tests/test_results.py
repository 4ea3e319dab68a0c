"""The script that runs the experiments: on a launcher, once each, and continued."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from rpd.config.launch import LaunchConfig

ROOT = Path(__file__).parent.parent
TINY = "--env.num-envs 4 --env.max-episode-steps 10 --ppo.num-steps 8 --eval-episodes 2 --final-eval-episodes 2"


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "results", module)  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    monkeypatch.setitem(module.SETTINGS, "tiny", TINY.split())
    monkeypatch.chdir(tmp_path)
    return module


def test_each_experiment_runs_once(script, monkeypatch, capsys, tmp_path):
    good = script.Experiment("tiny", "tabletop/Reach", "ppo", None, 0, 32)
    bad = script.Experiment("tiny", "tabletop/Reech", "ppo", None, 0, 32)
    monkeypatch.setattr(script, "experiments", lambda: [good, bad])
    assert script.run("", 2, LaunchConfig()) == 1
    out = capsys.readouterr().out
    assert f"{good.name}: " in out and f"failed: {bad.name}: see {tmp_path}/runs/{bad.name}.log; " in out
    result = json.loads((tmp_path / "results" / f"{good.name}.json").read_text())
    assert result["steps"] == 32 and result["command"].startswith("rpd train tabletop/Reach --algorithm ppo")
    assert not (tmp_path / "runs" / good.name / "checkpoints").exists()
    assert script.run("Reach", 1, LaunchConfig()) == 0 and not capsys.readouterr().out
