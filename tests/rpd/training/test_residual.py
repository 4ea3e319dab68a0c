"""Residual runs: ordinary runs that start at their base, ask it once, and can be resumed and used anywhere."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from rpd.cli.main import main
from rpd.core.seeds import FINAL_SEED
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.evaluation.evaluate import evaluate
from rpd.policies.loading import load_policy
from rpd.runs import checkpoint
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig
from rpd.teachers import registry as teachers
from rpd.teachers.scripted import ScriptedTeacher
from rpd.training.builders import make_policy
from rpd.training.on_policy import OnPolicyTrainer

READS = ("gripper", "tcp_lag", "object", "goal")
RESIDUAL = {"algorithm": "ppo", "teacher": None, "total_timesteps": 96}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A policy for the Panda that may move to other robots."""
    torch.manual_seed(1)
    env = registry.make("tabletop/Reach", EnvConfig(num_envs=2))
    policy = ActorCritic(env.spec, StudentConfig(hidden_dims=(8,), state_keys=READS))
    torch.nn.init.normal_(policy.actor[-1].weight)
    policy.save_pretrained(folder := tmp_path_factory.mktemp("base"))
    return str(folder)


def test_residual_run_on_another_robot(small, base, tmp_path):
    config = small(base=base, env={"robot": "xarm6"}, residual={"base_input": "features"}, **RESIDUAL)
    assert OnPolicyTrainer(config, tmp_path / "run").run()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["base"] == base and result["robot"] == "xarm6" and result["base_paired"]["n"] == 3
    env = registry.make("tabletop/Reach", config.env.model_copy(update={"num_envs": 3}))
    alone = evaluate(env, load_policy(base, env), 3, FINAL_SEED).to_dict()
    assert {k: v for k, v in result["base_eval"].items() if k != "policy"} == {k: v for k, v in alone.items() if k != "policy"}
    student = load_policy(str(tmp_path / "run"), env)
    assert evaluate(env, student, 3, FINAL_SEED).to_dict() | {"policy": "student"} == result["student"]
    original = ActorCritic.from_pretrained(base).state_dict()
    assert all(torch.equal(student.student.base.state_dict()[k], v) for k, v in original.items())
    obs = env.reset(0)
    label = teachers.make(str(tmp_path / "run"), env.spec).label(obs, env.instructions)
    assert torch.equal(label.mean[:, :6], student.act(obs, env.instructions)[:, :6])


def test_base_inside_is_asked_once_per_observation(small, base, tmp_path, monkeypatch):
    trainer, asked, propose = OnPolicyTrainer(small(base=base, **RESIDUAL), tmp_path), [], ActorCritic.act_with_features
    monkeypatch.setattr(
        ActorCritic, "act_with_features", lambda self, obs: (asked.append(len(obs["state"])), propose(self, obs))[1]
    )
    assert [trainer.iterate()["residual/alpha"] for _ in range(2)] == pytest.approx([0.2, 2.0])  # at 0 and 1/3 of the run
    trainer.close()
    assert asked == [4] * 16


def test_teacher_outside_is_asked_once_per_observation(small, tmp_path, monkeypatch):
    trainer, asked = OnPolicyTrainer(small(base="scripted:noise=0.3", **RESIDUAL), tmp_path / "run"), []
    act = ScriptedTeacher.act
    monkeypatch.setattr(ScriptedTeacher, "act", lambda self, obs, words: (asked.append(len(words)), act(self, obs, words))[1])
    assert trainer.iterate()["base/queries"] == sum(asked) == 32 and asked == [4] * 8
    trainer.close()
    assert OnPolicyTrainer(small(base="scripted:noise=0.3", **RESIDUAL), tmp_path / "run").run()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    env = registry.make("tabletop/Reach", EnvConfig(num_envs=3, max_episode_steps=10))
    assert evaluate(env, load_policy(str(tmp_path / "run"), env), 3, FINAL_SEED).successes == result["student"]["successes"]
    teacher = teachers.make(str(tmp_path / "run"), env.spec)
    assert teacher.act(env.reset(0), env.instructions).shape == (3, 7)


@pytest.mark.parametrize("divergence", ["mse", "nll", "rkl", "opd"])
@pytest.mark.parametrize("mode", ["rpd", "dagger"])
def test_composes_with_distillation(mode, divergence, small, base, tmp_path):
    config = small(base=base, algorithm=mode, teacher="scripted:bins=32", distill={"divergence": divergence})
    trainer = OnPolicyTrainer(config, tmp_path)
    metrics = trainer.iterate()
    trainer.close()
    assert metrics["teacher/queries"] == 32 and "distill/divergence" in metrics and "residual/alpha" in metrics


