from __future__ import annotations

import numpy as np
import pytest
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.registry import make
from rpd.export import actors
from rpd.export.diffusion import steps
from rpd.export.write import write
from rpd.policies.made_for import made_for
from rpd.students.config import StudentConfig
from rpd.students.diffusion.actor import DiffusionActor
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.diffusion.samplers import make as make_sampler
from tests.rpd.export.conftest import READS, TASK

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
N = 3


def world(obs="state"):
    images = {"obs_mode": "rgb", "image_size": 32, "frame_stack": 2} if obs == "image" else {}
    return make(TASK, EnvConfig(num_envs=N, **images))


def build(env, student=None, **settings):
    """A small policy with random weights, as if it had seen demonstrations."""
    torch.manual_seed(0)
    small = {"image_feature_dim": 16, "image_channels": (8, 8)} | (student or {})
    config = DiffusionConfig(**{"width": 16, "depth": 1, "n_obs_steps": 2, "horizon": 8, "num_train_timesteps": 50} | settings)
    policy = DiffusionPolicy(env.spec, StudentConfig(**small), config)
    policy.prepare(torch.randn(64, len(env.spec.state_names)), torch.rand(64, 7) * 2 - 1)
    return policy.eval()


def same_noise(actor, written):
    """Let both draw the same numbers."""
    drawn, horizon = np.random.default_rng(7), actor.policy.config.horizon
    actor.sampler.noise = lambda rows: torch.from_numpy(drawn.standard_normal((rows, horizon, 7), dtype=np.float32))
    written.reset()
    written.seed(7)


ROUNDING = 1e-3
"""Between torch and onnxruntime, behind steps that divide by almost nothing (see rpd.export.diffusion.HALF)."""
CASES = {
    "ddim": ("state", {}, None, None),
    "ddpm": ("state", {}, None, "ddpm:steps=20"),
    "transformer": ("state", {"network": "transformer"}, None, "ddim:steps=4,n_action_steps=3"),
    "flow": ("state", {"process": "flow"}, {"state_keys": READS}, "euler:steps=5"),
    "warm": ("state", {}, None, "rti:timesteps=3"),
    "warm flow": ("state", {"process": "flow"}, None, "rti:timesteps=3,n_action_steps=2,fallback=0.5"),
    "images": ("image", {"gripper_scale": 0.1, "n_obs_steps": 3}, None, "rti:timesteps=2"),
}


@pytest.mark.parametrize("name", CASES)
def test_numpy_sampler_equals_torch_sampler(name, tmp_path):
    """Step by step in three environments, one of which begins anew."""
    obs_kind, settings, student, sampler = CASES[name]
    env = world(obs_kind)
    policy = build(env, student, **settings)
    policy.save_pretrained(tmp_path / "policy")
    written = write(policy, tmp_path / "policy", made_for(tmp_path / "policy"), tmp_path / "out", sampler=sampler)
    assert written.error <= 1e-5
    actor = DiffusionActor(policy, sampler)
    same_noise(actor, written)
    index = [env.spec.state_names.index(entry) for entry in written.spec["state_names"]]
    obs = env.reset(3)
    for step in range(12):
        if step == 5 and obs_kind == "state":  # the frames of an environment go on
            begins = torch.tensor([False, True, False])
            actor.reset(begins)
            written.reset(begins.numpy())
        action = actor.act(obs, [""] * N)
        images = {key: obs[key][..., -3:].numpy() for key in env.spec.cameras}
        np.testing.assert_allclose(
            written.act_batch({"state": obs["state"][:, index].numpy(), **images}), action, atol=ROUNDING
        )
        obs = env.step(action).obs
    assert written.about["chunks"]["execute"] == actor.sampler.n_action_steps
    assert written.about["networks"]["denoiser"]["inputs"] == ["x", "level", "context"]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_onnx(network, tmp_path):
    env = world()
    policy = build(env, network=network)
    policy.save_pretrained(tmp_path / "policy")
    written = write(policy, tmp_path / "policy", made_for(tmp_path / "policy"), tmp_path / "out", sampler="rti:timesteps=3")
    assert written.error <= 1e-5
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()).count(".onnx") == 2
    actor, obs = DiffusionActor(policy, "rti:timesteps=3"), env.reset(3)
    same_noise(actor, written)
    for step in range(4):
        # The first chunk is drawn from pure noise, where rounding grows a hundredfold (see rpd.export.diffusion.HALF).
        action, given = actor.act(obs, [""] * N), written.act_batch({"state": obs["state"].numpy()})
        np.testing.assert_allclose(given, action, atol=1e-2 if step == 0 else 1e-3)
        obs = env.step(action).obs


