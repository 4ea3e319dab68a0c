"""Sweeps: every cell an ordinary run, checked before the first starts, continued after an interruption, one table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from rpd.cli.main import main
from rpd.cli.sweep import table
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig
from rpd.students.io.locks import LOCK, locked
from rpd.training.sweep import Cell, jobs_of, read

SETTINGS = {
    "env": {"num_envs": 4, "max_episode_steps": 10}, "student": {"hidden_dims": [8]}, "ppo": {"num_steps": 8},
    "total_timesteps": 64,
    "eval_freq": 64, "eval_episodes": 2, "final_eval_episodes": 4, "save_freq": 32,
}  # fmt: skip
ROOT = Path(__file__).parents[3]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Write a sweep's file, and a base that state_keys what all robots have; keywords replace what they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def write(state_keys=("gripper", "goal"), **changes):
        env = registry.make("tabletop/Reach", EnvConfig(num_envs=1))
        torch.manual_seed(0)
        ActorCritic(env.spec, StudentConfig(hidden_dims=(8,), state_keys=state_keys)).save_pretrained("base-Reach")
        content = {"out": "out", "tasks": ["tabletop/Reach"], "robots": ["panda", "so101"], "base": "base-{task}"}
        Path("s.yaml").write_text(yaml.safe_dump(content | {"settings": SETTINGS} | changes))

    return write


def test_trains_every_cell_once(sweep, capfd, tmp_path):
    sweep()
    results = ["--results", f"file://{tmp_path}/copies"]
    assert main(["sweep", "s.yaml", "--jobs", "2", *results]) == 0
    for name in ("Reach-panda-seed0", "Reach-so101-seed0"):
        assert json.loads(Path(f"copies/{name}/manifest.json").read_text())["complete"]
        assert Path(f"copies/{name}/policy/model.safetensors").is_file() and Path(f"copies/{name}/report.html").is_file()
    shutil.rmtree("copies/Reach-so101-seed0")
    out = capfd.readouterr().out
    assert "2 runs in out, 0 of them complete" in out and "1/1" in out
    assert sorted(p.name for p in Path("out").iterdir()) == ["Reach-panda-seed0", "Reach-so101-seed0", "logs", "settings.yaml"]
    result = json.loads(Path("out/Reach-so101-seed0/result.json").read_text())
    assert (result["robot"], result["steps"], result["base"]) == ("so101", 64, "base-Reach")
    before = Path("out/Reach-so101-seed0/result.json").stat().st_mtime_ns
    assert main(["sweep", "s.yaml", *results]) == 0
    assert "2 of them complete" in (out := capfd.readouterr().out)
    assert out.count(f"results: file://{tmp_path}/copies/") == 2 and out.count("seed0, which is complete") == 1
    assert Path("copies/Reach-so101-seed0/result.json").read_bytes() == Path("out/Reach-so101-seed0/result.json").read_bytes()
    assert Path("out/Reach-so101-seed0/result.json").stat().st_mtime_ns == before
    sweep(settings=SETTINGS | {"total_timesteps": 96})
    assert main(["sweep", "s.yaml"]) == 2
    assert "out/settings.yaml has other settings: choose another folder with --out" in capfd.readouterr().err


def test_interrupted_sweep_continues(sweep):
    sweep(base=None, seeds=[0, 1], settings=SETTINGS | {"algorithm": "ppo", "total_timesteps": 3200})
    words = [sys.executable, "-m", "rpd.cli.main", "sweep", "s.yaml", "--jobs", "1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 240
    while not list(Path("out").glob("*/checkpoints/last")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=240)[0]
    assert process.returncode == 130 and "to continue: rpd sweep s.yaml" in out
    started = [p for p in Path("out").glob("Reach-*") if (p / "config.yaml").exists()]
    assert len(started) == 1 and list(started[0].glob("checkpoints/*"))
    log = (Path("out/logs") / f"{started[0].name}.log").read_text()
    assert "to continue: rpd train --resume" in log and "Traceback" not in log
    first, second = jobs_of([Cell("tabletop/Reach", "panda", seed, None, Path("out")) for seed in (0, 1)])
    assert first.command() == ["train", "--resume", "out/Reach-panda-seed0"]
    assert second.command()[:2] == ["train", "tabletop/Reach"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_keys": ()}, "robot differ: policy (tabletop/Reach) has panda; environment (tabletop/Reach) has so101"),
        ({"base": "nowhere-{task}-{robot}"}, "unknown base 'nowhere-Reach-panda'"),
        ({"robots": ["panda", "fetch"]}, "unknown robot for tabletop/Reach 'fetch'"),
        ({"tasks": ["tabletop/Reech"]}, "unknown task 'tabletop/Reech': did you mean tabletop/Reach"),
        ({"settings": {"ppo": {"lrr": 1}}}, "unknown key in out/settings.yaml 'ppo.lrr': did you mean"),
        ({"robots": []}, "s.yaml: robots: "),
        ({"robot": ["panda"]}, "s.yaml: robot: Extra inputs"),
        ({"tasks": ["tabletop/PickCube", "maniskill/PickCube"]}, "two have the same name"),
    ],
)
def test_refused_before_anything_starts(changes, message, sweep, capfd):
    sweep(**changes)
    assert main(["sweep", "s.yaml"]) == 2
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize("held", ["out", "out/Reach-so101-seed0"])
def test_sweep_refuses_runs_locked_by_another_process(held, sweep, capfd):
    """A second sweep, and one that is started while runs of a killed one still save themselves."""
    sweep()
    Path(held).mkdir(parents=True)
    with locked(Path(held) / LOCK, Path(held)):
        assert main(["sweep", "s.yaml"]) == 2
    said = capfd.readouterr().err
    assert f"{held} is " in said and "being written" in said and said.count("\n") == 1
    assert not list(Path("out").glob("*/config.yaml"))


def test_cell_that_fails_does_not_stop_the_others(sweep, capfd):
    sweep()
    (taken := Path("out/Reach-panda-seed0")).mkdir(parents=True)
    (taken / "thesis.tex").write_text("")
    assert main(["sweep", "s.yaml", "--jobs", "1"]) == 1
    out = capfd.readouterr().out
    assert "failed: Reach-panda-seed0: see out/logs/Reach-panda-seed0.log" in out
    assert "exists already" in Path("out/logs/Reach-panda-seed0.log").read_text()
    assert Path("out/Reach-so101-seed0/result.json").exists()


def test_table_pools_seeds(tmp_path):
    cells = [Cell("tabletop/Reach", "panda", seed, "b", tmp_path) for seed in (0, 1, 2)]
    for cell, k in zip(cells[:2], (90, 100), strict=True):
        one = {"n": 100, "mean_length": 20.0 - k / 10}
        cell.run_dir.mkdir()
        result = {"steps": 1, "student": one | {"successes": k}, "base_eval": one | {"successes": 20, "mean_length": 45.0}}
        (cell.run_dir / "result.json").write_text(json.dumps(result))
    rows = [list(column.cells) for column in table(cells).columns]
    assert [r[0].split(" ")[0] for r in rows] == ["Reach", "panda", "20/100", "45.0", "190/200", "10.5", "2/3"]


def test_shipped_sweeps_are_valid():
    for file in (ROOT / "configs" / "experiments" / "compass").glob("*.yaml"):
        sweep = read(Path("configs/experiments/compass") / file.name)
        for task in sweep.tasks:
            known = {t.name: t for t in registry.list_tasks(task.split("/")[0])}
            assert task in known and set(sweep.robots) <= set(known[task].robots)
