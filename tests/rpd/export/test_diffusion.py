from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.base import EnvConfig
from envs.errors import ConfigError
from envs.registry import make
from rpd.export import actors, command
from rpd.export.diffusion import steps
from students.config import StudentConfig
from students.diffusion.actor import DiffusionActor
from students.diffusion.config import DiffusionConfig
from students.diffusion.policy import DiffusionPolicy
from students.diffusion.samplers import make as make_sampler
from tests.rpd.export.conftest import READS, TASK

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
N = 3


def world(obs="state"):
    images = {"obs": "image", "image_size": 32, "frames": 2} if obs == "image" else {}
    return make(TASK, EnvConfig(num_envs=N, **images))


def build(env, student=None, **settings):
    """A small policy with random weights, as if it had seen demonstrations."""
    torch.manual_seed(0)
    small = {"image_features": 16, "image_channels": (8, 8)} | (student or {})
    config = DiffusionConfig(**{"width": 16, "depth": 1, "n_obs": 2, "horizon": 8, "levels": 50} | settings)
    policy = DiffusionPolicy(env.spec, StudentConfig(**small), config)
    policy.prepare(torch.randn(64, len(env.spec.state_names)), torch.rand(64, 7) * 2 - 1)
    return policy.eval()


def same_noise(actor, written):
    """Let both draw the same numbers."""
    drawn, horizon = np.random.default_rng(7), actor.policy.config.horizon
    actor.sampler.noise = lambda rows: torch.from_numpy(drawn.standard_normal((rows, horizon, 7), dtype=np.float32))
    written.reset()
    written.seed(7)


CASES = {
    "ddim": ("state", {}, None, None, 0.0),
    "ddpm": ("state", {}, None, "ddpm:steps=20", 1e-6),
    "transformer": ("state", {"network": "transformer"}, None, "ddim:steps=4,execute=3", 1e-4),
    "flow": ("state", {"process": "flow"}, {"reads": READS}, "euler:steps=5", 1e-5),
    "warm": ("state", {}, None, "rti:levels=3", 1e-5),
    "warm flow": ("state", {"process": "flow"}, None, "rti:levels=3,execute=2,fallback=0.5", 1e-5),
    "images": ("image", {"gripper_scale": 0.1, "n_obs": 3}, None, "rti:levels=2", 1e-3),
}


@pytest.mark.parametrize("name", CASES)
def test_the_loop_in_numpy_does_what_the_sampler_does(name, tmp_path):
    """Step by step in three environments, one of which begins anew."""
    obs_kind, settings, student, sampler, tolerance = CASES[name]
    env = world(obs_kind)
    policy = build(env, student, **settings)
    policy.save_pretrained(tmp_path / "policy")
    written = command.write(policy, tmp_path / "policy", tmp_path / "out", "torchscript", sampler=sampler)
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
            written.act_batch({"state": obs["state"][:, index].numpy(), **images}), action, atol=tolerance
        )
        obs = env.step(action).obs
    assert written.about["chunks"]["execute"] == actor.sampler.execute
    assert written.about["networks"]["denoiser"]["inputs"] == ["x", "level", "context"]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "pt2"])
@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_formats(network, format, tmp_path):
    env = world()
    policy = build(env, network=network)
    policy.save_pretrained(tmp_path / "policy")
    written = command.write(policy, tmp_path / "policy", tmp_path / "out", format, sampler="rti:levels=3")
    assert written.error <= 1e-5
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()).count(command.formats.FORMATS[format][0]) == 2
    actor, obs = DiffusionActor(policy, "rti:levels=3"), env.reset(3)
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


@pytest.mark.parametrize("sampler", ["rtc", "streaming", "ddim:steps=4,ensemble=0.01", "rti:levels=auto"])
def test_a_sampler_that_needs_more_than_networks_is_refused(sampler, tmp_path):
    env = world()
    policy = build(env, noise="action" if sampler == "streaming" else "chunk")
    make_sampler(sampler, policy)
    policy.save_pretrained(tmp_path / "policy")
    with pytest.raises(ConfigError, match=r"cannot be exported: ddpm, ddim, euler and rti can|name them, e\.g\. rti:levels=3"):
        command.write(policy, tmp_path / "policy", tmp_path / "out", "torchscript", sampler=sampler)
    assert not (tmp_path / "out").exists()