@pytest.mark.parametrize(("process", "is_random"), [("ddpm", False), ("ddpm", True), ("flow", False)])
def test_steps_are_those_of_the_process(process, is_random):
    """One step of `Denoising` with a network that predicts a constant, against `Process.step`."""
    policy = build(world(), process=process)
    x, predicted = torch.randn(4, 8, 7), torch.randn(4, 8, 7)
    rows = steps(policy.process, [40, 17, 3], is_random)
    assert [row[0] for row in rows] == [40, 17, 3]
    chunks = {"horizon": 8, "execute": 4, "n_obs": 1, "full": rows, "warm": None, "start": 0}
    chunks |= {"center": [0.0] * 7, "half": [1.0] * 7, "discrete": [False] * 7}
    actor = actors.Denoising(chunks, {"encoder": lambda _: None, "denoiser": lambda _: predicted.numpy()})
    for row, then in zip(rows, [17, 3, -1], strict=True):
        zero = torch.zeros_like(x) if is_random else None
        expected = policy.process.step(x, predicted, torch.tensor(int(row[0])), torch.tensor(then), zero)
        np.testing.assert_allclose(actor._walked(x.numpy(), None, [row], quiet=True), expected, atol=1e-5)


@pytest.mark.parametrize("sampler", ["rtc", "streaming", "ddim:steps=4,ensemble=0.01", "rti:timesteps=auto"])
def test_sampler_that_needs_more_than_networks_is_refused(sampler, tmp_path):
    env = world()
    policy = build(env, noise="action" if sampler == "streaming" else "chunk")
    make_sampler(sampler, policy)
    policy.save_pretrained(tmp_path / "policy")
    with pytest.raises(
        ConfigError, match=r"cannot be exported: ddpm, ddim, euler and rti can|name them, e\.g\. rti:timesteps=3"
    ):
        write(policy, tmp_path / "policy", made_for(tmp_path / "policy"), tmp_path / "out", sampler=sampler)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"horizon": 10**9}, "chunks.horizon is 1000000000"),
        ({"execute": 9}, "chunks.execute is 9"),
        ({"n_obs": 10**9}, "chunks.n_obs"),
        ({"full": [[0.0] * 7] * 1001}, "the number of chunks.full is 1001"),
        ({"full": [[float("nan")] * 7]}, "chunks.full"),
        ({"full": []}, "the number of chunks.full is 0"),
        ({"start": -1}, "chunks.start"),
        ({"half": [1e30] * 7}, "chunks.half"),
        ({"center": [0.0] * 6}, "chunks.center"),
        ({"warm": {"steps": [[0.0] * 7], "limit": float("nan"), "discrete": None}}, "chunks.warm"),
    ],
)
def test_chunks_without_bounds_are_refused(change, says):
    chunks = {"horizon": 8, "execute": 4, "n_obs": 1, "full": [[0.0] * 7], "warm": None, "start": 0}
    chunks |= {"center": [0.0] * 7, "half": [1.0] * 7, "discrete": [False] * 7}
    actors.check_chunks(chunks | {"warm": {"steps": [[0.0] * 7], "limit": float("inf"), "discrete": 0.5}}, 7)
    with pytest.raises(ValueError, match=says.replace(".", r"\.")):
        actors.check_chunks(chunks | change, 7)
