"""Trouble while a run is under way: it stops in one line, leaves evidence, and can go on."""

import errno
import json
import os

import pytest
from safetensors.torch import load_file

import rpd.algorithms.ppo
import rpd.runs.evidence
from rpd.cli.main import main
from rpd.envs.errors import WorkerDied
from rpd.envs.tabletop.env import TabletopEnv
from rpd.runs import checkpoint
from rpd.runs.tracker import Tracker
from rpd.teachers.scripted import ScriptedTeacher


def poison(monkeypatch, where):
    """Let something answer with NaN in the third iteration."""
    nan = float("nan")
    if where in ("reward", "obs"):
        step, calls = TabletopEnv.step, []

        def stepped(self, action):
            result = step(self, action)
            if self.num_envs == 4:  # the training environments
                calls.append(1)
                if len(calls) == 20:
                    (result.reward if where == "reward" else result.obs["state"])[1] = nan
            return result

        monkeypatch.setattr(TabletopEnv, "step", stepped)
    elif where == "teacher":
        label, asked = ScriptedTeacher.label, []

        def labelled(self, obs, instructions, student_action=None):
            answer = label(self, obs, instructions, student_action)
            asked.append(1)
            if len(asked) == 20:
                answer.mean[2] = nan
            return answer

        monkeypatch.setattr(ScriptedTeacher, "label", labelled)
    else:
        update, updates = rpd.algorithms.ppo.update, []

        def updated(*args, **kwargs):
            updates.append(1)
            if len(updates) == 3:
                monkeypatch.setattr(rpd.algorithms.ppo, "policy_loss", lambda log_ratio, *_: log_ratio.sum() * nan)
            return update(*args, **kwargs)

        monkeypatch.setattr(rpd.algorithms.ppo, "update", updated)


