"""A run that is stopped and resumed equals, bit for bit, one that was not."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch

import rpd
from rpd.cli import train
from rpd.cli.main import main
from rpd.runs import checkpoint
from rpd.runs.tracker import Tracker, read_metrics
from rpd.training.on_policy import OnPolicyTrainer
from tests import warm

KINDS = {
    "rpd": {},
    "labels": {"distill": {"label_fraction": 0.5}},
    "balanced": {
        "distill": {"divergence": "nll", "schedule": "gradient-ratio", "gate": "success-surpassed", "decay_steps": 1000}
    },
    "ppo": {"algorithm": "ppo", "teacher": None, "ppo": {"anneal_lr": True}},
    "dagger": {"algorithm": "dagger"},
    "bins": {"teacher": "scripted:noise=0.5,bins=32", "distill": {"divergence": "rkl", "label_fraction": 0.5}},
    "samples": {"task": "tabletop/PickCube", "teacher": "scripted:modes=2,noise=0.2", "distill": {"divergence": "rkl"}},
    "scores": {"teacher": "scripted:noise=0.5,bins=32", "distill": {"divergence": "opd", "schedule": "gradient-ratio"}},
    "scores alone": {"teacher": "scripted:bins=32", "distill": {"divergence": "opd"}, "algorithm": "dagger"},
    "pick": {"task": "tabletop/PickCube", "env": {"max_episode_steps": 10, "domain_randomization": ("all",)}},
    "images": {
        "env": {"obs_mode": "rgb", "image_size": 16, "max_episode_steps": 10},
        "student": {"state_estimator": True, "asymmetric_critic": True, "augment": ("color",)},
        "state_estimator": {"num_minibatches": 3, "minibatch_size": 16, "replay_capacity": 50},
        "distill": {"decay_steps": 100},
        "teacher": "scripted:gripper_error_rate=0.2",
    },
    "ppo from images, end to end": {
        "algorithm": "ppo",
        "teacher": None,
        "env": {"obs_mode": "rgb", "image_size": 16, "max_episode_steps": 10, "frame_stack": 3},
        "student": {"augment": ("shift", "color")},
    },
}


def learned(run_dir):
    """Everything that a run has come to know, and what it said on the way; without times."""
    last = checkpoint.load(run_dir / "checkpoints" / "last")
    model = (last.policy_dir / "model.safetensors").read_bytes()
    tensors = {k: v.numpy().tobytes() for k, v in last.tensors.items()}
    meta = {k: v for k, v in last.meta.items() if k not in ("wall", "config")}
    metrics = [{k: v for k, v in m.items() if not k.startswith("time/")} for m in read_metrics(run_dir)]
    result = json.loads((run_dir / "result.json").read_text())
    result.pop("wall_s")
    return {"step": last.step, "model": model, "tensors": tensors, "meta": meta, "metrics": metrics, "result": result}


def assert_equal(a, b):
    assert a["metrics"] == b["metrics"]
    assert a["tensors"].keys() == b["tensors"].keys()
    assert [k for k in a["tensors"] if a["tensors"][k] != b["tensors"][k]] == []
    assert a == b


@pytest.fixture(scope="module")
def straight(small, tmp_path_factory):
    """Runs that were never stopped, by kind; each is trained once."""
    done = {}

    def get(kind):
        if kind not in done:
            run_dir = tmp_path_factory.mktemp(kind)
            assert OnPolicyTrainer(small(**KINDS[kind]), run_dir).run()
            done[kind] = learned(run_dir)
        return done[kind]

    return get


def scramble():
    torch.manual_seed(99)
    np.random.seed(99)


def interrupt_at(monkeypatch, step, signum):
    """Send this process a signal as soon as the run has logged `step`."""
    log = Tracker.log

    def logged(self, at, metrics):
        log(self, at, metrics)
        if at == step:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(Tracker, "log", logged)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_and_resumed(kind, small, straight, tmp_path, monkeypatch, capfd):
    expected = straight(kind)
    assert sum("eval/success_once" in m for m in expected["metrics"]) == 3  # one of them before the stop
    config = small(**KINDS[kind])
    config.save_freq = 10_000  # the interrupt alone saves
    with monkeypatch.context() as patch:
        interrupt_at(patch, 96, signal.SIGTERM)
        assert OnPolicyTrainer(config, tmp_path).run() is False
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["000000096", "last"]
    assert "stopping after this iteration" in capfd.readouterr().err
    scramble()
    assert train.resume(tmp_path) == 0
    actual = learned(tmp_path)
    assert_equal(actual, expected)
    assert any(m.get("rollout/ep_length") for m in actual["metrics"])  # episodes ended and began again


def test_every_checkpoint_leads_to_the_same_end(small, straight, tmp_path):
    expected = straight("labels")
    assert OnPolicyTrainer(small(**KINDS["labels"], max_checkpoints=10), tmp_path / "whole").run()
    for step in (32, 64, 128, 192):
        copy = tmp_path / str(step)
        shutil.copytree(tmp_path / "whole", copy, symlinks=True)
        for path in (copy / "checkpoints").glob("0*"):
            if int(path.name) > step:
                shutil.rmtree(path)
        (copy / "result.json").unlink()
        assert train.resume(copy) == 0
        assert_equal(learned(copy), expected)


def test_resume_of_a_complete_run_changes_no_file(small, tmp_path, capsys):
    assert OnPolicyTrainer(small(total_timesteps=32), tmp_path).run()
    before = learned(tmp_path)
    assert train.resume(tmp_path) == 0
    assert "is complete: 32 steps" in capsys.readouterr().out
    assert learned(tmp_path) == before


@pytest.mark.parametrize("way", ["command line", "library", "config.yaml"])
def test_complete_run_trained_longer_equals_a_longer_run(way, small, tmp_path):
    """With schedules that do not depend on the length of the run, and an end at a multiple of the evaluations' distance."""
    options = {"distill": {"schedule": "constant"}, "ppo": {"anneal_lr": False}}
    long = small(**options)
    total = next(name for name, value in long if value == 192)
    assert OnPolicyTrainer(long, tmp_path / "straight").run()
    assert OnPolicyTrainer(small(**options, **{total: 128}), tmp_path / "x").run()
    scramble()
    if way == "command line":
        assert main(["train", "--resume", str(tmp_path / "x"), f"--{total.replace('_', '-')}", "192"]) == 0
    elif way == "library":
        assert rpd.resume(tmp_path / "x", **{total: 192}).complete
    else:
        file = tmp_path / "x" / "config.yaml"
        file.write_text(file.read_text().replace(f"{total}: 128", f"{total}: 192"))
        assert rpd.resume(tmp_path / "x").complete
    assert_equal(learned(tmp_path / "x"), learned(tmp_path / "straight"))
    assert json.loads((tmp_path / "x" / "result-128.json").read_text())["steps"] == 128