@pytest.mark.parametrize("kind", ["inside", "outside"])
def test_resumes_bit_for_bit_without_the_bases_folder(kind, small, base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    config = small(base=str(folder) if kind == "inside" else "scripted:noise=0.3", **RESIDUAL)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert OnPolicyTrainer(config, straight).run()
    trainer = OnPolicyTrainer(config, stopped)
    trainer._evaluate_base()
    trainer.iterate()
    trainer._save()
    trainer.close()
    shutil.rmtree(folder)
    assert OnPolicyTrainer(config, stopped, checkpoint.load(stopped / "checkpoints" / "last")).run()
    weights = [(run / "checkpoints" / "last" / "policy" / "model.safetensors").read_bytes() for run in (straight, stopped)]
    assert weights[0] == weights[1]
    results = [json.loads((run / "result.json").read_text()) for run in (straight, stopped)]
    assert results[0]["base_eval"] == results[1]["base_eval"] and results[0]["student"] == results[1]["student"]


@pytest.mark.parametrize("asymmetric", [False, True])
def test_fine_tuning_starts_at_the_base_too(small, base, tmp_path, asymmetric):
    exploring = {"init_log_std": -3.0, "asymmetric_critic": asymmetric}
    config = small(pretrained_path=base, env={"robot": "ur10e"}, student=exploring, **RESIDUAL)
    trainer = OnPolicyTrainer(config, tmp_path)
    alone = ActorCritic.from_pretrained(base)
    alone.adapt_to(trainer.env.spec)
    obs = trainer.collector.obs
    begun = make_policy(config, trainer.env)
    torch.testing.assert_close(begun.act(obs), alone.act(obs))
    assert torch.equal(begun.value(obs), alone.value(obs)) != asymmetric  # a critic that sees more is a new one
    assert trainer.config.student.state_keys == READS and trainer.config.student.init_log_std == -3.0
    assert torch.allclose(trainer.policy.log_std, torch.tensor(-3.0)) and (alone.rescale != 1).any()
    before = alone.state_dict()["actor.0.weight"]
    trainer.iterate()
    trainer.close()
    assert not torch.equal(trainer.policy.state_dict()["actor.0.weight"], before)
    with pytest.raises(ConfigError, match="a residual policy starts from its base"):
        OnPolicyTrainer(small(pretrained_path=base, base=base, **RESIDUAL), tmp_path)


def test_invalid_base_is_refused(small, base, tmp_path):
    with pytest.raises(ConfigError, match="base zero ignores observations"):
        OnPolicyTrainer(small(base="zero", **RESIDUAL), tmp_path)
    with pytest.raises(ConfigError, match="unknown policy"):
        OnPolicyTrainer(small(base="nowhere", **RESIDUAL), tmp_path)
    with pytest.raises(ConfigError, match="algorithm bc cannot train a residual policy"):
        OnPolicyTrainer(small(base=base, **RESIDUAL | {"algorithm": "bc"}), tmp_path)
    with pytest.raises(SpecMismatch, match=r"state entries differ: policy \(tabletop/Reach\) has touch"):
        bound = ActorCritic.from_pretrained(base)
        ActorCritic(bound.spec, StudentConfig(state_keys=("touch", "goal"))).save_pretrained(tmp_path / "touch")
        OnPolicyTrainer(small(base=str(tmp_path / "touch"), env={"obs_mode": "rgb", "image_size": 16}, **RESIDUAL), tmp_path)


def test_from_the_command_line(arguments, base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = arguments(teacher=None)[1:]
    assert main(["residual", base, *words, "--robot", "so101", "--name", "x", "--residual.alpha", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "│ base" in out and "student - base: " in out and "PPO residual student" in out
    page = Path("runs/x/report.html").read_text()
    assert "Over its base" in page and f"base {base} on so101" in page and "PPO residual run" in page
    assert main(["eval", "runs/x", "--episodes", "2", "--video", "False"]) == 0
    assert "so101" in capsys.readouterr().out
    assert main(["residual", "--resume", "runs/x"]) == 0 and "is complete" in capsys.readouterr().out
    assert main(["residual", base]) == 2 and "which task?" in capsys.readouterr().err
    assert main(["residual"]) == 2 and "which task?" in capsys.readouterr().err
