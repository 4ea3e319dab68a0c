from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.registry import make
from rpd.envs.vector_env import VectorEnv
from rpd.export import formats, runtime
from rpd.export.write import write
from rpd.policies.made_for import made_for
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import GeneralistConfig, ResidualConfig, StudentConfig
from rpd.students.generalist import GeneralistActorCritic
from rpd.students.residual import ResidualActorCritic

TASK = "tabletop/PickCube"
SMALL = {"hidden_dims": (32, 32), "image_feature_dim": 16, "image_channels": (8, 8)}
READS = ("gripper", "object", "goal")


def small(env: VectorEnv, **options) -> ActorCritic:
    """A student whose normaliser has seen something and whose actions are not all near zero."""
    policy = ActorCritic(env.spec, StudentConfig(**SMALL, **options))
    return stirred(policy, env)


def stirred(policy: ActorCritic, env: VectorEnv) -> ActorCritic:
    obs = env.reset(0)
    for _ in range(8):
        policy.update_normalization(obs)
        obs = env.step(2 * torch.rand(env.num_envs, env.spec.action.dim) - 1).obs
    torch.nn.init.normal_(policy.actor[-1].weight, std=0.3)
    torch.nn.init.normal_(policy.actor[-1].bias)
    return policy


def residual(env: VectorEnv, base: ActorCritic, sees: str, **options) -> ActorCritic:
    return stirred(ResidualActorCritic(env.spec, StudentConfig(**SMALL, **options), ResidualConfig(base_input=sees), base), env)


def generalist(env: VectorEnv, network: str) -> ActorCritic:
    """Of two robots, and told of its body."""
    members = [env.spec, make(TASK, EnvConfig(num_envs=1, robot="xarm6")).spec]
    policy = GeneralistActorCritic(members, StudentConfig(**SMALL, state_keys=READS), GeneralistConfig(network=network))
    torch.nn.init.normal_(policy.actor[0].weight, std=0.2)
    policy.set_normalization(torch.rand(len(policy.columns)), torch.full((len(policy.columns),), 2.0))
    return stirred(policy, env)


KINDS = {
    "mlp": ("state", small),
    "cnn": ("image", small),
    "frames": ("frames", small),
    "state_estimator": ("image", lambda env: small(env, state_estimator=True)),
    "state_keys": ("state", lambda env: small(env, state_keys=READS)),
    "generalist": ("state", lambda env: generalist(env, "plain")),
    "mixture": ("state", lambda env: generalist(env, "moe")),
    "residual": ("state", lambda env: residual(env, small(env, state_keys=READS), "features")),
    "residual reads": ("state", lambda env: residual(env, small(env, state_keys=READS), "action", state_keys=("q", "gripper"))),
    "residual perceive": ("image", lambda env: residual(env, small(env), "action", state_estimator=True)),
}


def world(kind: str) -> VectorEnv:
    obs = KINDS[kind][0]
    images = {} if obs == "state" else {"obs_mode": "rgb", "image_size": 32, "frame_stack": 3 if obs == "frames" else 1}
    return make(TASK, EnvConfig(num_envs=4, **images))


def trained(kind: str, folder: Path) -> ActorCritic:
    """A policy of a kind, saved into a folder and read again."""
    torch.manual_seed(0)
    KINDS[kind][1](world(kind)).save_pretrained(folder)
    return ActorCritic.from_pretrained(folder)


def exported(kind: str, folder: Path) -> tuple[ActorCritic, runtime.Policy]:
    policy = trained(kind, folder / "policy")
    return policy, write(policy, folder / "policy", made_for(folder / "policy"), folder / "out")


@pytest.fixture(scope="session", autouse=True)
def each_graph_once():
    """Serialize equal networks once: several tests export the same one, and each serialization takes seconds."""
    real, known = formats.serialize, {}

    def serialize(network, inputs, names):
        whole = io.BytesIO()
        torch.save(network.eval(), whole)
        key = hashlib.sha256(whole.getvalue()).digest(), *((x.shape, x.dtype) for x in inputs), *names
        if key not in known:
            known[key] = real(network, inputs, names)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "serialize", serialize)
        yield


@pytest.fixture(scope="session")
def mlp(tmp_path_factory) -> tuple[ActorCritic, runtime.Policy]:
    """A policy, and the same as onnx."""
    return exported("mlp", tmp_path_factory.mktemp("mlp"))
