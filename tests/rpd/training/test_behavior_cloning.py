"""Behavior cloning of actor-critic students: the loss, learning, resume, refusals."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from rpd.algorithms.behavior_cloning import demonstration_loss
from rpd.datasets.reader import open_demos
from rpd.envs.errors import ConfigError, NonFiniteError, SpecMismatch
from rpd.runs import checkpoint
from rpd.runs.tracker import read_metrics
from rpd.students.networks.distribution import ActionDistribution
from rpd.training.behavior_cloning import BehaviorCloningTrainer
from rpd.training.run import resume, train

pytest.importorskip("h5py")
BC = {"algorithm": "bc", "teacher": None, "task": "tabletop/Reach", "bc": {"batch_size": 32, "warmup_steps": 2}}


@pytest.fixture(scope="module")
def demos(collect, tmp_path_factory):
    """States of an expert at Reach, with noise on what is executed."""
    folder = tmp_path_factory.mktemp("demos") / "x"
    assert collect(folder, "tabletop/Reach", episodes=40, per_file=20, env__obs_mode="state", env__image_size=None) == 0
    return folder


def test_loss_by_hand():
    """One continuous and one discrete dimension, two rows; sigma = 0.5, the logit of +1 is log 3."""
    raw = torch.tensor([[0.2, math.log(3)], [-0.4, math.log(3)]], requires_grad=True)
    log_std = torch.tensor([0.5, 1.0]).log().requires_grad_()
    student = ActionDistribution(raw, log_std, torch.tensor([False, True]))
    actions = torch.tensor([[0.7, 1.0], [-0.4, -1.0]])
    normal = math.log(0.5) + 0.5 * math.log(2 * math.pi)
    gripper = -math.log(0.75) - math.log(0.25)  # of +1 and -1; the entropy of a sure label is 0
    expected = {"nll": 0.5 * (0.5 / 0.5) ** 2 + 2 * normal, "mse": 0.25, "l1": 0.5, "huber": 0.1 * (2 * 0.5 - 0.1)}
    for kind, continuous in expected.items():
        loss = demonstration_loss(student, actions, kind)
        assert math.isclose(loss.item(), (continuous + gripper) / 2, rel_tol=1e-5), kind
    (gradient,) = torch.autograd.grad(demonstration_loss(student, actions, "nll"), raw)
    # d/dmu = (mu - a) / sigma² / 2 rows; d/dlogit = (p - p_T) / 2 rows
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, -0.125], [0.0, 0.375]]))
    assert torch.autograd.grad(demonstration_loss(student, actions, "nll"), log_std, allow_unused=True) == (None,)


def test_bc_learns_the_task(small, demos, tmp_path):
    config = small(
        **BC | {"bc": {"learning_rate": 3e-3}}, demos=(demos,), total_timesteps=96_000,
        student={"hidden_dims": (64,), "state_keys": ("tcp_lag", "goal")},
        eval_freq=96_000,
        env={"max_episode_steps": 25}, final_eval_episodes=40, save_freq=96_000,
    )  # fmt: skip
    assert BehaviorCloningTrainer(config, tmp_path).run()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["algorithm"] == "bc" and result["student"]["successes"] >= 38
    metrics = read_metrics(tmp_path)
    assert metrics[-1]["bc/loss"] < metrics[0]["bc/loss"] and "time/update" in metrics[0]


def weights(run_dir):
    return (run_dir / "checkpoints" / "last" / "policy" / "model.safetensors").read_bytes()


def test_trains_the_actor_only(small, demos, tmp_path):
    """The critic and the standard deviation stay as they were; states are whitened with the statistics of all rows."""
    trainer = BehaviorCloningTrainer(small(**BC, demos=(demos,)), tmp_path / "run")
    before = {name: tensor.clone() for name, tensor in trainer.policy.state_dict().items()}
    trainer.iterate()
    trainer.close()
    after = trainer.policy.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in after if name.startswith("actor.")}
    states = trainer.student.source.states.double()
    torch.testing.assert_close(after["state_normalizer.mean"], states.mean(0))
    average = trainer.average.network.state_dict()
    assert not torch.equal(average["actor.0.weight"], after["actor.0.weight"])


LEARNERS = {
    "states": {"env": {"obs_mode": "state"}},
    "images": {"env": {"obs_mode": "rgb", "image_size": 16}, "student": {"augment": ("shift",)}},
    "state estimator": {
        "env": {"obs_mode": "rgb", "image_size": 16}, "student": {"state_estimator": True},
        "state_estimator": {"num_minibatches": 2, "minibatch_size": 8, "replay_capacity": 50},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", LEARNERS)
def test_resumes_bit_for_bit(kind, small, demos, collect, tmp_path):
    if kind != "states":
        demos = tmp_path / "x"
        assert collect(demos, "tabletop/Reach", episodes=4, privileged="True") == 0
    options = {"demos": (demos,), "total_timesteps": 1920, "save_freq": 640, "eval_freq": 1920}
    config = small(**BC, **options, **LEARNERS[kind])
    assert BehaviorCloningTrainer(config, tmp_path / "straight").run()
    saved = checkpoint.load(tmp_path / "straight" / "checkpoints" / "000001280")
    resumed = BehaviorCloningTrainer(config, tmp_path / "again", saved)
    assert resumed.step == 1280 and resumed.run()
    a, b = (checkpoint.load(tmp_path / name / "checkpoints" / "last") for name in ("straight", "again"))
    assert a.step == b.step == 1920 and a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(a.tensors[key], b.tensors[key]) for key in a.tensors)
    assert weights(tmp_path / "straight") == weights(tmp_path / "again")


def test_trained_longer_equals_an_uninterrupted_run(small, demos, tmp_path):
    """With a constant learning rate."""
    config = small(**BC | {"bc": {"batch_size": 32, "anneal_lr": False}}, demos=(demos,), total_timesteps=1920)
    assert BehaviorCloningTrainer(config, tmp_path / "straight").run()
    short = config.model_copy(update={"total_timesteps": 960})
    assert BehaviorCloningTrainer(short, tmp_path / "x").run()
    assert resume(tmp_path / "x", total_timesteps=1920).summary["steps"] == 1920
    assert weights(tmp_path / "straight") == weights(tmp_path / "x") and (tmp_path / "x" / "result-960.json").is_file()


@pytest.mark.parametrize("kind", ["actor-critic", "diffusion"])
def test_nan_leaves_evidence(kind, small, demos, tmp_path):
    """A learning rate that makes the loss infinite stops the run and leaves the batch and the weights."""
    config = small(
        **BC | {"bc": {"batch_size": 32, "learning_rate": 1e30, "warmup_steps": 1}}, demos=(demos,), total_timesteps=9_600,
        student={"type": kind, "state_keys": ("tcp_lag", "goal")},
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match="loss"):
        train(config, runs_dir=tmp_path, name="x")
    tensors = load_file(tmp_path / "x" / "evidence" / "tensors.safetensors")
    assert any(name.startswith("batch.") for name in tensors) and any(name.startswith("policy.") for name in tensors)
    assert json.loads((tmp_path / "x" / "evidence" / "fault.json").read_text())["source"] == "loss"


def test_starts_from_a_policy(small, demos, tmp_path):
    """Its normalizer stays: before the first step the student acts as the policy that it starts from."""
    config = small(**BC, demos=(demos,), total_timesteps=640)
    assert BehaviorCloningTrainer(config, tmp_path / "first").run()
    other = small(**BC, demos=(demos,), pretrained_path=str(tmp_path / "first"), seed=1)
    trainer = BehaviorCloningTrainer(other, tmp_path / "second")
    start = checkpoint.load(tmp_path / "first" / "checkpoints" / "last")
    trainer.policy.save_pretrained(tmp_path / "copy")
    trainer.close()
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (start.policy_dir / "model.safetensors").read_bytes()
    assert trainer.sources["init"]


def test_images_and_state_estimator(small, collect, tmp_path):
    assert collect(tmp_path / "x", "tabletop/Reach", episodes=4, privileged="True") == 0
    env = {"obs_mode": "rgb", "image_size": 16}
    sight = {"state_estimator": {"num_minibatches": 2, "minibatch_size": 8, "replay_capacity": 50}}
    for student in ({}, {"state_estimator": True, "asymmetric_critic": True}):
        trainer = BehaviorCloningTrainer(
            small(**BC, **sight, demos=(tmp_path / "x",), env=env, student=student), tmp_path / "run"
        )
        assert ("state_estimator/object" in trainer.iterate()) == bool(student)
        trainer.close()
    with pytest.raises(SpecMismatch, match=r"image.front was recorded as \[16, 16, 3\], the student sees \[32, 32, 3\]"):
        BehaviorCloningTrainer(
            small(**BC, demos=(tmp_path / "x",), env={"obs_mode": "rgb", "image_size": 32}), tmp_path / "run"
        )


def test_frames_are_those_of_the_episode(small, collect, tmp_path):
    """A row of demonstrations is seen as the environment would have shown it, and a student with a past can be recorded."""
    assert collect(tmp_path / "x", "tabletop/Reach", episodes=4) == 0
    trainer = BehaviorCloningTrainer(
        small(**BC, demos=(tmp_path / "x",), env={"obs_mode": "rgb", "image_size": 16, "frame_stack": 3}), tmp_path / "run"
    )
    rows, spec = trainer.student.source.rows, trainer.env.spec
    trainer.policy.save_pretrained(tmp_path / "policy")
    trainer.iterate()
    trainer.close()
    index = torch.tensor([0, 1, 2, 5, int((rows.episode == 1).nonzero()[0])])
    for i, image in zip(index.tolist(), rows[index]["image.front"], strict=True):
        first = i - int(rows.step[i])
        for frame, j in zip(image.split(3, dim=-1), (i - 2, i - 1, i), strict=True):
            assert torch.equal(frame, rows.tensors["image.front"][max(first, j)])
    state = rows.demos.read(0, "state", [0])
    assert spec.frames == 3 and state.shape[1:] == spec.observations["state"].shape
    other = {"policy": tmp_path / "policy", "teacher": None, "env__frame_stack": 3, "keep": "all"}
    assert collect(tmp_path / "y", "tabletop/Reach", episodes=2, **other) == 0
    assert open_demos(tmp_path / "y").read(0, "image.front", [0]).shape == (1, 16, 16, 3)


def test_unusable_demonstrations_are_refused(small, demos, tmp_path):
    with pytest.raises(ConfigError, match="algorithm bc needs demonstrations: add --demos"):
        BehaviorCloningTrainer(small(**BC), tmp_path)
    with pytest.raises(ConfigError, match="algorithm bc uses no teacher"):
        BehaviorCloningTrainer(small(**BC | {"teacher": "scripted"}, demos=(demos,)), tmp_path)
    with pytest.raises(ConfigError, match=r"unknown task in .* 'tabletop/PushCube'"):
        BehaviorCloningTrainer(small(**BC | {"task": "tabletop/PushCube"}, demos=(demos,)), tmp_path)
    with pytest.raises(SpecMismatch, match=r"robot differ: demonstrations of tabletop/Reach have panda; .* has xarm6"):
        BehaviorCloningTrainer(small(**BC, demos=(demos,), env={"robot": "xarm6"}), tmp_path)
    with pytest.raises(ConfigError, match="no 'privileged', which the student reads: record with --privileged True"):
        BehaviorCloningTrainer(small(**BC, demos=(demos,), student={"asymmetric_critic": True}), tmp_path)
    with pytest.raises(ConfigError, match=r"bc\.sampler applies to diffusion policies"):
        BehaviorCloningTrainer(small(**BC | {"bc": {"sampler": "ddim"}}, demos=(demos,)), tmp_path)
