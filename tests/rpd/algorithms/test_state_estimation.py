"""Learning to see beside learning to act."""

import pytest
import torch

from rpd.algorithms.state_estimation import PerceptionLearner
from rpd.config.schema import PerceptionConfig
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import NonFiniteError
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig


@pytest.fixture(scope="module")
def scenes():
    """Observations of 600 scenes, and the environment's spec."""
    env = envs.make("tabletop/PushCube", EnvConfig(num_envs=600, obs_mode="rgb"), num_threads=1)
    obs = env.reset(0)
    env.close()
    return env.spec, obs


def learner(spec, **changes):
    torch.manual_seed(0)
    policy = ActorCritic(spec, StudentConfig(state_estimator=True))
    return PerceptionLearner(policy, PerceptionConfig(**changes), torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_learns_state_from_images(scenes) -> None:
    spec, obs = scenes
    student = learner(spec)
    student.policy.update_normalization(obs)
    metrics = [student.update(obs[:500], k / 4) for k in range(4)]
    assert metrics[-1]["state_estimator/object"] < 0.02 < metrics[0]["state_estimator/object"]
    with torch.no_grad():  # and not by heart: scenes that it has not seen
        error = student.module.error(student.policy.estimate_state(obs[500:]), obs["privileged"][500:])
    assert error[:, :3].square().sum(-1).mean().sqrt() < 0.3  # dm


def test_leaves_the_policy_alone(scenes) -> None:
    spec, obs = scenes
    student = learner(spec, num_minibatches=2)
    before = [p.clone() for p in student.policy.policy_parameters()]
    student.update(obs, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, student.policy.policy_parameters(), strict=True))
    assert student.optimizer.param_groups[0]["lr"] == 3e-3
    student.update(obs, 1.0)
    assert student.optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)


def test_replay_keeps_required_keys_only(scenes) -> None:
    spec, obs = scenes
    student = learner(spec, num_minibatches=1, replay_capacity=100)
    student.update(student.policy.augment_obs(obs), 0.0)
    assert set(student.replay.rows.keys()) == {"state", "privileged", "image.front"} and len(student.replay.rows) == 100


def test_non_finite_loss_is_reported(scenes) -> None:
    spec, obs = scenes
    obs = obs.clone()
    obs["privileged"][3] = float("nan")
    with pytest.raises(NonFiniteError, match="state_estimator"):
        learner(spec, num_minibatches=10).update(obs, 0.0)