def test_damaged_checkpoint_falls_back_to_the_latest_valid_one(small, straight, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 128, signal.SIGINT)
        assert OnPolicyTrainer(small(), tmp_path).run() is False
    damaged = tmp_path / "checkpoints" / "000000128" / "policy" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    assert main(["train", "--resume", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"skipped: {damaged}: truncated or altered" in out.replace(str(damaged.resolve()), str(damaged))
    assert "at 96 steps" in out
    assert_equal(learned(tmp_path), straight("rpd"))


def test_no_valid_checkpoint_gives_one_line(small, tmp_path, capsys):
    assert OnPolicyTrainer(small(total_timesteps=32), tmp_path).run()
    (tmp_path / "checkpoints" / "000000032" / "manifest.json").write_text("{}")
    assert main(["train", "--resume", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("rpd train: ") and "no sound checkpoint" in err and err.count("\n") == 1


class Killed(BaseException):
    """kill -9: nothing that the process would still do happens."""


def kill_at(monkeypatch, count):
    """Let the process die at the `count`-th time that it makes something last; returns the number of times so far."""
    calls = []

    def wrap(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) > count:
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in ("fsync", "replace", "rename", "unlink", "symlink", "mkdir"):
        wrap(os, name)
    wrap(shutil, "rmtree")
    return calls


def test_killed_at_any_moment(small, tmp_path, monkeypatch):
    """Writes from all over a run are, each in turn, the last thing that the process does."""
    config = small(total_timesteps=96, eval_freq=96, max_checkpoints=1)
    with monkeypatch.context() as patch:
        calls = kill_at(patch, 10**6)
        assert OnPolicyTrainer(config, tmp_path / "straight").run()
    expected, total = learned(tmp_path / "straight"), len(calls)
    for moment in (*range(0, 10, 3), *range(10, total, 11), total - 1):
        run_dir = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            with pytest.raises(Killed):
                OnPolicyTrainer(config, run_dir).run()
        if (run_dir / "config.yaml").exists():
            assert train.resume(run_dir) == 0
        else:  # it had not begun: the same command again
            assert train.start(config, tmp_path, str(moment)) == 0
        assert_equal(learned(run_dir), expected)
        assert not list((run_dir / "checkpoints").glob(".tmp-0*"))


@pytest.fixture(scope="module")
def uninterrupted():
    """What the uninterrupted run of `test_kill_9` has learned; the first of its cases fills it."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["config.yaml", "checkpoints/last"])
def test_kill_9(sign, arguments, tmp_path, uninterrupted):
    """A process that is really killed, from the command line to the command line."""
    args = [*arguments(total_timesteps=512, eval_freq=320, save_freq=64), "--runs-dir", str(tmp_path)]
    if not uninterrupted:
        assert main([*args, "--name", "straight"]) == 0
        uninterrupted.update(learned(tmp_path / "straight"))
    process = warm.Process(["-m", "rpd", *args, "--name", "killed"], os.environ, tmp_path, tmp_path / "log.txt")
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed" / sign).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait(120) == -signal.SIGKILL, "it should not have ended by itself"
    assert not (tmp_path / "killed" / "result.json").exists()
    assert main(["train", "--resume", str(tmp_path / "killed")]) == 0
    assert_equal(learned(tmp_path / "killed"), uninterrupted)


def test_truncated_metrics_are_reported(small, tmp_path, capsys):
    """The lines before the checkpoint cannot be written again."""
    run_dir = tmp_path / "x"
    OnPolicyTrainer(small(total_timesteps=96), run_dir).run()
    first = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)[0]
    (run_dir / "metrics.jsonl").write_text(first + first[:20])
    Tracker(run_dir, 128, 96).close()
    assert "metrics.jsonl ends at 32 steps: the curve lacks what followed, up to 96" in capsys.readouterr().out
