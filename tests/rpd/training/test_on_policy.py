import json

import pytest
import torch
import yaml

from rpd.config.schema import RunConfig
from rpd.core.seeds import FINAL_SEED
from rpd.envs import registry
from rpd.envs.tabletop.env import TabletopEnv
from rpd.evaluation.environments import MAX_EVAL_ENVS, eval_config
from rpd.evaluation.evaluate import evaluate
from rpd.policies.builtin import StudentPolicy
from rpd.runs.tracker import read_metrics
from rpd.students.actor_critic import ActorCritic
from rpd.teachers.adapters.student import PolicyTeacher
from rpd.teachers.scripted import ScriptedTeacher
from rpd.training.on_policy import OnPolicyTrainer


def test_run_folder_contents(small, tmp_path):
    config = small()
    assert OnPolicyTrainer(config, tmp_path).run()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoints", "config.yaml", "env.json", "metrics.jsonl", "result.json", "tensorboard"
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["000000160", "000000192", "last"]
    assert RunConfig.model_validate(yaml.safe_load((tmp_path / "config.yaml").read_text())) == config
    info = json.loads((tmp_path / "env.json").read_text())
    assert info["versions"]["torch"] == torch.__version__ and set(info) >= {"git", "machine", "time"}

    metrics = read_metrics(tmp_path)
    assert [m["step"] for m in metrics] == [32, 64, 96, 128, 160, 192]
    assert [m["step"] for m in metrics if "eval/success_once" in m] == [64, 128, 192]
    assert all({"ppo/policy_loss", "time/env", "time/update", "rollout/ep_length"} <= m.keys() for m in metrics[1:])
    # w = 2 (1 - t / 96): from half of the run on, no labels
    assert [m["teacher/queries"] for m in metrics] == [32, 64, 96, 96, 96, 96]
    assert [m.get("distill/weight") for m in metrics] == pytest.approx([2.0, 4 / 3, 2 / 3, None, None, None])

    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["steps"], result["teacher_queries"], result["algorithm"], result["seed"]) == (192, 96, "rpd", 0)
    assert [row[0] for row in result["curve"]] == [64, 128, 192] and all(row[3] == 3 for row in result["curve"])
    assert result["student"]["first_seed"] == result["teacher_eval"]["first_seed"] == FINAL_SEED
    assert result["paired"]["n"] == 3

    policy = ActorCritic.from_pretrained(tmp_path / "checkpoints" / "last" / "policy")
    env = registry.make(config.task, eval_config(config.task, config.env, 3), "cpu", 1)
    again = evaluate(env, StudentPolicy(policy), 3, FINAL_SEED)
    assert again.to_dict() == result["student"]


def test_run_is_determined_by_its_seed(small, tmp_path):
    runs = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(len(runs))
        assert OnPolicyTrainer(small(seed=seed, total_timesteps=64), tmp_path / name).run()
        runs.append([{k: v for k, v in m.items() if not k.startswith("time/")} for m in read_metrics(tmp_path / name)])
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("mode", ["rpd", "dagger"])
@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("divergence", ["nll", "rkl", "opd"])
def test_one_label_per_observation_and_none_in_the_epochs(mode, fraction, divergence, small, tmp_path, monkeypatch):
    asked = []
    label = ScriptedTeacher.label

    def counted(self, obs, instructions, student_action=None):
        asked.append(len(instructions))
        return label(self, obs, instructions, student_action)

    monkeypatch.setattr(ScriptedTeacher, "label", counted)
    distill = {"divergence": divergence, "label_fraction": fraction, "schedule": "constant"}
    ppo = {"num_steps": 8, "update_epochs": 5}
    trainer = OnPolicyTrainer(small(algorithm=mode, teacher="scripted:bins=32", ppo=ppo, distill=distill), tmp_path)
    for iteration in (1, 2, 3):
        metrics = trainer.iterate()
        assert metrics["teacher/queries"] == trainer.collector.queries == sum(asked) == iteration * 8 * 4 * fraction
        assert metrics["distill/label_fraction"] == fraction
    assert len(asked) == 3 * 8
    trainer.close()


@pytest.mark.parametrize(
    ("teacher", "divergence", "fields"),
    [
        ("scripted:bins=32", "mse", {"mean"}),
        ("scripted:bins=32", "rkl", {"mean", "bin_logits"}),
        ("scripted:bins=32", "opd", {"mean", "bin_logits"}),
        ("scripted:modes=2", "mse", {"mean"}),
        ("scripted:modes=2", "nearest", {"mean", "samples"}),
        ("scripted:modes=2", "rkl", {"mean", "samples"}),
        ("scripted:modes=2", "opd", {"mean", "samples"}),
    ],
)
def test_only_fields_of_the_divergence_are_requested_and_stored(teacher, divergence, fields, small, tmp_path):
    config = small(task="tabletop/PickCube", teacher=teacher, distill={"divergence": divergence})
    trainer = OnPolicyTrainer(config, tmp_path)
    assert trainer.teacher.requested_fields == fields
    trainer.iterate()
    trainer.close()
    kept = set(trainer.collector.batch["teacher"].keys())
    assert kept == fields | {"valid"}


