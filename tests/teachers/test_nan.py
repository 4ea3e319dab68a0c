"""NaN and Inf inside a teacher or a policy reach its answer: no argmax, clip or gripper's sign makes an action of them."""

import pytest
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.registry import make
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.teachers import registry
from rpd.teachers.adapters.diffusion import DiffusionTeacher
from rpd.teachers.adapters.student import PolicyTeacher
from rpd.teachers.registry import camera_request

TASK = "tabletop/PickCube"
BAD = (float("nan"), float("inf"))


def world(name=None):
    request = camera_request(name) if name else None
    cameras = (
        {"teacher_cameras": request.cameras, "teacher_image_size": request.image_size} if request and request.cameras else {}
    )
    return make(TASK, EnvConfig(num_envs=2, **cameras), num_threads=1)


def shown(env):
    obs = env.reset(0)
    return obs.update(env.teacher_images())


def zoo(name, parameter):
    env = world(name)
    teacher = registry.make(name, env.spec)
    return env, teacher, dict(teacher.model.named_parameters())[parameter]


def plain(parameter):
    env = world()
    policy = ActorCritic(env.spec, StudentConfig(hidden_dims=(8,)))
    return env, PolicyTeacher(policy), dict(policy.named_parameters())[parameter]


def diffusion():
    env = world()
    policy = DiffusionPolicy(env.spec, StudentConfig(hidden_dims=(8,)), DiffusionConfig(horizon=4, num_train_timesteps=10))
    policy.prepare(torch.rand(20, len(env.spec.state_names)), 2 * torch.rand(20, 7) - 1)
    teacher = DiffusionTeacher(policy)
    return env, teacher, list(policy.network.parameters())[-1]


CASES = {
    "openvla": lambda: zoo("zoo/tabletop", "language_model.lm_head.weight"),
    "octo": lambda: zoo("zoo/tabletop-octo", "head.outputs.bias"),
    "policy": lambda: plain("actor.2.bias"),
    "diffusion": diffusion,
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", CASES)
@torch.no_grad()
def test_non_finite_weights_give_non_finite_labels(kind, bad):
    env, teacher, parameter = CASES[kind]()
    obs = shown(env)
    assert teacher.act(obs, env.instructions).isfinite().all()
    teacher.reset(torch.ones(2, dtype=torch.bool))
    parameter.reshape(-1)[-1] = bad
    assert not teacher.act(obs, env.instructions).isfinite().all()
    assert not teacher.label(obs, env.instructions, torch.zeros(2, 7)).mean.isfinite().all()


@pytest.mark.parametrize("bad", [*BAD, -float("inf"), 1e30])
@pytest.mark.parametrize("kind", ["policy", "diffusion"])
def test_non_finite_state_gives_non_finite_labels(kind, bad):
    env, teacher, _ = CASES[kind]()
    obs = shown(env)
    obs["state"][1, -1] = bad
    answer = teacher.act(obs, env.instructions)
    assert answer[0].isfinite().all() and answer[1].isnan().all()


def test_one_non_finite_token_is_detected():
    """The argmax is over all words, and NaN wins it, so that the token is none of an action."""
    env, teacher, weight = CASES["openvla"]()
    with torch.no_grad():
        weight[5] = torch.nan
    assert teacher.act(shown(env), env.instructions).isnan().all()