@pytest.mark.parametrize(
    ("where", "source", "named"),
    [
        ("reward", "environment", "reward of environment 1, step 4 of the batch"),
        ("obs", "environment", "obs.state of environment 1, step 5 of the batch"),
        ("teacher", "teacher scripted:noise=0.5", "teacher.mean of environment 2, step"),
        ("loss", "loss", "ppo/policy_loss"),
    ],
)
def test_nan_stops_the_run_with_evidence(where, source, named, arguments, tmp_path, monkeypatch, capsys):

    args = [*arguments(total_timesteps=192, eval_freq=192, distill__schedule="constant"), "--runs-dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        poison(patch, where)
        assert main([*args, "--name", "x"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"rpd train: non-finite values from the {source}: ") and named in err and err.count("\n") == 1
    assert f"rpd train --resume {tmp_path / 'x'}" in out and f"evidence: {tmp_path / 'x' / 'evidence'}" in out

    fault = json.loads((tmp_path / "x" / "evidence" / "fault.json").read_text())
    assert fault["source"] == source and named in fault["fault"] and fault["step"] == 64
    tensors = load_file(tmp_path / "x" / "evidence" / "tensors.safetensors")
    if where != "loss":
        bad = {k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()}
        assert {"reward": "batch.reward", "obs": "batch.obs.state", "teacher": "batch.teacher.mean"}[where] in bad

    # nothing poisoned was saved, and the run goes on from what was
    steps = sorted(p.name for p in (tmp_path / "x" / "checkpoints").glob("0*"))
    assert steps == ["000000032", "000000064"]
    assert main(["train", "--resume", str(tmp_path / "x")]) == 0
    assert main([*args, "--name", "y"]) == 0
    models = [(tmp_path / n / "checkpoints" / "last" / "policy" / "model.safetensors").read_bytes() for n in "xy"]
    assert models[0] == models[1]


def test_evidence_must_not_hide_the_fault(arguments, tmp_path, monkeypatch, capsys):

    poison(monkeypatch, "reward")
    monkeypatch.setattr(rpd.runs.evidence, "write_bytes", full)
    assert main([*arguments(), "--runs-dir", str(tmp_path)]) == 1
    assert "non-finite values from the environment" in capsys.readouterr().err


def test_dead_worker_is_named_and_the_run_resumable(arguments, tmp_path, monkeypatch, capsys):

    step, calls = TabletopEnv.step, []

    def stepped(self, action):
        calls.append(1)
        if len(calls) == 60:
            raise WorkerDied("environment worker 1 (environments 2..3) was killed by SIGKILL")
        return step(self, action)

    closed = []
    with monkeypatch.context() as patch:
        patch.setattr(TabletopEnv, "step", stepped)
        patch.setattr(TabletopEnv, "close", lambda self: closed.append(self))
        assert main([*arguments(total_timesteps=192), "--runs-dir", str(tmp_path), "--name", "x"]) == 1
    out, err = capsys.readouterr()
    assert err == "rpd train: environment worker 1 (environments 2..3) was killed by SIGKILL\n"
    assert "rpd train --resume" in out and len(closed) == 2
    assert main(["train", "--resume", str(tmp_path / "x")]) == 0


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("writes", [0, 1, 3, 9, 14, 20, 21])
def test_full_disk_leaves_the_last_good_checkpoint(writes, arguments, tmp_path, monkeypatch, capsys):
    """The disk is full from some write on: of the settings, of a checkpoint, of the result."""

    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(1)
        if len(calls) > 2 * writes:  # each file: itself, then its folder
            full()
        real(descriptor)

    run_dir = tmp_path / "x"
    args = [*arguments(), "--runs-dir", str(tmp_path), "--name", "x"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert main(args) == 1
    err = capsys.readouterr().err
    assert err.startswith("rpd train: ") and str(run_dir) in err and "No space left on device" in err and err.count("\n") == 1
    for path in (run_dir / "checkpoints").glob("0*"):
        checkpoint.load(path)
    if (run_dir / "config.yaml").exists():
        assert main(["train", "--resume", str(run_dir)]) == 0
        assert (run_dir / "result.json").exists()
    else:
        assert main(args) == 0


@pytest.mark.parametrize("what", ["metrics", "tensorboard", "tensorboard's end"])
def test_full_disk_while_logging(what, arguments, tmp_path, monkeypatch, capsys):

    made = Tracker.__init__

    def tracker(self, *args):
        made(self, *args)
        if what == "metrics":
            self.file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        elif what == "tensorboard":
            self.writers[0].board.add_scalar = full
        else:
            self.writers[0].board.close = full

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "__init__", tracker)
        assert main([*arguments(), "--runs-dir", str(tmp_path), "--name", "x"]) == 1
    out, err = capsys.readouterr()
    assert "No space left on device" in err and err.count("\n") == 1 and "rpd train --resume" in out
    assert main(["train", "--resume", str(tmp_path / "x")]) == 0


def test_teacher_that_answers_nan_from_the_start(arguments, tmp_path, monkeypatch, capsys):
    """It is judged before the first batch: there is none to leave as evidence, but what it was shown and answered."""
    label = ScriptedTeacher.label

    def labelled(self, obs, instructions, student_action=None):
        answer = label(self, obs, instructions, student_action)
        answer.mean[1, 0] = float("inf")
        return answer

    monkeypatch.setattr(ScriptedTeacher, "label", labelled)
    monkeypatch.setattr(ScriptedTeacher, "act", lambda self, obs, instructions: labelled(self, obs, instructions).mean)
    assert main([*arguments(), "--runs-dir", str(tmp_path), "--name", "x"]) == 1
    out, err = capsys.readouterr()
    named = "non-finite values from the policy scripted:noise=0.5: action of environment 1: x = inf"
    assert err == f"rpd train: {named}\n" and f"evidence: {tmp_path / 'x' / 'evidence'}" in out
    fault = json.loads((tmp_path / "x" / "evidence" / "fault.json").read_text())
    assert fault == {"step": 0, "source": "policy scripted:noise=0.5", "fault": named}
    tensors = load_file(tmp_path / "x" / "evidence" / "tensors.safetensors")
    assert tensors["crossed.action"].isinf().any() and tensors["crossed.state"].isfinite().all()
    assert "policy.actor.0.weight" in tensors

    for verb in (["eval", "scripted:noise=0.5", "--task", "tabletop/Reach", "--episodes", "2", "--video", "False"],
                 ["data", "collect", "tabletop/Reach", "--policy", "scripted:noise=0.5", "--episodes", "2"]):  # fmt: skip
        assert main([*verb, "--out", str(tmp_path / verb[0]), "--num-threads", "1"]) == 1
        assert capsys.readouterr().err == f"rpd {verb[0]}: {named}\n"


def left(out, run_dir):
    """The evidence that a command says it left: what was the matter, and the tensors."""
    assert f"evidence: {run_dir / 'evidence'}" in out
    return json.loads((run_dir / "evidence" / "fault.json").read_text()), load_file(
        run_dir / "evidence" / "tensors.safetensors"
    )


@pytest.mark.parametrize("after", [0, 40], ids=["while it is judged", "while the student learns"])
def test_base_that_answers_nan_is_named(after, tmp_path, monkeypatch, capsys):
    act, asked = ScriptedTeacher.act, []

    def acting(self, obs, instructions):
        answer = act(self, obs, instructions)
        asked.append(1)
        if len(asked) > after:
            answer[1, 0] = float("nan")
        return answer

    monkeypatch.setattr(ScriptedTeacher, "act", acting)
    small = ["--env.num-envs", "4", "--env.max-episode-steps", "10", "--student.hidden-dims", "16", "--ppo.num-steps", "8",
             "--total-timesteps", "256", "--num-threads", "1", "--eval-episodes", "2", "--final-eval-episodes",
             "2"]  # fmt: skip
    args = ["residual", "scripted:noise=0.3", "tabletop/Reach", *small]
    assert main([*args, "--runs-dir", str(tmp_path), "--name", "x"]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "non-finite values from the base scripted:noise=0.3: " in err and "base_action" in err
    fault, tensors = left(out, tmp_path / "x")
    assert fault["source"] == "base scripted:noise=0.3"
    assert any(name.endswith("base_action") and tensor.isnan().any() for name, tensor in tensors.items())


def test_diffusion_policy_whose_loss_is_nan_leaves_evidence(collect, arguments, tmp_path, monkeypatch, capsys):
    pytest.importorskip("h5py"), pytest.importorskip("diffusers")
    assert collect(tmp_path / "d", "tabletop/Reach", episodes=4, env__obs_mode="state", env__image_size=None) == 0
    broken = lambda self, *_: sum(p.sum() for p in self.parameters()) * float("nan")  # noqa: E731
    monkeypatch.setattr("rpd.students.diffusion.policy.DiffusionPolicy.loss", broken)
    args = arguments(algorithm="bc", teacher=None, demos=tmp_path / "d", bc__batch_size=8)
    assert main([*args, "--student", "diffusion", "--runs-dir", str(tmp_path), "--name", "x"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("rpd train: non-finite values from the loss: nan at ") and err.count("\n") == 1
    fault, tensors = left(out, tmp_path / "x")
    assert fault["source"] == "loss" and {"batch.obs.state", "batch.actions"} <= tensors.keys()


def test_vla_whose_loss_is_nan_leaves_evidence(recorded, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    from rpd.teachers.openvla.trainable import TrainableOpenVLA

    loss = TrainableOpenVLA.loss
    broken = lambda self, batch: {name: value * float("nan") for name, value in loss(self, batch).items()}  # noqa: E731
    monkeypatch.setattr(TrainableOpenVLA, "loss", broken)
    args = [
        "teacher",
        "finetune",
        str(recorded),
        "--train-steps",
        "20",
        "--batch-size",
        "2",
        "--eval-episodes",
        "0",
        "--num-threads",
        "1",
    ]
    assert main([*args, "--runs-dir", str(tmp_path), "--name", "x"]) == 1
    out, err = capsys.readouterr()
    assert "non-finite values from the loss: clone/action" in err and err.count("\n") == 1
    fault, tensors = left(out, tmp_path / "x")
    assert fault["source"] == "loss" and tensors["batch.actions"].shape[0] == 2