@pytest.mark.parametrize(
    ("mode", "divergence", "explore"),
    [("rpd", "mse", True), ("dagger", "mse", False), ("dagger", "opd", True), ("rpd", "opd", True)],
)
def test_exploration_by_algorithm_and_divergence(mode, divergence, explore, small, tmp_path):
    trainer = OnPolicyTrainer(small(algorithm=mode, distill={"divergence": divergence}), tmp_path)
    trainer.close()
    assert trainer.collector.explore is explore


def test_ppo_queries_no_teacher(small, tmp_path):
    trainer = OnPolicyTrainer(small(algorithm="ppo", teacher=None), tmp_path)
    assert "teacher/queries" not in trainer.iterate() and trainer.collector.queries == 0
    trainer.close()


def test_teacher_is_frozen(small, tmp_path):
    """A saved policy as teacher: trained from, evaluated, and bit-identical after it."""
    assert OnPolicyTrainer(small(algorithm="ppo", teacher=None, total_timesteps=32), tmp_path / "first").run()
    trainer = OnPolicyTrainer(small(teacher=str(tmp_path / "first"), distill={"divergence": "fkl"}), tmp_path / "second")
    assert isinstance(trainer.teacher, PolicyTeacher)
    before = {k: v.clone() for k, v in trainer.teacher.weights().items()}
    student = {k: v.clone() for k, v in trainer.policy.state_dict().items()}
    assert trainer.run()
    after = trainer.teacher.weights()
    assert before.keys() == after.keys() and len(before) > 8
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(p.requires_grad for p in trainer.teacher.policy.parameters())
    assert not all(torch.equal(student[k], v) for k, v in trainer.policy.state_dict().items())  # whereas this one learned


def test_normaliser_moves_between_batches_only(small, tmp_path, monkeypatch):
    trainer = OnPolicyTrainer(small(), tmp_path)
    counts = [trainer.policy.state_normalizer.count.item()]
    step = TabletopEnv.step

    def stepped(self, action):
        if self is trainer.env:
            counts.append(trainer.policy.state_normalizer.count.item())
        return step(self, action)

    monkeypatch.setattr(TabletopEnv, "step", stepped)
    trainer.iterate()
    trainer.iterate()
    trainer.close()
    assert counts == [8] + [8] * 8 + [8 + 32] * 8  # the first observations and as many of the prior, then one batch of 32


def test_dagger_does_not_read_the_reward(small, tmp_path, monkeypatch):
    weights = []
    for factor in (1.0, -7.0):
        step = TabletopEnv.step

        def stepped(self, action, step=step, factor=factor):
            result = step(self, action)
            result.reward.mul_(factor)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(TabletopEnv, "step", stepped)
            trainer = OnPolicyTrainer(small(algorithm="dagger"), tmp_path)
            trainer.iterate()
            trainer.close()
        weights.append(trainer.policy.state_dict())
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())


def test_learning_rate_anneals(small, tmp_path):
    trainer = OnPolicyTrainer(small(ppo={"num_steps": 8, "learning_rate": 1e-3, "anneal_lr": True}), tmp_path)
    for step, rate in ((0, 1e-3), (48, 0.75e-3), (96, 0.5e-3)):
        trainer.step = step
        trainer.iterate()
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    trainer.close()


def test_evaluation_has_at_most_so_many_environments(small):
    env = small().env
    assert [eval_config("tabletop/Reach", env, n).num_envs for n in (3, 1000)] == [3, MAX_EVAL_ENVS]


LESSONS = {
    "ppo": {"algorithm": "ppo", "teacher": None},
    "rpd": {"teacher": "scripted:noisy", "distill": {"decay_steps": 10_000}},
    "rpd, from scores": {"teacher": "scripted:biased,bins=255", "distill": {"divergence": "opd", "decay_steps": 10_000}},
    "from scores alone": {"algorithm": "dagger", "teacher": "scripted:bins=255", "distill": {"divergence": "opd"}},
    "from bins alone": {"algorithm": "dagger", "teacher": "scripted:bins=255", "distill": {"divergence": "rkl"}},
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_training_improves_the_policy(lesson, small, tmp_path):
    """Reach from state, dense reward: seconds on one thread."""
    steps = 40_000 if lesson == "ppo" else 20_000
    config = small(
        **LESSONS[lesson], env={"num_envs": 64, "max_episode_steps": None}, total_timesteps=steps,
        student={"hidden_dims": (64, 64), "init_log_std": -1.0},
        ppo={"num_steps": 25, "update_epochs": 5, "num_minibatches": 4}, eval_freq=10**6, final_eval_episodes=50,
        save_freq=10**6,
    )  # fmt: skip
    assert OnPolicyTrainer(config, tmp_path).run()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["student"]["rate"] > 0.8
    if config.algorithm == "rpd":
        assert result["teacher_eval"]["rate"] < 0.75
