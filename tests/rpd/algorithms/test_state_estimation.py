"""Learning to see beside learning to act."""

import pytest
import torch

from envs import registry as envs
from envs.base import EnvConfig
from envs.errors import NonFiniteError
from rpd.config import PerceptionConfig
from rpd.perception import PerceptionLearner
from students.actor_critic import ActorCritic
from students.config import StudentConfig


@pytest.fixture(scope="module")
def scenes():
    """Observations of 600 scenes, and the environment's spec."""
    env = envs.make("tabletop/PushCube", EnvConfig(num_envs=600, obs="image"), num_threads=1)
    obs = env.reset(0)
    env.close()
    return env.spec, obs


def learner(spec, **changes):
    torch.manual_seed(0)
    policy = ActorCritic(spec, StudentConfig(perceive=True))
    return PerceptionLearner(policy, PerceptionConfig(**changes), torch.Generator().manual_seed(0))


def test_learns_to_see(scenes) -> None:
    spec, obs = scenes
    student = learner(spec)
    student.policy.observe(obs)
    metrics = [student.update(obs[:500], k / 4) for k in range(4)]
    assert metrics[-1]["perception/object"] < 0.02 < metrics[0]["perception/object"]
    with torch.no_grad():  # and not by heart: scenes that it has not seen
        error = student.module.error(student.policy.believe(obs[500:]), obs["privileged"][500:])
    assert error[:, :3].square().sum(-1).mean().sqrt() < 0.3  # dm


def test_leaves_the_policy_alone(scenes) -> None:
    spec, obs = scenes
    student = learner(spec, minibatches=2)
    before = [p.clone() for p in student.policy.acting_parameters()]
    student.update(obs, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, student.policy.acting_parameters(), strict=True))
    assert student.optimizer.param_groups[0]["lr"] == 3e-3
    student.update(obs, 1.0)
    assert student.optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)


def test_keeps_only_what_it_needs(scenes) -> None:
    spec, obs = scenes
    student = learner(spec, minibatches=1, keep=100)
    student.update(student.policy.perceive(obs), 0.0)
    assert set(student.replay.rows.keys()) == {"state", "privileged", "image.front"} and len(student.replay.rows) == 100


def test_a_loss_that_is_no_number_is_reported(scenes) -> None:
    spec, obs = scenes
    obs = obs.clone()
    obs["privileged"][3] = float("nan")
    with pytest.raises(NonFiniteError, match="perception"):
        learner(spec, minibatches=10).update(obs, 0.0)
