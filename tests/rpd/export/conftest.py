from __future__ import annotations

from pathlib import Path

import pytest
import torch

from envs.base import EnvConfig, VectorEnv
from envs.registry import make
from rpd.export import command, runtime
from students.actor_critic import ActorCritic
from students.config import GeneralistConfig, ResidualConfig, StudentConfig
from students.generalist import GeneralistActorCritic
from students.residual import ResidualActorCritic

TASK = "tabletop/PickCube"
SMALL = {"hidden": (32, 32), "image_features": 16, "image_channels": (8, 8)}
READS = ("gripper", "object", "goal")


def small(env: VectorEnv, **options) -> ActorCritic:
    """A student whose normaliser has seen something and whose actions are not all near zero."""
    policy = ActorCritic(env.spec, StudentConfig(**SMALL, **options))
    return stirred(policy, env)


def stirred(policy: ActorCritic, env: VectorEnv) -> ActorCritic:
    obs = env.reset(0)
    for _ in range(8):
        policy.observe(obs)
        obs = env.step(2 * torch.rand(env.num_envs, env.spec.action.dim) - 1).obs
    torch.nn.init.normal_(policy.actor[-1].weight, std=0.3)
    torch.nn.init.normal_(policy.actor[-1].bias)
    return policy


def residual(env: VectorEnv, base: ActorCritic, sees: str, **options) -> ActorCritic:
    return stirred(ResidualActorCritic(env.spec, StudentConfig(**SMALL, **options), ResidualConfig(sees=sees), base), env)


def generalist(env: VectorEnv, network: str) -> ActorCritic:
    """Of two robots, and told of its body."""
    members = [env.spec, make(TASK, EnvConfig(num_envs=1, robot="xarm6")).spec]
    policy = GeneralistActorCritic(members, StudentConfig(**SMALL, reads=READS), GeneralistConfig(network=network))
    torch.nn.init.normal_(policy.actor[0].weight, std=0.2)
    policy.whiten(torch.rand(len(policy.columns)), torch.full((len(policy.columns),), 2.0))
    return stirred(policy, env)


KINDS = {
    "mlp": ("state", small),
    "cnn": ("image", small),
    "frames": ("frames", small),
    "perceive": ("image", lambda env: small(env, perceive=True)),
    "reads": ("state", lambda env: small(env, reads=READS)),
    "generalist": ("state", lambda env: generalist(env, "plain")),
    "mixture": ("state", lambda env: generalist(env, "moe")),
    "residual": ("state", lambda env: residual(env, small(env, reads=READS), "features")),
    "residual reads": ("state", lambda env: residual(env, small(env, reads=READS), "action", reads=("q", "gripper"))),
    "residual perceive": ("image", lambda env: residual(env, small(env), "action", perceive=True)),
}


def world(kind: str) -> VectorEnv:
    obs = KINDS[kind][0]
    images = {} if obs == "state" else {"obs": "image", "image_size": 32, "frames": 3 if obs == "frames" else 1}
    return make(TASK, EnvConfig(num_envs=4, **images))


def trained(kind: str, folder: Path) -> ActorCritic:
    """A policy of a kind, saved into a folder and read again."""
    torch.manual_seed(0)
    KINDS[kind][1](world(kind)).save_pretrained(folder)
    return ActorCritic.from_pretrained(folder)


def exported(kind: str, format: str, folder: Path) -> tuple[ActorCritic, runtime.Policy]:
    policy = trained(kind, folder / "policy")
    return policy, command.write(policy, folder / "policy", folder / "out", format)


@pytest.fixture(scope="session")
def mlp(tmp_path_factory) -> tuple[ActorCritic, runtime.Policy]:
    """A policy, and the same as onnx."""
    return exported("mlp", "onnx", tmp_path_factory.mktemp("mlp"))
